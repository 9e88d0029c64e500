# SPDX-License-Identifier: Apache-2.0
"""How many rows at once: found once, kept for models of one shape, halved where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM

from lmkick_plugin.inference import batch_sizes
from lmkick_plugin.inference.batch_sizes import (
    BatchSize,
    batch_size_of,
    is_out_of_memory,
)
from lmkick_plugin.model import KickLM
from tests.conftest import make_tiny_llama, make_tiny_tokenizer


@pytest.fixture(autouse=True)
def nothing_found_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_sizes, "_found", {})
    monkeypatch.setattr(batch_sizes, "_searched", {})
    monkeypatch.setattr(batch_sizes, "give_back_memory", lambda: None)  # it takes its time


class Memory:
    """Holds so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.tried: list[int] = []

    def work(self, items: Sequence[int]) -> list[int]:
        size = len(items) * max(items)
        self.tried.append(size)
        if size > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [2 * item for item in items]


def run(items: list[int], size: BatchSize, memory: Memory) -> list[tuple[int, int]]:
    """Work through items, as :mod:`lmkick_plugin.inference.runner` does with rows."""
    done: list[tuple[int, int]] = []
    while len(done) < len(items):
        batch = items[len(done) : len(done) + size.rows(items[len(done)])]
        try:
            results = memory.work(batch)
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            size.ran_out(len(batch), max(batch))
        else:
            size.fitted(len(batch), max(batch))
            done += zip(batch, results, strict=True)
    return done


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 50), max_size=40),
    st.integers(1, 16),
    st.integers(50, 600),
    st.booleans(),
)
def test_every_item_gets_its_result_once(
    items: list[int], most: int, tokens: int, automatic: bool
) -> None:
    items.sort(reverse=True)
    size = BatchSize(most, "scoring", automatic=automatic)
    memory = Memory(tokens)
    assert run(items, size, memory) == [(item, 2 * item) for item in items]
    assert sum(tried > tokens for tried in memory.tried) <= 12


def test_comes_close_to_the_largest_batch() -> None:
    memory = Memory(1000)
    size = BatchSize(64, "generation", automatic=True)
    run([40] * 400, size, memory)
    assert 0.85 * 1000 <= size.rows(40) * 40 <= 1000
    assert size.rows(10) == 64  # shorter requests: more rows, up to the limit
    assert size.rows(100) in (8, 9, 10)


def test_nothing_fits() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run([50, 40], BatchSize(4, "scoring"), Memory(10))


def test_a_given_size_stays_but_for_lack_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    size = BatchSize(8, "scoring")
    run([40] * 30, size, Memory(10_000))
    assert (size.rows(40), size.rows(1)) == (8, 8)
    with caplog.at_level(logging.INFO):
        run([60] * 30, size, Memory(200))
    assert size.rows(60) <= 3
    assert size.rows(1) == 8
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert "batch_size=8" in line
    assert "60 tokens" in line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_lack_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def kick(batch_size: Any = "auto", seed: int = 0, **how: Any) -> KickLM:
    return KickLM(
        pretrained=make_tiny_llama(seed), tokenizer=make_tiny_tokenizer(), batch_size=batch_size,
        **how,
    )  # fmt: skip


def test_what_was_found_serves_the_next_model_of_the_shape() -> None:
    size = batch_size_of(kick(), "generation")
    size.ran_out(16, 100)
    again = batch_size_of(kick(seed=1), "generation")
    assert again.rows(100) == size.rows(100) == 8
    other = KickLM(
        pretrained=make_tiny_llama().double(), tokenizer=make_tiny_tokenizer(), batch_size="auto"
    )
    assert batch_size_of(other, "generation").rows(100) != 8
    assert batch_size_of(kick(), "scoring").rows(100) != 8
    assert batch_size_of(kick(batch_size=5), "generation").rows(100) == 5
    assert batch_size_of(kick(max_batch_size=3), "generation").rows(1) == 3


def test_on_a_cpu_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(HFLM, "_model_call", refuse)
    for batch_size in ("auto", "auto:4"):
        model = kick(batch_size=batch_size)
        rows = model._detect_batch_size()
        assert 1 <= rows <= 64
        assert model._detect_batch_size([(None, [1] * 8, [1])]) >= rows


def test_little_memory_means_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    large = batch_size_of(kick(), "scoring").rows(64)
    monkeypatch.setattr(batch_sizes, "_found", {})
    monkeypatch.setattr(batch_sizes, "free_main_memory", lambda: 1_000_000)
    assert batch_size_of(kick(), "scoring").rows(64) < large


def test_lm_evals_search_runs_once_for_a_length() -> None:
    model = SimpleNamespace(
        model=make_tiny_llama(), batch_size="auto", max_batch_size=64, max_length=512,
        device=torch.device("meta"), world_size=1,
    )  # fmt: skip
    asked: list[int] = []

    def search(_requests: Any, pos: int) -> int:
        asked.append(pos)
        return 12

    requests = [(None, [1] * 30, [1]), (None, [1] * 20, [1]), (None, [2] * 30, [2])]
    found = [batch_sizes.detect_batch_size(model, requests, pos, search) for pos in (0, 1, 2)]
    assert found == [12, 12, 12]
    assert asked == [0, 1]
    model.world_size = 2  # all processes search, or none: they wait for each other
    assert batch_sizes.detect_batch_size(model, requests, 2, search) == 12
    assert asked == [0, 1, 2]
