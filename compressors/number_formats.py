# SPDX-License-Identifier: Apache-2.0
"""Number formats of weights, and the settings each fixes; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FLOAT_FORMATS", "NUMBER_FORMATS", "FloatFormat"]


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A floating-point format.

    Attributes:
        num_bits: Bits of a code.
        group_size: Columns of a block; None: one per row.
        largest: The largest point.
        scale_bits: Bits of a block's scale as stored.
    """

    num_bits: int
    group_size: int | None
    largest: float
    scale_bits: int


FLOAT_FORMATS = {
    "fp8": FloatFormat(num_bits=8, group_size=None, largest=448.0, scale_bits=32),
    "mxfp4": FloatFormat(num_bits=4, group_size=32, largest=6.0, scale_bits=8),
    "nvfp4": FloatFormat(num_bits=4, group_size=16, largest=6.0, scale_bits=8),
}
#: Values of ``number_format``.
NUMBER_FORMATS = ("int", *FLOAT_FORMATS)
