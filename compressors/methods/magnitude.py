# SPDX-License-Identifier: Apache-2.0
"""Magnitude pruning: drop the smallest weights of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from compressors.base import CompressedWeight, apply_mask, require_finite_weight
from compressors.patterns import Pruner
from compressors.statistics import NoStatistic, Statistic

__all__ = ["Magnitude"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude(Pruner):
    """Prune the weights of smallest magnitude, compared over the whole matrix.

    Needs no calibration. With an N:M pattern weights are compared within their group of M.

    Args:
        pattern: ``Unstructured(sparsity)`` or ``NM(n, m)``.

    Raises:
        SettingsError: If the pattern is none.

    References:
        Zhu and Gupta, arXiv:1710.01878; as the baseline of Jaiswal et al., arXiv:2310.01382.
    """

    statistic: ClassVar[type[NoStatistic]] = NoStatistic

    def compress(self, weight: Tensor, stats: Statistic | None = None) -> CompressedWeight:
        """Prune one matrix.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
            stats: Not read.

        Returns:
            The pruned weight and its mask.

        Raises:
            NumericalError: If a weight is not finite.
        """
        require_finite_weight(weight)
        return apply_mask(weight, self.pattern.keep(weight.detach().abs(), per_row=False))
