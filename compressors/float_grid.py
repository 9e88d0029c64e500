# SPDX-License-Identifier: Apache-2.0
r"""Floating-point grids: FP8, MXFP4 and NVFP4.

Every value is a point of a small floating-point format times a scale. Rounding is to the nearest
point, ties to the even code, as the hardware rounds; what lies beyond the largest point becomes it.

=======  ===========================================  ======  ====================================
format   points                                       block   scale
=======  ===========================================  ======  ====================================
fp8      E4M3, up to 448                              a row   amax / 448, float32
mxfp4    E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6, with sign  32      :math:`2^{e-2}`, stored as 8 bits
nvfp4    the same                                     16      E4M3(g * amax / 6) / g, g = 448 * 6 /
                                                              amax of the matrix, float32
=======  ===========================================  ======  ====================================

amax is the largest magnitude of the block, e its exponent, rounded up from a mantissa of 1.75 on. A
block of zeros has scale 1 (before the division by g).

References:
    Rouhani et al., arXiv:2310.10537 (MX); NVIDIA's NVFP4 and FP8 as in compressed-tensors.

Differences:
    1. The OCP specification takes the exponent of amax as it is, never rounded up, and so cuts off
       values from 1.75 on more; compressed-tensors' rule is used here.
    2. An NVFP4 block whose scale is too small for E4M3 gets E4M3's least positive scale;
       compressed-tensors gives it 0.125.
    3. g is that of each matrix. llm-compressor gives matrices that read one input the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.base import all_finite
from compressors.errors import NumericalError, SettingsError
from compressors.grid import LEAST_STORED_SCALE, Grid
from compressors.number_formats import FLOAT_FORMATS, NUMBER_FORMATS

__all__ = ["FloatGrid", "points"]

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_LARGEST_E4M3, _LEAST_E4M3 = 448.0, 2.0**-9
_EXPONENT = 0x7F800000  # of a float32's bits


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatGrid(Grid):
    """Rounding of weights to a floating-point format.

    Args:
        number_format: A key of :data:`.FLOAT_FORMATS`; bits, groups and symmetry are its own.
        scale_dtype: The dtype that fp8's scales are rounded to; None leaves them in float32.

    >>> FloatGrid.of("mxfp4").fit(torch.tensor([[7.5, -1.0]]), dim=1)
    (tensor([2.]), tensor([0.]))
    """

    @classmethod
    def of(cls, number_format: str, scale_dtype: torch.dtype | None = None) -> FloatGrid:
        """The grid of a format.

        Raises:
            SettingsError: There is no such format.
        """
        if number_format not in FLOAT_FORMATS:
            raise SettingsError(
                f"number_format={number_format!r}: expected one of {', '.join(NUMBER_FORMATS)}"
            )
        own = FLOAT_FORMATS[number_format]
        return cls(
            number_format=number_format,
            num_bits=own.num_bits,
            group_size=own.group_size,
            scale_dtype=scale_dtype if own.group_size is None else None,
        )

    @property
    def uniform(self) -> bool:
        """Points are not equally spaced."""
        return False

    def matrix_scale(self, weight: Tensor) -> Tensor | None:
        """NVFP4's g: float32 scalar; None for the other formats.

        Raises:
            NumericalError: It is not finite: the weights are too small.
        """
        if self.number_format != "nvfp4":
            return None
        amax = weight.abs().amax().float()
        scale = torch.where(amax > 0, _LARGEST_E4M3 * _E2M1[-1] / amax, 1.0)
        _require_finite(scale, self.number_format)
        return scale

    def fit(
        self, values: Tensor, dim: int, matrix_scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find the scale of each block.

        Args:
            values: float32, a block along dimension ``dim``.
            dim: The dimension to reduce.
            matrix_scale: What :meth:`matrix_scale` returned, broadcastable to the result.

        Returns:
            Scale and, all 0, zero point: float32 without dimension ``dim``.

        Raises:
            NumericalError: A scale is not finite.
        """
        amax = values.abs().amax(dim)
        if self.number_format == "mxfp4":
            scale = _power_of_two(amax) / 4
        elif matrix_scale is not None:
            scale = (matrix_scale * (amax / _E2M1[-1])).clamp_(max=_LARGEST_E4M3)
            scale = _as_e4m3(scale).clamp_(min=_LEAST_E4M3)
        else:
            scale = amax / _LARGEST_E4M3
            if self.scale_dtype is not None:
                scale = scale.clamp_(min=LEAST_STORED_SCALE).to(self.scale_dtype).float()
        scale.clamp_(min=torch.finfo(torch.float32).tiny).masked_fill_(amax == 0, 1)
        if matrix_scale is not None:
            scale = scale / matrix_scale
        _require_finite(scale, self.number_format)
        return scale, torch.zeros_like(scale)

    def round(self, values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Round to the nearest point, ties to the even code, and clamp.

        Args:
            values: float32.
            scale: float32, broadcastable to ``values``.
            zero_point: Not read.

        Returns:
            float32 points; times ``scale`` they are the rounded values.
        """
        return self._nearest(values / scale)

    def encode(self, steps: Tensor, zero_point: Tensor) -> Tensor:
        """Codes of float32 grid points: uint8, sign in the highest bit."""
        nearest = self._nearest(steps) + 0.0  # clears the sign of -0
        if self.num_bits == 8:
            return nearest.to(torch.float8_e4m3fn).view(torch.uint8)
        bounds = torch.tensor(_E2M1[1:], device=steps.device)
        codes = torch.bucketize(nearest.abs(), bounds, right=True).to(torch.uint8)
        return codes | ((nearest < 0).to(torch.uint8) << 3)

    def _nearest(self, values: Tensor) -> Tensor:
        largest = FLOAT_FORMATS[self.number_format].largest
        values = values.clamp(-largest, largest)
        if self.num_bits == 8:
            return _as_e4m3(values)
        # Points are half of the value's own power of two apart; below 1, as between 1 and 2.
        bits = values.abs().clamp_(min=1).view(torch.int32)
        distance = bits.bitwise_and_(_EXPONENT).view(torch.float32) / 2
        return (values / distance).round_().mul_(distance)


def points(codes: Tensor, num_bits: int) -> Tensor:
    """Values of the codes, float32.

    Args:
        codes: uint8.
        num_bits: 8 for E4M3, 4 for E2M1.
    """
    if num_bits == 8:
        return codes.view(torch.float8_e4m3fn).float()
    table = torch.tensor([*_E2M1, *(-point for point in _E2M1)], device=codes.device)
    return table[codes.long()] + 0.0


def _as_e4m3(values: Tensor) -> Tensor:
    """Round to the nearest E4M3 value, ties to even; ``values`` are in range."""
    return values.to(torch.float8_e4m3fn).float()


def _power_of_two(amax: Tensor) -> Tensor:
    """Nearest power of two by mantissa (up from 1.75); infinite beyond float32."""
    bits = amax.contiguous().view(torch.int32) + (1 << 21)
    return (bits & _EXPONENT).view(torch.float32)


def _require_finite(scale: Tensor, number_format: str) -> None:
    if not all_finite(scale):
        raise NumericalError(
            f"a scale of {number_format} is not finite: weights exceed its range; use "
            "number_format=int"
        )
