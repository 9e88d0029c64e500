# SPDX-License-Identifier: Apache-2.0
"""Comparisons of every compressed run with its dense one, computed once per report.

Verdicts and intervals of one run on a task are `PairedStatistics`, of all its tasks `RunVerdict`.
Statements about several runs or tasks at once (:mod:`lmkick_plugin.report.claims`) need more:
*draws*, the scores over draws of the clusters' weights, the same weights for all runs of a task, so
that whatever is computed from them is paired throughout. Where samples were not logged, draws come
from lm-eval's standard errors, independent between runs: wider than the truth for runs that agree
on items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmkick_plugin.report.item_values import Key
from lmkick_plugin.report.models import Cell, Collection, Model
from lmkick_plugin.report.notes import on_runs
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.recall import Recall, compare_recall
from lmkick_plugin.report.run_verdict import RunVerdict, run_verdict
from lmkick_plugin.report.scores import Score, headline, scores_of, shown_tasks
from lmkick_plugin.report.task_pairings import Notes, Pairing, Settings, compare_task
from lmkick_plugin.report.why_not import OTHER
from lmkick_plugin.results.judges import judge_line
from lmkick_plugin.results.results_file import ResultsError
from lmkick_plugin.results.task_facts import TaskFacts
from lmkick_plugin.results.task_groups import children_of, leaves_of
from lmkick_plugin.terminal import plain

__all__ = ["Evidence", "Pairing", "Settings", "gather"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Comparisons and scores of a collection.

    Attributes:
        collection: The runs.
        settings: How they were compared.
        tasks: What a page shows, in its order.
        keys: The metric and filter shown for each task.
        children: Members of groups.
        scores: Of each cell (by name), what lm-eval wrote.
        pairings: By cell's name, task and key.
        notes: What a reader should know.
        recalls: A run's facts against those of the dense one, one per source, by cell's name.
        recall_notes: Why there are none of a source, likewise.
        left_out: Why a run is not compared on a task, by cell's name and task.
    """

    collection: Collection
    settings: Settings
    tasks: tuple[str, ...]
    keys: Mapping[str, Key]
    children: Mapping[str, Sequence[str]]
    scores: Mapping[str, Sequence[Score]]
    pairings: Mapping[tuple[str, str, Key], Pairing]
    notes: tuple[str, ...]
    recalls: Mapping[str, tuple[Recall, ...]] = field(default_factory=dict)
    recall_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _index: dict[tuple[str, str, Key], Score] = field(default_factory=dict)

    def key(self, task: str, metric: str | None = None) -> Key | None:
        """Headline metric and filter of a task, or a given metric with its first filter."""
        if metric is None:
            return self.keys.get(task)
        for scores in self.scores.values():
            for score in scores:
                if score.task == task and score.metric == metric:
                    return score.metric, score.filter
        return None

    def score(self, cell: Cell, task: str, metric: str | None = None) -> Score | None:
        """Score of a cell as lm-eval wrote it."""
        key = self.key(task, metric)
        return None if key is None else self._index.get((cell.name, task, key))

    def pairing(self, cell: Cell, task: str, metric: str | None = None) -> Pairing | None:
        """A cell against its dense model; None where it is dense or cannot be compared."""
        key = self.key(task, metric)
        return None if key is None else self.pairings.get((cell.name, task, key))

    def why_not(self, model: Model, cell: Cell, task: str) -> str:
        """Why a run is not compared on a task of which both runs have a score; else empty."""
        if model.dense in (None, cell) or self.pairing(cell, task) is not None:
            return ""
        if any(self.score(one, task) is None for one in (model.dense, cell)):
            return ""
        return self.left_out.get((cell.name, task), OTHER)

    def statistics(self, cell: Cell) -> dict[str, PairedStatistics]:
        """Statistics of a cell's headline metrics, by task shown."""
        found = {task: self.pairing(cell, task) for task in self.tasks}
        return {task: one.statistics for task, one in found.items() if one is not None}

    def verdict(self, cell: Cell, name: str | None = None) -> RunVerdict:
        """The verdict on a cell over its tasks; of the dense one, an empty *cannot tell*.

        Args:
            cell: The run.
            name: What the sentence calls it; its label by default.
        """
        return run_verdict(
            self.statistics(cell),
            name=name or cell.label,
            knowledge=self.knowledge(cell),
            tolerance=self.settings.tolerance,
        )

    def knowledge(self, cell: Cell) -> list[str]:
        """Tasks of a cell whose YAML says ``knowledge: true``."""
        return [task for task in self.tasks if self.facts(cell, task).knowledge]

    def facts(self, cell: Cell, task: str) -> TaskFacts:
        """Facts about a task from a cell's results file; the defaults where it has no score."""
        score = self.score(cell, task)
        return TaskFacts() if score is None else score.facts

    def items(self, cell: Cell, task: str, key: Key | None = None) -> int | None:
        """Items behind a score: those compared (windows of a perplexity), else as lm-eval counts.

        Args:
            cell: The run; of the dense one, what others are compared with.
            task: A task or group.
            key: Metric and filter; by default those that stand for the task.
        """
        key = key or self.keys.get(task)
        if key is None:
            return None
        cells = next((m.cells for m in self.collection.models if m.dense is cell), (cell,))
        found = [self.pairings.get((one.name, task, key)) for one in cells]
        score = self._index.get((cell.name, task, key))
        counted = None if score is None else score.n
        return max((one.statistics.n for one in found if one is not None), default=counted)

    def judge(self, cell: Cell, task: str) -> str | None:
        """The line that says how far the judge of a task's scores can be trusted."""
        file = cell.run.tasks.get(task)
        return None if file is None else judge_line(file, task)

    def truncated(self, cell: Cell, task: str) -> int:
        """Cut prompts of a task or group, where known."""
        return sum(cell.truncated(leaf) or 0 for leaf in leaves_of(task, self.children))

    def metrics(self, task: str) -> list[Key]:
        """Every metric of a task in any cell."""
        return list(
            dict.fromkeys(
                (score.metric, score.filter)
                for scores in self.scores.values()
                for score in scores
                if score.task == task
            )
        )


