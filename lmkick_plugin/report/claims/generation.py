# SPDX-License-Identifier: Apache-2.0
"""Claims on generated text: its variety, and long inputs."""

from __future__ import annotations

import numpy as np

from lmkick_plugin.report.claims.findings import Finding, Quantity, at_least, finding, missing
from lmkick_plugin.report.claims.quantities import PAPER_PRUNERS, mean_of, recovery_of, unstructured
from lmkick_plugin.report.curves import level_name
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Model

__all__ = ["long_stories_fall_more", "unique_words_fall"]

_INSTRUCT = "kick_instruct"
_SHORT, _LONG = "kick_summarization_small", "kick_summarization_large"


def unique_words_fall(evidence: Evidence, model: Model) -> Finding:
    """Claim 10: unique words fall with sparsity.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding, by the slope of the mean number of unique words an answer over sparsity, the
        dense model included, method by method.
    """
    parts = []
    for method in PAPER_PRUNERS:
        cells, pairings = [], []
        for cell in unstructured(model, methods=[method]):
            pairing = evidence.pairing(cell, _INSTRUCT, "unique_words")
            if pairing is not None:
                cells.append(cell)
                pairings.append(pairing)
        if not pairings:
            continue
        x = np.asarray([0.0, *((cell.sparsity or 0.0) for cell in cells)])
        points = np.asarray(
            [pairings[0].statistics.dense, *(p.statistics.compressed for p in pairings)]
        )
        draws = np.stack([pairings[0].dense_draws, *(p.draws for p in pairings)])
        slopes = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        fall = Quantity(
            -0.1 * float(slopes @ points),
            -0.1 * (slopes @ draws),
            min(pairing.statistics.clusters for pairing in pairings),
        )
        what = f"unique words lost for each 10 % of weights, {method}"
        parts.append(at_least(what, fall, cells=cells, percent=False))
    return finding(parts, needs=f"needs pruned runs with {_INSTRUCT}")


def long_stories_fall_more(evidence: Evidence, model: Model) -> Finding:
    """Claim 11: long stories fall more than short ones, on stories that fit the context.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding. A run of which the record does not say that no story was cut is left out.
    """
    parts = []
    for method in PAPER_PRUNERS:
        gaps, used, cut = [], [], 0
        for cell in unstructured(model, methods=[method]):
            runs = [cell, *([model.dense] if model.dense else [])]
            both = [recovery_of(evidence, cell, task) for task in (_SHORT, _LONG)]
            if both[0] is None or both[1] is None:
                continue
            if any(run.truncated(task) != 0 for run in runs for task in (_SHORT, _LONG)):
                cut += 1
                continue
            gaps.append(both[0] - both[1])
            used.append(cell)
        if gaps:
            mean = mean_of(gaps)
            levels = ", ".join(level_name(cell) for cell in used)
            what = f"recovery on short minus long stories, {method} ({levels})"
            parts.append(at_least(what, mean, cells=used))
        elif cut:
            parts.append(
                missing(
                    f"{method}: stories were cut to the context, or it is not known that none was"
                )
            )
    needs = f"needs pruned runs with {_SHORT} and {_LONG} whose stories all fit the context"
    return finding(parts, needs=needs)
