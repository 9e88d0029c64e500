# SPDX-License-Identifier: Apache-2.0
"""Base of the compression methods, their result, and the checks they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor

from compressors.errors import NumericalError, SettingsError

__all__ = [
    "CompressedWeight",
    "Compressor",
    "all_finite",
    "apply_mask",
    "is_integer",
    "is_number",
    "require_dampening",
    "require_finite_weight",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedWeight:
    """Result of compressing one weight matrix.

    Attributes:
        weight: ``[out_features, in_features]``, the input's dtype and device; dense storage, and
            exactly what is evaluated.
        mask: Bool ``[out_features, in_features]``, True where a weight was kept; None if nothing
            was pruned.
        codes: Unsigned integer codes, uint8 ``[out_features, in_features]``; None unless quantized.
            ``(codes - zero_point[:, g_idx]) * scale[:, g_idx] / input_scale``, rounded to the
            weight's dtype (and zeroed outside ``mask``), is ``weight``. In a floating-point format,
            the points of the codes (:func:`compressors.float_grid.points`) stand for ``codes -
            zero_point``.
        scale: float32 ``[out_features, groups]``; None unless quantized.
        zero_point: int32 ``[out_features, groups]``; None unless quantized.
        g_idx: int32 ``[in_features]``, the group of each input column; None unless quantized.
        input_scale: float32 ``[in_features]``, the factors of the columns while they were
            quantized; None: all 1.
        num_bits: Bits of a code; None unless quantized.
        number_format: ``int``, or the floating-point format.
        matrix_scale: float32 scalar, NVFP4's: ``scale`` times this is what E4M3 holds.
        dampening: The damping fraction that was finally used (Hessian methods only).
    """

    weight: Tensor
    mask: Tensor | None = None
    codes: Tensor | None = None
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    g_idx: Tensor | None = None
    input_scale: Tensor | None = None
    num_bits: int | None = None
    number_format: str = "int"
    matrix_scale: Tensor | None = None
    dampening: float | None = None


class Compressor(ABC):
    """A method: frozen settings, and a pure function of one weight matrix."""

    __slots__ = ()

    #: What the method needs to know of its inputs: a class of :mod:`compressors.statistics`.
    statistic: ClassVar[type[Any]]

    @abstractmethod
    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Raise :class:`UnsupportedModelError` if a shape does not go with the settings.

        Called for every matrix before the first forward pass; the message names the layer and says
        which sizes would do.
        """

    @abstractmethod
    def compress(self, weight: Tensor, stats: Any) -> CompressedWeight:
        """Compress one ``[out_features, in_features]`` matrix given the statistics of its input."""

    def compress_together(
        self, weights: Sequence[Tensor], stats: Any, feeds_scores: Sequence[bool] = ()
    ) -> list[CompressedWeight]:
        """Compress matrices that read the same input, sharing what depends on it alone.

        Comparison groups stay within each matrix: unless a method says so, the results are those of
        :meth:`compress`.

        Args:
            weights: ``[out_features, in_features]`` each.
            stats: Of their input.
            feeds_scores: Whether each makes queries or keys, which attention multiplies with each
                other; empty: none does.
        """
        return [self.compress(weight, stats) for weight in weights]

    def fallback(self) -> Compressor:
        """Method for a matrix whose input was (almost) never seen; needs no statistics.

        :class:`.Pruner` falls back to magnitude, :class:`.Quantizer` to rounding to nearest.
        """
        return self


def is_integer(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an int, bool excluded."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is an int or float, and not a bool."""
    return is_integer(value) or isinstance(value, float)


def require_dampening(dampening_frac: object, block_size: object) -> None:
    """Refuse wrong settings of the Hessian methods."""
    if not (is_number(dampening_frac) and 0 <= dampening_frac <= 1):
        raise SettingsError(
            f"dampening_frac={dampening_frac!r}: expected a number from 0 to 1, the share of the "
            "Hessian's mean diagonal to add (0.01 as published)"
        )
    if not (is_integer(block_size) and block_size >= 1):
        raise SettingsError(
            f"block_size={block_size!r}: expected an integer of at least 1, the columns per block "
            "(128 as published)"
        )


def all_finite(values: Tensor) -> bool:
    """Whether every element is finite."""
    # One pass without temporaries; finite values whose sum overflows are looked at again.
    total = values.detach().sum(dtype=torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def require_finite_weight(weight: Tensor) -> None:
    """Raise :class:`NumericalError` if ``weight`` holds NaN or infinity."""
    if not all_finite(weight):
        raise NumericalError(
            "the weight holds NaN or infinity before compression: check the checkpoint, and load "
            "it in the dtype it was saved in"
        )


def apply_mask(weight: Tensor, keep: Tensor) -> CompressedWeight:
    """Zero a weight outside its mask.

    Args:
        weight: ``[out_features, in_features]``; not modified.
        keep: Bool, same shape, True where the weight stays.
    """
    # Several times faster than masked_fill or where on a CPU; adding 0 clears the sign of -0.
    return CompressedWeight(weight=(weight.detach() * keep).add_(0.0), mask=keep)
