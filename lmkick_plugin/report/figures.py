# SPDX-License-Identifier: Apache-2.0
"""Figures of a model: points, intervals and labels of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from lmkick_plugin.report.curves import curves_of
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.figure_model import SPARE, Figure, Line, Panel, Point, looks_of
from lmkick_plugin.report.formatting import recovery_of, task_name
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.scoring import DESCRIPTIVE

__all__ = ["model_figures"]

_SPARSITY, _SIZE = "weights set to zero, %", "size, MB"
_CATEGORIES = (
    "mmlu_kick_stem", "mmlu_kick_humanities", "mmlu_kick_social_sciences", "mmlu_kick_other",
)  # fmt: skip
_ASPECTS = (
    "judge_score", "judge_coherence", "judge_consistency", "judge_fluency", "judge_relevance",
)  # fmt: skip


def model_figures(evidence: Evidence, model: Model, *, prefix: str = "") -> list[Figure]:
    """Every figure of a model.

    Args:
        evidence: What is known.
        model: The model.
        prefix: Put before the figures' names, where there are several models.

    Returns:
        Figures with something in them, overviews first.
    """
    maker = _Maker(evidence, model)
    wanted = [
        maker.overview("by-sparsity", _SPARSITY),
        maker.overview("by-size", _SIZE),
        maker.knowledge_against_perplexity(),
        *(maker.task(task) for task in evidence.tasks),
        maker.by_method(
            "mmlu-categories", "MMLU by category", [(t, task_name(t), None) for t in _CATEGORIES]
        ),
        maker.divergence(),
        *(maker.aspects(task) for task in evidence.tasks),
    ]
    return [replace(figure, name=prefix + figure.name) for figure in wanted if figure is not None]


class _Maker:
    """Builds the figures of one model."""

    def __init__(self, evidence: Evidence, model: Model) -> None:
        self.evidence, self.model = evidence, model
        self.curves = curves_of(model)
        self.looks = looks_of(self.curves)
        self.tolerance = evidence.settings.tolerance

    # -- points ------------------------------------------------------------------------------------

    def kept(self, cell: Cell, task: str, x: float) -> Point | None:
        """A recovery with its paired interval."""
        pairing = self.evidence.pairing(cell, task)
        if pairing is None or pairing.statistics.recovery is None:
            return None
        one = pairing.statistics
        low, high = _finite(one.recovery_interval)
        label = f"{cell.label}: {task_name(task)} {recovery_of(one, 'dense')}, n = {one.n}"
        return Point(x, one.recovery or 0.0, low, high, f"{label}; {pairing.files[1].path.name}")

    def score(self, cell: Cell, task: str, x: float, metric: str | None = None) -> Point | None:
        """A score with the paired interval of its recovery, where known."""
        score = self.evidence.score(cell, task, metric)
        if score is None or not math.isfinite(score.value):
            return None
        pairing = self.evidence.pairing(cell, task, metric)
        ends: tuple[float, float] | None = None
        if score.stderr:
            ends = (score.value - 1.96 * score.stderr, score.value + 1.96 * score.stderr)
        if pairing is not None and pairing.statistics.recovery_interval is not None:
            one, (least, most) = pairing.statistics, pairing.statistics.recovery_interval
            if one.direction != "at_most":
                ends = (least * one.dense, most * one.dense)
            elif least > 0:
                ends = (one.dense / most, one.dense / least)
        low, high = _finite(ends)
        shown = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
        label = f"{cell.label}: {score.metric} {score.value:.4g}{shown}; {score.file.name}"
        return Point(x, score.value, low, high, label)

    def lines(self, x_label: str, point: Callable[[Cell, float], Point | None]) -> tuple[Line, ...]:
        """One line per curve; runs that differ only in seed are joined through their mean."""
        place = _sparsity if x_label == _SPARSITY else _megabytes
        lines = []
        for curve in self.curves:
            places = [(cell, place(cell)) for cell in curve.cells]
            found = [point(cell, x) for cell, x in places if x is not None]
            marks = [mark for mark in found if mark is not None]
            if not marks:
                continue
            alone = curve.kind in ("N:M", "other")
            lines.append(
                Line(
                    curve.name,
                    self.looks[curve.name],
                    tuple(_side_by_side(marks) if alone else marks),
                    joined=not alone and len({mark.x for mark in marks}) > 1,
                    hollow=curve.kind == "N:M",
                )
            )
        return tuple(lines)

    def star(self, x_label: str, y: float) -> Point | None:
        """Position of the dense model."""
        dense = self.model.dense
        x = 0.0 if x_label == _SPARSITY else None if dense is None else _megabytes(dense)
        if dense is None or x is None:
            return None
        return Point(x, y, None, None, f"dense: {y:.4g}")

    def chance(self, task: str, metric: str | None = None) -> float | None:
        """Score by chance, where it is not 0."""
        key = self.evidence.key(task, metric)
        floors = self.evidence.facts(self.model.all[0], task).floors
        return None if key is None else floors.get(key[0]) or None

    # -- figures -----------------------------------------------------------------------------------

    def overview(self, name: str, x_label: str) -> Figure | None:
        """Recovery of every task, one panel each, on a common y axis."""
        panels = []
        for task in self.evidence.tasks:

            def point(cell: Cell, x: float, task: str = task) -> Point | None:
                return self.kept(cell, task, x)

            lines = self.lines(x_label, point)
            if not lines:
                continue
            chance, dense = self.chance(task), self.evidence.score(self.model.all[0], task)
            panels.append(
                Panel(
                    title=task_name(task),
                    x_label=x_label,
                    y_label="share of dense, %",
                    lines=lines,
                    star=self.star(x_label, 1.0),
                    edge=1 - self.tolerance,
                    chance=chance / dense.value if chance and dense and dense.value else None,
                    percent_x=x_label == _SPARSITY,
                    percent_y=True,
                )
            )
        how = "by sparsity" if x_label == _SPARSITY else "by size"
        return _figure(
            name,
            f"All tasks {how}",
            "Share of the dense score that is kept, with its paired 95 % interval. Perplexity is"
            " drawn as dense / compressed, so that down is worse everywhere.",
            panels,
            section="overview",
            one_scale=True,
        )

    def task(self, task: str) -> Figure | None:
        """Score of one task by sparsity and by size."""
        key = self.evidence.key(task)
        if key is None:
            return None
        metric = key[0]
        dense = None if self.model.dense is None else self.score(self.model.dense, task, 0.0)
        pairings = [self.evidence.pairing(cell, task) for cell in self.model.cells]
        lower, kept = metric.endswith("perplexity"), 1 - self.tolerance
        edge = None
        if dense is not None and any(p and p.statistics.verdict for p in pairings):
            edge = dense.y / kept if lower else dense.y * kept

        def point(cell: Cell, x: float) -> Point | None:
            return self.score(cell, task, x)

        panels = []
        for x_label in (_SPARSITY, _SIZE):
            lines = self.lines(x_label, point)
            values = [p.y for line in lines for p in line.points] + ([dense.y] if dense else [])
            if lines:
                panels.append(
                    Panel(
                        title="by sparsity" if x_label == _SPARSITY else "by size",
                        x_label=x_label,
                        y_label=f"{metric}{_direction(metric)}",
                        lines=lines,
                        star=self.star(x_label, dense.y) if dense else None,
                        edge=edge,
                        chance=self.chance(task),
                        lower_is_better=lower,
                        percent_x=x_label == _SPARSITY,
                        log_y=lower and min(values) > 0 and max(values) > 2 * min(values),
                    )
                )
        said = f"{task_name(task)}, {metric}{_direction(metric)}."
        said += f" Dense: {dense.y:.4g}." if dense else ""
        for line in panels[0].lines if panels else ():
            first, last = line.points[0], line.points[-1]
            reach = "" if first is last else f" to {last.y:.4g}"
            said += f" {line.name}: {first.y:.4g}{reach}."
        return _figure(_slug(task), task_name(task), said, panels)

    def knowledge_against_perplexity(self) -> Figure | None:
        """Knowledge and perplexity in one panel per pruner."""
        first = self.model.all[0]
        tasks = self.evidence.knowledge(first)
        tasks += [t for t in self.evidence.tasks if self._metric(t).endswith("perplexity")][:1]
        return self.by_method(
            "knowledge-against-perplexity",
            "Knowledge against perplexity",
            [(task, task_name(task), None) for task in tasks],
        )

    def by_method(
        self, name: str, title: str, series: Sequence[tuple[str, str, str | None]]
    ) -> Figure | None:
        """One panel per pruner, one line per task (or per metric of a task)."""
        scores = any(metric is not None for _, _, metric in series)
        panels = []
        for curve in self.curves:
            if curve.kind != "sparsity" or len(curve.levels) < 2:
                continue
            lines = []
            for index, (task, shown, metric) in enumerate(series):
                cells = [cell for cell in curve.cells if cell.sparsity is not None]
                found = [
                    self.score(cell, task, cell.sparsity or 0.0, metric)
                    if metric
                    else self.kept(cell, task, cell.sparsity or 0.0)
                    for cell in cells
                ]
                marks = tuple(mark for mark in found if mark is not None)
                if marks:
                    lines.append(Line(shown, SPARE[index % len(SPARE)], marks))
            if len(lines) > 1:
                panels.append(
                    Panel(
                        title=curve.name,
                        x_label=_SPARSITY,
                        y_label="judge's score, 1 to 10" if scores else "share of dense, %",
                        lines=tuple(lines),
                        star=None if scores else self.star(_SPARSITY, 1.0),
                        edge=None if scores else 1 - self.tolerance,
                        percent_x=True,
                        percent_y=not scores,
                    )
                )
        text = "Mean scores by aspect." if scores else "Share of the dense score that is kept."
        return _figure(name, title, text, panels, section="methods", one_scale=True)

    def divergence(self) -> Figure | None:
        """Distance from the dense model's distributions."""
        task, panels = "kickonly_divergence", []
        for metric, shown, words in (
            ("jsd", "Jensen-Shannon divergence", "bits per token (0 is dense)"),
            ("top1_agreement", "first choice kept", "share of tokens, %"),
        ):

            def point(cell: Cell, x: float, metric: str = metric) -> Point | None:
                return self.score(cell, task, x, metric)

            lines = self.lines(_SIZE, point)
            if lines:
                share = metric == "top1_agreement"
                panels.append(Panel(shown, _SIZE, words, lines, percent_y=share))
        text = "How far the next token's distribution moved, and how often the first choice stayed."
        return _figure("divergence", "Distance from the dense model", text, panels)

    def aspects(self, task: str) -> Figure | None:
        """A judge's scores by aspect."""
        has = {metric for metric, _ in self.evidence.metrics(task)}
        series = [(task, a.removeprefix("judge_"), a) for a in _ASPECTS if a in has]
        title = f"{task_name(task)}: the judge's aspects"
        figure = self.by_method(f"{_slug(task)}-aspects", title, series)
        judge = self.evidence.judge(self.model.all[0], task)
        said = f" {judge[0].upper()}{judge[1:]}." if judge else ""
        return figure and replace(figure, text=figure.text + said)

    def _metric(self, task: str) -> str:
        key = self.evidence.key(task)
        return "" if key is None else key[0]


