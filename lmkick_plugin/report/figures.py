# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report: which there are, and what stands in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from lmkick_plugin.report.bootstrap import percentile_interval
from lmkick_plugin.report.curves import Curve, Level, curves_of
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.figure_model import STYLES, Figure, Line, Panel, Point, style_of
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.scoring import DESCRIPTIVE

__all__ = ["model_figures"]

_KNOWLEDGE_LINES = (
    ("kick_freebaseqa", "FreebaseQA"),
    ("kick_mmlu", "MMLU"),
    ("kick_triviaqa_closed", "TriviaQA, closed book"),
    ("kick_triviaqa_open", "TriviaQA, open book"),
)
_PERPLEXITIES = (
    ("kickonly_perplexity", "token perplexity"),
    ("kick_wikitext", "word perplexity"),
)
_CATEGORIES = (
    ("mmlu_kick_stem", "STEM"),
    ("mmlu_kick_humanities", "humanities"),
    ("mmlu_kick_social_sciences", "social sciences"),
    ("mmlu_kick_other", "other"),
)
_ASPECTS = (
    "judge_score", "judge_coherence", "judge_consistency", "judge_fluency", "judge_relevance",
)  # fmt: skip


def model_figures(evidence: Evidence, model: Model, *, prefix: str = "") -> list[Figure]:
    """Every picture of a model.

    Args:
        evidence: What is known.
        model: The model.
        prefix: Put before the figures' names, where there are several models.

    Returns:
        Figures with something in them.
    """
    curves = curves_of(model)
    figures = [_overview(evidence, curves, prefix)]
    figures += [_task(evidence, model, curves, task, prefix) for task in evidence.tasks]
    figures.append(_categories(evidence, curves, prefix))
    figures.append(_divergence(evidence, curves, prefix))
    figures += [
        _aspects(evidence, model, curves, task, prefix)
        for task in evidence.tasks
        if len(_aspects_of(evidence, task)) > 1
    ]
    return [
        figure if figure.section in ("tasks", "divergence") else _on_one_scale(figure)
        for figure in figures
        if figure is not None
    ]


def _on_one_scale(figure: Figure) -> Figure:
    """Let panels that differ in the method alone have one y axis."""
    points = [point for panel in figure.panels for line in panel.lines for point in line.points]
    ys = [y for point in points for y in (point.y, point.low, point.high) if y is not None]
    whole = (min(ys), max(ys))
    return replace(figure, panels=tuple(replace(panel, y_range=whole) for panel in figure.panels))


# --- points ---------------------------------------------------------------------------------------


def _score_point(
    evidence: Evidence, cell: Cell, task: str, x: float, metric: str | None = None
) -> Point | None:
    score = evidence.score(cell, task, metric)
    if score is None or not math.isfinite(score.value):
        return None
    low = high = None
    pairing = evidence.pairing(cell, task, metric)
    if pairing is not None:
        low, high = percentile_interval(pairing.draws)
    elif score.stderr is not None:
        low, high = score.value - 1.96 * score.stderr, score.value + 1.96 * score.stderr
    if low is not None and high is not None and not (math.isfinite(low) and math.isfinite(high)):
        low = high = None
    interval = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    label = f"{cell.label}: {score.metric} {score.value:.4g}{interval}; {score.file.name}"
    return Point(x, score.value, low, high, label)


def _dense_point(
    evidence: Evidence, model: Model, task: str, metric: str | None = None
) -> Point | None:
    if model.dense is None:
        return None
    return _score_point(evidence, model.dense, task, 0.0, metric)


def _recovery_point(
    evidence: Evidence, cell: Cell, task: str, x: float, *, inverse: bool = False
) -> Point | None:
    """A score as a share of the dense one; of a perplexity the other way round."""
    pairing = evidence.pairing(cell, task)
    if pairing is None or pairing.statistics.recovery is None:
        return None
    found, draws = pairing.statistics.recovery, pairing.draws / pairing.dense_draws
    if inverse:
        found, draws = 1 / found, 1 / draws
    low, high = percentile_interval(draws)
    if not all(map(math.isfinite, (found, low, high))):
        return None
    file = pairing.files[1].path.name
    label = f"{cell.label}: {task} {100 * found:.1f} % [{100 * low:.1f}, {100 * high:.1f}]; {file}"
    return Point(x, found, low, high, label)


def _lines(
    curves: Sequence[Curve],
    place: Callable[[Cell], float | None],
    point: Callable[[Cell, float], Point | None],
    origin: Point | None,
) -> list[Line]:
    """A line a curve; runs of one level that differ in a seed are joined through their mean."""
    lines = []
    styles = _styles(curves)
    for curve in curves:
        marks: list[Point] = []
        for level in curve.levels:
            marks += _marks(level, place, point)
        if not marks:
            continue
        hollow = curve.kind == "N:M"
        joined = not hollow and curve.kind != "other"
        if hollow:
            marks = _side_by_side(marks)
        if origin is not None and curve.kind == "sparsity":
            marks = [origin, *marks]
        lines.append(
            Line(curve.name, styles[curve.name], tuple(marks), joined and len(marks) > 1, hollow)
        )
    return lines


