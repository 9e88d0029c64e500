# SPDX-License-Identifier: Apache-2.0
"""Means that lm-eval's ``mean`` cannot compute, with its closed-form standard error.

lm-eval 0.4.12 and 0.4.13 call an aggregation with the list of values, look up its standard error,
and call that with the same list; they know the standard error of their own ``mean`` alone. So an
aggregation here rewrites that very list and counts as equal to ``mean``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.metrics import mean

__all__ = ["mean_of_scored", "mean_over_positions", "token_perplexity", "weighted_perplexity"]


class _Mean:
    """A mean over values rewritten in place; equal to lm-eval's ``mean``."""

    def __init__(self, rewrite: Callable[[list[Any]], tuple[float, list[float]]]) -> None:
        self._rewrite = rewrite
        self.__name__ = rewrite.__name__
        self.__doc__ = rewrite.__doc__

    def __call__(self, values: list[Any]) -> float:
        """Rewrite ``values`` in place and return their mean; NaN where none is left."""
        result, values[:] = self._rewrite(values)
        return result

    def __eq__(self, other: object) -> bool:
        return other is mean or isinstance(other, _Mean)

    def __hash__(self) -> int:
        return hash(mean)

    def __repr__(self) -> str:
        return self.__name__


@_Mean
def mean_of_scored(values: list[Any]) -> tuple[float, list[float]]:
    """Mean of the values that are not None, one per document.

    An answer without a readable judge's score has none: counting it as 0 would move the mean.
    lm-eval's ``nanmean`` takes its standard error from 100,000 bootstrap resamples instead.
    """
    scored = [value for value in values if value is not None]
    return (float(mean(scored)) if scored else math.nan), scored


@_Mean
def mean_over_positions(values: list[Any]) -> tuple[float, list[float]]:
    """Sum of sums over sum of positions, from one (sum, positions) per document.

    The standard error is the delta method's, with documents as units.
    """
    if not sum(count for _, count in values):
        return math.nan, values
    return _ratio(values)


@_Mean
def weighted_perplexity(values: list[Any]) -> tuple[float, list[float]]:
    """exp(-sum of log-likelihoods / sum of weights), infinity where a float cannot hold it.

    From one (log-likelihood in nats, number of words or bytes) per document. The standard error is
    the delta method's, with documents as units.

    >>> round(weighted_perplexity([(-2.0, 1), (-4.0, 2)]), 4)
    7.3891
    """
    return _perplexity((-value, count) for value, count in values)


@_Mean
def token_perplexity(values: list[Any]) -> tuple[float, list[float]]:
    """exp(mean over windows of the mean loss in each), as the pruning papers report it.

    From one mapping per process that scored windows: ``window_losses`` holds the mean negative
    log-likelihood in nats of each, ``window_clusters`` the article that most of it lies in. The
    standard error is the delta method's, with articles as units. NaN where no window was scored.

    References:
        Frantar & Alistarh, "SparseGPT", arXiv:2301.00774, section 4.

    >>> one = {"window_losses": [1.0, 2.0], "window_clusters": ["a", "b"]}
    >>> other = {"window_losses": [3.0], "window_clusters": ["a"]}
    >>> round(token_perplexity([one, other]), 4)
    7.3891
    """
    clusters: dict[str, list[float]] = {}
    for one in values:
        for name, loss in zip(one["window_clusters"], one["window_losses"], strict=True):
            clusters.setdefault(name, []).append(loss)
    return _perplexity((math.fsum(losses), len(losses)) for losses in clusters.values())


def _perplexity(pairs: Iterable[tuple[float, int]]) -> tuple[float, list[float]]:
    """Exponential of a ratio of sums, and its linearised values per unit."""
    units = list(pairs)
    if not sum(count for _, count in units):
        return math.nan, []
    ratio, linear = _ratio(units)
    try:
        result = math.exp(ratio)
    except OverflowError:  # an exception would lose the results of all other tasks
        return math.inf, []
    return result, [result * (1 + value - ratio) for value in linear]


def _ratio(pairs: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """Sum over sum, and the values ``ratio + n (sum_i - ratio count_i) / count``.

    Their mean is the ratio, and their standard error the delta method's.
    """
    counts = math.fsum(count for _, count in pairs)
    ratio = math.fsum(total for total, _ in pairs) / counts
    share = len(pairs) / counts
    return ratio, [ratio + share * (total - ratio * count) for total, count in pairs]
