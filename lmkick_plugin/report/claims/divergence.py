# SPDX-License-Identifier: Apache-2.0
"""The claim on divergence: that it ranks compressions as their losses on tasks do."""

from __future__ import annotations

import numpy as np

from lmkick_plugin.report.bootstrap import FloatArray
from lmkick_plugin.report.claims.findings import Finding, by_sign, finding
from lmkick_plugin.report.claims.quantities import (
    KNOWLEDGE,
    PERPLEXITY,
    Quantity,
    mean_recovery,
    value_of,
)
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Model

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

    def ranks(x: FloatArray) -> FloatArray:
        above = (x[:, :, None] > x[:, None, :]).sum(axis=2)
        equal = (x[:, :, None] == x[:, None, :]).sum(axis=2)
        centred = above + 0.5 * (equal - 1)
        return np.asarray(centred - centred.mean(axis=1, keepdims=True), dtype=np.float64)

    a, b = ranks(first), ranks(second)
    with np.errstate(all="ignore"):
        below = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        return np.asarray((a * b).sum(axis=1) / below, dtype=np.float64)


def divergence_ranks_better(evidence: Evidence, model: Model) -> Finding:
    """Claim 13: divergence ranks configurations closer to task loss than perplexity does.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding, by Spearman's correlation of each with the mean loss on the knowledge tasks
        that every run has.
    """
    needs = f"needs {_FEWEST} compressed runs with {_DIVERGENCE}, {PERPLEXITY} and knowledge tasks"
    cells = [
        cell
        for cell in model.cells
        if evidence.pairing(cell, _DIVERGENCE, "jsd")
        and evidence.pairing(cell, PERPLEXITY)
        and any(evidence.pairing(cell, task) for task in KNOWLEDGE)
    ]
    tasks = [task for task in KNOWLEDGE if all(evidence.pairing(cell, task) for cell in cells)]
    columns: dict[str, list[Quantity]] = {"loss": [], "divergence": [], "perplexity": []}
    used = []
    for cell in cells:
        kept = mean_recovery(evidence, cell, tasks)
        divergence = evidence.pairing(cell, _DIVERGENCE, "jsd")
        perplexity = evidence.pairing(cell, PERPLEXITY)
        if kept is None or divergence is None or perplexity is None:
            continue
        used.append(cell)
        columns["loss"].append(Quantity(1 - kept.value, 1 - kept.draws))
        columns["divergence"].append(value_of(divergence))
        columns["perplexity"].append(value_of(perplexity))
    if len(used) < _FEWEST:
        return finding([], needs=needs)
    points = {k: np.asarray([[q.value for q in qs]]) for k, qs in columns.items()}
    draws = {k: np.stack([q.draws for q in qs], axis=1) for k, qs in columns.items()}
    value = [spearman(points[k], points["loss"])[0] for k in ("divergence", "perplexity")]
    drawn = [spearman(draws[k], draws["loss"]) for k in ("divergence", "perplexity")]
    part = by_sign(
        f"Spearman with task loss over {len(used)} runs: divergence {value[0]:.2f} minus"
        f" perplexity {value[1]:.2f}",
        float(value[0] - value[1]),
        drawn[0] - drawn[1],
        cells=used,
        percent=False,
    )
    return finding([part], needs=needs)