def _side_by_side(marks: Sequence[Point]) -> list[Point]:
    """Marks at one share of zeros, moved apart so that each can be seen."""
    if len({mark.x for mark in marks}) != 1 or not 0 < marks[0].x < 1:
        return list(marks)
    middle = (len(marks) - 1) / 2
    return [replace(mark, x=mark.x + 0.012 * (i - middle)) for i, mark in enumerate(marks)]


def _styles(curves: Sequence[Curve]) -> dict[str, int]:
    """A style a curve: its method's, for further settings of a method one that is not taken."""
    taken = {style_of(curve.method) for curve in curves}
    spare = [style for style in range(len(STYLES)) if style not in taken]
    styles: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for curve in curves:
        style = style_of(curve.method)
        if (curve.method, curve.kind) in seen and spare:
            style = spare[0]
            spare = [*spare[1:], spare[0]]
        seen.add((curve.method, curve.kind))
        styles[curve.name] = style
    return styles


def _marks(
    level: Level,
    place: Callable[[Cell], float | None],
    point: Callable[[Cell, float], Point | None],
) -> list[Point]:
    found = []
    for cell in level.cells:
        x = place(cell)
        mark = None if x is None else point(cell, x)
        if mark is not None:
            found.append(mark)
    return found


def _sparsity(cell: Cell) -> float | None:
    return cell.sparsity if cell.pruned else None


def _megabytes(cell: Cell) -> float | None:
    return None if cell.bytes is None else cell.bytes / 1e6


# --- figures --------------------------------------------------------------------------------------


def _task(
    evidence: Evidence, model: Model, curves: Sequence[Curve], task: str, prefix: str
) -> Figure | None:
    key = evidence.key(task)
    if key is None:
        return None
    metric = key[0]
    dense = _dense_point(evidence, model, task)
    reference = dense.y if dense else None
    lower_is_better = metric.endswith("perplexity")
    band = None
    rules = {
        p.statistics.direction for c in model.cells if (p := evidence.pairing(c, task)) is not None
    }
    if reference is not None and rules & {"at_least", "at_most"}:
        kept = 1 - evidence.settings.tolerance
        band = (reference, reference / kept) if lower_is_better else (kept * reference, reference)

    def point(cell: Cell, x: float) -> Point | None:
        return _score_point(evidence, cell, task, x)

    panels = []
    for x_label, place, origin in (
        ("weights set to zero", _sparsity, dense),
        ("size in the best known format, MB", _megabytes, None),
    ):
        lines = _lines(curves, place, point, origin)
        if place is _megabytes and model.dense and dense:
            x = _megabytes(model.dense)
            if x is not None:
                whole = Point(x, dense.y, dense.low, dense.high, dense.label)
                lines.append(Line("dense", len(STYLES), (whole,), joined=False))
        if any(line.name != "dense" for line in lines):
            values = [p.y for line in lines for p in line.points] + [reference or 1.0]
            panels.append(
                Panel(
                    title="by sparsity" if place is _sparsity else "by size",
                    x_label=x_label,
                    y_label=metric,
                    lines=tuple(lines),
                    reference=reference,
                    band=band,
                    percent_x=place is _sparsity,
                    log_y=lower_is_better and min(values) > 0 and max(values) > 2 * min(values),
                )
            )
    if not panels:
        return None
    return Figure(
        name=f"{prefix}{_slug(task)}",
        title=task,
        text=_in_words(task, metric, panels, reference),
        panels=tuple(panels),
        notes=_truncation(evidence, model, task),
    )


def _truncation(evidence: Evidence, model: Model, task: str) -> tuple[str, ...]:
    counts = [count for cell in model.all if (count := evidence.truncated(cell, task))]
    if not counts:
        return ()
    return (f"up to {max(counts)} prompts were cut to the context in {len(counts)} runs",)


def _in_words(
    task: str,
    metric: str,
    panels: Sequence[Panel],
    reference: float | None,
) -> str:
    said = f"{task}, {metric}{_direction(metric)}."
    if reference is not None:
        said += f" Dense: {reference:.4g}."
    for line in panels[0].lines:
        first, last = line.points[0], line.points[-1]
        if line.name == "dense":
            continue
        if len(line.points) == 1:
            said += f" {line.name}: {first.y:.4g}."
        else:
            said += f" {line.name}: {first.y:.4g} to {last.y:.4g}."
    return said


def _direction(metric: str) -> str:
    if metric in ("jsd", "kl"):
        return " (0 is the dense model)"
    if metric in DESCRIPTIVE:
        return ""
    return " (lower is better)" if metric.endswith("perplexity") else " (higher is better)"


