# SPDX-License-Identifier: Apache-2.0
"""The two steps that every pruning method begins and ends with."""

from __future__ import annotations

import torch
from torch import Tensor

from compressors.base import CompressedWeight, NumericalError

__all__ = ["apply_mask", "require_finite_weight"]


def apply_mask(weight: Tensor, keep: Tensor) -> CompressedWeight:
    """Zero a weight outside its mask.

    Args:
        weight: ``[out_features, in_features]``; not modified.
        keep: Bool, same shape, True where the weight stays.
    """
    # Several times faster than masked_fill or where on a CPU; adding 0 clears the sign of -0.
    return CompressedWeight(weight=(weight.detach() * keep).add_(0.0), mask=keep)


def require_finite_weight(weight: Tensor) -> None:
    """Raise :class:`NumericalError` if ``weight`` holds an infinity or NaN."""
    # One pass without temporaries; a finite matrix whose sum overflows is looked at again.
    total = weight.detach().sum(dtype=torch.float32)
    if not torch.isfinite(total) and not torch.isfinite(weight).all():
        raise NumericalError(
            "the weight is not finite (it holds NaN or infinity) before any compression: check the "
            "checkpoint, and load it in the dtype it was saved in"
        )
