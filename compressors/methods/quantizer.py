# SPDX-License-Identifier: Apache-2.0
"""Base of the methods that round every weight to a grid: RTN, GPTQ, AWQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from compressors.base import Compressor
from compressors.grid import Grid

if TYPE_CHECKING:
    from compressors.methods.rtn import RTN

__all__ = ["Quantizer"]


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

    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Nothing to check: every shape can be quantized."""

    def fallback(self) -> RTN:
        """Round to nearest on the same grid."""
        from compressors.methods.rtn import RTN

        return RTN(
            num_bits=self.num_bits,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_dtype=self.scale_dtype,
        )
