# SPDX-License-Identifier: Apache-2.0
"""Flips: right and wrong answers that changed between two models, and McNemar's exact test.

References:
    Dutta et al., arXiv:2407.09141: flips, the share of answers whose correctness changed.
    McNemar, Psychometrika 12 (1947); the exact form is a two-sided binomial test.
    Miller, arXiv:2411.00640: items that are not independent count as one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmkick_plugin.report.bootstrap import StatisticsError, as_columns

__all__ = ["Flips", "flips_of", "mcnemar_exact"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """How right and wrong answers changed between two models.

    Attributes:
        right_to_wrong, wrong_to_right: b and c.
        net: (c - b) / n.
        churn: (b + c) / n, what arXiv:2407.09141 calls flips.
        all_flips: Flips and wrong answers that became other wrong answers, / n; None where the
            chosen answers are not known.
        p_value: McNemar's exact test of b against c: changed at all? Where clusters hold several
            items, of the clusters that lost more than they won against those that won more. The
            verdict asks another question: within 5 %?
    """

    right_to_wrong: int
    wrong_to_right: int
    net: float
    churn: float
    all_flips: float | None
    p_value: float


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p of b against c discordant pairs under equal odds.

    Args:
        b: Pairs that went from right to wrong.
        c: Pairs that went from wrong to right.

    Returns:
        p for X ~ Binomial(b + c, 1/2); 1 where b + c is 0.

    Raises:
        StatisticsError: On a negative count.
    """
    if b < 0 or c < 0:
        raise StatisticsError(f"discordant pairs cannot be negative: b={b}, c={c}")
    if b + c == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(b, b + c, 0.5).pvalue)


def flips_of(
    dense: ArrayLike,
    compressed: ArrayLike,
    *,
    answer_changed: ArrayLike | None = None,
    clusters: NDArray[np.int64] | None = None,
) -> Flips:
    """Count how right and wrong answers changed.

    Args:
        dense: [n] of 0 (wrong) and 1 (right).
        compressed: [n], the same items in the same order.
        answer_changed: [n] whether the chosen answers differ; None where they are not known.
        clusters: int64 [n], the cluster 0 ... K-1 of each item; each its own by default.

    Returns:
        The counts, shares and McNemar's p.

    Raises:
        StatisticsError: For empty or unequal items, or values other than 0 and 1.
    """
    first, second = as_columns([np.asarray(dense, float), np.asarray(compressed, float)]).T
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
        p_value=mcnemar_exact(*_changed_clusters(second - first, clusters)),
    )


def _changed_clusters(
    changes: NDArray[np.float64], clusters: NDArray[np.int64] | None
) -> tuple[int, int]:
    """Clusters with a net loss, and with a net gain; one that lost as it won says nothing.

    Copies of a question flip together: counted singly, they pass chance off as a change.
    """
    net = changes if clusters is None else np.bincount(clusters, weights=changes)
    return int(np.count_nonzero(net < 0)), int(np.count_nonzero(net > 0))
