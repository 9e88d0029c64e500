# SPDX-License-Identifier: Apache-2.0
# make demo    what every method takes from a small embedded model, and the report (DEVICE=)
# make test    all tests, offline, in two processes (WORKERS=)
# make check   format, lint, types, layering, doctests, contents of the wheel
# make compatibility  tests with other versions (NAMES=oldest: lm-eval 0.4.12; gptq: gptqmodel, torchao)
# make docs    the documentation in site/, strict: a dead link is an error
# All of them first make the environment in .venv, from any Python 3.10 or newer (PYTHON=).

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test,judge,report,bitsandbytes,compressed-tensors,gguf,ray
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread: the tests' models are tiny, and threads that wait for each other cost more than they do.
OMP_NUM_THREADS ?= 1
# Processes of the tests; the tests of one file stay together, for their fixtures.
WORKERS ?= 2
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
	OMP_NUM_THREADS=$(OMP_NUM_THREADS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: environment demo test check compatibility docs clean

environment: $(STAMP)

# torch before all else: with it in place nothing below asks for another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("lmkick needs Python 3.10 or newer; name one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

# Nothing is downloaded: model and data are part of the package.
demo: $(STAMP)
	@$(OFFLINE) $(BIN)/lmkick demo --output results/demo $(if $(DEVICE),--device $(DEVICE))

test: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# columns_triton.py cannot be imported where there is no Triton, as on most machines without a GPU.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(OFFLINE) $(BIN)/python -m pytest --quiet -m 'not slow' --doctest-modules \
		--ignore=compressors/obs/columns_triton.py compressors lmkick_plugin \
		tests/test_layering.py tests/lmkick_plugin/test_packaging.py

# Each in an environment over this one, in .venv-compatibility; 15 minutes at most.
compatibility: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tools.compatibility $(NAMES)

# An environment of its own: building pages needs neither torch nor lm-eval.
DOCS := $(VENV)-docs
$(DOCS)/.installed: pyproject.toml constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --constraint constraints.txt mkdocs-material 'mkdocstrings[python]'
	touch $@

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=true $(DOCS)/bin/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(VENV)-compatibility $(DOCS) site build dist .mypy_cache .pytest_cache .ruff_cache
