# SPDX-License-Identifier: Apache-2.0
"""Paired statistics of two models: scores, intervals, recovery, verdict, sample sizes.

The reference model is called *dense* and the other *compressed* throughout. A
score is ``transform(sum(values) / sum(weights))``: the mean for accuracy, F1 and ROUGE (unit
weights, no transform); word perplexity for summed log-likelihoods, word counts and
``transform = exp(-x)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmkick_plugin.report.bootstrap import (
    FloatArray,
    Interval,
    as_columns,
    cluster_sums,
    drawn_ratios,
    percentile_interval,
    with_pseudo_clusters,
)
from lmkick_plugin.report.flips import Flips
from lmkick_plugin.report.verdict import (
    FEWEST,
    MatchRule,
    Rule,
    Verdict,
    above_floor,
    clusters_to_settle,
    margin_of,
    recovery,
    slack_of,
    verdict_of,
)

__all__ = [
    "Metric",
    "PairedStatistics",
    "Transform",
    "paired_statistics",
    "rounded",
    "statistics_of_draws",
]

Transform: TypeAlias = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How items become a score, and what a verdict on it needs.

    Attributes:
        transform: From the ratio of sums to the score; None for the ratio itself.
        direction: ``at_least`` where higher is better, ``at_most`` for perplexities; None for a
            metric that only describes, which has no recovery either.
        judged: Whether a verdict is given. Word perplexity, for one, is another view of the
            likelihood that token perplexity is judged by.
        binary: Whether every item is right (1) or wrong (0).
        floor: Score by chance.
    """

    transform: Transform | None = None
    direction: MatchRule | None = "at_least"
    judged: bool = True
    binary: bool = False
    floor: float = 0.0

    @property
    def graded(self) -> bool:
        """Whether items have scores that can be lost: F1, ROUGE, a judge's."""
        return self.direction == "at_least" and not self.binary


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedStatistics:
    """Comparison of two models' scores on the same items.

    Attributes:
        n: Number of items.
        clusters: Independent clusters of them.
        dense, compressed: Scores over those items.
        difference: compressed - dense.
        interval: 95 % interval of the difference.
        recovery: compressed / dense, for perplexities dense / compressed, so that down is worse;
            None where the dense score is 0, a score is not finite, or the metric only describes.
        recovery_interval: Its 95 % interval.
        floor: Score by chance.
        recovery_above_chance: (compressed - floor) / (dense - floor); None where recovery is, or
            where dense is not above its floor.
        above_chance_interval: Its 95 % interval.
        margin: 95 % interval of the distance inside the tolerance: compressed
            - (1 - tolerance) x dense, or for perplexities dense / (1 - tolerance) - compressed.
            None where no verdict is given.
        verdict: From ``margin``; None where that is None.
        reason: Why there is no verdict; empty where there is one.
        p: Share of the draws inside the tolerance, for Holm's correction over the tasks of a run;
            None without a verdict, or with too few clusters.
        settle_n: Items that would show a match, instead of *inconclusive* or *too few*, with power
            .8 where the true recovery is 1; None for other verdicts and where it is not known.
        available: Items that the task has; None where it is not known.
        flips: Of binary metrics only.
        direction: ``at_least`` where higher is better, ``at_most`` for perplexities, None for a
            metric that only describes.
        judged: Whether the metric is one that verdicts are given on.
    """

    n: int
    clusters: int
    dense: float
    compressed: float
    difference: float
    interval: Interval
    recovery: float | None
    recovery_interval: Interval | None = None
    floor: float = 0.0
    recovery_above_chance: float | None = None
    above_chance_interval: Interval | None = None
    margin: Interval | None = None
    verdict: Verdict | None = None
    reason: str = ""
    p: float | None = None
    settle_n: int | None = None
    available: int | None = None
    flips: Flips | None = None
    direction: MatchRule | None = "at_least"
    judged: bool = True

    @property
    def above_floor(self) -> bool:
        """Whether the dense model is above its floor; always, for a perplexity."""
        return self.direction == "at_most" or self.recovery_above_chance is not None

    @property
    def at_floor(self) -> bool:
        """Whether there is no verdict because the dense model is at its floor."""
        known = not (math.isnan(self.dense) or math.isnan(self.compressed))
        return self.can_have_verdict and known and not self.above_floor

    @property
    def can_have_verdict(self) -> bool:
        """Whether verdicts are given on the metric."""
        return self.judged and self.direction is not None

    @property
    def settling(self) -> str:
        """What would settle an open verdict, in words; empty for a settled one."""
        if self.verdict not in ("inconclusive", "too few") or self.settle_n is None:
            return ""
        if self.beyond_task:
            return f"a match takes more than this task's {self.available:,} items, a loss may not"
        if self.at_margin:
            return "so near the margin that more items may not settle it"
        return f"about {rounded(self.settle_n):,} items would settle it"

    @property
    def settling_briefly(self) -> str:
        """The same for a cell of a table: ``1,200``, ``> 285`` where the task has no more."""
        if not self.settling or self.settle_n is None:
            return ""
        if self.beyond_task:
            return f"> {self.available:,}"
        return "at the margin" if self.at_margin else f"{rounded(self.settle_n):,}"

    @property
    def beyond_task(self) -> bool:
        """Whether a match would take more items than the task has."""
        return (self.settle_n or 0) > (math.inf if self.available is None else self.available)

    @property
    def at_margin(self) -> bool:
        """Whether as many items as would settle a recovery of 1 were asked, and did not."""
        return self.settle_n is not None and self.settle_n <= self.n


