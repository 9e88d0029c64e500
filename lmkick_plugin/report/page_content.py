# SPDX-License-Identifier: Apache-2.0
"""Content of a report as text and formatted numbers, shared by the page and report.md."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lmkick_plugin import __version__
from lmkick_plugin.record.fields import calibration_text
from lmkick_plugin.report.banner import banner
from lmkick_plugin.report.claims import Claim, Finding, evaluate
from lmkick_plugin.report.curves import Matching, curves_of, matching
from lmkick_plugin.report.evidence import Evidence, Pairing
from lmkick_plugin.report.examples import Example, examples_of
from lmkick_plugin.report.figure_model import Figure
from lmkick_plugin.report.figures import model_figures
from lmkick_plugin.report.formatting import (
    NOTHING,
    number,
    percent,
    recovery_of,
    size,
    speed,
    task_name,
    with_names,
)
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.published import Beside, beside
from lmkick_plugin.report.recall_section import RecallSection, recall_section
from lmkick_plugin.report.size_pairs import Across, compare_across, size_pairs
from lmkick_plugin.report.summary import RunLine, Summary, summarise
from lmkick_plugin.terminal import plain

__all__ = ["ClaimRow", "Content", "HeatCell", "ModelContent", "PairRow", "RunPart", "build"]

_HEAT_EDGES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.05)
"""Shares at which the heat map's colour changes."""


@dataclass(frozen=True)
class Source:
    """A results file: its name, address from the page, and path."""

    name: str
    href: str
    path: str


@dataclass(frozen=True)
class HeatCell:
    """A run on a task in the heat map.

    Attributes:
        shown: The recovery in percent; a score where there is no recovery.
        verdict: Of the run on the task; None where there is none.
        heat: Its colour, 0 (least kept) to 6 (better than dense); None where not compared.
        title: Score, interval, n and results file.
    """

    shown: str
    verdict: str | None
    heat: int | None
    title: str


@dataclass(frozen=True)
class PairRow:
    """A run against the dense one on a task and metric."""

    task: str
    metric: str
    headline: bool
    pairing: Pairing


@dataclass(frozen=True)
class RunPart:
    """Details of one run: recipe, statistics, its judges by task, answers and files."""

    line: RunLine
    facts: tuple[tuple[str, str], ...]
    judges: tuple[tuple[str, str], ...]
    pairs: tuple[PairRow, ...]
    examples: tuple[Example, ...]
    sources: tuple[tuple[Source, str], ...]


@dataclass(frozen=True)
class ClaimRow:
    """A published claim and its finding: *confirmed*, *refuted*, *open*, *not tested*."""

    claim: Claim
    finding: Finding
    outcome: str
    reason: str


@dataclass(frozen=True)
class ModelContent:
    """Content on one model."""

    model: Model
    anchor: str
    summary: Summary
    tasks: tuple[tuple[str, str, int | None], ...]
    heat: tuple[tuple[RunLine, tuple[HeatCell, ...]], ...]
    figures: tuple[Figure, ...]
    matching: tuple[tuple[str, Matching], ...]
    recall: RecallSection | None
    runs: tuple[RunPart, ...]
    claims: tuple[ClaimRow, ...]
    published: tuple[Beside, ...]


@dataclass(frozen=True)
class Content:
    """A whole report."""

    title: str
    evidence: Evidence
    models: tuple[ModelContent, ...]
    across: tuple[tuple[Across, Source], ...]
    banner: tuple[str, ...]
    notes: tuple[str, ...]
    version: str
    newest: str

    @property
    def figures(self) -> list[Figure]:
        """All that is drawn."""
        parts = [(part.figures, part.recall) for part in self.models]
        return [one for own, recall in parts for one in (*own, *(recall.figures if recall else ()))]

    @property
    def summaries(self) -> list[Summary]:
        """The first screen of every model."""
        return [part.summary for part in self.models]


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
    across = [
        (found, _source(found.files[-1], output))
        for large, small in size_pairs(evidence)
        for found in compare_across(evidence, large, small, evidence.tasks)
    ]
    skipped = [f"skipped: {line}" for line in evidence.collection.skipped]
    stamps = [file.stamp for cell in evidence.collection.cells for file in cell.run.files]
    return Content(
        title=plain(", ".join(model.name for model in models), limit=120),
        evidence=evidence,
        models=tuple(
            _model(evidence, model, output, index if several else None)
            for index, model in enumerate(models, start=1)
        ),
        across=tuple(across),
        banner=tuple(banner(evidence)),
        notes=tuple(plain(note, limit=700) for note in [*skipped, *evidence.notes]),
        version=__version__,
        newest=max(stamps, default="")[:10],
    )


def _model(evidence: Evidence, model: Model, output: Path, index: int | None) -> ModelContent:
    summary = summarise(evidence, model)
    tasks = _heat_tasks(evidence, model)
    answers = examples_of(evidence, model)
    prefix = f"m{index}-" if index else ""
    return ModelContent(
        model=model,
        anchor=f"model-{index or 1}",
        summary=summary,
        tasks=tuple(
            (task, evidence.keys[task][0], _items(evidence, model, task)) for task in tasks
        ),
        heat=tuple(
            (line, tuple(_heat(evidence, model, line.cell, task) for task in tasks))
            for line in summary.lines
        ),
        figures=tuple(model_figures(evidence, model, prefix=prefix)),
        matching=tuple(
            (task, found)
            for task in evidence.tasks
            for curve in curves_of(model)
            if (found := matching(evidence, curve, task)) is not None
        ),
        recall=recall_section(evidence, model, prefix=prefix),
        runs=tuple(
            _run(evidence, line, answers.get(line.cell.name, ()), output) for line in summary.lines
        ),
        claims=tuple(
            _claim(claim, found)
            for claim, found in (evaluate(evidence, model) if model.cells else ())
        ),
        published=tuple(beside(evidence, model)),
    )


