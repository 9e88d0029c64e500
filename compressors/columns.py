# SPDX-License-Identifier: Apache-2.0
"""One block of the optimal-brain-surgeon sweep: column after column, each error fed forward.

The matrix stands transposed here, ``[columns, rows]``: the rows of a weight do not know of each
other, so a column is one contiguous vector and every step one operation on it. A column takes a
handful of operations of a few microseconds, so making their views would cost as much as the work:
buffers and views are made once, and serve all blocks of a matrix.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from subprocess import SubprocessError

import torch
from torch import Tensor

from compressors.grid import Grid
from compressors.patterns import NM
from compressors.sweep_grids import SweepGrids

__all__ = ["Sweep"]

_log = logging.getLogger(__name__)

# Columns that are swept before their errors are fed forward in one product.
_SUB_BLOCK = 32


class Sweep:
    """A block of columns to be compressed in place, again and again.

    Args:
        size: Most columns of a block.
        rows: Length of a column.
        device: Where the buffers live.
        prunes: Whether ``kept`` is applied.
        pattern: N:M to select as the sweep reaches each group of M columns, M dividing every block;
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
        grids: SweepGrids | None,
    ) -> None:
        self.prunes, self.pattern, self.grids = prunes, pattern, grids
        self.values = torch.zeros(size, rows, device=device)
        self.feedback = torch.zeros(size, size, device=device)
        self.kept = torch.ones(size if prunes else 0, rows, device=device)
        self.importance = torch.zeros(size, 1, device=device)
        self.groups: list[int] = []
        self._plain: _PlainSweep | None = None

    def run(self, columns: int) -> None:
        """Compress the first ``columns`` columns: fused on a GPU with Triton, else by torch."""
        if self.values.is_cuda and _can_fuse(self.values.device):
            # Imported here: Triton is optional, and takes its time.
            from compressors.obs_triton import LARGEST_BLOCK, sweep_fused

            if columns <= LARGEST_BLOCK:
                sweep_fused(self, columns)
                return
        self.run_plain(columns)

    def run_plain(self, columns: int) -> None:
        """Compress the first ``columns`` columns with torch operations, on any device."""
        if self._plain is None:
            self._plain = _PlainSweep(self)
        self._plain.run(columns)


@cache
def _can_fuse(device: torch.device) -> bool:
    """Whether Triton is here, and can compile: what starts its kernels is built by a C compiler.

    Anything else that goes wrong is raised: which road is taken must follow from what is installed,
    never from what the machine is busy with.
    """
    if find_spec("triton") is None:
        return False
    try:
        from compressors.obs_triton import sweep_fused

        sweep_fused(Sweep(16, 16, device, prunes=True, pattern=None, grids=None), 16)
    except (ImportError, OSError, SubprocessError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "C compiler" not in str(error):
            raise
        _log.warning(
            "Triton cannot compile here (%s), so columns are swept by torch, which takes longer; "
            "install a C compiler and Python's headers",
            error,
        )
        return False
    return True


class _PlainSweep:
    """The torch road: the views through which :class:`Sweep`'s buffers are worked on."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.results = torch.zeros_like(sweep.values)
        errors = torch.zeros_like(sweep.values)
        size, m = len(errors), 1 if sweep.pattern is None else sweep.pattern.m
        # Errors are fed forward one by one within a unit, and by products to what follows it.
        part = m * max(1, _SUB_BLOCK // m)
        unit = part if sweep.pattern is None else m
        self.columns = list(zip(sweep.values, self.results, errors, strict=True))
        self.kept = sweep.kept.unbind(0)
        self.scale: Sequence[Tensor] = ()
        self.zero_point: Sequence[Tensor] = ()
        if sweep.grids is not None:
            self.scale = sweep.grids.scale.unbind(0)
            self.zero_point = sweep.grids.zero_point.unbind(0)
        self.products: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.inside: list[tuple[Tensor, Tensor] | None] = []

        def feed(columns: slice, origin: int) -> tuple[Tensor, Tensor, Tensor]:
            source = slice(origin, columns.start)
            return sweep.values[columns], sweep.feedback[columns, source], errors[source]

        for start in range(part, size, part):
            self.products[start] = feed(slice(start, start + part), 0)
        for index in range(size):
            first = index // unit * unit
            if index == first and index % part:
                self.products[index] = feed(slice(index, index + unit), index // part * part)
            row = sweep.feedback[index, first:index]
            self.inside.append((errors[first:index].t(), row) if index > first else None)

    def run(self, columns: int) -> None:
        """Compress the first ``columns`` columns in place."""
        sweep, pattern = self.sweep, self.sweep.pattern
        for index in range(columns):
            column, result, error = self.columns[index]
            due, inside = self.products.get(index), self.inside[index]
            if due is not None:
                due[0].addmm_(due[1], due[2], alpha=-1)
            if pattern is not None and index % pattern.m == 0:
                group = slice(index, index + pattern.m)
                scores = sweep.values[group].abs().mul_(sweep.importance[group])
                sweep.kept[group] = pattern.keep_of_groups(scores)
            if inside is not None:
                column.addmv_(*inside, alpha=-1)
            if sweep.grids is not None:
                self._round(sweep.grids.grid, index, column, result)
            elif sweep.prunes:
                torch.mul(column, self.kept[index], out=result)
            torch.sub(column, result, out=error)
        # Adding 0 clears the sign of -0.
        torch.add(self.results[:columns], 0.0, out=sweep.values[:columns])

    def _round(self, grid: Grid, index: int, column: Tensor, result: Tensor) -> None:
        """Write one column's nearest points of the grid, 0 where it is pruned, to ``result``."""
        group = self.sweep.groups[index]
        scale = self.scale[group]
        torch.div(column, scale, out=result).round_()
        if grid.symmetric:
            result.clamp_(-grid.middle, grid.top - grid.middle)
        else:
            low = -self.zero_point[group]
            torch.clamp(result, low, low + grid.top, out=result)
        result.mul_(scale)
        if self.sweep.prunes:
            result.mul_(self.kept[index])