def _figure(
    name: str,
    title: str,
    text: str,
    panels: Sequence[Panel],
    *,
    section: str = "task",
    one_scale: bool = False,
) -> Figure | None:
    """A figure of the panels; None without any."""
    if one_scale and panels:
        ys = [p.y for panel in panels for line in panel.lines for p in line.points]
        ys += [panel.star.y for panel in panels if panel.star is not None]
        low, high = min(ys), max(ys)
        room = (
            0.1 * (high - low) or 0.1 * abs(high) or 1.0
        )  # intervals that reach farther are cut by the axes
        low, high = max(0.0, low - room), high + room
        panels = [replace(panel, y_range=(low, high)) for panel in panels]
    return Figure(name, title, text, tuple(panels), section) if panels else None


def _finite(ends: tuple[float, float] | None) -> tuple[float, float] | tuple[None, None]:
    return ends if ends is not None and all(map(math.isfinite, ends)) else (None, None)


def _side_by_side(marks: Sequence[Point]) -> list[Point]:
    """Marks at equal sparsity, moved apart to be visible."""
    if len({mark.x for mark in marks}) != 1 or not 0 < marks[0].x < 1:
        return list(marks)
    middle = (len(marks) - 1) / 2
    return [replace(mark, x=mark.x + 0.012 * (i - middle)) for i, mark in enumerate(marks)]


def _sparsity(cell: Cell) -> float | None:
    return cell.sparsity if cell.pruned else None


def _megabytes(cell: Cell) -> float | None:
    return None if cell.bytes is None else cell.bytes / 1e6


def _direction(metric: str) -> str:
    if metric in DESCRIPTIVE:
        return ""
    return " (lower is better)" if metric.endswith("perplexity") else ""


def _slug(name: str) -> str:
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)
    return cleaned[:80] or "task"
