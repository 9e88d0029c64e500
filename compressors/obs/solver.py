# SPDX-License-Identifier: Apache-2.0
r"""Optimal Brain Surgeon column pass, shared by SparseGPT and GPTQ.

Columns are compressed from left to right; the error of each is made up for by the columns to its
right, as the inverse Hessian says. With :math:`H^{-1} = U^\top U`, U upper triangular, column i's
error is :math:`e_i = (w_i - q_i) / U_{ii}`, and :math:`w_j \mathrel{-}= e_i U_{ij}` for j > i.

How it is computed here:

* Not Cholesky, inverse and Cholesky again: :math:`H = X^\top X` with X lower triangular is the
  Cholesky factorization begun at the last row, and :math:`U = X^{-\top}`.
* U itself is never formed. Summed over the finished columns F, :math:`W_F - Q_F = E_F U_{FF}`, and
  :math:`U_{FB} = -U_{FF} X_{BF}^\top U_{BB}`, so the next columns B have become
  :math:`W_B + (W_F - Q_F) X_{BF}^\top U_{BB}`: products with the changes made so far, and only X's
  diagonal blocks are inverted.
* Matrices that read the same input are solved together, as more rows of one matrix.
* Inputs that were always zero (dead) neither cause nor receive changes. They count 0 in the mean
  of the damping and come last in act-order (of their group, if it is group-aware), so results do
  not depend on the scale of H.

References:
    Frantar and Alistarh, arXiv:2301.00774, algorithm 1 (SparseGPT); Frantar et al.,
    arXiv:2210.17323, algorithm 1 (GPTQ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressors.base import CompressedWeight, require_finite_weight
from compressors.grid import Grid
from compressors.matmul import full_precision, transpose
from compressors.obs.buffers import ColumnBuffers
from compressors.obs.cholesky import factorize
from compressors.obs.columns import ColumnPass
from compressors.obs.group_grids import GroupGrids, falling_order
from compressors.patterns import NM, Pattern, Unstructured, keep_largest, kth_smallest
from compressors.statistics import Hessian

__all__ = ["Plan", "solve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of one column pass.

    Attributes:
        pattern: Prune by it; None to prune nothing.
        grid: Round to it; None to round nothing.
        act_order: Take columns in order of falling diagonal of the Hessian.
        act_group_aware: In that order, but group by group; needs a grid.
        static_groups: Find all grids before the pass, on groups of consecutive columns.
        zero_dead: Zero the weights of inputs that were always zero.
        dampening_frac: Share of the Hessian's mean diagonal added to it.
        block_size: Columns worked on at a time.
    """

    pattern: Pattern | None = None
    grid: Grid | None = None
    act_order: bool = False
    act_group_aware: bool = False
    static_groups: bool = False
    zero_dead: bool = False
    dampening_frac: float
    block_size: int


def solve(weights: Sequence[Tensor], stats: Hessian, plan: Plan) -> list[CompressedWeight]:
    """Compress matrices that read the same input.

    Args:
        weights: ``[out_features, in_features]`` each, float32, bfloat16 or float16, on one device.
        stats: The Hessian of their input.
        plan: What to do to them.

    Returns:
        One result per matrix.

    Raises:
        NumericalError: If weights or statistics are not finite, or the Hessian not positive
            definite.
        SettingsError: If the statistics are empty, or M of an N:M pattern does not divide the
            columns.
    """
    if isinstance(plan.pattern, NM):
        plan.pattern.require_width(weights[0].shape[1])
    for weight in weights:
        require_finite_weight(weight)
    stats.require_tokens()
    with full_precision(), torch.no_grad():
        return _Solver(weights, stats, plan).run()


