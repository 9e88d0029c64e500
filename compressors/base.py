# SPDX-License-Identifier: Apache-2.0
"""What every compression method is: settings in, one weight matrix out, and three ways to fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

__all__ = [
    "CompressedWeight",
    "Compressor",
    "NumericalError",
    "SettingsError",
    "UnsupportedModelError",
]


class SettingsError(ValueError):
    """A setting, or calibration input, is wrong or contradicts another; raised before any work."""


class UnsupportedModelError(ValueError):
    """The model does not go with the request: no blocks found, widths that do not divide."""


class NumericalError(RuntimeError):
    """Numbers went bad: non-finite values, or a Hessian that no damping makes definite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedWeight:
    """The outcome of compressing one weight matrix.

    Attributes:
        weight: ``[out_features, in_features]``, the input's dtype and device; dense storage, and
            exactly what is evaluated.
        mask: Bool ``[out_features, in_features]``, True where a weight was kept; None if nothing
            was pruned.
        codes: Unsigned integer codes, uint8 ``[out_features, in_features]``; None unless quantized.
            ``(codes - zero_point[:, g_idx]) * scale[:, g_idx]``, rounded to the weight's dtype (and
            zeroed outside ``mask``), is ``weight``.
        scale: float32 ``[out_features, groups]``; None unless quantized.
        zero_point: int32 ``[out_features, groups]``; None unless quantized.
        g_idx: int32 ``[in_features]``, the group of each input column; None unless quantized.
        num_bits: Bits of a code; None unless quantized.
        dampening: The damping fraction that was finally used (Hessian methods only).
    """

    weight: Tensor
    mask: Tensor | None = None
    codes: Tensor | None = None
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    g_idx: Tensor | None = None
    num_bits: int | None = None
    dampening: float | None = None


class Compressor(Protocol):
    """A frozen dataclass of a method's settings, and its pure function of a weight."""

    #: What the method needs to know of its inputs: a class of :mod:`compressors.statistics`.
    statistic: ClassVar[type[Any]]

    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Raise :class:`UnsupportedModelError` if this shape does not go with the settings.

        Called for every matrix before the first forward pass; the message names the layer and says
        which sizes would do.
        """

    def compress(self, weight: Tensor, stats: Any) -> CompressedWeight:
        """Compress one ``[out_features, in_features]`` matrix given the statistics of its input."""

    def compress_together(self, weights: Sequence[Tensor], stats: Any) -> list[CompressedWeight]:
        """Compress matrices that read the same input, sharing whatever depends on the input alone.

        Comparison groups stay within each matrix: the results are those of :meth:`compress`.
        """

    def fallback(self) -> Compressor:
        """The calibration-free method for a matrix whose input was (almost) never seen."""
