# SPDX-License-Identifier: Apache-2.0
"""The matching rule: whether a compressed model keeps 95 % of the dense one's score on a task.

`lmkick compare`, `report` and `export` read this rule and no other. The interval decides, never the
point: *match* where the whole interval of compressed - 0.95 x dense lies at or above 0, *fail*
where it lies below, else *inconclusive*; *too few* below 20 independent clusters of items. There is
no verdict where the dense score is not above its floor (chance, or 0) and for a metric without a
matching rule.

References:
    Jaiswal et al., arXiv:2310.01382: matching within a tolerance of the dense score.
    Miller, arXiv:2411.00640: power of a paired comparison.
    Clopper and Pearson, Biometrika 26 (1934): the exact interval of a share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from lmkick_plugin.report.bootstrap import FloatArray, Interval, StatisticsError

__all__ = [
    "DEFAULT_RESAMPLES",
    "DEFAULT_TOLERANCE",
    "FEWEST",
    "MatchRule",
    "Rule",
    "Verdict",
    "above_floor",
    "clusters_to_settle",
    "exact_lower_end",
    "margin_of",
    "matches",
    "recovery",
    "verdict_of",
]

MatchRule: TypeAlias = Literal["at_least", "at_most"]
"""``at_least``: higher is better. ``at_most``: a perplexity, lower is better."""

Verdict: TypeAlias = Literal["match", "fail", "inconclusive", "too few"]
"""Whether the compressed model matches the dense one, as far as the items can tell."""

DEFAULT_TOLERANCE = 0.05
DEFAULT_RESAMPLES = 10_000
_MOST_RESAMPLES = 10_000_000  # hours
FEWEST = 20
"""Clusters below which no verdict is given."""

_POWER = 7.85  # (1.96 + 0.84)^2: two-sided 5 %, power .8
_ROUNDING = 1e-12  # a margin this close to zero, relative to the dense score, is zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Settings of a comparison.

    Attributes:
        tolerance: e0 of matching: the share of the dense score that may be lost.
        resamples: Draws of each pair.
        seed: Seed of the draws.

    Raises:
        StatisticsError: For one out of range.
    """

    tolerance: float = DEFAULT_TOLERANCE
    resamples: int = DEFAULT_RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            share = f": {self.tolerance:g} % is {self.tolerance / 100:g}"
            raise StatisticsError(
                f"tolerance must be in [0, 1), got {self.tolerance}"
                f"{share if 1 <= self.tolerance < 100 else ''}"
            )
        if self.resamples < 1:
            raise StatisticsError(f"resamples must be at least 1, got {self.resamples}")
        if self.resamples > _MOST_RESAMPLES:
            raise StatisticsError(
                f"resamples must be at most {_MOST_RESAMPLES:,}, got {self.resamples}"
            )
        if self.seed < 0:
            raise StatisticsError(f"seed must be at least 0, got {self.seed}")


def margin_of(
    dense: FloatArray, compressed: FloatArray, tolerance: float, direction: MatchRule
) -> FloatArray:
    """Distance inside the tolerance, below 0 where a score does not match.

    Args:
        dense: Scores of the dense model, of any shape.
        compressed: Scores of the compressed model.
        tolerance: e0.
        direction: See `MatchRule`.

    Returns:
        compressed - (1 - e0) dense; for perplexities dense / (1 - e0) - compressed.
    """
    if direction == "at_least":
        return compressed - (1 - tolerance) * dense
    return dense / (1 - tolerance) - compressed


def matches(
    dense: float,
    compressed: float,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    direction: MatchRule = "at_least",
) -> bool:
    """Whether a score lies within the tolerance of the dense one, as a point.

    Args:
        dense: The dense model's score.
        compressed: The compressed model's.
        tolerance: e0; the threshold is (1 - e0) x dense, for perplexities dense / (1 - e0).
        direction: See `MatchRule`.

    Returns:
        True at the threshold or better; False for a NaN.

    Raises:
        StatisticsError: For a tolerance outside [0, 1).
    """
    tolerance = Rule(tolerance=tolerance).tolerance
    margin = margin_of(np.asarray([dense]), np.asarray([compressed]), tolerance, direction)
    return bool(margin[0] >= -slack_of(dense))


