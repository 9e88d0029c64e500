# SPDX-License-Identifier: Apache-2.0
"""Claims on calibration: its size and its text."""

from __future__ import annotations

from lmkick_plugin.report.claims.findings import Finding, at_least, finding, within
from lmkick_plugin.report.claims.quantities import (
    KNOWLEDGE,
    knowledge_tasks,
    mean_recovery,
    recovery_of,
    settings_but,
)
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.terminal import plain

__all__ = ["own_text_beats_c4", "samples_help_sparsegpt"]


def samples_help_sparsegpt(evidence: Evidence, model: Model) -> Finding:
    """Claim 9: SparseGPT improves with the number of calibration samples, Wanda hardly does.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding, by mean recovery over the knowledge tasks of the run with the most samples
        minus that with the fewest; *hardly* is: by less than the tolerance.
    """
    parts = []
    for method in ("sparsegpt", "wanda"):
        groups: dict[str, list[Cell]] = {}
        for cell in model.cells:
            if cell.compressor == method and cell.pruned and cell.number("nsamples"):
                groups.setdefault(settings_but(cell, "nsamples"), []).append(cell)
        for cells in groups.values():
            ordered = sorted(cells, key=lambda cell: cell.number("nsamples") or 0)
            few, many = ordered[0], ordered[-1]
            counts = [few.number("nsamples"), many.number("nsamples")]
            if counts[0] == counts[1]:
                continue
            tasks = knowledge_tasks(evidence, few, many)
            ends = [mean_recovery(evidence, cell, tasks) for cell in (few, many)]
            if ends[0] is None or ends[1] is None:
                continue
            gain = ends[1] - ends[0]
            what = f"recovery with {counts[1]:g} samples minus {counts[0]:g}, {many.label}"
            bound = evidence.settings.tolerance
            parts.append(
                at_least(what, gain, cells=[few, many])
                if method == "sparsegpt"
                else within(what, gain, bound, cells=[few, many])
            )
    methods = {cell.compressor for part in parts for cell in part.cells}
    needs = f"needs sparsegpt and wanda, each with two values of nsamples, and {KNOWLEDGE}"
    return finding(parts if len(methods) == 2 else [], needs=needs)


def own_text_beats_c4(evidence: Evidence, model: Model) -> Finding:
    """Claim 14: calibration on a task's own text beats C4 on that task."""
    parts = []
    for cell in model.cells:
        source = str(cell.record.get("calibration") or "")
        if not source.startswith("task:"):
            continue
        name = source.removeprefix("task:")
        candidates = [t for t in (name, f"kick_{name}") if t in evidence.tasks]
        twins = [
            other
            for other in model.cells
            if other.record.get("calibration") == "c4"
            and settings_but(other, "calibration") == settings_but(cell, "calibration")
        ]
        for task in candidates[:1]:
            for other in twins:
                own, general = (recovery_of(evidence, c, task) for c in (cell, other))
                if own is not None and general is not None:
                    gain = own - general
                    text = _text_of(other)
                    what = f"{task}: recovery with its own text minus {text}, {cell.label}"
                    parts.append(at_least(what, gain, cells=[cell, other]))
    return finding(
        parts,
        needs="needs a run with calibration=task:NAME beside the same with c4, and that task",
    )


def _text_of(cell: Cell) -> str:
    """The general text of a run calibrated with ``c4``: C4, or the local file in its place."""
    for source in cell.record.get("calibration_sources") or ():
        if isinstance(source, dict) and source.get("origin") not in (None, "hub"):
            return plain(f"{source.get('file')} in place of C4", limit=80)
    return "C4"
