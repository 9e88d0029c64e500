# SPDX-License-Identifier: Apache-2.0
"""GPTQ: column-by-column quantization with error compensation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from compressors.base import CompressedWeight, require_dampening
from compressors.errors import SettingsError
from compressors.methods.rtn import Quantizer
from compressors.obs.solver import Plan, solve
from compressors.statistics import Hessian

__all__ = ["GPTQ"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQ(Quantizer):
    """Quantize column by column; later columns compensate each error.

    Args:
        num_bits, symmetric, number_format, scale_dtype: As in :class:`.Quantizer`.
        group_size: Consecutive columns that share a scale in a row, the last group being shorter
            where it does not divide the row; None: all.
        act_order: Take columns in order of falling mean square of their inputs (False in the
            released code).
        act_group_aware: In that order, take groups by their largest column, and the columns of a
            group together. Needs ``act_order``, and ``static_groups=False``.
        static_groups: Find all grids before the column pass (False in the released code). Else the
            grid of a group is found when the pass reaches it, from weights in which the errors of
            the finished blocks are allowed for. With ``act_order`` but not ``act_group_aware``,
            groups are then runs of columns of the pass, and ``g_idx`` of the result says which
            group a column belongs to.
        dampening_frac: Share of the Hessian's mean diagonal added to its diagonal, 0 to 1
            (``percdamp`` in the released code); raised, and reported, where that is not enough.
        block_size: Columns worked on at a time.

    Raises:
        SettingsError: If a setting is out of range.

    References:
        Frantar et al., arXiv:2210.17323, algorithm 1; act-order, static groups and dead inputs as
        in its released code. Gafni et al., arXiv:2505.14638 (group-aware order).

    Differences from the released code:
        1. Weights of inputs that were always zero are zeroed before any grid is found; the released
           code lets them widen the grid where there is one group per row.
        2. The symmetric grid of a row without negative weights is symmetric too.
        3. Inputs that were always zero count 0 in the damping's mean and are the last in act-order
           (of their group, if it is group-aware).
           The released code gives them a diagonal of 1, which is little at its scale of the Hessian
           (2 / samples times the sum over all tokens) and much at others.
    """

    statistic: ClassVar[type[Hessian]] = Hessian
    act_order: bool = True
    act_group_aware: bool = False
    static_groups: bool = True
    dampening_frac: float = 0.01
    block_size: int = 128

    def __post_init__(self) -> None:
        Quantizer.__post_init__(self)
        require_dampening(self.dampening_frac, self.block_size)
        if self.act_group_aware and (self.static_groups or not self.act_order):
            raise SettingsError(
                "act_group_aware=true goes with act_order=true and static_groups=false, but "
                f"act_order={str(self.act_order).lower()} and "
                f"static_groups={str(self.static_groups).lower()}. Add "
                "static_groups=false and act_order=true, or leave it out."
            )

    @property
    def torn_groups(self) -> bool:
        """Whether groups are runs of columns of the pass that are none of the matrix."""
        return self.act_order and not (self.act_group_aware or self.static_groups)

    def compress(self, weight: Tensor, stats: Hessian) -> CompressedWeight:
        """Quantize one matrix.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
            stats: The Hessian of its inputs.

        Returns:
            The rounded weight, its codes and grid, and the damping used.

        Raises:
            NumericalError: If weight or statistics are not finite, or no damping makes the Hessian
                positive definite.
            SettingsError: If the statistics are empty.
        """
        return self.compress_together([weight], stats)[0]

    def compress_together(
        self, weights: Sequence[Tensor], stats: Hessian, feeds_scores: Sequence[bool] = ()
    ) -> list[CompressedWeight]:
        """Quantize matrices that read the same input, in one pass."""
        plan = Plan(
            grid=self.grid,
            act_order=self.act_order,
            act_group_aware=self.act_group_aware,
            static_groups=self.static_groups,
            zero_dead=True,
            dampening_frac=self.dampening_frac,
            block_size=self.block_size,
        )
        return solve(weights, stats, plan)