class _Solver:
    """State of one pass; everything is transposed, ``[columns, rows]``."""

    def __init__(self, weights: Sequence[Tensor], stats: Hessian, plan: Plan) -> None:
        self.plan, self.weights = plan, weights
        device = weights[0].device
        self.columns, rows = weights[0].shape[1], sum(len(weight) for weight in weights)
        # The weights, and once a block is finished, the compressed ones.
        self.values = torch.empty(self.columns, rows, device=device)
        for weight, mine in zip(weights, self._each(self.values), strict=True):
            transpose(weight.detach(), mine)
        squares = stats.diagonal.to(device)
        dead = squares == 0
        # Positive, and nothing beside the others, of whose mean the damping is a share.
        least = float(squares.mean()) * 1e-6 or 1.0
        if plan.zero_dead:
            self.values[dead] = 0
        self.order: Tensor | None = None
        if plan.act_order:
            together = plan.grid.group_size if plan.grid and plan.act_group_aware else None
            self.order = falling_order(squares, together)
        self.grids = None
        if plan.grid is not None:
            scales = [plan.grid.matrix_scale(mine) for mine in self._each(self.values)]
            self.matrix_scales = [scale for scale in scales if scale is not None]
            by_row = [
                scale.expand(len(weight))
                for scale, weight in zip(self.matrix_scales, weights, strict=False)
            ]
            self.grids = GroupGrids(
                plan.grid,
                self.values,
                self.order,
                matrix_scale=torch.cat(by_row) if by_row else None,
                static=plan.static_groups,
                torn=not plan.act_group_aware,
            )
            self.groups: list[int] = self.grids.group_of.tolist()
        if self.order is not None:
            self.values, dead = self.values[self.order], dead[self.order]

        def hessian() -> Tensor:
            # Its lower half will do, unless the order changes what that is.
            if self.order is None:
                found = stats.lower.to(device)
            else:
                found = stats.matrix.to(device)[self.order][:, self.order]
            found.diagonal().masked_fill_(dead, least)
            return found

        self.factor = factorize(hessian, plan.dampening_frac, plan.block_size)
        # A weight's score is |w| / U_ii = |w| R_ii; dead inputs are the first to go.
        self.importance = self.factor.lower.diagonal().masked_fill(dead, 0)[:, None]
        # What the changes made so far ask of each column, before its block's inverse is applied.
        self.pending = torch.empty_like(self.values)
        self.keep = torch.empty_like(self.values, dtype=torch.bool) if plan.pattern else None
        # Fresh memory for each block would cost more than what is done in it.
        self.scratch = torch.empty(min(plan.block_size, self.columns), rows, device=device)
        self.block = ColumnBuffers(
            min(plan.block_size, self.columns),
            rows,
            device,
            prunes=plan.pattern is not None,
            pattern=plan.pattern if isinstance(plan.pattern, NM) else None,
            grids=self.grids,
        )
        self.column_pass = ColumnPass(self.block)

    def run(self) -> list[CompressedWeight]:
        """Compress block after block."""
        size = self.plan.block_size
        for start, inverse in zip(range(0, self.columns, size), self.factor.inverses, strict=True):
            self._run_block(start, min(start + size, self.columns), inverse)
        return self._collect()

    def _run_block(self, start: int, stop: int, inverse: Tensor) -> None:
        """Compress one block and propagate its errors to later columns."""
        block, count = self.block, stop - start
        original, current = self.values[start:stop], block.values[:count]
        scratch = self.scratch[:count]
        current.copy_(original)
        if start:
            current.addmm_(inverse, self.pending[start:stop])
        block.feedback[:count, :count] = inverse * self.factor.lower.diagonal()[start:stop]
        block.importance[:count] = self.importance[start:stop]
        if isinstance(self.plan.pattern, Unstructured):
            self._select(self.plan.pattern, start, stop)
        if self.grids is not None:
            self._find_grids(self.grids, start, stop)
        self.column_pass.run(count)
        if self.grids is not None:
            self.grids.encode(start, current, block.groups, scratch)
        if self.keep is not None:
            self.keep[start:stop] = block.kept[:count]
        changes = torch.sub(original, current, out=scratch)
        original.copy_(current)
        if stop < self.columns:
            asked = self.factor.lower[stop:, start:stop]
            self.pending[stop:].addmm_(asked, changes, beta=1 if start else 0)

    def _select(self, pattern: Unstructured, start: int, stop: int) -> None:
        """Choose the weights to keep in a block, matrix by matrix; ties by row, then column."""
        count = stop - start
        scores = torch.abs(self.block.values[:count], out=self.scratch[:count])
        scores.mul_(self.importance[start:stop])
        for mine, kept in zip(self._each(scores), self._each(self.block.kept[:count]), strict=True):
            drop = pattern.dropped(mine.numel())
            if not drop:
                kept.fill_(1)
                continue
            threshold, ambiguous = kth_smallest(mine.reshape(1, -1), drop)
            if ambiguous:
                chosen = keep_largest(mine.t().reshape(1, -1), drop)
                kept.copy_(chosen.view(mine.shape[1], count).t())
            else:
                kept.copy_(mine > threshold)

    def _find_grids(self, grids: GroupGrids, start: int, stop: int) -> None:
        """Set the groups of a block's columns; find grids of those that begin in it."""
        begin, end = grids.waiting(start, stop)
        if begin < end:
            reach = self.block.values[: stop - start]
            if end > stop:
                # A group reaches past the block: allow for the changes before the block there too.
                reach = self.values[start:end]
                if start:
                    ahead = self.factor.lower[start:end, start:end]
                    asked = self.pending[start:end]
                    reach = reach + torch.linalg.solve_triangular(ahead, asked, upper=False)
            grids.find(begin, end, reach[begin - start : end - start])
        self.block.groups = self.groups[start:stop]

    def _each(self, columns: Tensor) -> tuple[Tensor, ...]:
        """The part of each matrix in ``[columns, all rows]``, as views."""
        return torch.split(columns, [len(weight) for weight in self.weights], dim=1)

    def _collect(self) -> list[CompressedWeight]:
        """Restore column order, split into matrices, and round to their dtype."""
        grids = self.grids
        values, keep = self._restored(self.values), self.keep
        parts: dict[str, Any] = {}
        if keep is not None:
            parts["mask"] = self._transposed(self._restored(keep))
        common: dict[str, Any] = {"dampening": self.factor.dampening}
        if grids is not None:
            parts["codes"] = self._transposed(self._restored(grids.codes))
            parts["scale"] = self._transposed(grids.scale)
            parts["zero_point"] = self._transposed(grids.zero_point, torch.int32)
            common["g_idx"] = self._restored(grids.group_of).to(torch.int32)
            common["num_bits"] = grids.grid.num_bits
            common["number_format"] = grids.grid.number_format
            if self.matrix_scales:
                parts["matrix_scale"] = self.matrix_scales
        parts["weight"] = self._transposed(values, self.weights[0].dtype)
        return [
            CompressedWeight(**{name: each[index] for name, each in parts.items()}, **common)
            for index in range(len(self.weights))
        ]

    def _transposed(self, columns: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Part of each matrix, ``[rows, columns]``, as new tensors."""
        found = []
        for mine in self._each(columns):
            turned = mine.new_empty(mine.shape[1], mine.shape[0], dtype=dtype or mine.dtype)
            transpose(mine, turned)
            found.append(turned)
        return found

    def _restored(self, columns: Tensor) -> Tensor:
        """Undo the order of the pass along the first dimension."""
        if self.order is None:
            return columns
        restored = torch.empty_like(columns)
        restored[self.order] = columns
        return restored
