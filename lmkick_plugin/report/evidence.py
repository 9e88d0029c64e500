# SPDX-License-Identifier: Apache-2.0
"""Every compressed run against its dense one, on the same items, once for everything on a page.

Verdicts and intervals of one run are `paired_statistics`. Statements about several runs or tasks at
once (:mod:`lmkick_plugin.report.claims`) need more: *draws*, the scores over resamples of the items
where the same resample is used for all runs of a task, so that whatever is computed from draws is
paired throughout. Where samples were not logged, draws are normal with lm-eval's standard errors,
independent between runs: wider than the truth, never narrower, for runs that agree on items.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmkick_plugin.report.collecting import Cell, Collection, Model
from lmkick_plugin.report.comparability import differences
from lmkick_plugin.report.grouping import children_of, leaves_of
from lmkick_plugin.report.measuring import Key, Measured, measure_task, pool
from lmkick_plugin.report.output import plain
from lmkick_plugin.report.pairing import MismatchError
from lmkick_plugin.report.results import ResultsError, ResultsFile
from lmkick_plugin.report.samples import SamplesError
from lmkick_plugin.report.scores import Score, headline, scores_of, shown_tasks
from lmkick_plugin.report.scoring import ItemValues, Scoring, scoring_of
from lmkick_plugin.report.statistics import (
    DEFAULT_RESAMPLES,
    DEFAULT_TOLERANCE,
    FloatArray,
    PairedStatistics,
    bootstrap_sums,
    check_settings,
    paired_statistics,
    statistics_of_draws,
)

__all__ = ["CLAIM_RESAMPLES", "Evidence", "Pairing", "Settings", "gather"]

CLAIM_RESAMPLES = 2_000
"""Resamples behind statements about several runs; their 95 % intervals need no more."""

_ALSO = (
    "acc_greedy", "jsd", "judge_coherence", "judge_consistency", "judge_fluency",
    "judge_relevance", "judge_score", "rougeL", "token_perplexity", "top1_agreement",
    "unique_words",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How runs are compared.

    Attributes:
        tolerance: e0 of matching.
        resamples: Of each pair.
        seed: Of all resamples.
        metrics: What the user wants to stand for a task, by task.
    """

    tolerance: float = DEFAULT_TOLERANCE
    resamples: int = DEFAULT_RESAMPLES
    seed: int = 0
    metrics: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One metric of one task: a run against the dense one.

    Attributes:
        statistics: Scores, interval, verdict, flips.
        paired: Whether items were paired; False where standard errors had to do.
        dense_draws, draws: float64 [CLAIM_RESAMPLES], the two scores over resamples.
        rule: How matching is defined for the metric.
        files: The two results files.
    """

    statistics: PairedStatistics
    paired: bool
    dense_draws: FloatArray
    draws: FloatArray
    rule: str | None
    files: tuple[ResultsFile, ResultsFile]


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is known of a collection.

    Attributes:
        collection: The runs.
        settings: How they were compared.
        tasks: What a page shows, in its order.
        keys: The metric and filter that stand for each task.
        children: Members of groups.
        scores: Of each cell (by name), what lm-eval wrote.
        pairings: By cell's name, task and key.
        notes: What a reader should know.
    """

    collection: Collection
    settings: Settings
    tasks: tuple[str, ...]
    keys: Mapping[str, Key]
    children: Mapping[str, Sequence[str]]
    scores: Mapping[str, Sequence[Score]]
    pairings: Mapping[tuple[str, str, Key], Pairing]
    notes: tuple[str, ...]
    _index: dict[tuple[str, str, Key], Score] = field(default_factory=dict)

    def key(self, task: str, metric: str | None = None) -> Key | None:
        """The metric and filter that stand for a task, or a metric of it with its first filter."""
        if metric is None:
            return self.keys.get(task)
        for scores in self.scores.values():
            for score in scores:
                if score.task == task and score.metric == metric:
                    return score.metric, score.filter
        return None

    def score(self, cell: Cell, task: str, metric: str | None = None) -> Score | None:
        """What lm-eval wrote of a cell."""
        key = self.key(task, metric)
        return None if key is None else self._index.get((cell.name, task, key))

    def pairing(self, cell: Cell, task: str, metric: str | None = None) -> Pairing | None:
        """A cell against its dense model; None where they cannot be compared, or it is dense."""
        key = self.key(task, metric)
        return None if key is None else self.pairings.get((cell.name, task, key))

    def metrics(self, task: str) -> list[Key]:
        """Every metric that some cell has of a task."""
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
        StatisticsError: A setting is out of range.
    """
    settings = settings or Settings()
    check_settings(tolerance=settings.tolerance, resamples=settings.resamples)
    scores = {cell.name: scores_of(cell) for cell in collection.cells}
    every = [score for found in scores.values() for score in found]
    children: dict[str, list[str]] = {}
    for cell in reversed(collection.cells):
        children |= children_of(cell.run)
    tasks = shown_tasks(every, children)
    keys = _keys(tasks, every, children, settings.metrics)
    said = _Notes()
    pairings: dict[tuple[str, str, Key], Pairing] = {}
    work = [
        (model, task) for model in collection.models if model.dense for task in tasks if model.cells
    ]
    for model, task in _bar(work, progress):
        pairings |= _compare(model, task, keys, children, settings, said)
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


class _Notes:
    """Remarks with the runs they are about, each said once."""

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {}

    def add(self, line: str, label: str) -> None:
        labels = self._said.setdefault(line, [])
        if label not in labels:
            labels.append(label)

    def lines(self) -> list[str]:
        return [
            f"{plain(line, limit=600)} ({plain(', '.join(labels), limit=160)})"
            for line, labels in self._said.items()
        ]


def _compare(
    model: Model,
    task: str,
    keys: Mapping[str, Key],
    children: Mapping[str, Sequence[str]],
    settings: Settings,
    said: _Notes,
) -> dict[tuple[str, str, Key], Pairing]:
    """One task, and the parts of a group, of all runs of a model."""
    dense = model.dense
    if dense is None or task not in keys:
        return {}
    wanted = {keys[task][0], *_ALSO}
    leaves = leaves_of(task, children)
    measured: dict[str, dict[str, dict[Key, Measured]]] = {}  # cell, leaf
    files: dict[str, tuple[ResultsFile, ResultsFile]] = {}
    unpaired: list[Cell] = []
    for cell in model.cells:
        here = [leaf for leaf in leaves if leaf in cell.run.tasks]
        if not here:
            continue
        absent = [leaf for leaf in leaves if leaf not in dense.run.tasks]
        if absent or len(here) < len(leaves):
            missing = absent or [leaf for leaf in leaves if leaf not in here]
            said.add(
                f"{task}: not compared: not evaluated: {plain(', '.join(missing), limit=80)}",
                dense.label if absent else cell.label,
            )
            continue
        files[cell.name] = (dense.run.tasks[here[0]], cell.run.tasks[here[0]])
        parts, without_samples = _measure(cell, dense, here, wanted, said)
        if parts is not None:
            measured[cell.name] = parts
        elif without_samples:
            unpaired.append(cell)
    found: dict[tuple[str, str, Key], Pairing] = {}
    for name in [task, *(child for child in children.get(task, []) if child in children)]:
        members = leaves_of(name, children)
        pooled = {cell: _pooled(parts, members) for cell, parts in measured.items()}
        found |= _pairings(name, pooled, files, settings)
        for cell in unpaired:
            found |= _by_errors(name, cell, dense, files[cell.name], wanted, settings)
    return found


def _measure(
    cell: Cell, dense: Cell, leaves: Sequence[str], wanted: set[str], said: _Notes
) -> tuple[dict[str, dict[Key, Measured]] | None, bool]:
    """Items of each leaf; or None, and whether that is for want of samples alone."""
    parts: dict[str, dict[Key, Measured]] = {}
    for leaf in leaves:
        first, second = dense.run.tasks[leaf], cell.run.tasks[leaf]
        notes: list[str] = []
        try:
            if not (first.samples_path(leaf).is_file() and second.samples_path(leaf).is_file()):
                differing = differences(leaf, first, second)
                if differing:
                    raise MismatchError(f"{leaf}: {'; '.join(differing)}")
                said.add(
                    f"{_root(leaf)}: samples were not logged (--log_samples): intervals from"
                    " lm-eval's standard errors, without pairing items",
                    cell.label,
                )
                return None, True
            parts[leaf], _ = measure_task(leaf, first, second, sorted(wanted), notes)
        except (MismatchError, ResultsError, SamplesError, OSError) as error:
            said.add(f"not compared: {error}", cell.label)
            return None, False
        for note in notes:
            said.add(note, cell.label)
    return parts, False


def _root(leaf: str) -> str:
    return "MMLU" if leaf.startswith("mmlu_") else leaf


def _pooled(
    parts: Mapping[str, Mapping[Key, Measured]], members: Sequence[str]
) -> dict[Key, Measured]:
    if not all(member in parts for member in members):
        return {}
    shared = [k for k in parts[members[0]] if all(k in parts[member] for member in members)]
    return {
        key: parts[members[0]][key]
        if len(members) == 1
        else pool([parts[member][key] for member in members])
        for key in shared
    }


def _pairings(
    task: str,
    pooled: Mapping[str, Mapping[Key, Measured]],
    files: Mapping[str, tuple[ResultsFile, ResultsFile]],
    settings: Settings,
) -> dict[tuple[str, str, Key], Pairing]:
    found: dict[tuple[str, str, Key], Pairing] = {}
    keys = dict.fromkeys(key for metrics in pooled.values() for key in metrics)
    for key in keys:
        cells = {name: metrics[key] for name, metrics in pooled.items() if key in metrics}
        for together in _aligned(cells):
            draws = _draws(task, list(together.values()), settings.seed)
            for (name, one), own in zip(together.items(), draws[1:], strict=True):
                statistics = paired_statistics(
                    one.dense.values,
                    one.compressed.values,
                    weights=one.dense.weights,
                    transform=one.scoring.transform,
                    rule=one.scoring.rule,
                    flips=one.flips,
                    tolerance=settings.tolerance,
                    resamples=settings.resamples,
                    seed=settings.seed,
                )
                found[name, task, key] = Pairing(
                    statistics=statistics,
                    paired=True,
                    dense_draws=draws[0],
                    draws=own,
                    rule=one.scoring.rule,
                    files=files[name],
                )
    return found


def _aligned(cells: Mapping[str, Measured]) -> list[dict[str, Measured]]:
    """Cells whose dense items are the same ones, which can share resamples."""
    groups: dict[bytes, dict[str, Measured]] = {}
    for name, one in cells.items():
        groups.setdefault(one.dense.values.tobytes(), {})[name] = one
    return list(groups.values())


def _draws(task: str, members: Sequence[Measured], seed: int) -> list[FloatArray]:
    """Scores over resamples: of the dense model, then of each member."""
    first = members[0].dense
    items: list[ItemValues] = [first, *(one.compressed for one in members)]
    weights = [] if first.weights is None else [first.weights]
    columns = np.stack([*(item.values for item in items), *weights], axis=1)
    scoring: Scoring = members[0].scoring
    with np.errstate(all="ignore"):  # inf and nan are results here
        sums = bootstrap_sums(columns, resamples=CLAIM_RESAMPLES, seed=_seed(task, seed))
        below = sums[:, -1] if weights else np.full(len(sums), float(len(columns)))
        ratios = [sums[:, i] / below for i in range(len(items))]
        return [r if scoring.transform is None else scoring.transform(r) for r in ratios]


def _seed(text: str, seed: int) -> int:
    return seed + zlib.crc32(text.encode())


def _by_errors(
    task: str,
    cell: Cell,
    dense: Cell,
    files: tuple[ResultsFile, ResultsFile],
    wanted: set[str],
    settings: Settings,
) -> dict[tuple[str, str, Key], Pairing]:
    """What scores and standard errors say where items are not known."""
    of_dense = {(s.metric, s.filter): s for s in scores_of(dense) if s.task == task}
    found: dict[tuple[str, str, Key], Pairing] = {}
    for score in scores_of(cell):
        key = (score.metric, score.filter)
        other = of_dense.get(key)
        if score.task != task or score.metric not in wanted or other is None:
            continue
        if score.stderr is None or other.stderr is None or score.n is None:
            continue
        scoring = scoring_of(
            score.metric, higher_is_better=files[0].higher_is_better(task, score.metric)
        )
        drawn = [
            np.random.default_rng(_seed(f"{who}/{task}/{key}", settings.seed)).normal(
                one.value, one.stderr or 0.0, CLAIM_RESAMPLES
            )
            for who, one in ((dense.name, other), (cell.name, score))
        ]
        found[cell.name, task, key] = Pairing(
            statistics=statistics_of_draws(
                n=score.n,
                dense=other.value,
                compressed=score.value,
                dense_draws=drawn[0],
                draws=drawn[1],
                rule=scoring.rule,
                tolerance=settings.tolerance,
            ),
            paired=False,
            dense_draws=drawn[0],
            draws=drawn[1],
            rule=scoring.rule,
            files=files,
        )
    return found


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
