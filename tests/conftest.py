# SPDX-License-Identifier: Apache-2.0
"""What all tests share: an offline environment, a tiny model made here, the local data."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

REPOSITORY = Path(__file__).resolve().parent.parent
NETWORK_SWITCH = "LMKICK_TEST_NETWORK"

# Before anything imports torch or the Hugging Face libraries, which read these once; processes that
# tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if os.environ.get(NETWORK_SWITCH) != "1":
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
for name in [name for name in os.environ if name.startswith("LMKICK_") and name != NETWORK_SWITCH]:
    del os.environ[name]  # a user's own settings change no test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, saying why, what this machine cannot run."""
    if os.environ.get(NETWORK_SWITCH) != "1":
        for item in items:
            if item.get_closest_marker("network"):
                item.add_marker(pytest.mark.skip(reason=f"needs a network: {NETWORK_SWITCH}=1"))
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items:
        import torch

        if not torch.cuda.is_available():
            for item in gpu_items:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def lm_eval_logging() -> Iterator[None]:
    """Undo lm-eval's set-up of logging: it keeps the standard error of one test for all others."""
    logger, switch = logging.getLogger("lm_eval"), "_LOGGING_CONFIGURED"
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    configured = getattr(sys.modules.get("lm_eval.utils"), switch, False)
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    if "lm_eval.utils" in sys.modules:
        setattr(sys.modules["lm_eval.utils"], switch, configured)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Folder that holds pyproject.toml."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder ``shared`` beside the repository: real data in small, and real models."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} (sample data and models)")
    return folder


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    """A data directory with the files of the benchmark's tasks."""
    folder = shared_dir / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} (sample data)")
    return folder


@pytest.fixture(scope="session")
def stories_model(shared_dir: Path) -> Path:
    """A trained Llama of 260,000 parameters that tells children's stories."""
    folder = shared_dir / "models" / "stories260K-hf"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} (sample model)")
    return folder


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer of printable ASCII characters; ``" A"`` to ``" D"`` are one token each."""
    from tokenizers import Tokenizer, decoders, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    characters = ["\n", *map(chr, range(32, 127))]
    merges = [(" ", letter) for letter in "ABCD"]
    tokens = ["<unk>", "<s>", "</s>", *characters, *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def make_tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Random Llama with grouped-query attention: 2 blocks, hidden 64, 128 tokens, context 512."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of the tiny Llama with the tiny tokenizer; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_tiny_llama().save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def task_manager(data_dir: Path) -> TaskManager:
    """An lm-eval TaskManager of our tasks alone (0.3 s instead of 4), reading from ``data_dir``."""
    from lm_eval.tasks import TaskManager

    from lmkick_plugin.registration import TASK_FOLDER

    return TaskManager(
        include_path=[TASK_FOLDER], include_defaults=False, metadata={"data_dir": str(data_dir)}
    )
