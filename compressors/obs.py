# SPDX-License-Identifier: Apache-2.0
r"""The optimal-brain-surgeon sweep that SparseGPT and GPTQ share.

Columns are compressed from left to right; the error of each is made up for by the columns to its
right, as the inverse Hessian says. With :math:`H^{-1} = U^\top U`, U upper triangular, column i's
error is :math:`e_i = (w_i - q_i) / U_{ii}`, and :math:`w_j \mathrel{-}= e_i U_{ij}` for j > i.

How it is computed here:

* Not Cholesky, inverse and Cholesky again: with J the reversal of the order,
  :math:`JHJ = LL^\top` gives :math:`H = RR^\top` with :math:`R = JLJ` upper triangular, and
  :math:`U = R^{-1}`.
* U itself is never formed. Summed over the finished columns F, :math:`W_F - Q_F = E_F U_{FF}`, and
  :math:`U_{FB} = -U_{FF} R_{FB} U_{BB}`, so the columns B that follow are
  :math:`W_B + (W_F - Q_F) R_{FB} U_{BB}`: one product with the changes made so far, and only R's
  diagonal blocks are inverted.
* Matrices that read the same input are swept together, as more rows of one matrix.

References:
    Frantar and Alistarh, arXiv:2301.00774, algorithm 1 (SparseGPT); Frantar et al.,
    arXiv:2210.17323, algorithm 1 (GPTQ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.base import CompressedWeight, NumericalError, SettingsError
from compressors.checks import require_finite_weight
from compressors.columns import Block, Rounding, Selection, sweep
from compressors.grid import Grid
from compressors.patterns import NM, Pattern, Unstructured, keep_largest
from compressors.products import full_precision, product
from compressors.statistics import Hessian

__all__ = ["Plan", "factorize", "solve"]

# Damping is doubled from here, up to 1, where the Hessian is not positive definite.
_FIRST_RAISE = 0.01
# Blocks whose updates are computed in one product: large enough to keep a GPU busy.
_PANEL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the sweep does to a matrix.

    Attributes:
        pattern: Prune by it; None to prune nothing.
        grid: Round to it; None to round nothing.
        act_order: Take columns in order of falling diagonal of the Hessian.
        static_groups: Find all grids before the sweep, on groups of consecutive columns.
        zero_dead: Zero the weights of inputs that were always zero.
        dampening_frac: Share of the Hessian's mean diagonal added to it.
        block_size: Columns worked on at a time.
    """

    pattern: Pattern | None = None
    grid: Grid | None = None
    act_order: bool = False
    static_groups: bool = False
    zero_dead: bool = False
    dampening_frac: float
    block_size: int


def factorize(hessian: Tensor, dampening_frac: float) -> tuple[Tensor, float]:
    r"""Factorize a damped Hessian as :math:`RR^\top`, R upper triangular.

    Where the Hessian is not positive definite in float32, damping is raised: doubled, at least to
    0.01, and up to 1.

    Args:
        hessian: float32 ``[n, n]``, symmetric; not modified.
        dampening_frac: Share of the mean diagonal added to the diagonal.

    Returns:
        :math:`R^\top`, float32 ``[n, n]``, lower triangular, and the damping fraction used.

    Raises:
        NumericalError: If no damping helps.

    >>> factorize(torch.eye(2) * 4, 0.0)
    (tensor([[2., 0.],
            [0., 2.]]), 0.0)
    """
    mean = hessian.diagonal().mean()
    used = dampening_frac
    while True:
        damped = hessian.flip(0, 1)
        damped.diagonal().add_(used * mean)
        lower, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0 and bool(torch.isfinite(lower.diagonal()).all()):
            return lower.t().flip(0, 1), used
        if used >= 1:
            raise NumericalError(
                f"the Hessian of its inputs is not positive definite, not even at dampening_frac 1 "
                f"({dampening_frac} was asked for); add calibration samples, or load the model in "
                "bfloat16 or float32"
            )
        used = min(1.0, max(2 * used, _FIRST_RAISE))


