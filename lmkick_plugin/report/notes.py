# SPDX-License-Identifier: Apache-2.0
"""Notes beside the numbers of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmkick_plugin.report.comparison_table import Row
from lmkick_plugin.report.item_pairs import Pair
from lmkick_plugin.results.judges import judge_line
from lmkick_plugin.results.results_file import ResultsFile, fallbacks
from lmkick_plugin.results.runs import Run
from lmkick_plugin.terminal import plain

__all__ = ["on_empty_answers", "on_missing_verdicts", "on_row", "on_runs", "on_tasks"]

#: Rise of the share of empty answers from which on it is said.
_MORE_EMPTY = 0.2


def on_runs(dense: Run, compressed: Run) -> list[str]:
    """Notes that weaken a comparison of two runs.

    Args:
        dense: The reference.
        compressed: What is compared with it.

    Returns:
        Lines for people.
    """
    notes = []
    first, second = dense.record, compressed.record
    if dense.files == compressed.files:
        notes.append("both are the same run")
    elif first.get("weights_sha256") and first["weights_sha256"] == second.get("weights_sha256"):
        notes.append("both runs record the same weights_sha256: the same model, evaluated twice")
    if first.get("compressor") not in (None, "none") and second.get("compressor") == "none":
        notes.append("the reference is the compressed model and the second run is dense: swapped?")
    for key in ("base_model", "base_revision", "revision", "subfolder", "adapter", "dtype"):
        if first and second and first.get(key) != second.get(key):
            notes.append(f"{key} differs: {first.get(key)} against {second.get(key)}")
    notes += [line for run in (dense, compressed) if (line := fallbacks(run.record)) is not None]
    return notes


def _is_part(counts: Mapping[str, Any]) -> bool:
    """Whether fewer items were evaluated than there are; windows of a text can be more."""
    evaluated, there = counts.get("effective"), counts.get("original")
    return isinstance(evaluated, int) and isinstance(there, int) and evaluated < there


def on_tasks(pairs: Mapping[str, tuple[ResultsFile, ResultsFile]]) -> list[str]:
    """Notes on how the tasks were evaluated.

    Args:
        pairs: The reference's and the other's evaluation of each task.

    Returns:
        Lines for people, one for all tasks of which the same is to be said.
    """
    said: dict[str, list[str]] = {}
    for task, files in pairs.items():
        counts = files[0].mapping("n-samples").get(task)
        if isinstance(counts, dict) and _is_part(counts):
            said.setdefault("evaluated on a part of the data (limit)", []).append(task)
        for file in files:
            judge = judge_line(file, task)
            if judge is not None:
                said.setdefault(f"{file.label}: {judge}", []).append(task)
            cut = file.record.get("truncated_prompts")
            if isinstance(cut, dict) and cut.get(task):
                said.setdefault(f"{cut[task]} prompts did not fit in {file.label}", []).append(task)
        lengths = [file.data.get("max_length") for file in files]
        if lengths[0] != lengths[1]:
            line = f"context of {lengths[0]} tokens against {lengths[1]}"
            said.setdefault(line, []).append(task)
    return [f"{line}: {plain(', '.join(tasks), limit=120)}" for line, tasks in said.items()]


def on_empty_answers(task: str, pairs: Sequence[Pair]) -> str | None:
    """A note where a model answers nothing at all more often than its reference.

    Args:
        task: Name of the task.
        pairs: Its items.

    Returns:
        A line for people; None where there is no such rise, or nothing was generated.
    """
    first, second = ([pair[i].empty for pair in pairs] for i in (0, 1))
    if None in first or None in second:
        return None
    before, after = (sum(filter(None, side)) / len(pairs) for side in (first, second))
    if after - before < _MORE_EMPTY:
        return None
    return (
        f"{task}: {100 * after:.0f} % of the answers are empty, against {100 * before:.0f} % of "
        "the reference's. Solved examples (--num_fewshot, recall_kick_shown) may tell a lost form "
        "from lost knowledge"
    )


def on_missing_verdicts(rows: Sequence[Row]) -> list[str]:
    """Reasons for missing verdicts, one line each."""
    said: dict[str, list[str]] = {}
    for row in rows:
        found = row.statistics
        if found.can_have_verdict and found.verdict is None and found.dense == found.dense:
            where = row.metric if row.filter == "none" else f"{row.metric},{row.filter}"
            said.setdefault(found.reason, []).append(f"{row.name} {where}")
    return [f"no verdict on {plain(', '.join(w), limit=160)}: {r}" for r, w in said.items()]


def on_row(row: Row, dense: Run) -> list[str]:
    """Notes on one row of the table.

    Args:
        row: The row.
        dense: The reference.

    Returns:
        Lines for people.
    """
    found = row.statistics
    where = f"{row.name}, {row.metric}" + ("" if row.filter == "none" else f",{row.filter}")
    notes = []
    if math.isnan(found.dense) or math.isnan(found.compressed):
        which = [run for run, x in (("first", found.dense), ("second", found.compressed)) if x != x]
        notes.append(f"{where}: the score of the {' and the '.join(which)} run is NaN: no verdict")
    reported = dense.score(row.name, row.metric, row.filter)
    if row.kind == "group" and reported is not None:
        agrees = math.isclose(found.dense, reported, rel_tol=1e-6, abs_tol=1e-9)
        if not agrees and not math.isnan(reported):
            notes.append(
                f"{where}: over all items {found.dense:.4f}; lm-eval reports {reported:.4f},"
                " averaged another way"
            )
    return notes
