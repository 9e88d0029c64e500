# SPDX-License-Identifier: Apache-2.0
"""Buffers of one block of the column pass, reused for all blocks of a matrix."""

from __future__ import annotations

import torch

from compressors.obs.group_grids import GroupGrids
from compressors.patterns import NM

__all__ = ["ColumnBuffers"]


class ColumnBuffers:
    """Block of columns compressed in place.

    Args:
        size: Most columns of a block.
        rows: Length of a column.
        device: Where the buffers live.
        prunes: Whether ``kept`` is applied.
        pattern: N:M to select as the pass reaches each group of M columns, M dividing every block;
            None where ``kept`` is filled in beforehand.
        grids: What to round to; None to round nothing.

    Attributes:
        values: float32 ``[size, rows]``: in, the weights, with the errors of all earlier blocks
            allowed for; out, the compressed weights.
        feedback: float32 ``[size, size]``, below its diagonal: how much of column i's error column
            j > i takes on, for an error of :math:`w_i - q_i`.
        kept: float32 ``[size, rows]``, 1 where a weight stays and 0 elsewhere.
        importance: float32 ``[size, 1]``: with ``pattern``, a score is the weight's magnitude times
            this.
        groups: With ``grids``, the group of each column.
    """

    def __init__(
        self,
        size: int,
        rows: int,
        device: torch.device,
        *,
        prunes: bool,
        pattern: NM | None,
        grids: GroupGrids | None,
    ) -> None:
        self.prunes, self.pattern, self.grids = prunes, pattern, grids
        self.values = torch.zeros(size, rows, device=device)
        self.feedback = torch.zeros(size, size, device=device)
        self.kept = torch.ones(size if prunes else 0, rows, device=device)
        self.importance = torch.zeros(size, 1, device=device)
        self.groups: list[int] = []
