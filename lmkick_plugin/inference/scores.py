# SPDX-License-Identifier: Apache-2.0
"""Scores from forward passes, assembled into answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmkick_plugin.inference.prefix_plan import Plan, Request

__all__ = ["Answer", "Answers", "Scores"]

#: Log-likelihood, and whether greedy decoding gives the same.
Answer = tuple[float, bool]


class Scores:
    """Log-probabilities of scored tokens, and whether each was the likeliest.

    Attributes:
        values: float64 ``[scores]``.
        likeliest: bool ``[scores]``.
        there: bool ``[scores]``: which of them are known.
    """

    def __init__(self, size: int) -> None:
        """Create empty arrays.

        Args:
            size: How many there will be.
        """
        self.values = np.zeros(size, dtype=np.float64)
        self.likeliest = np.zeros(size, dtype=np.bool_)
        self.there = np.zeros(size, dtype=np.bool_)

    def put(self, where: NDArray[np.int64], found: NDArray[np.floating]) -> None:
        """Store results of a step, ``[2, n]``: log-probabilities, and 1 for the likeliest."""
        self.values[where] = found[0]
        self.likeliest[where] = found[1] > 0.5
        self.there[where] = True

    def answer(self, span: tuple[int, int]) -> Answer:
        """Log-likelihood of a request, and whether greedy decoding yields it."""
        first, count = span
        part = slice(first, first + count)
        return float(self.values[part].sum()), bool(self.likeliest[part].all())


class Answers:
    """Answers of requests, completed as scores arrive."""

    def __init__(self, requests: Sequence[Request], plan: Plan, scores: Scores) -> None:
        self._requests = requests
        self._spans = dict(zip(requests, plan.spans, strict=True))
        self._scores = scores
        counts = np.array([count for _, count in plan.spans], dtype=np.int64)
        self._owners = np.repeat(np.arange(len(requests)), counts)
        self._missing = counts.copy()

    def __getitem__(self, request: Request) -> Answer:
        return self._scores.answer(self._spans[request])

    def finished(self, found: NDArray[np.int64]) -> list[Request]:
        """Requests completed by the latest scores."""
        owners = self._owners[found]
        np.subtract.at(self._missing, owners, 1)
        return [self._requests[owner] for owner in np.unique(owners) if not self._missing[owner]]
