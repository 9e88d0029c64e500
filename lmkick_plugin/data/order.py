# SPDX-License-Identifier: Apache-2.0
"""Orders of items in which every prefix is a fair sample, for ``--limit``."""

from __future__ import annotations

import hashlib

__all__ = ["by_hash", "spread"]


def spread(count: int) -> list[int]:
    """Indices of ``count`` items, every prefix spread over all of them.

    They are ordered by the reversed bits of the index (van der Corput's sequence).

    >>> spread(6)
    [0, 4, 2, 1, 5, 3]
    """
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(2**bits))
    return [index for index in order if index < count]


def by_hash(key: str) -> str:
    """Sort key independent of content: the SHA-256 of the identifier."""
    return hashlib.sha256(key.encode()).hexdigest()
