# SPDX-License-Identifier: Apache-2.0
"""Uniform integer grids: scale, zero point and rounding, 2 to 8 bits.

The grid is the field's (GPTQ's code, AutoGPTQ's format, compressed-tensors): codes are unsigned,
``value = (code - zero_point) * scale``, and 0 is always on the grid.

* symmetric: ``scale = 2 * absmax / (2**bits - 1)``, ``zero_point = 2**(bits - 1)``;
* asymmetric: the range is widened to hold 0, ``scale = (max - min) / (2**bits - 1)``,
  ``zero_point = round(-min / scale)``.

With ``scale_dtype`` scales are rounded to that dtype before anything is rounded to the grid: what a
checkpoint of that dtype stores is then exactly what was evaluated.

The symmetric grid puts the largest weight on a rounding tie, so the last bits of an input can
decide between two codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.base import is_integer
from compressors.errors import SettingsError

__all__ = ["LEAST_STORED_SCALE", "Grid"]

#: Scales of 16 bits are no smaller: float16 is too coarse below, and bfloat16's are exact in it.
LEAST_STORED_SCALE = 2.0**-17


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Rounding of weights to integers.

    Args:
        num_bits: Bits of a code, 2 to 8.
        group_size: Consecutive input columns of a row that share a scale, the last group being
            shorter where it does not divide the row; None: the whole row.
        symmetric: Zero point in the middle of the codes.
        scale_dtype: The dtype that scales are rounded to: ``torch.float16`` or ``torch.bfloat16``;
            None leaves them in float32.
        number_format: ``int``; :class:`compressors.float_grid.FloatGrid` has the others.

    Raises:
        SettingsError: If a setting is out of range.

    >>> Grid(num_bits=4, group_size=None).fit(torch.tensor([[-7.5, 3.0]]), dim=1)
    (tensor([1.]), tensor([8.]))
    """

    num_bits: int
    group_size: int | None
    symmetric: bool = True
    scale_dtype: torch.dtype | None = None
    number_format: str = "int"

    def __post_init__(self) -> None:
        if not is_integer(self.num_bits) or not 2 <= self.num_bits <= 8:
            raise SettingsError(f"num_bits={self.num_bits!r}: expected 2 to 8")
        size = self.group_size
        if size is not None and (not is_integer(size) or size < 1):
            raise SettingsError(
                f"group_size={size!r}: expected an integer of at least 1, or None for one group "
                "per row"
            )
        if self.scale_dtype not in (None, torch.float16, torch.bfloat16):
            raise SettingsError(
                f"scale_dtype={self.scale_dtype!r}: expected torch.float16, torch.bfloat16 or "
                "None (float32)"
            )

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.num_bits - 1)

    @property
    def uniform(self) -> bool:
        """Whether points are equally spaced, as the fused column pass takes them to be."""
        return True

    @property
    def middle(self) -> int:
        """Zero point of a symmetric grid."""
        return int(2 ** (self.num_bits - 1))

    def groups(self, in_features: int) -> int:
        """Number of groups in a row."""
        return 1 if self.group_size is None else -(-in_features // self.group_size)

    def group_of_columns(self, in_features: int, device: torch.device) -> Tensor:
        """The group of each column where groups are runs of columns: int64 ``[in_features]``."""
        size = self.group_size or in_features
        return torch.arange(in_features, device=device) // size

    def split(self, columns: Tensor, dim: int) -> list[Tensor]:
        """Views of the columns by group: all whole groups, then a shorter last one.

        Args:
            columns: Whole groups along dimension ``dim``, in order; the last may be shorter.
            dim: The dimension of the columns.

        Returns:
            One or two tensors with ``dim`` unflattened to ``[groups, columns of a group]``.
        """
        count = columns.shape[dim]
        size = min(self.group_size or count, count)
        whole = count // size * size
        parts = [torch.unflatten(columns.narrow(dim, 0, whole), dim, (-1, size))]
        if whole < count:
            parts.append(torch.unflatten(columns.narrow(dim, whole, count - whole), dim, (1, -1)))
        return parts

    def matrix_scale(self, weight: Tensor) -> Tensor | None:
        """Scale shared by all groups of a matrix: only NVFP4 has one."""
        return None

    def fit(
        self,
        values: Tensor,
        dim: int,
        matrix_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the grid of each group.

        Args:
            values: float32, a group along dimension ``dim``.
            dim: The dimension to reduce.
            matrix_scale: What :meth:`matrix_scale` returned.

        Returns:
            Scale and zero point, float32 without dimension ``dim``. A group of zeros gets the grid
            of the range -1..1.
        """
        low = values.amin(dim).clamp_(max=0)
        high = values.amax(dim).clamp_(min=0)
        if self.symmetric:
            high = torch.maximum(high, low.neg_())
            low = -high
        empty = low == high
        low.masked_fill_(empty, -1)
        high.masked_fill_(empty, 1)
        # Halved, so that the range of the largest weights does not overflow; exact all the same.
        scale = (high / 2 - low / 2) / (self.top / 2)
        # The least positive scale keeps a group of subnormal weights from a division by zero.
        scale.clamp_(min=torch.finfo(torch.float32).tiny)
        if self.scale_dtype is not None:
            scale = scale.clamp_(min=LEAST_STORED_SCALE).to(self.scale_dtype).float()
        if self.symmetric:
            return scale, torch.full_like(scale, self.middle)
        # A scale that was rounded down may put the lowest weight a hair outside the codes.
        return scale, (-low / scale).round_().clamp_(max=self.top)

    def round(self, values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Round to the nearest point of the grid, ties to even, and clamp.

        Args:
            values: float32.
            scale: float32, broadcastable to ``values``.
            zero_point: float32, likewise.

        Returns:
            float32 ``code - zero_point``; times ``scale`` it is the rounded value.
        """
        steps = (values / scale).round_()
        return torch.minimum(torch.maximum(steps, -zero_point), self.top - zero_point)

    def encode(self, steps: Tensor, zero_point: Tensor) -> Tensor:
        """Codes of what :meth:`round` returned; changes ``steps``."""
        return steps.round_().add_(zero_point)
