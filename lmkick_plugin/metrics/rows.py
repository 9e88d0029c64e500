# SPDX-License-Identifier: Apache-2.0
"""How many rows of scores to work on at a time."""

from __future__ import annotations

import torch

__all__ = ["rows_at_once"]

# Larger blocks of memory are often taken from the system and given back at every operation: on a
# CPU, a quarter of the time at a vocabulary of 262 thousand (benchmarks/README.md).
_CPU_BYTES = 2 << 20
# On a GPU, fewer launches; the divergences keep up to 20 copies at once.
_GPU_BYTES = 16 << 20


def rows_at_once(width: int, device: torch.device) -> int:
    """Rows of float32 scores to work on at a time, at least one.

    Args:
        width: Scores per row, such as the size of a vocabulary.
        device: Where they are.
    """
    return max(1, (_CPU_BYTES if device.type == "cpu" else _GPU_BYTES) // (4 * width))
