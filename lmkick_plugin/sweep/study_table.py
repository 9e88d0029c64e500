# SPDX-License-Identifier: Apache-2.0
"""What a study found: mean and spread over seeds, by task, metric and value."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lmkick_plugin.sweep.study_plan import Cell
from lmkick_plugin.terminal import render_table

__all__ = ["Row", "as_csv", "as_text", "collect"]


@dataclass(frozen=True)
class Row:
    """One score of one value.

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


def collect(found: Sequence[tuple[Cell, Path]], tasks: Sequence[str]) -> list[Row]:
    """Bring the scores of all cells together.

    Args:
        found: Cells with their results files.
        tasks: The names that were asked for; of a group with scores of its own, the group's.

    Returns:
        Rows sorted as tasks and metrics come, then values.
    """
    scores = [(cell, _scores(path, tasks)) for cell, path in found]
    dense = next((score for cell, score in scores if cell.value is None), {})
    values = list(dict.fromkeys(cell.value for cell, _ in scores if cell.value is not None))
    names = list(dict.fromkeys(name for _, score in scores for name in score))
    rows = []
    for task, metric in names:
        for value in values:
            runs = [
                s[task, metric] for cell, s in scores if cell.value == value if (task, metric) in s
            ]
            if runs:
                rows.append(
                    Row(
                        task=task,
                        metric=metric,
                        value=value,
                        runs=len(runs),
                        mean=statistics.fmean(runs),
                        spread=statistics.stdev(runs) if len(runs) > 1 else None,
                        lowest=min(runs),
                        highest=max(runs),
                        dense=dense.get((task, metric)),
                    )
                )
    return rows


def _scores(path: Path, tasks: Sequence[str]) -> dict[tuple[str, str], float]:
    data = json.loads(path.read_text(encoding="utf-8"))
    found: dict[tuple[str, str], float] = {}
    for task in dict.fromkeys(leaf for name in tasks for leaf in _shown(name, data)):
        entry = data.get("groups", {}).get(task) or data["results"].get(task, {})
        for key, value in entry.items():
            metric, _, where = key.partition(",")
            if where and _is_score(value) and not metric.endswith("_stderr"):
                found[task, metric if where == "none" else key] = float(value)
    return found


def _shown(name: str, data: Mapping[str, Any]) -> list[str]:
    """The group itself where it has scores, else what is in it."""
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
    """The rows as CSV, below a line with the names of the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