def gather(
    collection: Collection, settings: Settings | None = None, *, progress: bool = False
) -> Evidence:
    """Compare every run with its dense one.

    Args:
        collection: The runs.
        settings: How.
        progress: Whether to show a bar.

    Returns:
        What was found. Runs or tasks that cannot be compared are left out, with a note.

    Raises:
        ResultsError: A metric that was asked for is not there.
    """
    settings = settings or Settings()
    scores = {cell.name: scores_of(cell) for cell in collection.cells}
    every = [score for found in scores.values() for score in found]
    children: dict[str, list[str]] = {}
    for cell in reversed(collection.cells):
        children |= children_of(cell.run)
    tasks = shown_tasks(every, children)
    keys = _keys(tasks, every, children, settings.metrics)
    said = Notes()
    recalls: dict[str, tuple[Recall, ...]] = {}
    recall_notes: dict[str, tuple[str, ...]] = {}
    for model in collection.models:
        whole = model.dense
        if whole is None:
            continue
        for cell in model.cells:
            for note in on_runs(whole.run, cell.run):
                said.add(note, cell.label)
            facts, why_not = compare_recall(whole.run, cell.run, rule=settings)
            recalls[cell.name], recall_notes[cell.name] = tuple(facts), tuple(why_not)
    pairings: dict[tuple[str, str, Key], Pairing] = {}
    work = [
        (model, task) for model in collection.models if model.dense for task in tasks if model.cells
    ]
    for model, task in _bar(work, progress):
        pairings |= compare_task(model, task, keys, children, settings, said)
    notes = [*collection.notes, *said.lines(), *_nan_notes(scores, tasks, keys)]
    return Evidence(
        collection=collection,
        settings=settings,
        tasks=tuple(task for task in tasks if task in keys),
        keys=keys,
        children=children,
        scores=scores,
        pairings=pairings,
        notes=tuple(dict.fromkeys(notes)),
        recalls=recalls,
        recall_notes=recall_notes,
        left_out=said.left_out,
        _index={
            (name, score.task, (score.metric, score.filter)): score
            for name, found in scores.items()
            for score in found
        },
    )


def _bar(work: Sequence[tuple[Model, str]], progress: bool) -> Iterable[tuple[Model, str]]:
    from tqdm import tqdm

    return tqdm(work, desc="Comparing", unit="task", disable=not progress, leave=False)


def _keys(
    tasks: Sequence[str],
    scores: Sequence[Score],
    children: Mapping[str, Sequence[str]],
    chosen: Mapping[str, str],
) -> dict[str, Key]:
    known = {score.task for score in scores}
    for task in chosen:
        if task not in known:
            raise ResultsError(
                f"no task {plain(task)} to choose a metric of; there are {plain(', '.join(tasks))}"
            )
    keys: dict[str, Key] = {}
    parts = [child for group in tasks for child in children.get(group, [])]
    for task in [*tasks, *parts]:
        mine = {task: chosen[task]} if task in chosen else {}
        key = headline(task, scores, mine)
        if key is not None:
            keys[task] = key
        elif mine:
            has = sorted({score.metric for score in scores if score.task == task})
            raise ResultsError(
                f"{plain(task)} has no metric {plain(chosen[task])}; it has {plain(', '.join(has))}"
            )
    for task in tasks:  # the parts of a group by the group's own metric
        for child in children.get(task, []):
            if task in keys and any(
                score.task == child and (score.metric, score.filter) == keys[task]
                for score in scores
            ):
                keys[child] = keys[task]
    return keys


def _nan_notes(
    scores: Mapping[str, Sequence[Score]], tasks: Sequence[str], keys: Mapping[str, Key]
) -> list[str]:
    broken: dict[str, int] = {}
    for found in scores.values():
        for score in found:
            shown = score.task in tasks and keys.get(score.task) == (score.metric, score.filter)
            if shown and not np.isfinite(score.value):
                broken[score.task] = broken.get(score.task, 0) + 1
    return [
        f"{plain(task)}: the score of {count} run{'s' if count > 1 else ''} is not a finite"
        " number: no verdict there"
        for task, count in broken.items()
    ]
