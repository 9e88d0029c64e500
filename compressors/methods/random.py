# SPDX-License-Identifier: Apache-2.0
"""Random pruning: the control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import (
    CompressedWeight,
    apply_mask,
    is_integer,
    require_finite_weight,
)
from compressors.errors import SettingsError
from compressors.methods.magnitude import Pruner
from compressors.statistics import NoStatistic, Statistic

__all__ = ["Random"]

_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Random(Pruner):
    """Prune weights at random, each with the same probability.

    A pure function all the same: the draw is seeded by ``seed`` and a checksum of the weight, so
    layers differ, and neither their order nor the device matters.

    Args:
        pattern: ``Unstructured(sparsity)`` or ``NM(n, m)``.
        seed: Any integer from 0 on; another seed is another draw.

    Raises:
        SettingsError: If the pattern is none, or the seed negative or no integer.

    References:
        The "random" control of Jaiswal et al., arXiv:2310.01382.
    """

    statistic: ClassVar[type[NoStatistic]] = NoStatistic
    seed: int = 0

    def __post_init__(self) -> None:
        Pruner.__post_init__(self)
        if not is_integer(self.seed) or self.seed < 0:
            raise SettingsError(f"seed={self.seed!r}: expected an integer of at least 0")

    def compress(self, weight: Tensor, stats: Statistic | None = None) -> CompressedWeight:
        """Prune one matrix.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
            stats: Not read.

        Returns:
            The pruned weight and its mask.

        Raises:
            NumericalError: If a weight is not finite.
        """
        require_finite_weight(weight)
        integers = weight.detach().contiguous().view(_INTEGER_OF_SIZE[weight.element_size()])
        checksum = int(integers.sum(dtype=torch.int64))
        mixed = (self.seed * 0x9E3779B97F4A7C15 + checksum) % (1 << 63)
        # Drawn on the CPU, so that a seed means the same mask on every device.
        generator = torch.Generator().manual_seed(mixed)
        scores = torch.rand(weight.shape, generator=generator).to(weight.device)
        return apply_mask(weight, self.pattern.keep(scores, per_row=False))
