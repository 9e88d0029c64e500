# SPDX-License-Identifier: Apache-2.0
"""Bayesian bootstrap over clusters of items.

A score is a ratio of sums over items, perhaps transformed. A *cluster* holds the items that are not
independent: one question asked several times, windows of one article. Every draw weights the K
clusters by Dirichlet(1, ..., 1) and recomputes the ratio of sums; weights are drawn as independent
Gamma(1) variates, of which a ratio needs no normalisation.

- Right or wrong: four pseudo-clusters join them, one per cell of right/wrong by right/wrong. With
  single items a draw is then the 2 x 2 table from Dirichlet(n11 + 1, n10 + 1, n01 + 1, n00 + 1), so
  that no lost item among few is not taken for no loss. A half in each cell is not enough: where 2.5
  lost items are expected, 8 % of the samples show none, and most of these would match.
- Graded: two pseudo-clusters join them, one that loses the mean score and one that wins it, for the
  same reason: a few items may lose all they had, and few items may show none of these. The distance
  of each draw from the score is widened to that of Student's t.
- Perplexity: widened only; it moves in every window.

References:
    Rubin, The Bayesian Bootstrap, Annals of Statistics 9 (1981).
    Miller, Adding Error Bars to Evals, arXiv:2411.00640: clustered standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from compressors.errors import LmkickError

__all__ = [
    "FloatArray",
    "Interval",
    "StatisticsError",
    "as_columns",
    "cluster_sums",
    "drawn_ratios",
    "percentile_interval",
    "t_factor",
    "weighted_sums",
    "with_pseudo_clusters",
]

FloatArray: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

_BATCH_BYTES = 32 * 2**20  # of weights held at a time: bounds memory for any number of clusters


class StatisticsError(LmkickError, ValueError):
    """Items or settings from which no statistic can be computed."""


def cluster_sums(columns: FloatArray, clusters: NDArray[np.int64] | None) -> FloatArray:
    """Sum the items of each cluster.

    Args:
        columns: float64 [items, width].
        clusters: int64 [items], numbers 0 ... K-1; None where each item is its own cluster.

    Returns:
        float64 [K, width].
    """
    if clusters is None:
        return columns
    sums = np.zeros((int(clusters.max()) + 1, columns.shape[1]))
    np.add.at(sums, clusters, columns)
    return sums


def with_pseudo_clusters(sums: FloatArray, *, binary: bool) -> FloatArray:
    """Add clusters of the mean size: what the items may have failed to show.

    Args:
        sums: float64 [K, 1 + runs + 1]: scores of dense, scores of each run, items.
        binary: Whether items are right or wrong: one cluster per cell of right/wrong by
            right/wrong. Else one whose mean dense score is lost, and one where it is won.

    Returns:
        float64 [K + 4, 1 + runs + 1], or [K + 2, ...]; in those added all runs score alike.
    """
    runs = sums.shape[1] - 2
    lost_and_won = ((1.0, 0.0), (0.0, 1.0))
    cells = ((1.0, 1.0), *lost_and_won, (0.0, 0.0)) if binary else lost_and_won
    with np.errstate(all="ignore"):  # a NaN or infinite score gives NaN draws
        score = 1.0 if binary else sums[:, 0].sum() / sums[:, -1].sum()
        added = np.asarray([[score * dense, *([score * run] * runs), 1.0] for dense, run in cells])
        return np.concatenate([sums, sums[:, -1].mean() * added])


def weighted_sums(
    rows: FloatArray, shapes: FloatArray, *, resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Sums of rows under independent gamma weights.

    Args:
        rows: float64 [m, width].
        shapes: float64 [..., m], the gamma shape of each row: how many clusters it stands for.
        resamples: Number of draws.
        rng: Generator.

    Returns:
        float64 [..., resamples, width].
    """
    batch = max(1, _BATCH_BYTES // (8 * max(1, shapes.size)))
    parts = []
    with np.errstate(all="ignore"):  # inf and nan of a row are results
        for start in range(0, resamples, batch):
            count = min(batch, resamples - start)
            drawn = rng.standard_gamma(
                shapes[..., None, :], size=(*shapes.shape[:-1], count, len(rows))
            )
            parts.append(drawn @ rows)
    return np.concatenate(parts, axis=-2)


def drawn_ratios(
    sums: FloatArray, *, binary: bool, graded: bool = False, resamples: int, seed: int
) -> tuple[FloatArray, ...]:
    """Ratios of sums over draws of the clusters' weights, the same draws for every column.

    Args:
        sums: float64 [K, columns + 1], sums of each cluster; the last column is divided by.
        binary: Whether items are right or wrong, the first column being the dense run's.
        graded: Whether they have scores that can be lost, likewise.
        resamples: Number of draws.
        seed: Seed; the result depends on nothing else.

    Returns:
        float64 [resamples] for each column but the last.

    Raises:
        StatisticsError: Without clusters or draws.
    """
    if len(sums) == 0:
        raise StatisticsError("there are no items to resample")
    if resamples < 1:
        raise StatisticsError(f"resamples must be at least 1, got {resamples}")
    known = sums
    if binary or graded:
        sums = with_pseudo_clusters(sums, binary=binary)
    # Equal clusters have one weight together: Gamma(count).
    rows, counts = np.unique(sums, axis=0, return_counts=True)
    shapes = counts.astype(np.float64)
    drawn = weighted_sums(rows, shapes, resamples=resamples, rng=np.random.default_rng(seed))
    with np.errstate(all="ignore"):
        ratios = drawn[:, :-1] / drawn[:, -1:]
        if not binary:
            points, centre = (s[:, :-1].sum(axis=0) / s[:, -1].sum() for s in (known, sums))
            widened = points + t_factor(len(known)) * (ratios - centre)
            ratios = np.where(np.isfinite(points), widened, points)
    return tuple(ratios.T)


def t_factor(clusters: int) -> float:
    """Widening of a normal 95 % interval from Dirichlet weights to that of Student's t.

    The weights' variance is that of the clusters' values over K (K + 1), and the unbiased one
    divides by K (K - 1); both with the values' squares about their mean summed over K.

    Args:
        clusters: K.

    Returns:
        sqrt((K + 1) / (K - 1)) t(K - 1) / 1.96; NaN for one cluster, which has no spread.
    """
    from scipy.special import ndtri, stdtrit

    if clusters < 2:
        return math.nan
    ratio = float(stdtrit(clusters - 1, 0.975) / ndtri(0.975))
    return math.sqrt((clusters + 1) / (clusters - 1)) * ratio


def percentile_interval(values: FloatArray, *, level: float = 0.95) -> Interval:
    """Equal-tailed percentile interval of draws.

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


def as_columns(values: Sequence[FloatArray]) -> FloatArray:
    """Stack values of items, float64 [items] each, refusing unequal lengths and no items."""
    shapes = {np.shape(column) for column in values}
    if len(shapes) != 1 or np.ndim(values[0]) != 1:
        raise StatisticsError(f"paired items must be flat and of one length, got shapes {shapes}")
    if len(values[0]) == 0:
        raise StatisticsError("there are no items to compare")
    return np.stack([np.asarray(column, dtype=np.float64) for column in values], axis=1)
