# SPDX-License-Identifier: Apache-2.0
"""Claim on divergence: it ranks compressions by their task losses."""

from __future__ import annotations

import math

import numpy as np

from lmkick_plugin.report.bootstrap import FloatArray
from lmkick_plugin.report.claims.findings import Finding, Quantity, at_least, finding
from lmkick_plugin.report.claims.quantities import (
    KNOWLEDGE,
    PERPLEXITY,
    knowledge_tasks,
    mean_recovery,
    recovery_of,
)
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Model
from lmkick_plugin.report.task_pairings import CLAIM_RESAMPLES

__all__ = ["divergence_ranks_better", "spearman"]

_DIVERGENCE = "kickonly_divergence"
_FEWEST = 4  # runs of which a ranking says something


def spearman(first: FloatArray, second: FloatArray) -> FloatArray:
    """Spearman's rank correlation, ties at their mean rank.

    Args:
        first: float64 [draws, runs].
        second: float64 [draws, runs].

    Returns:
        float64 [draws]; NaN where one side is constant.
    """
    from scipy.stats import rankdata

    a, b = (rankdata(side, axis=1) for side in (first, second))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    with np.errstate(all="ignore"):
        below = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        return np.asarray((a * b).sum(axis=1) / below, dtype=np.float64)


def divergence_ranks_better(evidence: Evidence, model: Model) -> Finding:
    """Claim 13: divergence ranks configurations closer to task loss than perplexity does.

    The claim is about configurations, so the interval is over resampled configurations, each with
    its scores as measured.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding, by Spearman's correlation of each with the mean loss on the knowledge tasks
        that every run has.
    """
    needs = f"needs {_FEWEST} compressed runs with {_DIVERGENCE}, {PERPLEXITY} and {KNOWLEDGE}"
    cells = [
        cell
        for cell in model.cells
        if evidence.pairing(cell, _DIVERGENCE, "jsd")
        and recovery_of(evidence, cell, PERPLEXITY)
        and knowledge_tasks(evidence, cell)
    ]
    tasks = knowledge_tasks(evidence, *cells)
    rows, used = [], []
    for cell in cells:
        kept = mean_recovery(evidence, cell, tasks)
        divergence = evidence.pairing(cell, _DIVERGENCE, "jsd")
        perplexity = evidence.pairing(cell, PERPLEXITY)
        if kept is not None and divergence is not None and perplexity is not None:
            used.append(cell)
            scores = divergence.statistics.compressed, perplexity.statistics.compressed
            rows.append((1 - kept.value, *scores))
    if len(used) < _FEWEST:
        return finding([], needs=needs)
    rng = np.random.default_rng(evidence.settings.seed)
    picked = rng.integers(0, len(used), (CLAIM_RESAMPLES, len(used)))
    loss, by_divergence, by_perplexity = np.asarray(rows).T
    points = [spearman(x[None], loss[None])[0] for x in (by_divergence, by_perplexity)]
    drawn = [spearman(x[picked], loss[picked]) for x in (by_divergence, by_perplexity)]
    gap = drawn[0] - drawn[1]
    gap = gap[np.isfinite(gap)]  # the same configuration throughout has no ranking
    part = at_least(
        f"Spearman with task loss over {len(used)} runs, divergence ({points[0]:.2f}) minus"
        f" perplexity ({points[1]:.2f})",
        Quantity(float(points[0] - points[1]), gap if len(gap) else np.full(1, math.nan)),
        cells=used,
        percent=False,
    )
    return finding([part], needs=needs)
