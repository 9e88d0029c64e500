# SPDX-License-Identifier: Apache-2.0
"""Scores of cells as lm-eval computed them, and the headline metric of a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmkick_plugin.report.models import Cell
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.results.task_facts import TaskFacts, facts_in, task_order
from lmkick_plugin.results.task_groups import children_of, leaves_of

__all__ = [
    "Score",
    "headline",
    "preferred",
    "scores_of",
    "shown_tasks",
]

# For tasks of others: the first of these that exists, else the task's first metric.
_PREFERRED = (
    "exact_match", "acc_norm", "acc", "contains", "f1", "em", "pass@1", "pass_at_1", "mc2",
    "judge_score", "rougeL", "bleu", "word_perplexity", "token_perplexity", "perplexity",
)  # fmt: skip
# A judge's score says more of these than what needs no judge.
_JUDGED = ("judge_score", "judge_coherence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of one task or group.

    Attributes:
        task: Task or group.
        metric, filter: As in lm-eval's ``metric,filter``.
        value: The score; may be NaN or infinite.
        stderr: Its standard error; None where lm-eval gives none.
        n: Items it was computed over; None where the file does not say.
        file: Its results file.
        group: Whether this is a group's.
        facts: What the task's metadata says of it.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int | None
    file: Path
    group: bool
    facts: TaskFacts = field(default_factory=TaskFacts)


def scores_of(cell: Cell) -> list[Score]:
    """Every score of a cell, the newest where files repeat a task.

    Args:
        cell: The cell.

    Returns:
        In the order of the results files, newest first.
    """
    found: dict[tuple[str, str, str], Score] = {}
    children = children_of(cell.run)
    for file in cell.run.files:
        here = {str(name) for name in file.mapping("results")}
        for task in sorted(here, key=list(file.mapping("results")).index):
            if any(key[0] == task and score.file != file.path for key, score in found.items()):
                continue
            for score in _of_task(file, task, children):
                found[score.task, score.metric, score.filter] = score
    return list(found.values())


def _of_task(
    file: ResultsFile, task: str, children: Mapping[str, Sequence[str]]
) -> Iterator[Score]:
    entry = file.mapping("results").get(task)
    if not isinstance(entry, dict):
        return
    counts = [_count(file, leaf) for leaf in leaves_of(task, children)]
    n = None if any(count is None for count in counts) else sum(c for c in counts if c is not None)
    facts = facts_in(file, task)
    for key, value in entry.items():
        metric, comma, filter_name = str(key).partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        error = entry.get(f"{metric}_stderr,{filter_name}")
        known = isinstance(error, int | float) and math.isfinite(error)
        yield Score(
            task=task,
            metric=metric,
            filter=filter_name,
            value=float(value),
            stderr=float(error) if known and error is not None else None,
            n=n,
            file=file.path,
            group=task in children,
            facts=facts,
        )


def _count(file: ResultsFile, task: str) -> int | None:
    counts = file.mapping("n-samples").get(task)
    effective = counts.get("effective") if isinstance(counts, dict) else None
    return effective if isinstance(effective, int) else None


def shown_tasks(scores: Iterable[Score], children: Mapping[str, Sequence[str]]) -> list[str]:
    """Tasks that a page shows: groups with scores replace their members.

    Args:
        scores: Scores of any cells.
        children: From `children_of`, of all cells together.

    Returns:
        Names, those of this package first, in the README's order.
    """
    scored = list(dict.fromkeys(score.task for score in scores))
    hidden = {leaf for name in scored if name in children for leaf in _below(name, children)}
    order = task_order()
    names = [name for name in scored if name not in hidden]
    return sorted(names, key=lambda n: (order.index(n) if n in order else len(order), n))


def _below(name: str, children: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(children.get(name, []))
    while waiting:
        child = waiting.pop()
        if child not in found and child != name:
            found.add(child)
            waiting += children.get(child, [])
    return found


def headline(
    task: str, scores: Iterable[Score], chosen: Mapping[str, str] | None = None
) -> tuple[str, str] | None:
    """Headline metric and filter of a task.

    Args:
        task: Its name.
        scores: Scores of all cells; those of other tasks are ignored.
        chosen: What the user wants, by task: ``metric`` or ``metric,filter``.

    Returns:
        Metric and filter; None where the task has no score, or not the chosen one.
    """
    scores = list(scores)
    available = list(dict.fromkeys((s.metric, s.filter) for s in scores if s.task == task))
    if chosen and task in chosen:
        metric, comma, filter_name = chosen[task].partition(",")
        wanted = [k for k in available if k[0] == metric and (not comma or k[1] == filter_name)]
        return wanted[0] if wanted else None
    if not available:
        return None
    return preferred(available, next(score.facts for score in scores if score.task == task))


def preferred(available: Sequence[tuple[str, str]], facts: TaskFacts) -> tuple[str, str]:
    """Headline metric and filter among those a task has.

    Args:
        available: Metrics and filters, at least one.
        facts: What the task's metadata says.
    """
    order = [*(_JUDGED if facts.rubric else ()), facts.headline, *_PREFERRED]
    return next((key for metric in order for key in available if key[0] == metric), available[0])
