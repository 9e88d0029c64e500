# SPDX-License-Identifier: Apache-2.0
"""Quantities of claims: recoveries as draws, runs by method and level."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from lmkick_plugin.recipe.methods import METHODS
from lmkick_plugin.record.fields import RECIPE
from lmkick_plugin.report.bootstrap import percentile_interval
from lmkick_plugin.report.claims.findings import (
    LEVEL,
    Outcome,
    Part,
    Quantity,
    at_least,
    missing,
)
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.verdict import Verdict, margin_of, recovery, verdict_of

__all__ = [
    "CLOSED",
    "CONTROLS",
    "FREEBASEQA",
    "MMLU",
    "OPEN",
    "PAPER_PRUNERS",
    "PERPLEXITY",
    "by_level",
    "knowledge_tasks",
    "mean_of",
    "mean_recovery",
    "recovery_of",
    "settings_but",
    "unstructured",
    "verdict_part",
]

FREEBASEQA = "kick_freebaseqa"
MMLU = "kick_mmlu"
KNOWLEDGE = "knowledge tasks"  # in reasons, for all of them
CLOSED = "kick_triviaqa_closed"
OPEN = "kick_triviaqa_open"
PERPLEXITY = "kickonly_perplexity"

PAPER_PRUNERS = ("magnitude", "wanda", "sparsegpt")
"""Those of LLM-KICK."""

CONTROLS = frozenset(name for name, method in METHODS.items() if method.control)
"""Baselines; no claim is about them."""


def recovery_of(
    evidence: Evidence, cell: Cell, task: str, metric: str | None = None
) -> Quantity | None:
    """Recovery of a run; None where there is none, or where dense scores nothing."""
    if cell.dense:
        return Quantity(1.0, np.ones(1))
    pairing = evidence.pairing(cell, task, metric)
    found = None if pairing is None else pairing.statistics
    if pairing is None or found is None or found.recovery is None or not found.above_floor:
        return None
    draws = recovery(pairing.dense_draws, pairing.draws, found.direction)
    return Quantity(found.recovery, draws, found.clusters)


def verdict_part(evidence: Evidence, cell: Cell, task: str, wanted: Verdict) -> Part:
    """Whether a run's matching verdict on a task is *match* or *fail*, as wanted."""
    what = f"recovery of {cell.label} on {task}"
    pairing = evidence.pairing(cell, task)
    kept = recovery_of(evidence, cell, task)
    if pairing is None:
        return missing(f"{task} of {cell.label} is missing")
    found = pairing.statistics
    if found.verdict is None or kept is None or found.direction is None:
        return missing(f"{what}: no verdict", [cell])
    margin = margin_of(
        pairing.dense_draws, pairing.draws, evidence.settings.tolerance, found.direction
    )

    def at(level: float) -> Outcome:
        if found.verdict in ("inconclusive", "too few"):
            return "open"
        strict = found.verdict
        if level > LEVEL:
            ends = percentile_interval(margin, level=level)
            strict = verdict_of(ends, clusters=found.clusters, scale=found.dense)
        if strict != found.verdict:
            return "open"
        return "confirmed" if strict == wanted else "refuted"

    shown = at_least(what, kept, cells=[cell])
    return replace(shown, outcome=at(LEVEL), at=at)


def mean_of(quantities: Sequence[Quantity]) -> Quantity:
    """Mean of several numbers with common draws."""
    length = max(len(q.draws) for q in quantities)
    draws = [np.broadcast_to(q.draws, (length,)) for q in quantities]
    return Quantity(
        float(np.mean([q.value for q in quantities])),
        np.asarray(np.mean(draws, axis=0), dtype=np.float64),
        min((q.clusters for q in quantities if q.clusters is not None), default=None),
    )


def mean_recovery(evidence: Evidence, cell: Cell, tasks: Iterable[str]) -> Quantity | None:
    """Mean recovery of a run over tasks; None unless it has all of them."""
    found = [recovery_of(evidence, cell, task) for task in tasks]
    known = [quantity for quantity in found if quantity is not None]
    return mean_of(known) if known and len(known) == len(found) else None


def knowledge_tasks(evidence: Evidence, *cells: Cell) -> list[str]:
    """Knowledge tasks on which each of some runs has a recovery."""
    return [
        task
        for task in evidence.tasks
        if all(
            evidence.facts(cell, task).knowledge and recovery_of(evidence, cell, task) is not None
            for cell in cells
        )
    ]


def unstructured(model: Model, *, methods: Sequence[str] = PAPER_PRUNERS) -> list[Cell]:
    """Runs pruned without a pattern by some methods."""
    return [
        cell
        for cell in model.cells
        if cell.pruned and cell.pattern is None and cell.compressor in methods
    ]


def by_level(cells: Iterable[Cell]) -> dict[float, list[Cell]]:
    """Runs by sparsity, lowest first."""
    levels: dict[float, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.sparsity or 0.0):
        levels.setdefault(round(cell.sparsity or 0.0, 4), []).append(cell)
    return levels


def settings_but(cell: Cell, *left_out: str) -> str:
    """A run's recipe without some fields, for comparing runs."""
    return json.dumps([cell.record.get(f) for f in RECIPE if f not in left_out], default=str)
