# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown: for terminals, pull requests and whoever does not open pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lmkick_plugin.report.formatting import NOTHING, SYMBOLS, interval, number
from lmkick_plugin.report.page_content import ClaimRow, Content, ModelContent
from lmkick_plugin.terminal import plain

__all__ = ["escaped", "render_markdown", "table"]


def escaped(text: object) -> str:
    """Text that is nothing but text in Markdown: no markup, no HTML, no links.

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
        Markdown; pictures are those in ``plots/``.
    """
    parts = [
        f"# What compression took from {escaped(content.title)}",
        f"Made by lmkick {content.version} from results up to {escaped(content.newest)}. A run"
        f" matches where the 95 % interval over paired resamples of the questions keeps"
        f" {100 * (1 - content.evidence.settings.tolerance):g} % of the dense score, fails where it"
        " does not, and is inconclusive otherwise. Every score, with the file it stands in:"
        " [cells.csv](cells.csv).",
    ]
    remarks = [f"- Skipped: {escaped(line)}" for line in content.skipped]
    remarks += [f"- {escaped(note)}" for note in content.notes]
    if remarks:
        parts += ["## Before reading", "\n".join(remarks)]
    for part in content.models:
        parts += _model(part, several=len(content.models) > 1)
    if content.across:
        parts += ["## A large sparse model or a small dense one", _across(content)]
    return "\n\n".join(parts) + "\n"


def _model(part: ModelContent, *, several: bool) -> list[str]:
    name = f": {escaped(part.model.name)}" if several else ""
    parts = []
    if part.claims:
        rows = [
            (f"{r.claim.number}. {r.claim.statement}", _mark(r), r.shown, r.finding.reason)
            for r in part.claims
        ]
        parts += [
            f"## Published findings{name}",
            table(("claim", "verdict", "interval", "why"), rows),
        ]
    if part.matching:
        parts += [
            f"## How far it still matches{name}",
            table(
                ("task", "metric", "method", "levels", "largest matching", "first failing"),
                [
                    (
                        row.task,
                        row.metric,
                        row.curve,
                        ", ".join(
                            f"{SYMBOLS[verdict or 'not measured']} {level}"
                            for level, verdict, _ in row.levels
                        ),
                        row.largest,
                        row.first_failing,
                    )
                    for row in part.matching
                ],
            ),
        ]
    parts += [
        f"## Recovery{name}",
        table(
            ("run", *(escaped(task) for task, _ in part.tasks)),
            [
                (
                    cell.label,
                    *(f"{SYMBOLS[o.verdict]} {o.shown}" if o.verdict else o.shown for o in row),
                )
                for cell, row in part.recovery
            ],
        ),
    ]
    for figure in part.figures:
        parts.append(
            f"### {escaped(figure.title)}\n\n![{escaped(figure.text)}](plots/{figure.name}.png)"
        )
    if part.published:
        parts += [f"## Beside published numbers{name}", _published(part)]
    parts += [
        f"## Runs{name}",
        table(
            ("run", "zeros", "bits a weight", "size", "weights", "files"),
            [
                (
                    run.label,
                    run.sparsity,
                    run.bits_per_weight,
                    run.size,
                    run.weights,
                    ", ".join(source.path for source, _ in run.sources),
                )
                for run in part.runs
            ],
        ),
    ]
    return parts


def _mark(row: ClaimRow) -> str:
    return f"{SYMBOLS[row.finding.outcome]} {row.finding.outcome}"


def _published(part: ModelContent) -> str:
    return table(
        ("task", "metric", "run", "here", "published", "on", "source"),
        [
            (
                row.published.task,
                row.published.metric,
                row.cell.label,
                number(row.score.value),
                number(row.published.value),
                row.published.model,
                row.published.source,
            )
            for row in part.published
        ],
    )


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
        rows.append((row.large.label, row.small.label, row.task, *shown, source.path))
    return table(
        ("large, sparse", "small, dense", "task", "large", "small", "large minus small", "file"),
        rows,
    )
