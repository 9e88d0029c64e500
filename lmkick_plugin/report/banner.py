# SPDX-License-Identifier: Apache-2.0
"""Limits of a whole report: fewer items, dense at its floor, cut prompts, runs not compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.formatting import listed, plural, task_name
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.results.task_groups import leaves_of

__all__ = ["banner", "not_compared"]


def banner(evidence: Evidence) -> list[str]:
    """Sentences for the first screen.

    Args:
        evidence: What is known.

    Returns:
        None of them where whole tasks were asked, uncut, with samples logged.
    """
    said = [_limit(evidence), _floor(evidence), _cut(evidence)]
    said += [_unpaired(evidence), *not_compared(evidence, evidence.collection.models)]
    failed = sum(" failed" in note for note in evidence.collection.notes)
    if failed:
        said.append(f"{plural(failed, 'evaluation')} of a sweep failed and is missing here.")
    return [line for line in said if line]


def _scored(evidence: Evidence) -> Iterator[tuple[Model, Cell, str]]:
    """Every run with a score on a task shown."""
    for model in evidence.collection.models:
        for cell in model.all:
            for task in evidence.tasks:
                if evidence.score(cell, task) is not None:
                    yield model, cell, task


def _limit(evidence: Evidence) -> str:
    counts = set()
    for _, cell, task in _scored(evidence):
        count = evidence.items(cell, task)
        if count and _is_limited(evidence, cell, task):
            counts.add(count)
    if not counts:
        return ""
    reach = f"{min(counts):,}" + (f" to {max(counts):,}" if len(counts) > 1 else "")
    return f"A limit was used: {reach} items per task."


def _is_limited(evidence: Evidence, cell: Cell, task: str) -> bool:
    for leaf in leaves_of(task, evidence.children):
        file = cell.run.tasks.get(leaf)
        counts = None if file is None else file.mapping("n-samples").get(leaf)
        if isinstance(counts, dict) and counts.get("effective") != counts.get("original"):
            return True
    return False


def _floor(evidence: Evidence) -> str:
    at_floor: dict[str, None] = {}
    for _, cell, task in _scored(evidence):
        pairing = evidence.pairing(cell, task)
        if pairing is not None and pairing.statistics.at_floor:
            at_floor[task_name(task)] = None
    listed = ", ".join(at_floor)
    return f"No verdict where dense is not above chance (or 0): {listed}." if listed else ""


def _cut(evidence: Evidence) -> str:
    most: dict[str, int] = {}
    for _, cell, task in _scored(evidence):
        most[task] = max(most.get(task, 0), evidence.truncated(cell, task))
    listed = ", ".join(f"{task_name(task)} {count:,}" for task, count in most.items() if count)
    return f"Prompts cut to the context, at most per run: {listed}." if listed else ""


def _unpaired(evidence: Evidence) -> str:
    pairings = ((cell, evidence.pairing(cell, task)) for _, cell, task in _scored(evidence))
    labels = {cell.label for cell, one in pairings if one is not None and not one.paired}
    if not labels:
        return ""
    said = "samples were not logged (--log_samples), so intervals are wider, from standard errors"
    return f"{listed(sorted(labels))}: {said}."


def not_compared(evidence: Evidence, models: Iterable[Model]) -> list[str]:
    """Sentences on runs that were not compared on a task though dense was asked it, and why.

    Args:
        evidence: What is known.
        models: Whose runs.
    """
    labels: dict[str, set[str]] = {}
    for model in models:
        for cell in model.cells:
            for why in filter(None, (evidence.why_not(model, cell, t) for t in evidence.tasks)):
                labels.setdefault(why, set()).add(cell.label)
    return [f"{listed(sorted(runs))}: not compared where {why}." for why, runs in labels.items()]
