# SPDX-License-Identifier: Apache-2.0
"""Means that lm-eval's ``mean`` cannot take, with its closed-form standard error.

lm-eval 0.4.12 and 0.4.13 call an aggregation with the list of values, look up its standard error,
and call that with the same list; they know the standard error of their own ``mean`` alone. So an
aggregation here rewrites that very list and counts as equal to ``mean``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.metrics import mean

__all__ = ["mean_of_scored", "mean_over_positions"]


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
    """Mean of the values that are not None, one a document.

    An answer without a readable judge's score has none: counting it as 0 would move the mean.
    lm-eval's ``nanmean`` takes its standard error from 100,000 bootstrap resamples instead.
    """
    scored = [value for value in values if value is not None]
    return (float(mean(scored)) if scored else math.nan), scored


@_Mean
def mean_over_positions(values: list[Any]) -> tuple[float, list[float]]:
    """Sum of sums over sum of positions, from one (sum, positions) a document.

    The linearised values ``ratio + n (sum_i - ratio positions_i) / positions`` have the ratio as
    their mean, and the delta method's standard error with documents as units.
    """
    pairs: list[Sequence[float]] = values
    positions = sum(count for _, count in pairs)
    if not positions:
        return math.nan, values
    ratio = math.fsum(total for total, _ in pairs) / positions
    share = len(pairs) / positions
    return ratio, [ratio + share * (total - ratio * count) for total, count in pairs]
