# SPDX-License-Identifier: Apache-2.0
"""Paired statistics of two models on the same items, and the matching verdict.

The reference model is called *dense* and the other *compressed* throughout, whatever they are.

A score is a transformed ratio of sums over the items, ``transform(sum(values) / sum(weights))``.
With unit weights and no transform that is the mean (accuracy, F1, ROUGE); with
``transform = exp(-x)``, summed log-likelihoods and word counts it is word perplexity. Everything
below resamples items and recomputes that ratio, so it is exact for either kind.

References:
    Jaiswal et al., arXiv:2310.01382: matching within a tolerance of the dense score.
    Dutta et al., arXiv:2407.09141: flips, the share of answers whose correctness changed.
    McNemar, Psychometrika 12 (1947); the exact form is a two-sided binomial test.
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentile intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressors.errors import LmkickError

__all__ = [
    "DEFAULT_RESAMPLES",
    "DEFAULT_TOLERANCE",
    "Flips",
    "FloatArray",
    "Interval",
    "MatchRule",
    "PairedStatistics",
    "StatisticsError",
    "Transform",
    "Verdict",
    "bootstrap_sums",
    "check_settings",
    "flips_of",
    "matches",
    "mcnemar_exact",
    "paired_statistics",
    "percentile_interval",
    "recovery",
    "statistics_of_draws",
    "verdict_of",
]

FloatArray: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
Transform: TypeAlias = Callable[[FloatArray], FloatArray]
MatchRule: TypeAlias = Literal["at_least", "at_most"]
"""``at_least``: higher is better. ``at_most``: a perplexity, lower is better."""

Verdict: TypeAlias = Literal["match", "fail", "inconclusive"]
"""Whether the compressed model matches the dense one, as far as the items can tell."""

DEFAULT_TOLERANCE = 0.05
DEFAULT_RESAMPLES = 10_000

_BATCH_BYTES = 32 * 2**20  # of resampled indices held at a time: bounds memory for any n
_INDEX_COST = 16  # drawing one binomial count costs about as much as gathering 16 items
_WIDE = 8  # columns from which one matrix product costs less than gathering each
_ROUNDING = 1e-12  # a margin this close to zero, relative to the dense score, is zero


class StatisticsError(LmkickError, ValueError):
    """Items or settings from which no statistic can be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """How right and wrong answers changed between two models.

    Attributes:
        right_to_wrong, wrong_to_right: b and c.
        net: (c - b) / n.
        churn: (b + c) / n, what arXiv:2407.09141 calls flips.
        all_flips: Flips and wrong answers that became other wrong answers, / n; None where the
            chosen answers are not known.
        p_value: McNemar's exact test of b against c.
    """

    right_to_wrong: int
    wrong_to_right: int
    net: float
    churn: float
    all_flips: float | None
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedStatistics:
    """What two models' scores on the same items say about each other.

    Attributes:
        n: Number of items.
        dense, compressed: Scores over those items.
        difference: compressed - dense.
        interval: 95 % percentile interval of the difference over paired resamples.
        recovery: compressed / dense; None where the dense score is 0 or a score is not finite.
        margin: 95 % percentile interval of the distance inside the tolerance: compressed
            - (1 - tolerance) x dense, or for perplexities dense / (1 - tolerance) - compressed.
            None where matching is not defined for the metric.
        verdict: From ``margin``; None where that is None.
        flips: Of binary metrics only.
    """

    n: int
    dense: float
    compressed: float
    difference: float
    interval: Interval
    recovery: float | None
    margin: Interval | None
    verdict: Verdict | None
    flips: Flips | None = None


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p of b against c discordant pairs under equal odds.

    Computed in integers, so it neither overflows nor loses digits in the tail.

    Args:
        b: Pairs that went from right to wrong.
        c: Pairs that went from wrong to right.

    Returns:
        min(1, 2 P(X <= min(b, c))) for X ~ Binomial(b + c, 1/2); 1 where b + c is 0.

    Raises:
        StatisticsError: On a negative count.
    """
    if b < 0 or c < 0:
        raise StatisticsError(f"discordant pairs cannot be negative: b={b}, c={c}")
    total = b + c
    term = tail = 1
    for k in range(1, min(b, c) + 1):
        term = term * (total - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / (1 << total))


def bootstrap_sums(columns: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """Column sums over resamples of the rows, drawn with replacement.

    A row holds everything known of one item, so the resampling is paired. Rows with few distinct
    values (binary metrics) are resampled by multinomial counts of the distinct rows: the same
    distribution, at a cost that does not grow with the number of items.

    Args:
        columns: float64 [items, columns].
        resamples: Number of resamples.
        seed: Seed of the generator; the result depends on nothing else.

    Returns:
        float64 [resamples, columns].

    Raises:
        StatisticsError: Without items or resamples.
    """
    n, width = columns.shape
    if n == 0:
        raise StatisticsError("there are no items to resample")
    check_settings(resamples=resamples)
    rng = np.random.default_rng(seed)
    if np.isfinite(columns).all():
        rows, counts = np.unique(columns, axis=0, return_counts=True)
        if len(rows) * _INDEX_COST <= n:
            drawn = rng.multinomial(n, counts / n, size=resamples)
            return np.asarray(drawn @ rows, dtype=np.float64)
        if width >= _WIDE:
            return _sums_by_counts(columns, resamples, rng)
    sums = np.empty((resamples, width), dtype=np.float64)
    batch = max(1, _BATCH_BYTES // (8 * n))
    for start in range(0, resamples, batch):
        stop = min(start + batch, resamples)
        picked = rng.integers(0, n, size=(stop - start, n))
        for column in range(width):
            sums[start:stop, column] = columns[:, column][picked].sum(axis=1)
    return sums


def _sums_by_counts(columns: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Sums of many columns: how often each item was drawn, times the items, in one product.

    Args:
        columns: float64 [items, columns], all finite.
        resamples: Number of resamples.
        rng: Generator.

    Returns:
        float64 [resamples, columns].
    """
    n = len(columns)
    sums = np.empty((resamples, columns.shape[1]), dtype=np.float64)
    batch = max(1, _BATCH_BYTES // (8 * n))
    for start in range(0, resamples, batch):
        stop = min(start + batch, resamples)
        rows = stop - start
        picked = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(picked.ravel(), minlength=rows * n).reshape(rows, n)
        sums[start:stop] = counts.astype(np.float64) @ columns
    return sums


def percentile_interval(values: FloatArray, *, level: float = 0.95) -> Interval:
    """Equal-tailed percentile interval of bootstrap replicates.

    Args:
        values: float64 [resamples]; infinities are allowed, a NaN makes both ends NaN.
        level: Coverage.

    Returns:
        Lower and upper end.
    """
    tail = 100 * (1 - level) / 2
    # Interpolating between infinities is undefined; where there are some, take order statistics.
    method: Literal["linear", "inverted_cdf"] = (
        "linear" if np.isfinite(values).all() else "inverted_cdf"
    )
    low, high = np.percentile(values, [tail, 100 - tail], method=method)
    return float(low), float(high)


def check_settings(*, tolerance: float = DEFAULT_TOLERANCE, resamples: int = 1) -> None:
    """Check the settings of a comparison before work is done with them.

    Args:
        tolerance: e0 of matching.
        resamples: Number of bootstrap resamples.

    Raises:
        StatisticsError: For one out of range.
    """
    if not 0 <= tolerance < 1:
        raise StatisticsError(f"tolerance must be in [0, 1), got {tolerance}")
    if resamples < 1:
        raise StatisticsError(f"resamples must be at least 1, got {resamples}")


def _margin(
    dense: FloatArray, compressed: FloatArray, tolerance: float, rule: MatchRule
) -> FloatArray:
    """Distance inside the tolerance, below 0 where a score does not match."""
    if rule == "at_least":
        return compressed - (1 - tolerance) * dense
    return dense / (1 - tolerance) - compressed


def matches(
    dense: float,
    compressed: float,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    rule: MatchRule = "at_least",
) -> bool:
    """Whether a score lies within the tolerance of the dense one, as a point.

    Args:
        dense: The dense model's score.
        compressed: The compressed model's.
        tolerance: e0; the threshold is (1 - e0) x dense, for perplexities dense / (1 - e0).
        rule: See `MatchRule`.

    Returns:
        True at the threshold or better; False for a NaN.

    Raises:
        StatisticsError: For a tolerance outside [0, 1).
    """
    check_settings(tolerance=tolerance)
    margin = _margin(np.asarray([dense]), np.asarray([compressed]), tolerance, rule)
    return bool(margin[0] >= -_ROUNDING * abs(dense))


def verdict_of(margin: Interval, *, scale: float = 1.0) -> Verdict | None:
    """The verdict that a margin's interval supports, never its point estimate.

    Args:
        margin: Interval of the distance inside the tolerance (`PairedStatistics.margin`).
        scale: Magnitude of the scores, for what counts as a rounding error.

    Returns:
        match when the interval lies at or above 0, fail when below, else inconclusive; None when
        an end is NaN.
    """
    low, high = margin
    if math.isnan(low) or math.isnan(high):
        return None
    slack = _ROUNDING * abs(scale) if math.isfinite(scale) else 0.0
    if low >= -slack:
        return "match"
    return "fail" if high < -slack else "inconclusive"


def recovery(dense: float, compressed: float) -> float | None:
    """Compressed / dense, or None where that is undefined (a dense score of 0, NaN, infinity)."""
    if dense == 0 or not math.isfinite(dense) or not math.isfinite(compressed):
        return None
    return compressed / dense


def flips_of(
    dense: ArrayLike, compressed: ArrayLike, *, answer_changed: ArrayLike | None = None
) -> Flips:
    """Count how right and wrong answers changed.

    Args:
        dense: [n] of 0 (wrong) and 1 (right).
        compressed: [n], the same items in the same order.
        answer_changed: [n] whether the chosen answers differ; None where they are not known.

    Returns:
        The counts, shares and McNemar's p.

    Raises:
        StatisticsError: For empty or unequal items, or values other than 0 and 1.
    """
    first, second = _columns(dense, compressed)
    if not (np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all()):
        raise StatisticsError("flips need right (1) and wrong (0) answers; other values are there")
    n = len(first)
    b = int(np.count_nonzero(first > second))
    c = int(np.count_nonzero(first < second))
    all_flips = None
    if answer_changed is not None:
        changed = np.asarray(answer_changed, dtype=bool)
        if changed.shape != (n,):
            raise StatisticsError(f"answer_changed has shape {changed.shape}, expected ({n},)")
        other_wrong = int(np.count_nonzero((first == 0) & (second == 0) & changed))
        all_flips = (b + c + other_wrong) / n
    return Flips(
        right_to_wrong=b,
        wrong_to_right=c,
        net=(c - b) / n,
        churn=(b + c) / n,
        all_flips=all_flips,
        p_value=mcnemar_exact(b, c),
    )


def _columns(*values: ArrayLike) -> list[FloatArray]:
    """Values as float64 columns of one length."""
    columns = [np.asarray(column, dtype=np.float64) for column in values]
    shapes = {column.shape for column in columns}
    if len(shapes) != 1 or columns[0].ndim != 1:
        raise StatisticsError(f"paired items must be flat and of one length, got shapes {shapes}")
    if len(columns[0]) == 0:
        raise StatisticsError("there are no items to compare")
    return columns


def paired_statistics(
    dense: ArrayLike,
    compressed: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    transform: Transform | None = None,
    rule: MatchRule | None = "at_least",
    flips: Flips | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> PairedStatistics:
    """Compare two models on the same items, in the same order.

    Args:
        dense: [n] values of the dense model's items.
        compressed: [n] values of the compressed model's.
        weights: [n] what the sum of the values is divided by the sum of; ones by default.
        transform: From that ratio to the score; by default the ratio is the score.
        rule: How matching is defined; None leaves margin and verdict out.
        flips: From `flips_of` for a binary metric; handed through.
        tolerance: e0 of matching.
        resamples: Paired bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        The statistics. Scores that are NaN give NaN intervals and no verdict.

    Raises:
        StatisticsError: For empty or unequal items, or settings out of range.
    """
    check_settings(tolerance=tolerance, resamples=resamples)
    columns = _columns(dense, compressed, *([] if weights is None else [weights]))
    items = np.stack(columns, axis=1)
    n = len(items)

    def score(sums: FloatArray, column: int) -> FloatArray:
        ratio = sums[:, column] / (n if weights is None else sums[:, 2])
        return ratio if transform is None else transform(ratio)

    margin = None
    with np.errstate(all="ignore"):  # inf and nan are results here, and reported as such
        points = items.sum(axis=0)[None]
        point_dense, point_compressed = (float(score(points, column)[0]) for column in (0, 1))
        sums = bootstrap_sums(items, resamples=resamples, seed=seed)
        drawn_dense, drawn_compressed = score(sums, 0), score(sums, 1)
        interval = percentile_interval(drawn_compressed - drawn_dense)
        if rule is not None:
            margin = percentile_interval(_margin(drawn_dense, drawn_compressed, tolerance, rule))
    return PairedStatistics(
        n=n,
        dense=point_dense,
        compressed=point_compressed,
        difference=point_compressed - point_dense,
        interval=interval,
        recovery=recovery(point_dense, point_compressed),
        margin=margin,
        verdict=None if margin is None else verdict_of(margin, scale=point_dense),
        flips=flips,
    )


def statistics_of_draws(
    *,
    n: int,
    dense: float,
    compressed: float,
    dense_draws: FloatArray,
    draws: FloatArray,
    rule: MatchRule | None,
    tolerance: float = DEFAULT_TOLERANCE,
) -> PairedStatistics:
    """The same statistics from draws of the two scores, where items are not known.

    Args:
        n: Number of items.
        dense: The dense model's score.
        compressed: The compressed model's.
        dense_draws: float64 [draws], the dense score as it might have come out.
        draws: float64 [draws], the compressed score likewise.
        rule: How matching is defined; None leaves margin and verdict out.
        tolerance: e0 of matching.

    Returns:
        The statistics, without flips.
    """
    check_settings(tolerance=tolerance)
    margin = None
    with np.errstate(all="ignore"):
        interval = percentile_interval(draws - dense_draws)
        if rule is not None:
            margin = percentile_interval(_margin(dense_draws, draws, tolerance, rule))
    return PairedStatistics(
        n=n,
        dense=dense,
        compressed=compressed,
        difference=compressed - dense,
        interval=interval,
        recovery=recovery(dense, compressed),
        margin=margin,
        verdict=None if margin is None else verdict_of(margin, scale=dense),
    )
