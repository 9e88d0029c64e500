# SPDX-License-Identifier: Apache-2.0
"""What the hooks take for one input, and which input vectors they keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressors.blocks.input_hooks import SAMPLE_SIZE, InputGroup, collecting
from compressors.blocks.matrices import block_matrices
from compressors.statistics import ColumnNorm, NoStatistic


@pytest.mark.parametrize("batch", [1, 7, 100, 999, 5000])
def test_the_sample_is_evenly_spread_whatever_the_batches(batch: int) -> None:
    rows = torch.arange(5000.0)[:, None]
    group = InputGroup([], NoStatistic(1))
    for piece in rows.split(batch):
        group.add(piece, sampled=True)
    kept = torch.cat(group.sample)
    assert len(kept) <= SAMPLE_SIZE
    assert torch.equal(kept, rows[::27])


class _Pair(nn.Module):
    """Two layers that read the same memory; in between it may change."""

    def __init__(self, changes: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.changes = changes

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if self.changes:
            x += 1
        return hidden + self.second(x)


@torch.no_grad()
@pytest.mark.parametrize("changes", [True, False])
def test_an_input_that_changes_in_place_is_another_one(changes: bool) -> None:
    block = _Pair(changes)
    x = torch.zeros(3, 4)
    with collecting(block_matrices("block", block), ColumnNorm) as collector:
        block(x)
    norms = [group.statistic.norm for group in collector.groups]  # type: ignore[attr-defined]
    expected = [torch.zeros(4), torch.full((4,), 3.0).sqrt()] if changes else [torch.zeros(4)]
    assert len(norms) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(norms, expected, strict=True))
