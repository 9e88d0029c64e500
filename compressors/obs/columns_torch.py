# SPDX-License-Identifier: Apache-2.0
"""Column pass of one block in torch: each column's error is fed forward to those after it.

The matrix is transposed, ``[columns, rows]``: rows are independent, so a column is a contiguous
vector and every step one operation on it. A column takes a few operations of some microseconds, so
making their views would cost as much as the work: they are made once per matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressors.grid import Grid
from compressors.obs.buffers import ColumnBuffers

__all__ = ["TorchColumns"]

# Columns whose errors are fed forward in one product.
_SUB_BLOCK = 32


class TorchColumns:
    """Torch operations on :class:`ColumnBuffers`, with views made once."""

    def __init__(self, buffers: ColumnBuffers) -> None:
        self.buffers = buffers
        self.results = torch.zeros_like(buffers.values)
        errors = torch.zeros_like(buffers.values)
        size, m = len(errors), 1 if buffers.pattern is None else buffers.pattern.m
        # Errors are fed forward one by one within a unit, and by products to what follows it.
        part = m * max(1, _SUB_BLOCK // m)
        unit = part if buffers.pattern is None else m
        self.columns = list(zip(buffers.values, self.results, errors, strict=True))
        self.kept = buffers.kept.unbind(0)
        self.scale: Sequence[Tensor] = ()
        self.zero_point: Sequence[Tensor] = ()
        if buffers.grids is not None:
            self.scale = buffers.grids.scale.unbind(0)
            self.zero_point = buffers.grids.zero_point.unbind(0)
        self.products: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.inside: list[tuple[Tensor, Tensor] | None] = []

        def feed(columns: slice, origin: int) -> tuple[Tensor, Tensor, Tensor]:
            source = slice(origin, columns.start)
            return buffers.values[columns], buffers.feedback[columns, source], errors[source]

        for start in range(part, size, part):
            self.products[start] = feed(slice(start, start + part), 0)
        for index in range(size):
            first = index // unit * unit
            if index == first and index % part:
                self.products[index] = feed(slice(index, index + unit), index // part * part)
            row = buffers.feedback[index, first:index]
            self.inside.append((errors[first:index].t(), row) if index > first else None)

    def run(self, columns: int) -> None:
        """Compress the first ``columns`` columns in place."""
        buffers, pattern = self.buffers, self.buffers.pattern
        for index in range(columns):
            column, result, error = self.columns[index]
            due, inside = self.products.get(index), self.inside[index]
            if due is not None:
                due[0].addmm_(due[1], due[2], alpha=-1)
            if pattern is not None and index % pattern.m == 0:
                group = slice(index, index + pattern.m)
                scores = buffers.values[group].abs().mul_(buffers.importance[group])
                buffers.kept[group] = pattern.keep_of_groups(scores)
            if inside is not None:
                column.addmv_(*inside, alpha=-1)
            if buffers.grids is not None:
                self._round(buffers.grids.grid, index, column, result)
            elif buffers.prunes:
                torch.mul(column, self.kept[index], out=result)
            torch.sub(column, result, out=error)
        # Adding 0 clears the sign of -0.
        torch.add(self.results[:columns], 0.0, out=buffers.values[:columns])

    def _round(self, grid: Grid, index: int, column: Tensor, result: Tensor) -> None:
        """Write one column's nearest points of the grid, 0 where it is pruned, to ``result``."""
        group = self.buffers.groups[index]
        scale = self.scale[group]
        if not grid.uniform:
            torch.mul(grid.round(column, scale, self.zero_point[group]), scale, out=result)
            if self.buffers.prunes:
                result.mul_(self.kept[index])
            return
        torch.div(column, scale, out=result).round_()
        if grid.symmetric:
            result.clamp_(-grid.middle, grid.top - grid.middle)
        else:
            low = -self.zero_point[group]
            torch.clamp(result, low, low + grid.top, out=result)
        result.mul_(scale)
        if self.buffers.prunes:
            result.mul_(self.kept[index])
