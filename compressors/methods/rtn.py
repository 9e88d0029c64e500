# SPDX-License-Identifier: Apache-2.0
"""Round to nearest, and the settings that quantizers share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import CompressedWeight, Compressor, require_finite_weight
from compressors.errors import SettingsError
from compressors.float_grid import FloatGrid
from compressors.grid import Grid
from compressors.statistics import NoStatistic, Statistic

__all__ = ["RTN", "Quantizer", "round_to_nearest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer(Compressor):
    """Base of methods with the settings of a grid.

    Args:
        num_bits: Bits of a code, 2 to 8. Floating-point formats have their own bits, groups and
            symmetry: leave these out, or give what the format has.
        group_size: Consecutive input columns of a row that share a scale, the last group being
            shorter where it does not divide the row; None: the whole row.
        symmetric: Zero point in the middle of the codes.
        number_format: ``int``, ``fp8``, ``mxfp4`` or ``nvfp4`` (:mod:`compressors.float_grid`).
        scale_dtype: The 16-bit dtype that scales are rounded to, for a checkpoint that stores them
            in it; None leaves them in float32. Not for mxfp4 and nvfp4, whose scales take 8 bits.

    Raises:
        SettingsError: If a setting is out of range, or is not the format's.
    """

    num_bits: int | None = None
    group_size: int | None = 128
    symmetric: bool = True
    number_format: str = "int"
    scale_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        grid = self.grid
        if self.number_format == "int":
            return
        defaults = {field.name: field.default for field in fields(self)}
        for name in ("num_bits", "group_size", "symmetric"):
            given, own = getattr(self, name), getattr(grid, name)
            if given not in (own, defaults[name]):
                raise SettingsError(
                    f"{name}={given!r} does not go with number_format={self.number_format}, which "
                    f"fixes {name}={own!r}: leave it out"
                )
            object.__setattr__(self, name, own)

    @property
    def grid(self) -> Grid:
        """The settings as a grid, validated."""
        if self.number_format != "int":
            return FloatGrid.of(self.number_format, self.scale_dtype)
        if self.num_bits is None:
            raise SettingsError("num_bits is missing: give 2 to 8, or number_format")
        return Grid(
            num_bits=self.num_bits,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_dtype=self.scale_dtype,
        )

    @property
    def scales_columns(self) -> bool:
        """Whether columns have factors, which packed formats cannot store."""
        return False

    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Accept every shape."""

    def fallback(self) -> RTN:
        """Round to nearest on the same grid."""
        return RTN(
            num_bits=self.num_bits,
            group_size=self.group_size,
            symmetric=self.symmetric,
            number_format=self.number_format,
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
        return round_to_nearest(weight, self.grid)

    def fallback(self) -> RTN:
        """Itself: nothing is calibrated."""
        return self


def round_to_nearest(
    weight: Tensor, grid: Grid, matrix_scale: Tensor | None = None
) -> CompressedWeight:
    """Round a matrix to the nearest points of its groups' grids.

    Args:
        weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
        grid: What to round to.
        matrix_scale: The scale its groups share; None: that of these weights.
    """
    if matrix_scale is None:
        matrix_scale = grid.matrix_scale(weight.detach())
    rounded, codes, scales, zero_points = [], [], [], []
    for grouped in grid.split(weight.detach(), dim=1):
        values = grouped.float()
        scale, zero_point = grid.fit(values, dim=2, matrix_scale=matrix_scale)
        steps = grid.round(values, scale[:, :, None], zero_point[:, :, None])
        rounded.append((steps * scale[:, :, None]).flatten(1).to(weight.dtype))
        codes.append(grid.encode(steps, zero_point[:, :, None]).flatten(1).to(torch.uint8))
        scales.append(scale)
        zero_points.append(zero_point.to(torch.int32))
    return CompressedWeight(
        weight=torch.cat(rounded, dim=1),
        codes=torch.cat(codes, dim=1),
        scale=torch.cat(scales, dim=1),
        zero_point=torch.cat(zero_points, dim=1),
        g_idx=grid.group_of_columns(weight.shape[1], weight.device).to(torch.int32),
        num_bits=grid.num_bits,
        number_format=grid.number_format,
        matrix_scale=matrix_scale,
    )
