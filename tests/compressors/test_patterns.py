# SPDX-License-Identifier: Apache-2.0
"""Masks: exact counts, ties by index, and the same selection on every code path."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import compressors.patterns as patterns
from compressors import NM, Unstructured
from compressors.patterns import keep_largest
from tests import oracles


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 70), st.integers(1, 9))
def test_keep_largest_is_a_stable_sort(seed: int, rows: int, count: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, count), generator=generator).float()
    drop = int(torch.randint(count + 1, (), generator=generator))
    keep = keep_largest(scores, drop)
    for row in range(rows):
        expected = torch.ones(count, dtype=torch.bool)
        expected[oracles.smallest(scores[row], drop)] = False
        assert torch.equal(keep[row], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.7, 0.99])
def test_ties_do_not_overprune(dtype: torch.dtype, sparsity: float) -> None:
    scores = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).abs().to(dtype)
    dropped = math.floor(sparsity * scores.numel())
    if sparsity == 0.7 and dtype == torch.bfloat16:
        threshold = scores.flatten().sort().values[dropped - 1]
        assert int((scores <= threshold).sum()) > dropped, "no ties: the test shows nothing"
    keep = Unstructured(sparsity).keep(scores, per_row=False)
    assert int((~keep).sum()) == dropped
    rows = Unstructured(sparsity).keep(scores, per_row=True)
    assert torch.all((~rows).sum(dim=1) == math.floor(sparsity * 256))


@pytest.mark.parametrize("pattern", [NM(1, 2), NM(2, 4), NM(4, 8), NM(1, 16), NM(5, 16), NM(7, 32)])
def test_nm_against_a_loop(pattern: NM) -> None:
    generator = torch.Generator().manual_seed(pattern.m)
    scores = torch.randint(6, (13, 64), generator=generator).float()
    expected = oracles.nm_mask(scores, pattern.n, pattern.m)
    assert torch.equal(pattern.keep(scores), expected)
    assert torch.equal(pattern.keep(scores.t().contiguous().t()), expected)


def test_nm_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    whole = NM(2, 4).keep(scores)
    monkeypatch.setattr(patterns, "_CACHED_GROUPS", 7)
    assert torch.equal(NM(2, 4).keep(scores), whole)


def test_one_long_row_is_narrowed_down_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(1, 200_000, generator=generator)
    tied = (spread * 3).round()
    # An evenly spaced sample sees none of this: the count has to notice.
    hidden = torch.arange(200_000.0).view(1, -1)
    hidden[0, :: 200_000 >> 16] = 1e6
    for scores in (spread, tied, hidden):
        ordered = scores[0].sort().values
        for k in (1, 2, 777, 100_000, 199_999, 200_000):
            assert patterns._kth_of_many(scores, k).item() == ordered[k - 1].item()


def test_patterns_in_words() -> None:
    assert str(NM(2, 4)) == "2:4"
    assert str(Unstructured(0.5)) == "unstructured"
    assert NM(1, 4).sparsity == 0.75
