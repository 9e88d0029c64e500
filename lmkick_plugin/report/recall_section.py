# SPDX-License-Identifier: Apache-2.0
"""The report's section on recall: tables, sentences and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmkick_plugin.report.bootstrap import FloatArray, Interval, percentile_interval
from lmkick_plugin.report.curves import Curve, curves_of
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.figure_model import Bar, Figure, Panel, Part
from lmkick_plugin.report.formatting import interval, percent
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.recall import STATES, Recall
from lmkick_plugin.report.verdict import FEWEST

__all__ = ["RecallSection", "recall_section"]

_COLORS = dict(zip(STATES, ("#0072b2", "#8cc5e8", "#f0c36d", "#8f3d1e"), strict=True))
"""Told apart in any form of colour blindness, and by lightness where neighbours meet."""


@dataclass(frozen=True)
class RecallSection:
    """The section of one model.

    Attributes:
        runs: Every run that was compared, with what became of the facts of each source.
        notes: Which runs were not, and why.
        figures: One per source.
    """

    runs: tuple[tuple[Cell, tuple[Recall, ...]], ...]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]


def recall_section(evidence: Evidence, model: Model, *, prefix: str = "") -> RecallSection | None:
    """The section; None where no recall tasks were run.

    Args:
        evidence: What is known.
        model: The model.
        prefix: Put before the figures' names, where there are several models.
    """
    runs, notes = [], []
    for cell in model.cells:
        found = evidence.recalls.get(cell.name, ())
        notes += [f"{cell.label}: {note}" for note in evidence.recall_notes.get(cell.name, ())]
        if found:
            runs.append((cell, found))
    if not runs and not notes:
        return None
    sources = dict.fromkeys(one.source for _, found in runs for one in found)
    figures = []
    for source in sources:
        here = {cell.name: one for cell, found in runs for one in found if one.source == source}
        figures.append(_figure(source, curves_of(model), here, prefix))
    return RecallSection(tuple(runs), tuple(notes), tuple(figures))


def _figure(source: str, curves: Sequence[Curve], found: dict[str, Recall], prefix: str) -> Figure:
    """Stacked bars: for each method the facts that dense says, then all facts."""
    said, every = [], []
    for curve in curves:
        runs = [
            (level.name, cell.label, found[cell.name])
            for level in curve.levels
            for cell in level.cells
            if cell.name in found
        ]
        if not runs:
            continue
        known = [
            _bar(name, label, one.shares, one.said, one.draws)
            for name, label, one in runs
            if one.said >= FEWEST
        ]
        if known:
            said.append(_panel(f"{curve.name}: facts dense says", known))
        first = runs[0][2].table
        bars = [_bar("dense", "dense", first.sum(axis=1) / first.sum(), int(first.sum()))]
        bars += [
            _bar(name, label, one.table.sum(axis=0) / one.table.sum(), int(one.table.sum()))
            for name, label, one in runs
        ]
        every.append(_panel(f"{curve.name}: all facts", bars))
    text = (
        f"Facts of {source} by state. Of the facts that dense says, right choices by chance are"
        " taken off; the lines at a bar are the 95 % intervals of said (lower) and lost (upper)."
        " Of all facts they are not: some that are out of reach were chosen by chance."
    )
    if not said:
        text += f" Dense says fewer than {FEWEST} facts: no shares of these."
    name = f"{prefix}recall-{source.lower()}"
    return Figure(name, f"Known, out of reach, lost: {source}", text, (*said, *every), "recall")


def _panel(title: str, bars: Sequence[Bar]) -> Panel:
    return Panel(
        title=title,
        x_label="sparsity or bits",
        y_label="share of facts, %",
        bars=tuple(bars),
        percent_y=True,
        y_range=(0.0, 1.0),
    )


def _bar(
    name: str, label: str, shares: FloatArray, facts: int, draws: FloatArray | None = None
) -> Bar:
    """A bar of the four states; with intervals where draws are given."""
    ends: list[Interval | None] = [None] * len(STATES)
    if draws is not None:
        ends = [percentile_interval(column) for column in draws.T]
    parts = tuple(
        Part(
            state,
            _COLORS[state],
            float(share),
            f"{label}: {state} {percent(float(share))} {interval(end, shares=True)}".strip()
            + f", n = {facts}",
        )
        for state, share, end in zip(STATES, shares, ends, strict=True)
    )
    whiskers = () if draws is None else tuple(_whiskers(draws))
    return Bar(name, parts, whiskers)


def _whiskers(draws: FloatArray) -> Iterator[tuple[float, float]]:
    for border in (draws[:, 0], np.asarray(1 - draws[:, -1], dtype=np.float64)):
        yield percentile_interval(border)
