# SPDX-License-Identifier: Apache-2.0
"""Grids of a matrix by group, found before or during the column pass."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from compressors.grid import Grid

__all__ = ["GroupGrids", "falling_order"]


def falling_order(values: Tensor, group_size: int | None = None) -> Tensor:
    """Columns by falling value, ties by place.

    Args:
        values: float32 ``[columns]``.
        group_size: Columns of a group, which stay together: groups by their largest value, the
            columns of a group by their own. A shorter last group stays last, so that all others
            begin at a multiple of the size. None: no groups.

    Returns:
        int64 ``[columns]``.

    References:
        Gafni et al., arXiv:2505.14638 (group-aware reordering).
    """
    falling = partial(torch.argsort, descending=True, stable=True)
    if group_size is None:
        return falling(values)
    count = len(values) // group_size
    whole, rest = values[: count * group_size].view(count, group_size), values[count * group_size :]
    starts = torch.arange(count, device=values.device)[:, None] * group_size
    groups = (falling(whole) + starts)[falling(whole.amax(dim=1))]
    return torch.cat([groups.flatten(), falling(rest) + count * group_size])


class GroupGrids:
    """Grids by group and row, found during the pass; transposed, ``[groups, rows]``.

    Args:
        grid: The settings.
        values: float32 ``[columns, rows]``, in their own order: the weights before the pass.
        order: The order in which the pass takes the columns; None for their own.
        matrix_scale: float32 ``[rows]``: the scale that groups of a matrix share; None without.
        static: Find all grids now, on runs of columns in their own order. Else a group waits until
            the pass reaches it.
        torn: Groups that wait are runs of columns of the pass, not of the matrix.

    Attributes:
        scale: float32 ``[groups, rows]``.
        zero_point: float32 ``[groups, rows]``.
        group_of: int64 ``[columns]``: the group of each column of the pass.
        codes: uint8 ``[columns, rows]``, in the order of the pass.
    """

    def __init__(
        self,
        grid: Grid,
        values: Tensor,
        order: Tensor | None,
        *,
        matrix_scale: Tensor | None,
        static: bool,
        torn: bool,
    ) -> None:
        columns, rows = values.shape
        self.grid, self.matrix_scale = grid, matrix_scale
        self.size = grid.group_size or columns
        self.group_of = grid.group_of_columns(columns, values.device)
        self.scale = values.new_empty(grid.groups(columns), rows)
        self.zero_point = torch.empty_like(self.scale)
        self.codes = torch.empty_like(values, dtype=torch.uint8)
        self.known = static or grid.group_size is None
        if self.known:
            self.find(0, columns, values)
        if order is not None and (self.known or not torn):
            self.group_of = self.group_of[order]

    def waiting(self, start: int, stop: int) -> tuple[int, int]:
        """Range of columns whose groups begin in a block; may be empty."""
        if self.known:
            return start, start
        begin, end = (-(-column // self.size) * self.size for column in (start, stop))
        return begin, min(end, len(self.group_of))

    def find(self, begin: int, end: int, values: Tensor) -> None:
        """Find the grids of the groups in columns ``begin`` to ``end`` from their ``values``."""
        groups = self.group_of[begin : end : self.size]
        for grouped in self.grid.split(values[: end - begin], dim=0):
            mine, groups = groups[: len(grouped)], groups[len(grouped) :]
            self.scale[mine], self.zero_point[mine] = self.grid.fit(
                grouped, dim=1, matrix_scale=self.matrix_scale
            )

    def encode(self, start: int, values: Tensor, groups: list[int], scratch: Tensor) -> None:
        """Store the codes of a block.

        Args:
            start: Its first column.
            values: Its compressed weights.
            groups: The group of each of its columns.
            scratch: Memory of the shape of ``values``.
        """
        if min(groups) == max(groups):
            scale, zero_point = self.scale[groups[0]], self.zero_point[groups[0]]
        else:
            mine = self.group_of[start : start + len(values)]
            scale, zero_point = self.scale[mine], self.zero_point[mine]
        # The values are points times the scale, so the division gives the points back.
        codes = self.grid.encode(torch.div(values, scale, out=scratch), zero_point)
        self.codes[start : start + len(values)] = codes
