# SPDX-License-Identifier: Apache-2.0
"""Magnitude pruning, and the settings that pruners share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from compressors.base import CompressedWeight, Compressor, apply_mask, require_finite_weight
from compressors.errors import SettingsError
from compressors.patterns import NM, Pattern, Unstructured
from compressors.statistics import NoStatistic, Statistic

__all__ = ["Magnitude", "Pruner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruner(Compressor):
    """Base of methods with a pattern.

    Args:
        pattern: ``Unstructured(sparsity)`` or ``NM(n, m)``.

    Raises:
        SettingsError: If the pattern is neither.
    """

    pattern: Pattern

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, Unstructured | NM):
            raise SettingsError(
                f"pattern={self.pattern!r}: expected Unstructured(sparsity), such as "
                "Unstructured(0.5), or NM(n, m), such as NM(2, 4)"
            )

    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Raise :class:`UnsupportedModelError` if the pattern does not divide the matrix."""
        self.pattern.check(name, in_features)

    def fallback(self) -> Pruner:
        """Magnitude pruning with the same pattern; itself if it needs no calibration."""
        return self if self.statistic is NoStatistic else Magnitude(pattern=self.pattern)


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
