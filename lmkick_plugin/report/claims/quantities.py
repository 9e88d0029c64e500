# SPDX-License-Identifier: Apache-2.0
"""Quantities that claims use: recoveries as draws, runs by method and level."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lmkick_plugin.recipe.methods import METHODS
from lmkick_plugin.report.bootstrap import FloatArray
from lmkick_plugin.report.claims.findings import Part, by_sign
from lmkick_plugin.report.evidence import Evidence, Pairing
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.verdict import recovery
from lmkick_plugin.results.results_file import RECIPE

__all__ = [
    "CLOSED",
    "CONTROLS",
    "FREEBASEQA",
    "KNOWLEDGE",
    "MMLU",
    "OPEN",
    "PERPLEXITY",
    "PRUNERS",
    "Quantity",
    "by_level",
    "mean_of",
    "mean_recovery",
    "recovery_of",
    "recovery_part",
    "settings_but",
    "unstructured",
    "value_of",
]

FREEBASEQA = "kick_freebaseqa"
MMLU = "kick_mmlu"
CLOSED = "kick_triviaqa_closed"
OPEN = "kick_triviaqa_open"
PERPLEXITY = "kickonly_perplexity"
KNOWLEDGE = (FREEBASEQA, MMLU, CLOSED, OPEN)
"""The knowledge-intensive tasks."""

PRUNERS = ("magnitude", "wanda", "sparsegpt")
"""The paper's."""

CONTROLS = frozenset(name for name, method in METHODS.items() if method.control)
"""Baselines; no claim is about them."""


@dataclass(frozen=True)
class Quantity:
    """A number and how it might have come out.

    Attributes:
        value: The number.
        draws: float64 [draws].
    """

    value: float
    draws: FloatArray

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.value - other.value, self.draws - other.draws)


def value_of(pairing: Pairing) -> Quantity:
    """A compressed run's score."""
    return Quantity(pairing.statistics.compressed, pairing.draws)


def recovery_of(
    evidence: Evidence, cell: Cell, task: str, metric: str | None = None
) -> Quantity | None:
    """A run's score as a share of the dense one's; None where there is none."""
    if cell.dense:
        return Quantity(1.0, np.ones(1))
    pairing = evidence.pairing(cell, task, metric)
    found = None if pairing is None else pairing.statistics
    if pairing is None or found is None or found.recovery is None:
        return None
    return Quantity(found.recovery, recovery(pairing.dense_draws, pairing.draws, found.direction))


def recovery_part(evidence: Evidence, cell: Cell, task: str) -> Part:
    """A run's recovery, to be shown with a verdict."""
    quantity = recovery_of(evidence, cell, task)
    if quantity is None:
        return Part(what="", outcome="not measured")
    return by_sign("", quantity.value, quantity.draws, cells=[cell])


def mean_of(quantities: Sequence[Quantity]) -> Quantity:
    """The mean of several numbers that were drawn together."""
    length = max(len(q.draws) for q in quantities)
    draws = [np.broadcast_to(q.draws, (length,)) for q in quantities]
    return Quantity(
        float(np.mean([q.value for q in quantities])),
        np.asarray(np.mean(draws, axis=0), dtype=np.float64),
    )


def mean_recovery(evidence: Evidence, cell: Cell, tasks: Iterable[str]) -> Quantity | None:
    """A run's mean recovery over tasks; None unless it has all of them."""
    found = [recovery_of(evidence, cell, task) for task in tasks]
    known = [quantity for quantity in found if quantity is not None]
    return mean_of(known) if known and len(known) == len(found) else None


def unstructured(model: Model, *, methods: Sequence[str] = PRUNERS) -> list[Cell]:
    """Runs that were pruned without a pattern by one of the methods."""
    return [
        cell
        for cell in model.cells
        if cell.pruned and cell.pattern is None and cell.compressor in methods
    ]


def by_level(cells: Iterable[Cell]) -> dict[float, list[Cell]]:
    """Runs by their sparsity, mild to severe."""
    levels: dict[float, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.sparsity or 0.0):
        levels.setdefault(round(cell.sparsity or 0.0, 4), []).append(cell)
    return levels


def settings_but(cell: Cell, *left_out: str) -> str:
    """A run's recipe without some fields: equal for runs that differ in nothing else."""
    return json.dumps([cell.record.get(f) for f in RECIPE if f not in left_out], default=str)