def slack_of(scale: float) -> float:
    """How far below 0 a margin is a rounding error, at scores of this size."""
    return _ROUNDING * abs(scale) if math.isfinite(scale) else 0.0


def verdict_of(margin: Interval, *, clusters: int, scale: float = 1.0) -> Verdict | None:
    """The verdict that a margin's interval supports, never its point estimate.

    Args:
        margin: 95 % interval of `margin_of`.
        clusters: Independent clusters of items it rests on.
        scale: Magnitude of the scores, for what counts as a rounding error.

    Returns:
        match when the interval lies at or above 0, fail when below, else inconclusive; *too few*
        below `FEWEST` clusters; None when the score or an end is NaN.
    """
    low, high = margin
    if not math.isnan(scale) and clusters < FEWEST:
        return "too few"
    if math.isnan(low) or math.isnan(high):
        return None
    slack = slack_of(scale)
    if low >= -slack:
        return "match"
    return "fail" if high < -slack else "inconclusive"


def recovery(
    dense: FloatArray, compressed: FloatArray, direction: MatchRule | None, floor: float = 0.0
) -> FloatArray:
    """Share of the dense score that is kept; down is worse for every metric.

    Args:
        dense: Scores of the dense model, of any shape.
        compressed: Scores of the compressed model.
        direction: Whether higher or lower is better; None for a metric that only describes.
        floor: Score by chance, from which both are counted (higher is better only).

    Returns:
        (compressed - floor) / (dense - floor), for perplexities dense / compressed; NaN where that
        is undefined, infinite only over draws.
    """
    with np.errstate(all="ignore"):
        if direction is None:
            return np.full(np.shape(dense), math.nan)
        above, below = (compressed - floor, dense - floor)
        if direction == "at_most":
            above, below = dense, compressed
        return np.where(below == 0, math.nan, np.asarray(above / below, dtype=np.float64))


def exact_lower_end(right: float, clusters: int) -> float:
    """Lower end of the exact (Clopper-Pearson) 95 % interval of a share.

    Args:
        right: Share of right answers.
        clusters: Independent clusters it was counted over.

    Returns:
        The end; 0 where nothing is right.
    """
    from scipy.special import betaincinv

    count = right * clusters
    return 0.0 if count <= 0 else float(betaincinv(count, clusters - count + 1, 0.025))


def above_floor(dense: float, floor: float, *, clusters: int, low: float | None = None) -> bool:
    """Whether the dense model has something to lose.

    Args:
        dense: Its score.
        floor: Score by chance.
        clusters: Independent clusters of items.
        low: Lower end of its 95 % interval, of a graded metric; the exact one by default.

    Returns:
        Whether the interval lies above the floor; at a floor of 0, whether any cluster is right.
    """
    if not math.isfinite(dense):
        return False
    if floor == 0:
        return dense > 0
    return (exact_lower_end(dense, clusters) if low is None else low) > floor


def clusters_to_settle(residuals: FloatArray, distance: float) -> int | None:
    """Clusters that settle an *inconclusive* with power .8 where the true recovery is 1.

    Args:
        residuals: float64 [clusters], what each adds to the margin, about the mean, in units of
            the score (for perplexities of its logarithm).
        distance: Margin at a recovery of 1: e0 times the dense score (for perplexities
            -log(1 - e0)).

    Returns:
        7.85 Var(residuals) / distance^2, rounded up; None where that is undefined.
    """
    if len(residuals) < 2 or distance == 0:
        return None
    needed = _POWER * float(residuals @ residuals) / (len(residuals) - 1) / distance**2
    return math.ceil(needed) if math.isfinite(needed) else None