def rounded(count: int) -> int:
    """A planned number of items, rounded up to two digits."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit


def paired_statistics(
    dense: ArrayLike,
    compressed: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    clusters: NDArray[np.int64] | None = None,
    metric: Metric | None = None,
    flips: Flips | None = None,
    available: int | None = None,
    rule: Rule | None = None,
) -> PairedStatistics:
    """Compare two models on the same items, in the same order.

    Args:
        dense: [n] values of the dense model's items.
        compressed: [n] values of the compressed model's.
        weights: [n] divisor of each item; ones by default.
        clusters: int64 [n], the cluster 0 ... K-1 of each item; each its own by default.
        metric: How the values become a score; the mean of graded values by default.
        flips: From `flips_of` for a binary metric; handed through.
        available: Items that the task has.
        rule: Tolerance, resamples, seed.

    Returns:
        The statistics. Scores that are NaN give NaN intervals and no verdict.

    Raises:
        StatisticsError: For empty or unequal items.
    """
    metric, rule = metric or Metric(), rule or Rule()
    first = np.asarray(dense, dtype=np.float64)
    below = np.ones(first.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    items = as_columns([first, np.asarray(compressed, dtype=np.float64), below])
    sums = cluster_sums(items, clusters)
    ratios = drawn_ratios(
        sums,
        binary=metric.binary,
        graded=metric.graded,
        resamples=rule.resamples,
        seed=rule.seed,
    )
    with np.errstate(all="ignore"):  # inf and nan are results here, and reported as such
        points = items[:, :2].sum(axis=0) / items[:, 2].sum()
        if metric.transform is not None:
            points = metric.transform(points)
            ratios = tuple(metric.transform(ratio) for ratio in ratios)
    return statistics_of_draws(
        n=len(items),
        clusters=len(sums),
        dense=float(points[0]),
        compressed=float(points[1]),
        dense_draws=ratios[0],
        draws=ratios[1],
        metric=metric,
        rule=rule,
        flips=flips,
        available=available,
        settle=_settle(sums, metric, rule.tolerance),
    )


def statistics_of_draws(
    *,
    n: int,
    clusters: int,
    dense: float,
    compressed: float,
    dense_draws: FloatArray,
    draws: FloatArray,
    metric: Metric,
    rule: Rule,
    flips: Flips | None = None,
    available: int | None = None,
    settle: int | None = None,
    unknown: str = "",
) -> PairedStatistics:
    """Statistics from draws of the two scores.

    Args:
        n: Number of items.
        clusters: Independent clusters of them.
        dense: The dense model's score.
        compressed: The compressed model's.
        dense_draws: float64 [draws], the dense score over draws.
        draws: float64 [draws], the compressed score over the same draws.
        metric: Direction, floor.
        rule: Tolerance.
        flips: Handed through.
        available: Items that the task has.
        settle: Clusters that would settle an inconclusive verdict.
        unknown: Why the draws tell nothing; empty where they do.

    Returns:
        The statistics.
    """
    points = (np.asarray(dense), np.asarray(compressed))
    with np.errstate(all="ignore"):
        interval = _holding(compressed - dense, percentile_interval(draws - dense_draws))
    kept = _finite(recovery(*points, metric.direction))
    low = None if metric.binary else percentile_interval(dense_draws)[0]
    lifted = metric.direction != "at_least" or above_floor(
        dense, metric.floor, clusters=clusters, low=low
    )
    above = _finite(recovery(*points, metric.direction, metric.floor)) if lifted else None
    if metric.direction == "at_most":
        above = None
    margin = verdict = p = None
    reason = _no_verdict(dense, compressed, metric, lifted, unknown)
    if not reason and metric.direction is not None:
        with np.errstate(all="ignore"):
            margins = margin_of(dense_draws, draws, rule.tolerance, metric.direction)
        margin = percentile_interval(margins)
        verdict = verdict_of(margin, clusters=clusters, scale=dense)
        if verdict == "too few":
            reason = f"{clusters} independent items; a verdict needs {FEWEST}"
        elif verdict is not None:
            p = float(np.mean(margins >= -slack_of(dense)))
    settle_n = None
    if verdict in ("inconclusive", "too few") and settle is not None:
        settle_n = math.ceil(max(settle, FEWEST) * n / clusters)
    return PairedStatistics(
        n=n,
        clusters=clusters,
        dense=dense,
        compressed=compressed,
        difference=compressed - dense,
        interval=interval,
        recovery=kept,
        recovery_interval=_ends(
            dense_draws, draws, metric.direction, 0.0, None if unknown else kept
        ),
        floor=metric.floor,
        recovery_above_chance=above,
        above_chance_interval=_ends(
            dense_draws, draws, metric.direction, metric.floor, None if unknown else above
        ),
        margin=margin,
        verdict=verdict,
        reason=reason,
        p=p,
        settle_n=settle_n,
        available=available,
        flips=flips,
        direction=metric.direction,
        judged=metric.judged,
    )


def _no_verdict(dense: float, compressed: float, metric: Metric, lifted: bool, unknown: str) -> str:
    """Reason for a missing verdict; empty where there can be one."""
    if metric.direction is None:
        return "the metric only describes"
    if not metric.judged:
        return "perplexity is judged by tokens" if metric.direction == "at_most" else "not judged"
    if math.isnan(dense) or math.isnan(compressed):
        return "a score is NaN"
    if unknown:
        return unknown
    if not lifted:
        shown = "0" if metric.floor == 0 else f"chance ({metric.floor:g})"
        return f"the dense score is not above {shown}: nothing to lose"
    return ""


def _finite(value: FloatArray) -> float | None:
    return float(value) if np.isfinite(value) else None


def _ends(
    dense: FloatArray,
    compressed: FloatArray,
    direction: MatchRule | None,
    floor: float,
    point: float | None,
) -> Interval | None:
    """Interval of a recovery over draws; None where there is no recovery."""
    if point is None:
        return None
    low, high = percentile_interval(recovery(dense, compressed, direction, floor))
    if floor == 0:
        low = max(low, 0.0)  # a score of 0 or more keeps 0 or more; widened draws may not
    return _holding(point, (low, high))


def _holding(point: float, interval: Interval) -> Interval:
    """The interval, widened to its estimate where pseudo-clusters moved the draws off it."""
    low, high = interval
    return min(low, point), max(high, point)


def _settle(sums: FloatArray, metric: Metric, tolerance: float) -> int | None:
    """Clusters that would settle it, by the variance as observed (with the pseudo-clusters)."""
    size = float(sums[:, 2].mean())
    kept = 1 - tolerance
    with np.errstate(all="ignore"):
        dense = float(sums[:, 0].sum() / sums[:, 2].sum())
        if metric.binary or metric.graded:
            sums = with_pseudo_clusters(sums, binary=metric.binary)
        if metric.direction == "at_most" and metric.transform is not None:
            values, distance = sums[:, 1] - sums[:, 0], -math.log(kept)
        else:
            values, distance = sums[:, 1] - kept * sums[:, 0], tolerance * dense
        mean = values.sum() / sums[:, 2].sum()
        return clusters_to_settle((values - mean * sums[:, 2]) / size, distance)
