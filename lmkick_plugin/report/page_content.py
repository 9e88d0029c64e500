# SPDX-License-Identifier: Apache-2.0
"""Everything a report says, in words and formatted numbers: what the page and report.md share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lmkick_plugin import __version__
from lmkick_plugin.report.claims import Claim, Finding, Part, evaluate
from lmkick_plugin.report.curves import Level, curves_of, matching
from lmkick_plugin.report.evidence import Evidence, Pairing
from lmkick_plugin.report.figure_model import Figure
from lmkick_plugin.report.figures import model_figures
from lmkick_plugin.report.formatting import NOTHING, interval, number, percent, size
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.published import Beside, beside
from lmkick_plugin.report.scores import Score
from lmkick_plugin.report.size_pairs import Across, compare_across, size_pairs
from lmkick_plugin.terminal import plain

__all__ = [
    "ClaimRow",
    "Content",
    "MatchRow",
    "ModelContent",
    "PairRow",
    "RecoveryCell",
    "RunRow",
    "Source",
    "build",
]


@dataclass(frozen=True)
class Source:
    """A results file.

    Attributes:
        name: Of the file.
        href: Where it lies, from the page.
        path: Where it lies.
    """

    name: str
    href: str
    path: str


@dataclass(frozen=True)
class RunRow:
    """A run, as the table of runs shows it."""

    cell: Cell
    label: str
    sparsity: str
    bits_per_weight: str
    size: str
    calibration: str
    weights: str
    versions: str
    sources: tuple[tuple[Source, str], ...]


@dataclass(frozen=True)
class RecoveryCell:
    """A run on a task: share kept, verdict, and where it comes from."""

    shown: str
    verdict: str | None
    title: str
    sort: float | None


@dataclass(frozen=True)
class MatchRow:
    """A curve on a task."""

    task: str
    metric: str
    curve: str
    levels: tuple[tuple[str, str | None, str], ...]
    largest: str
    first_failing: str
    by_point: str


@dataclass(frozen=True)
class PairRow:
    """A run against the dense one on a task and metric."""

    cell: Cell
    task: str
    metric: str
    pairing: Pairing
    source: Source


@dataclass(frozen=True)
class ClaimRow:
    """A claim and what became of it."""

    claim: Claim
    finding: Finding
    shown: str


@dataclass(frozen=True)
class ModelContent:
    """What is said of one model; claims are of its compressed runs, where it has some."""

    model: Model
    anchor: str
    claims: tuple[ClaimRow, ...]
    figures: tuple[Figure, ...]
    matching: tuple[MatchRow, ...]
    tasks: tuple[tuple[str, str], ...]
    recovery: tuple[tuple[Cell, tuple[RecoveryCell, ...]], ...]
    pairs: tuple[PairRow, ...]
    published: tuple[Beside, ...]
    runs: tuple[RunRow, ...]

    def count(self, outcome: str) -> int:
        """How many claims came to an outcome."""
        return sum(row.finding.outcome == outcome for row in self.claims)


@dataclass(frozen=True)
class Content:
    """A whole report."""

    title: str
    evidence: Evidence
    models: tuple[ModelContent, ...]
    across: tuple[tuple[Across, Source], ...]
    notes: tuple[str, ...]
    skipped: tuple[str, ...]
    version: str
    newest: str


def build(evidence: Evidence, output: Path) -> Content:
    """Put everything a report says together.

    Args:
        evidence: What is known.
        output: The report's folder, from which links lead to results files.

    Returns:
        The content.
    """
    models = evidence.collection.models
    several = len(models) > 1
    parts = []
    for index, model in enumerate(models, start=1):
        parts.append(_model(evidence, model, output, index if several else None))
    across = []
    for large, small in size_pairs(evidence):
        for found in compare_across(evidence, large, small, evidence.tasks):
            across.append((found, _source(found.files[-1], output)))
    names = ", ".join(model.name for model in models)
    stamps = [file.stamp for cell in evidence.collection.cells for file in cell.run.files]
    return Content(
        title=plain(names, limit=120),
        evidence=evidence,
        models=tuple(parts),
        across=tuple(across),
        notes=tuple(plain(note, limit=700) for note in evidence.notes),
        skipped=tuple(plain(line, limit=400) for line in evidence.collection.skipped),
        version=__version__,
        newest=max(stamps, default="")[:10],
    )


def _model(evidence: Evidence, model: Model, output: Path, index: int | None) -> ModelContent:
    prefix = "" if index is None else f"m{index}-"
    cells = {cell.name for cell in model.all}
    scored = [
        task
        for task in evidence.tasks
        if any(score.task == task for name in cells for score in evidence.scores[name])
    ]
    return ModelContent(
        model=model,
        anchor=f"model-{index or 1}",
        claims=tuple(
            ClaimRow(claim, found, _deciding(found.deciding))
            for claim, found in (evaluate(evidence, model) if model.cells else ())
        ),
        figures=tuple(model_figures(evidence, model, prefix=prefix)),
        matching=tuple(_matching(evidence, model)),
        tasks=tuple((task, evidence.keys[task][0]) for task in scored),
        recovery=tuple(
            (cell, tuple(_recovery(evidence, model, cell, task) for task in scored))
            for cell in model.all
        ),
        pairs=tuple(_pairs(evidence, model, output)),
        published=tuple(beside(evidence, model)),
        runs=tuple(_run(cell, output) for cell in model.all),
    )


def _deciding(part: Part | None) -> str:
    if part is None or part.value is None:
        return ""
    show = percent if part.percent else number
    return f"{show(part.value)} {interval(part.interval, shares=part.percent)}"


def _matching(evidence: Evidence, model: Model) -> list[MatchRow]:
    rows = []
    for task in evidence.tasks:
        for curve in curves_of(model):
            found = matching(evidence, curve, task)
            if found is None:
                continue
            levels = tuple(
                (level.name, verdict, _level_title(evidence, level, task))
                for level, verdict in zip(curve.levels, found.verdicts, strict=True)
            )
            rows.append(
                MatchRow(
                    task=task,
                    metric=evidence.keys[task][0],
                    curve=curve.name,
                    levels=levels,
                    largest=found.largest.name if found.largest else "none",
                    first_failing=found.first_failing.name if found.first_failing else "none",
                    by_point=found.point_largest.name if found.point_largest else "none",
                )
            )
    return rows


def _level_title(evidence: Evidence, level: Level, task: str) -> str:
    parts = []
    for cell in level.cells:
        pairing = evidence.pairing(cell, task)
        if pairing is not None:
            found = pairing.statistics
            parts.append(
                f"{cell.label}: {number(found.compressed)} against {number(found.dense)} dense,"
                f" {percent(found.recovery)}, n = {found.n}; {pairing.files[1].path.name}"
            )
    return " | ".join(parts) or "not compared"


def _recovery(evidence: Evidence, model: Model, cell: Cell, task: str) -> RecoveryCell:
    score = evidence.score(cell, task)
    if score is None:
        return RecoveryCell(NOTHING, None, "not evaluated", None)
    title = _score_title(score)
    if cell is model.dense:
        return RecoveryCell(number(score.value), None, title, score.value)
    pairing = evidence.pairing(cell, task)
    if pairing is None:
        return RecoveryCell(number(score.value), None, f"not compared; {title}", None)
    found = pairing.statistics
    kept = found.recovery
    if kept is None:
        return RecoveryCell(number(found.compressed), found.verdict, title, found.compressed)
    cut = evidence.truncated(cell, task)
    mark = "*" if cut else ""
    title += f"; {cut} prompts cut to the context" if cut else ""
    return RecoveryCell(percent(kept) + mark, found.verdict, title, kept)


def _score_title(score: Score) -> str:
    n = "" if score.n is None else f", n = {score.n}"
    error = "" if score.stderr is None else f" ± {number(score.stderr)}"
    return f"{score.metric} {number(score.value)}{error}{n}; {score.file.name}"


def _pairs(evidence: Evidence, model: Model, output: Path) -> list[PairRow]:
    rows = []
    for task in evidence.tasks:
        for cell in model.cells:
            for metric, filter_name in evidence.metrics(task):
                pairing = evidence.pairings.get((cell.name, task, (metric, filter_name)))
                if pairing is not None:
                    shown = metric if filter_name == "none" else f"{metric},{filter_name}"
                    source = _source(pairing.files[1].path, output)
                    rows.append(PairRow(cell, task, shown, pairing, source))
    return rows


def _run(cell: Cell, output: Path) -> RunRow:
    record = cell.record
    tasks: dict[Path, list[str]] = {file.path: [] for file in cell.run.files}
    for task, file in cell.run.tasks.items():
        tasks[file.path].append(task)
    achieved = cell.number("achieved_sparsity")
    versions = record.get("versions")
    known = versions if isinstance(versions, dict) else {}
    samples, length = cell.number("nsamples"), cell.number("seqlen")
    calibration = plain(record.get("calibration") or NOTHING, limit=60)
    if samples and length:
        calibration += f", {samples:g} x {length:g}"
    bits = cell.bits_per_weight
    return RunRow(
        cell=cell,
        label=cell.label,
        sparsity=percent(achieved) if achieved is not None else percent(cell.sparsity),
        bits_per_weight=NOTHING if bits is None else f"{bits:.2f}",
        size=size(cell.bytes),
        calibration=calibration,
        weights=plain(record.get("weights_sha256") or NOTHING)[:12],
        versions=plain(
            ", ".join(f"{k} {known[k]}" for k in ("lmkick", "lm_eval", "torch") if known.get(k))
            or NOTHING,
            limit=80,
        ),
        sources=tuple(
            (_source(path, output), _listed(names)) for path, names in tasks.items() if names
        ),
    )


def _listed(names: Sequence[str]) -> str:
    """Task names in a line, the many subjects of MMLU as one."""
    short: dict[str, int] = {}
    for name in names:
        shown = "MMLU" if name.startswith(("mmlu_kick_", "mmlu_llmkick_", "mmlu_")) else name
        short[shown] = short.get(shown, 0) + 1
    return plain(
        ", ".join(n if count == 1 else f"{n} ({count} subjects)" for n, count in short.items()),
        limit=400,
    )


def _source(path: Path, output: Path) -> Source:
    try:
        href = quote(Path(os.path.relpath(path, output)).as_posix())
    except ValueError:  # another drive
        href = path.resolve().as_uri()
    return Source(plain(path.name), href, plain(path))
