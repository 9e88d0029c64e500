# SPDX-License-Identifier: Apache-2.0
"""Claims on recall: whether facts no longer said are lost, and by which compression."""

from __future__ import annotations

import numpy as np

from lmkick_plugin.report.claims.findings import Finding, Part, Quantity, at_least, finding
from lmkick_plugin.report.claims.quantities import CONTROLS, PAPER_PRUNERS, by_level, unstructured
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.recall import STATES, Recall
from lmkick_plugin.report.verdict import FEWEST

__all__ = ["most_are_out_of_reach", "quantization_loses_fewer"]

_NEAR = 0.1  # shares of facts still said that count as equal
_SAID, _OUT, _READABLE, _LOST = range(len(STATES))
_NEEDS = f"recall_kick tasks with samples, of which dense says {FEWEST} facts or more"


def most_are_out_of_reach(evidence: Evidence, model: Model) -> Finding:
    """Claim 15: of the facts no longer said at the highest sparsity, most are out of reach.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding: share of those out of reach among the facts no longer said, less a half.
    """
    parts = []
    levels = by_level(cell for cell in unstructured(model) if _recalls(evidence, cell))
    for cell in levels[max(levels)] if levels else []:
        for found in _recalls(evidence, cell):
            gone = 1 - found.draws[:, _SAID]
            value = found.shares[_OUT] / (1 - found.shares[_SAID])
            what = f"{found.source}: out of reach among facts no longer said, less a half"
            draws = np.asarray(found.draws[:, _OUT] / gone - 0.5, dtype=np.float64)
            share = Quantity(float(value) - 0.5, draws, found.said)
            parts.append(at_least(what, share, cells=[cell]))
    return finding(parts, needs=f"needs a pruned run ({', '.join(PAPER_PRUNERS)}) with {_NEEDS}")


def quantization_loses_fewer(evidence: Evidence, model: Model) -> Finding:
    """Claim 16: at equal loss of said facts, quantization loses fewer for good than pruning.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding: each quantized run against the pruned run that says most nearly as many facts,
        within ten points; share lost by pruning less that lost by quantization.
    """
    parts: list[Part] = []
    pruned = [(c, one) for c in _compared(model, pruned=True) for one in _recalls(evidence, c)]
    for cell in _compared(model, pruned=False):
        for ours in _recalls(evidence, cell):
            rivals = [
                (abs(theirs.shares[_SAID] - ours.shares[_SAID]), other.name, other, theirs)
                for other, theirs in pruned
                if theirs.source == ours.source
            ]
            near = [rival for rival in rivals if rival[0] <= _NEAR]
            if near:
                _, _, other, theirs = min(near, key=lambda rival: rival[:2])
                what = f"{ours.source}: facts lost for good, {other.label} minus {cell.label}"
                gap = theirs.shares[_LOST] - ours.shares[_LOST]
                # Drawn apart, though the facts are the same: the interval is rather too wide.
                draws = np.random.default_rng(0).permutation(theirs.draws[:, _LOST])
                said = Quantity(float(gap), draws - ours.draws[:, _LOST], ours.said)
                parts.append(at_least(what, said, cells=[other, cell]))
    needs = f"needs a quantized and a pruned run that say as many facts within 10 %, with {_NEEDS}"
    return finding(parts, needs=needs)


def _compared(model: Model, *, pruned: bool) -> list[Cell]:
    cells = [cell for cell in model.cells if cell.compressor not in CONTROLS]
    return [cell for cell in cells if (cell.pruned if pruned else cell.quantized)]


def _recalls(evidence: Evidence, cell: Cell) -> list[Recall]:
    """A run's facts against dense, where dense says enough."""
    return [one for one in evidence.recalls.get(cell.name, ()) if one.said >= FEWEST]
