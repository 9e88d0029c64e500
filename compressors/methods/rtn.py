# SPDX-License-Identifier: Apache-2.0
"""Round to nearest: the quantization that every other has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import CompressedWeight, require_finite_weight
from compressors.methods.quantizer import Quantizer
from compressors.statistics import NoStatistic, Statistic

__all__ = ["RTN"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RTN(Quantizer):
    """Round each weight to the nearest point of its group's grid.

    Needs no calibration. Its settings are those of :class:`~compressors.methods.quantizer.Quantizer`.

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
