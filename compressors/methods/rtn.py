# SPDX-License-Identifier: Apache-2.0
"""Round to nearest: the quantization that every other has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import CompressedWeight, Compressor, require_finite_weight
from compressors.grid import Grid
from compressors.statistics import NoStatistic, Statistic

__all__ = ["RTN"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RTN(Compressor):
    """Round each weight to the nearest point of its group's grid.

    Needs no calibration.

    Args:
        num_bits: Bits of a code, 2 to 8.
        group_size: Consecutive input columns of a row that share a scale; None: the whole row.
        symmetric: Zero point in the middle of the codes.
        scale_dtype: The 16-bit dtype that scales are rounded to, for a checkpoint that stores them
            in it; None leaves them in float32.

    Raises:
        SettingsError: If a setting is out of range.

    References:
        The "RTN" baseline of Frantar et al., arXiv:2210.17323, section 4.
    """

    statistic: ClassVar[type[NoStatistic]] = NoStatistic
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

    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Raise :class:`UnsupportedModelError` if the group size does not divide the matrix."""
        self.grid.check(name, in_features)

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
        grid.check("the weight", weight.shape[1])
        grouped = weight.detach().float().reshape(len(weight), grid.groups(weight.shape[1]), -1)
        scale, zero_point = grid.fit(grouped, dim=2)
        steps = grid.round(grouped, scale[:, :, None], zero_point[:, :, None])
        return CompressedWeight(
            weight=(steps * scale[:, :, None]).view(weight.shape).to(weight.dtype),
            codes=steps.add_(zero_point[:, :, None]).view(weight.shape).to(torch.uint8),
            scale=scale,
            zero_point=zero_point.to(torch.int32),
            g_idx=grid.group_of_columns(weight.shape[1], weight.device).to(torch.int32),
            num_bits=self.num_bits,
        )
