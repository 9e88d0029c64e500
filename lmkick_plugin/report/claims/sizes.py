# SPDX-License-Identifier: Apache-2.0
"""Claims at equal size: large pruned against small dense models, quantization against pruning."""

from __future__ import annotations

from lmkick_plugin.report.claims.findings import (
    LEVEL,
    Finding,
    Outcome,
    Part,
    at_least,
    finding,
    missing,
)
from lmkick_plugin.report.claims.quantities import (
    CONTROLS,
    KNOWLEDGE,
    knowledge_tasks,
    mean_recovery,
)
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.size_pairs import NEAR, compare_across, size_pairs
from lmkick_plugin.report.verdict import FEWEST

__all__ = ["large_sparse_against_small_dense", "quantization_keeps_more"]

_NEAR_BYTES = 0.15  # half the weights and a mask of them take 12 % more than 8 bits per weight


def large_sparse_against_small_dense(evidence: Evidence, model: Model) -> Finding:
    """Claim 8: a large model pruned to a small one's size is no better than the small one.

    Args:
        evidence: What is known.
        model: The large model.

    Returns:
        The finding, over the knowledge tasks: *confirmed* where the interval of small minus large
        lies at or above zero.
    """
    parts = []
    for large, small in size_pairs(evidence):
        if large not in model.cells:
            continue
        for across in compare_across(evidence, large, small, evidence.knowledge(large)):
            what = f"{across.task}: {small.label} minus {large.label}"
            if across.statistics is None:
                parts.append(missing(f"{what}: {across.problem}"))
                continue
            parts.append(_no_better(what, across.statistics, (large, small)))
    return finding(
        parts,
        needs="needs a pruned run of this model and a smaller model's dense run with as many"
        f" non-zero parameters (within {100 * NEAR:g} %), on the same tasks",
    )


def _no_better(what: str, found: PairedStatistics, cells: tuple[Cell, Cell]) -> Part:
    """Whether small minus large is at least zero; open with too few items."""
    from scipy.special import ndtri

    low, high = found.interval
    middle = (low + high) / 2

    def at(level: float) -> Outcome:
        wider = float(ndtri((1 + level) / 2) / ndtri(0.975))
        low_end, high_end = (middle + wider * (end - middle) for end in found.interval)
        if found.clusters < FEWEST:
            return "open"
        if high_end <= 0:
            return "confirmed"
        return "refuted" if low_end > 0 else "open"

    return Part(
        what=what,
        outcome=at(LEVEL),
        value=-found.difference,
        interval=(-high, -low),
        percent=False,
        cells=cells,
        at=at,
    )


def quantization_keeps_more(evidence: Evidence, model: Model) -> Finding:
    """Claim 12: quantization keeps more than pruning at equal bytes.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding: each quantized run against the best pruned run whose bytes in the best known
        format are within 15 % of its own, by mean recovery over the knowledge tasks both have.
    """
    pruned = [c for c in model.cells if c.pruned and c.compressor not in CONTROLS and c.bytes]
    parts = []
    for cell in model.cells:
        if not cell.quantized or cell.compressor in CONTROLS or not cell.bytes:
            continue
        near = [c for c in pruned if abs((c.bytes or 0) / cell.bytes - 1) <= _NEAR_BYTES]
        rivals = []
        for other in near:
            tasks = knowledge_tasks(evidence, cell, other)
            ours = mean_recovery(evidence, cell, tasks)
            theirs = mean_recovery(evidence, other, tasks)
            if ours is not None and theirs is not None:
                rivals.append((theirs.value, other, ours - theirs, len(tasks)))
        if rivals:
            _, other, gap, count = max(rivals, key=lambda rival: (rival[0], rival[1].name))
            what = f"mean recovery over {count} tasks, {cell.label} minus {other.label}"
            parts.append(at_least(what, gap, cells=[cell, other]))
    return finding(
        parts,
        needs=f"needs a quantized and a pruned run of about the same bytes, with {KNOWLEDGE}",
    )
