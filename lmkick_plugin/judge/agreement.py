# SPDX-License-Identifier: Apache-2.0
"""Measures of how far a judge can be trusted: repeats, orders, and agreement with others.

References:
    Shrout and Fleiss 1979, ICC(1,1); Cohen 1960; Kendall's tau-b.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Agreement", "Retest", "agreement", "retest"]


@dataclass(frozen=True, slots=True)
class Retest:
    """Scores of the same answers, judged several times.

    Attributes:
        items: Answers that have a score each time.
        repeats: Times.
        sd: Standard deviation of repeated scores about their answer's mean, in points.
        icc: Share of the variance that is between answers, ICC(1,1); NaN where scores do not vary.
    """

    items: int
    repeats: int
    sd: float
    icc: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Scores of the same answers by two judges, or by a judge and experts.

    Attributes:
        items: Answers that both scored.
        tau: Kendall's tau-b of the scores; NaN where one of them does not vary.
        kappa: Cohen's kappa of win, tie and loss; None where there is no comparison, NaN where
            both always say the same one.
    """

    items: int
    tau: float
    kappa: float | None


def retest(scores: Sequence[Sequence[float | None]]) -> Retest | None:
    """Compare repeated judgings.

    Args:
        scores: For each time, the score of each answer; None where it has none.

    Returns:
        The measures; None with fewer than two answers or two times.
    """
    rows = [row for row in zip(*scores, strict=True) if None not in row]
    known = [[value for value in row if value is not None] for row in rows]
    times = len(scores)
    if len(known) < 2 or times < 2:
        return None
    within = statistics.fmean(statistics.variance(row) for row in known)
    between = times * statistics.variance(statistics.fmean(row) for row in known)
    total = between + (times - 1) * within
    icc = (between - within) / total if total > 0 else math.nan
    return Retest(len(known), times, math.sqrt(within), icc)


def agreement(
    first: Sequence[float | None],
    second: Sequence[float | None],
    results: tuple[Sequence[str | None], Sequence[str | None]] | None = None,
) -> Agreement | None:
    """Compare two judges.

    Args:
        first: One judge's score of each answer; None where it has none.
        second: The other's.
        results: Win, tie or loss of each answer against its reference, by either; None where the
            answers were judged alone.

    Returns:
        The measures; None with fewer than two answers that both scored.
    """
    from scipy.stats import kendalltau

    places = [i for i, pair in enumerate(zip(first, second, strict=True)) if None not in pair]
    if len(places) < 2:
        return None
    one, other = ([scores[i] for i in places] for scores in (first, second))
    varies = len(set(one)) > 1 and len(set(other)) > 1
    tau = float(kendalltau(one, other).statistic) if varies else math.nan
    kappa = None
    if results is not None:
        own, others = ([str(said[i]) for i in places] for said in results)
        kappa = _kappa(own, others)
    return Agreement(len(places), tau, kappa)


def _kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Cohen's kappa; NaN where chance alone would agree always."""
    count = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    chance = sum(first.count(name) * second.count(name) for name in {*first}) / count**2
    return math.nan if chance == 1 else (agreed - chance) / (1 - chance)