def _heat_tasks(evidence: Evidence, model: Model) -> list[str]:
    """Tasks with a recovery or with dense at its floor; without dense, all that were evaluated."""

    def has(cell: Cell, task: str) -> bool:
        pairing = evidence.pairing(cell, task)
        one = None if pairing is None else pairing.statistics
        return one is not None and (one.recovery is not None or one.at_floor)

    compared = [t for t in evidence.tasks if any(has(cell, t) for cell in model.cells)]
    return compared or [t for t in evidence.tasks if any(evidence.score(c, t) for c in model.all)]


def _items(evidence: Evidence, model: Model, task: str) -> int | None:
    counts = [evidence.items(cell, task) for cell in model.all]
    return max((n for n in counts if n is not None), default=None)


def _heat(evidence: Evidence, model: Model, cell: Cell, task: str) -> HeatCell:
    score = evidence.score(cell, task)
    if score is None:
        return HeatCell(NOTHING, None, None, "not evaluated")
    count = evidence.items(cell, task)
    n = "" if count is None else f", n = {count}"
    title = f"{score.metric} {number(score.value)}{n}; {score.file.name}"
    pairing = evidence.pairing(cell, task)
    if cell is model.dense:
        return HeatCell(number(score.value), None, None, f"dense: {title}")
    one = None if pairing is None else pairing.statistics
    if one is None or one.recovery is None or one.at_floor:
        why = one.reason if one is not None and one.at_floor else "not compared"
        return HeatCell(number(score.value), None, None, f"{why}: {title}")
    cut = evidence.truncated(cell, task)
    said = [recovery_of(one, "dense"), one.verdict or one.reason, one.settling]
    said += [f"{cut} prompts cut to the context"] if cut else []
    said += [evidence.judge(cell, task) or ""] if score.metric.startswith("judge_") else []
    return HeatCell(
        percent(one.recovery, digits=0).removesuffix(" %") + ("*" if cut else ""),
        one.verdict,
        sum((one.recovery or 0.0) >= edge for edge in _HEAT_EDGES),
        "; ".join(filter(None, [*said, title])),
    )


def _run(evidence: Evidence, line: RunLine, examples: tuple[Example, ...], output: Path) -> RunPart:
    cell = line.cell
    pairs = []
    for task in evidence.tasks:
        for key in evidence.metrics(task):
            pairing = evidence.pairings.get((cell.name, task, key))
            if pairing is not None:
                shown = key[0] if key[1] == "none" else ",".join(key)
                pairs.append(PairRow(task, shown, key == evidence.keys[task], pairing))
    tasks: dict[Path, list[str]] = {file.path: [] for file in cell.run.files}
    for task, file in cell.run.tasks.items():
        tasks[file.path].append(task)
    return RunPart(
        line=line,
        facts=tuple(_facts(cell)),
        judges=tuple(
            (task_name(task), said)
            for task in cell.run.tasks
            if (said := evidence.judge(cell, task)) is not None
        ),
        pairs=tuple(pairs),
        examples=examples,
        sources=tuple(
            (_source(path, output), _listed(names)) for path, names in tasks.items() if names
        ),
    )


def _facts(cell: Cell) -> list[tuple[str, str]]:
    """The recipe and sizes of a run, with their names."""
    record, bits = cell.record, cell.bits_per_weight
    samples, length = cell.number("nsamples"), cell.number("seqlen")
    calibration = plain(calibration_text(record), limit=120)
    if calibration and samples and length:
        calibration += f", {samples:g} samples of {length:g} tokens"
    versions = record.get("versions")
    known = versions if isinstance(versions, dict) else {}
    achieved = cell.number("achieved_sparsity")
    facts = [
        ("zeros", percent(achieved if achieved is not None else cell.sparsity)),
        ("bits per weight", "" if bits is None else f"{bits:.2f}"),
        ("calibration", calibration),
        ("weights (SHA-256)", plain(record.get("weights_sha256") or "")[:12]),
        (
            "versions",
            ", ".join(f"{name} {plain(known[name], limit=30)}" for name in list(known)[:6]),
        ),
    ]
    facts += _measured(record.get("profile"))
    return [(name, value) for name, value in facts if value not in ("", NOTHING)]


def _measured(profile: object) -> list[tuple[str, str]]:
    """Speed and memory, where a sweep measured them (``profile: true``)."""
    if not isinstance(profile, dict):
        return []
    facts: list[tuple[str, str]] = [
        ("decode", speed(profile, "decode", ends=True)),
        ("prefill", speed(profile, "prefill", ends=True)),
    ]
    for field, name in (("memory_bytes", "weights in memory"), ("peak_bytes", "peak memory")):
        if isinstance(profile.get(field), int | float):
            facts.append((name, size(profile[field])))
    return [*facts, ("measured on", plain(profile.get("device") or "", limit=60))]


def _listed(names: Sequence[str]) -> str:
    """Task names in a line, the many subjects of MMLU as one."""
    short: dict[str, int] = {}
    for name in names:
        shown = "MMLU" if name.startswith("mmlu_") else task_name(name)
        short[shown] = short.get(shown, 0) + 1
    parts = (n if count == 1 else f"{n} ({count} subjects)" for n, count in short.items())
    return plain(", ".join(parts), limit=400)


def _claim(claim: Claim, found: Finding) -> ClaimRow:
    return ClaimRow(claim, found, found.outcome, with_names(found.reason))


def _source(path: Path, output: Path) -> Source:
    try:
        href = quote(Path(os.path.relpath(path, output)).as_posix())
    except ValueError:  # another drive
        href = path.resolve().as_uri()
    return Source(plain(path.name), href, plain(path))
