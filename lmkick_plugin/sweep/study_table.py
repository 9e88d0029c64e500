# SPDX-License-Identifier: Apache-2.0
"""Table of a study: mean and spread over seeds by task, metric and value."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from compressors.files import csv_text
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.sweep.runner import CellResult
from lmkick_plugin.terminal import render_table

__all__ = ["Row", "as_csv", "as_text", "collect"]


@dataclass(frozen=True)
class Row:
    """One score at one value.

    Attributes:
        task: Task or group.
        metric: Its name, with the filter where there are several.
        value: What was varied.
        runs: Over how many seeds.
        mean: Mean over seeds.
        spread: Sample standard deviation over seeds; None for one seed.
        lowest: Lowest over seeds.
        highest: Highest over seeds.
        dense: The dense model's score; None where it was not evaluated.
    """

    task: str
    metric: str
    value: str
    runs: int
    mean: float
    spread: float | None
    lowest: float
    highest: float
    dense: float | None


def collect(cells: Sequence[CellResult], kind: str) -> list[Row]:
    """Collect the scores of a study's cells.

    Args:
        cells: What became of them.
        kind: What was varied, a key of :data:`lmkick_plugin.sweep.study.KINDS`.

    Returns:
        Rows in the order of tasks and metrics, then of values.
    """
    dense: dict[tuple[str, str], float] = {}
    found: dict[str, list[dict[tuple[str, str], float]]] = {}
    for cell in cells:
        scores = _scores(cell.results)
        if cell.recipe:
            value = "all" if kind == "seeds" else str(cell.recipe[kind])
            found.setdefault(value, []).append(scores)
        else:
            dense = scores
    names = dict.fromkeys(name for runs in found.values() for scores in runs for name in scores)
    rows = []
    for name in names:
        for value, runs in found.items():
            numbers = [scores[name] for scores in runs if name in scores]
            if numbers:
                rows.append(
                    Row(
                        task=name[0],
                        metric=name[1],
                        value=value,
                        runs=len(numbers),
                        mean=statistics.fmean(numbers),
                        spread=statistics.stdev(numbers) if len(numbers) > 1 else None,
                        lowest=min(numbers),
                        highest=max(numbers),
                        dense=dense.get(name),
                    )
                )
    return rows


def _scores(results: Mapping[str, Path]) -> dict[tuple[str, str], float]:
    """Scores by task and metric; for a group with its own scores, the group's."""
    found: dict[tuple[str, str], float] = {}
    for name, path in results.items():
        data = ResultsFile.read(path).data
        for task in _shown(name, data):
            entry = data.get("groups", {}).get(task) or data["results"].get(task, {})
            for key, value in entry.items():
                metric, _, where = key.partition(",")
                if where and _is_score(value) and not metric.endswith("_stderr"):
                    found[task, metric if where == "none" else key] = float(value)
    return found


def _shown(name: str, data: Mapping[str, Any]) -> list[str]:
    """The group where it has scores, else its members."""
    children = data.get("group_subtasks", {}).get(name, [])
    group = data.get("groups", {}).get(name, {})
    if any(_is_score(value) for key, value in group.items() if "," in key) or not children:
        return [name]
    return [leaf for child in children for leaf in _shown(child, data)]


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(rows: Sequence[Row], what: str) -> str:
    """The rows as an aligned table."""
    header = ["task", "metric", what, "runs", "mean", "spread", "lowest", "highest", "dense"]
    return render_table(
        header,
        [
            [
                row.task, row.metric, row.value, str(row.runs),
                *(
                    "-" if number is None else f"{number:.5g}"
                    for number in (row.mean, row.spread, row.lowest, row.highest, row.dense)
                ),
            ]
            for row in rows
        ],
        text_columns=3,
    )  # fmt: skip


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header."""
    names = [field.name for field in fields(Row)]
    return csv_text([names, *([getattr(row, name) for name in names] for row in rows)])
