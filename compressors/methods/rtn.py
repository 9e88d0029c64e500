# SPDX-License-Identifier: Apache-2.0
"""Round to nearest: the quantization that every other has to beat, and the settings they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import CompressedWeight, Compressor, require_finite_weight
from compressors.grid import Grid
from compressors.statistics import NoStatistic, Statistic

__all__ = ["RTN", "Quantizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer(Compressor):
    """A method with the settings of a grid.

    Args:
        num_bits: Bits of a code, 2 to 8.
        group_size: Consecutive input columns of a row that share a scale, the last group being
            shorter where it does not divide the row; None: the whole row.
        symmetric: Zero point in the middle of the codes.
        scale_dtype: The 16-bit dtype that scales are rounded to, for a checkpoint that stores them
            in it; None leaves them in float32.

    Raises:
        SettingsError: If a setting is out of range.
    """

    num_bits: int
    group_size: int | None = 128
    symmetric: bool = True
    scale_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        _ = self.grid

    @property
    def grid(self) -> Grid:
        """The settings as a grid, validated."""
        return Grid(
            num_bits=self.num_bits,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_dtype=self.scale_dtype,
        )

    @property
    def scales_columns(self) -> bool:
        """Whether columns have factors while they are rounded; no packed format keeps these."""
        return False

    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Nothing to check: every shape can be quantized."""

    def fallback(self) -> RTN:
        """Round to nearest on the same grid."""
        return RTN(
            num_bits=self.num_bits,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_dtype=self.scale_dtype,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RTN(Quantizer):
    """Round each weight to the nearest point of its group's grid.

    Needs no calibration. The settings are those of :class:`.Quantizer`.

    References:
        The "RTN" baseline of Frantar et al., arXiv:2210.17323, section 4.
    """

    statistic: ClassVar[type[NoStatistic]] = NoStatistic

    def compress(self, weight: Tensor, stats: Statistic | None = None) -> CompressedWeight:
        """Quantize one matrix.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
            stats: Not read.

        Returns:
            The rounded weight, its codes and its grid.

        Raises:
            NumericalError: If a weight is not finite.
        """
        require_finite_weight(weight)
        grid = self.grid
        rounded, codes, scales, zero_points = [], [], [], []
        for grouped in grid.split(weight.detach(), dim=1):
            values = grouped.float()
            scale, zero_point = grid.fit(values, dim=2)
            steps = grid.round(values, scale[:, :, None], zero_point[:, :, None])
            rounded.append((steps * scale[:, :, None]).flatten(1).to(weight.dtype))
            codes.append(steps.add_(zero_point[:, :, None]).flatten(1).to(torch.uint8))
            scales.append(scale)
            zero_points.append(zero_point.to(torch.int32))
        return CompressedWeight(
            weight=torch.cat(rounded, dim=1),
            codes=torch.cat(codes, dim=1),
            scale=torch.cat(scales, dim=1),
            zero_point=torch.cat(zero_points, dim=1),
            g_idx=grid.group_of_columns(weight.shape[1], weight.device).to(torch.int32),
            num_bits=self.num_bits,
        )

    def fallback(self) -> RTN:
        """Itself: nothing is calibrated."""
        return self