def _overview(evidence: Evidence, curves: Sequence[Curve], prefix: str) -> Figure | None:
    """Knowledge and perplexity on one picture, a panel a method."""
    panels = []
    for curve in curves:
        if curve.kind != "sparsity" or len(curve.levels) < 2:
            continue
        lines = []
        wanted = [(t, n, False) for t, n in _KNOWLEDGE_LINES]
        wanted += [(t, n, True) for t, n in _PERPLEXITIES if evidence.key(t)][:1]
        for style, (task, name, inverse) in enumerate(wanted):
            marks = [
                mark
                for cell in curve.cells
                if (
                    mark := _recovery_point(
                        evidence, cell, task, cell.sparsity or 0.0, inverse=inverse
                    )
                )
                is not None
            ]
            if marks:
                start = Point(0.0, 1.0, None, None, "dense: 100 %")
                shown = f"{name} (dense / compressed)" if inverse else name
                number = len(STYLES) if inverse else style
                lines.append(Line(shown, number, (start, *marks)))
        if len(lines) > 1:
            panels.append(
                Panel(
                    title=curve.name,
                    x_label="weights set to zero",
                    y_label="share of the dense model",
                    lines=tuple(lines),
                    reference=1.0,
                    band=(1 - evidence.settings.tolerance, 1.0),
                    percent_x=True,
                    percent_y=True,
                )
            )
    if not panels:
        return None
    return Figure(
        name=f"{prefix}knowledge-against-perplexity",
        title="Knowledge against perplexity",
        text="What is kept of each knowledge task, and of perplexity, as pruning goes on."
        " Perplexity is drawn as dense / compressed, so that down is worse for every line.",
        panels=tuple(panels),
        section="overview",
    )


def _categories(evidence: Evidence, curves: Sequence[Curve], prefix: str) -> Figure | None:
    panels = []
    for curve in curves:
        if curve.kind != "sparsity" or len(curve.levels) < 2:
            continue
        lines = []
        for style, (task, name) in enumerate(_CATEGORIES):
            marks = [
                mark
                for cell in curve.cells
                if (mark := _recovery_point(evidence, cell, task, cell.sparsity or 0.0)) is not None
            ]
            if marks:
                start = Point(0.0, 1.0, None, None, "dense: 100 %")
                lines.append(Line(name, style, (start, *marks)))
        if lines:
            panels.append(
                Panel(
                    title=curve.name,
                    x_label="weights set to zero",
                    y_label="share of the dense accuracy",
                    lines=tuple(lines),
                    reference=1.0,
                    band=(1 - evidence.settings.tolerance, 1.0),
                    percent_x=True,
                    percent_y=True,
                )
            )
    if not panels:
        return None
    return Figure(
        name=f"{prefix}mmlu-categories",
        title="MMLU by category",
        text="What is kept of the accuracy on each category of subjects.",
        panels=tuple(panels),
        section="mmlu",
    )


def _divergence(evidence: Evidence, curves: Sequence[Curve], prefix: str) -> Figure | None:
    task = "kickonly_divergence"
    panels = []
    for metric, words in (
        ("jsd", "Jensen-Shannon divergence, bits"),
        ("top1_agreement", "first choice kept"),
    ):

        def point(cell: Cell, x: float, metric: str = metric) -> Point | None:
            return _score_point(evidence, cell, task, x, metric)

        lines = _lines(curves, _megabytes, point, None)
        if lines:
            panels.append(
                Panel(
                    title=metric,
                    x_label="size in the best known format, MB",
                    y_label=words,
                    lines=tuple(lines),
                    percent_y=metric == "top1_agreement",
                )
            )
    if not panels:
        return None
    return Figure(
        name=f"{prefix}divergence",
        title="Distance from the dense model",
        text="How far the distributions over the next token moved, and how often the first choice"
        " stayed the same.",
        panels=tuple(panels),
        section="divergence",
    )


def _aspects_of(evidence: Evidence, task: str) -> list[str]:
    has = {metric for metric, _ in evidence.metrics(task)}
    return [aspect for aspect in _ASPECTS if aspect in has]


def _aspects(
    evidence: Evidence, model: Model, curves: Sequence[Curve], task: str, prefix: str
) -> Figure | None:
    panels = []
    for curve in curves:
        if curve.kind != "sparsity":
            continue
        lines = []
        for style, aspect in enumerate(_aspects_of(evidence, task)):
            origin = _dense_point(evidence, model, task, aspect)
            marks = [
                mark
                for cell in curve.cells
                if (mark := _score_point(evidence, cell, task, cell.sparsity or 0.0, aspect))
                is not None
            ]
            if marks:
                name = aspect.removeprefix("judge_")
                lines.append(Line(name, style, tuple([origin, *marks] if origin else marks)))
        if lines:
            panels.append(
                Panel(
                    title=curve.name,
                    x_label="weights set to zero",
                    y_label="judge's score, 1 to 10",
                    lines=tuple(lines),
                    percent_x=True,
                )
            )
    if not panels:
        return None
    return Figure(
        name=f"{prefix}{_slug(task)}-aspects",
        title=f"{task}: what the judge says",
        text="Mean scores by aspect.",
        panels=tuple(panels),
        section="judge",
    )


def _slug(name: str) -> str:
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)
    return cleaned[:80] or "task"
