# SPDX-License-Identifier: Apache-2.0
"""Quantized matrices as codes: their grids, and the conversion from and to dense weights.

The weights that are evaluated are multiples of their scale, rounded to the weights' dtype. Their
codes can be had from them at any time, so a compression need only keep the grids: of a matrix with
groups of 128, a fiftieth of its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.base import CompressedWeight
from compressors.errors import NumericalError
from compressors.float_grid import FloatGrid, points

__all__ = ["QuantizationGrid"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizationGrid:
    """Grid of a quantized matrix, which its dense weights do not hold; on the CPU.

    Attributes:
        num_bits: Bits of a code, 2 to 8.
        scale: float32 ``[out_features, groups]``.
        zero_point: uint8 ``[out_features, groups]``.
        g_idx: int32 ``[in_features]``, the group of each input column.
        number_format: ``int``, or the floating-point format, whose zero points are 0.
        matrix_scale: float32 scalar, NVFP4's: ``scale`` times this is what E4M3 holds.
    """

    num_bits: int
    scale: Tensor
    zero_point: Tensor
    g_idx: Tensor
    number_format: str = "int"
    matrix_scale: Tensor | None = None

    @classmethod
    def of(cls, result: CompressedWeight) -> QuantizationGrid | None:
        """The grid of a compressed matrix.

        None where it is not quantized, or its columns have factors of their own: no format of
        integers holds these.
        """
        if (
            result.num_bits is None
            or result.input_scale is not None
            or result.scale is None
            or result.zero_point is None
            or result.g_idx is None
        ):
            return None
        return cls(
            num_bits=result.num_bits,
            scale=result.scale.float().cpu().contiguous(),
            zero_point=result.zero_point.to(torch.uint8).cpu().contiguous(),
            g_idx=result.g_idx.to(torch.int32).cpu().contiguous(),
            number_format=result.number_format,
            matrix_scale=None if result.matrix_scale is None else result.matrix_scale.cpu(),
        )

    @property
    def group_size(self) -> int:
        """Columns of a group; the last one may be shorter."""
        return int((self.g_idx == 0).sum())

    @property
    def in_order(self) -> bool:
        """Whether groups are runs of consecutive columns."""
        columns = torch.arange(len(self.g_idx), dtype=torch.int32)
        return torch.equal(self.g_idx, columns // self.group_size)

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle of the codes."""
        return self.number_format != "int" or bool(
            (self.zero_point == 2 ** (self.num_bits - 1)).all()
        )

    def encode(self, weight: Tensor) -> Tensor:
        """The codes of weights that lie on this grid.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.

        Returns:
            uint8 ``[out_features, in_features]``, on the weight's device; :meth:`decode` makes the
            very same weight of it.

        Raises:
            NumericalError: The weight is not on the grid.
        """
        scale, zero_point = self._by_column(weight.device)
        # Rounding to bfloat16 moves a multiple of up to 255 by less than half a step.
        steps = weight.float() / scale
        if self.number_format == "int":
            codes = steps.round_().add_(zero_point).clamp_(0, 2**self.num_bits - 1).to(torch.uint8)
        else:
            codes = FloatGrid.of(self.number_format).encode(steps, zero_point)
        off = int((self.decode(codes, weight.dtype) != weight).sum())
        if off:
            raise NumericalError(
                f"{off} of {weight.numel()} weights are not on the grid they were quantized to: "
                "they were changed after compression"
            )
        return codes

    def decode(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Weights of codes: ``(codes - zero_point) * scale`` in float32, rounded.

        Args:
            codes: uint8 ``[out_features, in_features]``.
            dtype: The weights' dtype.
        """
        scale, zero_point = self._by_column(codes.device)
        steps = codes.float() - zero_point
        if self.number_format != "int":
            steps = points(codes, self.num_bits)
        return (steps * scale).to(dtype)

    def _by_column(self, device: torch.device) -> tuple[Tensor, Tensor]:
        columns = self.g_idx.to(device).long()
        scale, zero_point = self.scale.to(device), self.zero_point.to(device).float()
        return scale[:, columns], zero_point[:, columns]
