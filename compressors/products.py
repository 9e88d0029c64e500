# SPDX-License-Identifier: Apache-2.0
"""The big float32 matrix products, each on the fastest road this machine has."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_gram"]

# The Gram matrix is symmetric: this many block rows, each only up to its diagonal block, save
# almost half of the work and still are large products.
_GRAM_BLOCKS = 8
_SMALLEST_BLOCK = 128


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add ``rows.T @ rows`` to the lower block triangle of ``total``, in place.

    Args:
        total: float32 ``[features, features]``; what lies above its diagonal is undefined.
        rows: ``[tokens, features]``, any floating dtype, on ``total``'s device. Products of
            bfloat16 and float16 values are exact in float32, in which all sums are taken.
    """
    width = rows.shape[1]
    step = max(_SMALLEST_BLOCK, -(-width // _GRAM_BLOCKS))
    values = rows.float()
    for start in range(0, width, step):
        stop = min(start + step, width)
        total[start:stop, :stop].addmm_(values[:, start:stop].t(), values[:, :stop])
