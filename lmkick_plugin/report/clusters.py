# SPDX-License-Identifier: Apache-2.0
"""Clusters of items that are not independent: one prompt, one question, one article.

The samples name each item's cluster: the document's ``cluster`` where its task gives one (a
question asked with several texts), else its prompt; of windows of one text, the article of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmkick_plugin.results.samples import Sample

__all__ = ["Clusters", "joined", "numbered"]

Clusters: TypeAlias = NDArray[np.int64]
"""int64 [items], the cluster of each item, 0 ... K-1."""


def numbered(samples: Sequence[Sample], values: int) -> Clusters | None:
    """Number the clusters of a metric's values.

    Args:
        samples: The items.
        values: How many values they hold: one each, or one per window.

    Returns:
        The cluster of each value; None where the samples do not tell them.
    """
    names: list[str | None] = [sample.cluster for sample in samples]
    if values != len(samples) or any(sample.windows for sample in samples):
        names = [name for sample in samples for name in sample.windows or ()]
    if len(names) != values or None in names:
        return None
    numbers: dict[str | None, int] = {}
    return np.asarray([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def joined(parts: Sequence[Clusters | None], sizes: Sequence[int]) -> Clusters | None:
    """Clusters of several tasks, none of which reaches from one task into another.

    Args:
        parts: The clusters of each task; None where each item is its own.
        sizes: Items of each.

    Returns:
        The cluster of each item of all tasks; None where each item is its own.
    """
    if all(part is None for part in parts):
        return None
    found, start = [], 0
    for part, size in zip(parts, sizes, strict=True):
        own = np.arange(size, dtype=np.int64) if part is None else part
        found.append(own + start)
        start += int(own.max()) + 1
    return np.concatenate(found)
