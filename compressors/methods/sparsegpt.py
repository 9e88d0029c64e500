# SPDX-License-Identifier: Apache-2.0
"""SparseGPT: column-by-column pruning with error compensation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from compressors.base import CompressedWeight, require_dampening
from compressors.errors import SettingsError
from compressors.methods.magnitude import Magnitude, Pruner
from compressors.methods.rtn import RTN
from compressors.obs.solver import Plan, solve
from compressors.patterns import NM
from compressors.statistics import Hessian, NoStatistic, Statistic

__all__ = ["SparseGPT"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseGPT(Pruner):
    """Prune column by column; later columns compensate each error.

    Unstructured weights are compared within blocks of ``block_size`` columns over all rows, N:M
    ones within their group when the column pass reaches it.

    Args:
        pattern: ``Unstructured(sparsity)`` or ``NM(n, m)``.
        dampening_frac: Share of the Hessian's mean diagonal added to its diagonal, 0 to 1
            (``percdamp`` in the released code); raised, and reported, where that is not enough.
        block_size: Columns worked on at a time; M of an N:M pattern has to divide it.
        quantize: Round the weights that stay to this grid, in the same pass (joint compression);
            None: do not.

    Raises:
        SettingsError: If a setting is out of range.

    References:
        Frantar and Alistarh, arXiv:2301.00774, algorithm 1; joint compression: section 3.5.

    Differences from the released code:
        1. Exact counts, ties by row and column: ``floor(sparsity * count)`` of each block go.
        2. Inputs that were always zero are the first to be pruned, but no more than the count; the
           released code zeroes all their weights. They count 0 in the damping's mean, and 1 in the
           released code's.
        3. Joint compression takes grids of groups as GPTQ does, not only one per row.
    """

    statistic: ClassVar[type[Hessian]] = Hessian
    dampening_frac: float = 0.01
    block_size: int = 128
    quantize: RTN | None = None

    def __post_init__(self) -> None:
        Pruner.__post_init__(self)
        if self.quantize is not None and not isinstance(self.quantize, RTN):
            raise SettingsError(f"quantize={self.quantize!r}: expected RTN(num_bits=...) or None")
        require_dampening(self.dampening_frac, self.block_size)
        if isinstance(self.pattern, NM) and self.block_size % self.pattern.m:
            fitting = max(128 // self.pattern.m, 1) * self.pattern.m
            raise SettingsError(
                f"block_size={self.block_size} is not divisible by M={self.pattern.m} of pattern "
                f"{self.pattern}: use a multiple, such as {fitting}"
            )

    def compress(self, weight: Tensor, stats: Hessian) -> CompressedWeight:
        """Prune one matrix.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
            stats: The Hessian of its inputs.

        Returns:
            The pruned weight, its mask and the damping used; with ``quantize``, codes and grid.

        Raises:
            NumericalError: If weight or statistics are not finite, or no damping makes the Hessian
                positive definite.
            SettingsError: If the statistics are empty, or M does not divide the columns.
        """
        return self.compress_together([weight], stats)[0]

    def compress_together(
        self, weights: Sequence[Tensor], stats: Hessian, feeds_scores: Sequence[bool] = ()
    ) -> list[CompressedWeight]:
        """Prune matrices that read the same input, in one pass."""
        plan = Plan(
            pattern=self.pattern,
            grid=None if self.quantize is None else self.quantize.grid,
            dampening_frac=self.dampening_frac,
            block_size=self.block_size,
        )
        return solve(weights, stats, plan)

    def fallback(self) -> Magnitude | MagnitudeAndRTN:
        """Magnitude pruning with the same pattern; with ``quantize``, rounded to the same grid."""
        if self.quantize is None:
            return Magnitude(pattern=self.pattern)
        return MagnitudeAndRTN(pattern=self.pattern, quantize=self.quantize)


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeAndRTN(Pruner):
    """Joint compression without statistics: magnitude pruning, then rounding.

    Args:
        pattern: What magnitude pruning goes by.
        quantize: What the weights that stay are rounded to.
    """

    statistic: ClassVar[type[NoStatistic]] = NoStatistic
    quantize: RTN

    def compress(self, weight: Tensor, stats: Statistic | None = None) -> CompressedWeight:
        """Prune and round one matrix; ``stats`` are not read.

        Raises:
            NumericalError: If a weight is not finite.
        """
        pruned = Magnitude(pattern=self.pattern).compress(weight)
        # 0 is on every grid, so what was pruned stays so.
        return replace(self.quantize.compress(pruned.weight), mask=pruned.mask)