def solve(weights: Sequence[Tensor], stats: Hessian, plan: Plan) -> list[CompressedWeight]:
    """Compress matrices that read the same input.

    Args:
        weights: ``[out_features, in_features]`` each, float32, bfloat16 or float16, on one device.
        stats: The Hessian of their input.
        plan: What to do to them.

    Returns:
        One result a matrix.

    Raises:
        NumericalError: If weights or statistics are not finite, or the Hessian not positive
            definite.
        SettingsError: If the statistics are empty.
    """
    for weight in weights:
        require_finite_weight(weight)
    if not stats.tokens:
        raise SettingsError(
            "no calibration tokens were seen: calibrate with nsamples of 1 or more, or use the "
            "method that fallback() returns"
        )
    with full_precision(), torch.no_grad():
        return _Solver(weights, stats, plan).run()


class _Solver:
    """The state of one sweep; everything stands transposed, ``[columns, rows]``."""

    def __init__(self, weights: Sequence[Tensor], stats: Hessian, plan: Plan) -> None:
        self.plan = plan
        self.weights = weights
        device = weights[0].device
        hessian = stats.matrix.to(device)
        self.columns = len(hessian)
        # float32 [columns, all rows]: what was there before; overwritten block by block.
        self.values = torch.cat([weight.detach().t().float() for weight in weights], dim=1)
        dead = hessian.diagonal() == 0
        hessian.diagonal().masked_fill_(dead, 1)
        if plan.zero_dead:
            self.values.masked_fill_(dead[:, None], 0)
        self.group_of = None
        if plan.grid is not None:
            self.group_of = plan.grid.group_of_columns(self.columns, device)
            self._make_grids(plan.grid)
        self.order = None
        if plan.act_order:
            self.order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
            hessian, dead = hessian[self.order][:, self.order], dead[self.order]
            self.values = self.values[self.order]
            if plan.static_groups and self.group_of is not None:
                self.group_of = self.group_of[self.order]
        self.factor, self.dampening = factorize(hessian, plan.dampening_frac)
        # A weight's score is |w| / U_ii = |w| R_ii; dead inputs are the first to go.
        self.importance = self.factor.diagonal().masked_fill(dead, 0)
        # What the sweep has changed so far, and what it keeps.
        self.changes = torch.empty_like(self.values)
        self.keep = None
        if plan.pattern is not None:
            self.keep = torch.empty(self.values.shape, dtype=torch.bool, device=device)

    def _make_grids(self, grid: Grid) -> None:
        """Make room for the grids, and find those that do not wait for the sweep."""
        shape = (grid.groups(self.columns), self.values.shape[1])
        self.scale = self.values.new_empty(shape)
        self.zero_point = self.values.new_empty(shape)
        self.grids_known = grid.group_size is None or self.plan.static_groups
        if self.grids_known:
            self._fit(grid, slice(0, shape[0]), self.values)

    def _fit(self, grid: Grid, groups: slice, values: Tensor) -> None:
        grouped = values.view(groups.stop - groups.start, -1, values.shape[1])
        self.scale[groups], self.zero_point[groups] = grid.fit(grouped, dim=1)

    def run(self) -> list[CompressedWeight]:
        """Sweep all blocks, panel by panel."""
        size = self.plan.block_size
        for first in range(0, self.columns, _PANEL * size):
            last = min(first + _PANEL * size, self.columns)
            # What the finished panels' changes ask of this panel; of its own blocks: below.
            pending = product(self.factor[first:last, :first], self.changes[:first])
            for start in range(first, last, size):
                stop = min(start + size, last)
                due = pending[start - first : stop - first]
                if start > first:
                    due += product(self.factor[start:stop, first:start], self.changes[first:start])
                self._run_block(start, stop, due)
        return self._collect()

    def _run_block(self, start: int, stop: int, due: Tensor) -> None:
        """Compress one block, given what the changes before it ask of it."""
        original = self.values[start:stop]
        diagonal = self.factor[start:stop, start:stop]
        identity = torch.eye(stop - start, device=diagonal.device)
        inverse = torch.linalg.solve_triangular(diagonal, identity, upper=False)
        current = original + inverse @ due if start else original.clone()
        importance = self.importance[start:stop]
        keep, selection = None, None
        if self.keep is not None:
            keep = self.keep[start:stop]
        if isinstance(self.plan.pattern, NM):
            selection = Selection(self.plan.pattern, importance)
        elif isinstance(self.plan.pattern, Unstructured) and keep is not None:
            self._select(self.plan.pattern, current, importance, keep)
        block = Block(
            values=current,
            feedback=(inverse * diagonal.diagonal()).tril_(-1),
            keep=keep,
            selection=selection,
            rounding=self._rounding(start, stop, current),
        )
        sweep(block)
        self.changes[start:stop] = original - current
        original.copy_(current)

    def _select(
        self, pattern: Unstructured, current: Tensor, importance: Tensor, keep: Tensor
    ) -> None:
        """Choose what stays of a block, matrix by matrix; ties by row, then column."""
        scores = current.abs() * importance[:, None]
        sizes = [len(weight) for weight in self.weights]
        for mine, kept in zip(
            torch.split(scores, sizes, dim=1), torch.split(keep, sizes, dim=1), strict=True
        ):
            flat = mine.t().reshape(1, -1)
            chosen = keep_largest(flat, pattern.dropped(flat.shape[1]))
            kept.copy_(chosen.view(mine.shape[1], mine.shape[0]).t())

    def _rounding(self, start: int, stop: int, current: Tensor) -> Rounding | None:
        """The grids of a block's weights; those of groups that begin in it are found now."""
        grid = self.plan.grid
        if grid is None or self.group_of is None:
            return None
        if not self.grids_known:
            size = grid.group_size or self.columns
            groups = slice(-(-start // size), -(-stop // size))
            if groups.start < groups.stop:
                begin, end = groups.start * size, groups.stop * size
                reach = current if end <= stop else self._look_ahead(start, end)
                self._fit(grid, groups, reach[begin - start : end - start])
        mine = self.group_of[start:stop]
        low = -self.zero_point[mine]
        return Rounding(scale=self.scale[mine], low=low, high=low + grid.top)

    def _look_ahead(self, start: int, end: int) -> Tensor:
        """Columns ``start`` to ``end`` with the changes of all finished blocks allowed for."""
        original = self.values[start:end]
        if not start:
            return original
        due = product(self.factor[start:end, :start], self.changes[:start])
        ahead = self.factor[start:end, start:end]
        return original + torch.linalg.solve_triangular(ahead, due, upper=False)

    def _collect(self) -> list[CompressedWeight]:
        """Bring columns back to their order, take the matrices apart, and round to their dtype."""
        grid, codes, scale, zero_point, g_idx = self.plan.grid, None, None, None, None
        if grid is not None and self.group_of is not None:
            # The values are multiples of the scale, so the division gives the codes back exactly.
            steps = (self.values / self.scale[self.group_of]).round_()
            codes = self._restored(steps.add_(self.zero_point[self.group_of]).to(torch.uint8))
            scale, zero_point = self.scale, self.zero_point.to(torch.int32)
            g_idx = self._restored(self.group_of).to(torch.int32)
        values = self._restored(self.values)
        keep = None if self.keep is None else self._restored(self.keep)
        results, first = [], 0
        for weight in self.weights:
            rows = slice(first, first + len(weight))
            first = rows.stop
            results.append(
                CompressedWeight(
                    # Adding 0 clears the sign of -0.
                    weight=_rows_first(values, rows).to(weight.dtype).add_(0.0),
                    mask=None if keep is None else _rows_first(keep, rows),
                    codes=None if codes is None else _rows_first(codes, rows),
                    scale=None if scale is None else _rows_first(scale, rows),
                    zero_point=None if zero_point is None else _rows_first(zero_point, rows),
                    g_idx=g_idx,
                    num_bits=None if grid is None else grid.num_bits,
                    dampening=self.dampening,
                )
            )
        return results

    def _restored(self, columns: Tensor) -> Tensor:
        """Undo the order of the sweep along the first dimension."""
        if self.order is None:
            return columns
        restored = torch.empty_like(columns)
        restored[self.order] = columns
        return restored


def _rows_first(columns: Tensor, rows: slice) -> Tensor:
    """Some rows of a transposed matrix, as a matrix of their own."""
    return columns[:, rows].t().contiguous()
