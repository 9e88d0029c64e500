# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown: for terminals and pull requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from lmkick_plugin.report.formatting import (
    NOTHING,
    SYMBOLS,
    interval,
    number,
    task_name,
    with_names,
)
from lmkick_plugin.report.page_content import Content, ModelContent, RunPart
from lmkick_plugin.report.recall_section import RecallSection
from lmkick_plugin.report.summary import Summary
from lmkick_plugin.terminal import plain

__all__ = ["escaped", "render_markdown", "table"]


def escaped(text: object) -> str:
    """Escape text for Markdown: no markup, HTML or links.

    Args:
        text: Anything; its ``str`` is taken.

    Returns:
        One line.
    """
    cleaned = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~!#])", r"\\\1", cleaned).replace("://", ":&#47;&#47;")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are escaped."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def render_markdown(content: Content) -> str:
    """Render the report.

    Args:
        content: What it says.

    Returns:
        Markdown, in the page's order; pictures are those in ``plots/``.
    """
    several = len(content.models) > 1
    parts = [f"# What compression took from {escaped(content.title)}"]
    for part in content.models:
        parts += _first_screen(part.summary, several=several)
    parts += ["\n".join(f"> {escaped(line)}" for line in content.banner)] if content.banner else []
    parts.append(
        "A run *keeps* where it matches on every task: where the whole 95 % interval keeps"
        f" {100 * (1 - content.evidence.settings.tolerance):g} % of the dense score. It *loses*"
        " where it surely does not on one. *Worst task*: the one that decides the verdict"
        " (perplexity as dense / compressed); *to settle*: the items that would settle it if"
        " nothing is lost. Every score, with the file it stands in:"
        f" [cells.csv](cells.csv). Made by lmkick {content.version} from results up to"
        f" {escaped(content.newest)}."
    )
    if content.notes:
        notes = (f"- {escaped(with_names(note))}" for note in content.notes)
        parts += ["## Before reading", "\n".join(notes)]
    for part in content.models:
        parts += _model(part, several=several)
    if content.across:
        parts += ["## A large sparse model or a small dense one", _across(content)]
    for part in content.models:
        parts += _published(part, several=several)
    return "\n\n".join(parts) + "\n"


def _first_screen(summary: Summary, *, several: bool) -> list[str]:
    parts = [f"## {escaped(summary.model.name)}"] if several else []
    parts.append(f"**{escaped(summary.sentence)}**")
    if summary.command:
        parts.append("\n".join(("```bash", summary.command.replace("`", "'"), "```")))
    return [*parts, table(*summary.table())]


def _model(part: ModelContent, *, several: bool) -> list[str]:
    name = f": {escaped(part.model.name)}" if several else ""
    header = (
        escaped(task_name(task)) + ("" if n is None else f" (n = {n})") for task, _, n in part.tasks
    )
    parts = [
        f"## Every run on every task{name}",
        "Percent of the dense score; perplexity as dense / compressed. "
        + ", ".join(f"{SYMBOLS[v]} {v}" for v in ("match", "inconclusive", "fail", "too few")),
        table(
            ("run", *header),
            [
                (line.cell.short, *(f"{o.shown} {SYMBOLS.get(o.verdict or '', '')}" for o in row))
                for line, row in part.heat
            ],
        ),
    ]
    if part.figures:
        parts.append(f"## Curves{name}")
    for figure in part.figures:
        parts.append(
            f"### {escaped(figure.title)}\n\n![{escaped(figure.text)}](plots/{figure.name}.png)"
        )
    if part.matching:
        parts += [
            f"### How far each method matches{name}",
            table(
                ("task", "method", "levels", "largest matching", "first failing"),
                [
                    (
                        task_name(task),
                        found.curve.name,
                        ", ".join(
                            f"{SYMBOLS[verdict or 'not tested']} {level.name}"
                            for level, verdict in zip(
                                found.curve.levels, found.verdicts, strict=True
                            )
                        ),
                        found.largest.name if found.largest else "none",
                        found.first_failing.name if found.first_failing else "none",
                    )
                    for task, found in part.matching
                ],
            ),
        ]
    if part.recall is not None:
        parts += [f"## Known, out of reach, lost{name}", *_recall(part.recall)]
    parts.append(f"## Run by run{name}")
    for run in part.runs:
        parts += _run(run)
    return parts


def _recall(section: RecallSection) -> Iterator[str]:
    for figure in section.figures:
        yield f"![{escaped(figure.text)}](plots/{figure.name}.png)"
    for cell, found in section.runs:
        for one in found:
            header, *rows = one.rows()
            yield f"### {escaped(cell.short)}: facts of {one.source}"
            yield escaped(" ".join(one.remarks()))
            yield table(header, rows)
    if section.notes:
        yield "\n".join(f"- {escaped(note)}" for note in section.notes)


def _run(run: RunPart) -> list[str]:
    line = run.line
    parts = [f"### {escaped(line.cell.short)}: {line.word}"]
    if line.verdict is not None:
        parts.append(escaped(with_names(line.verdict.sentence)))
    if run.examples:
        parts.append(
            table(
                ("", "task", "question", "reference", "dense", "this run"),
                [
                    (
                        "won" if one.won else "lost",
                        task_name(one.task),
                        one.question,
                        one.wanted,
                        one.dense,
                        one.run,
                    )
                    for one in run.examples
                ],
            )
        )
    facts = [f"{name}: {escaped(value)}" for name, value in run.facts]
    facts += [f"{escaped(task)}: {escaped(judge)}" for task, judge in run.judges]
    facts += [f"file: {escaped(source.path)}" for source, _ in run.sources]
    return [*parts, "\n".join(f"- {fact}" for fact in facts)]


def _published(part: ModelContent, *, several: bool) -> list[str]:
    name = f": {escaped(part.model.name)}" if several else ""
    parts = []
    if part.claims:
        rows = [(row.outcome, row.claim.statement, row.reason) for row in part.claims]
        parts += [f"## Published claims{name}", table(("", "claim", "why"), rows)]
    if part.published:
        rows_beside = [
            (
                task_name(row.published.task),
                row.published.metric,
                row.cell.short,
                number(row.score.value),
                number(row.published.value),
                row.published.model,
                row.published.source,
            )
            for row in part.published
        ]
        header = ("task", "metric", "run", "here", "published", "on", "source")
        parts += [f"## Beside published numbers{name}", table(header, rows_beside)]
    return parts


def _across(content: Content) -> str:
    rows = []
    for row, source in content.across:
        found = row.statistics
        shown = [NOTHING, NOTHING, row.problem]
        if found is not None:
            shown = [
                number(found.compressed),
                number(found.dense),
                f"{number(found.difference, sign=True)} {interval(found.interval, sign=True)}",
            ]
        rows.append((row.large.label, row.small.label, task_name(row.task), *shown, source.path))
    return table(
        ("large, sparse", "small, dense", "task", "large", "small", "large minus small", "file"),
        rows,
    )
