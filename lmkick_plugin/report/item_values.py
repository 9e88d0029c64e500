# SPDX-License-Identifier: Apache-2.0
"""Paired numbers from pairs of samples, metric by metric, or why a metric is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmkick_plugin.report.bootstrap import FloatArray
from lmkick_plugin.report.clusters import joined, numbered
from lmkick_plugin.report.flips import Flips, flips_of
from lmkick_plugin.report.formatting import plural
from lmkick_plugin.report.item_pairs import Pair, pair_items
from lmkick_plugin.report.notes import on_empty_answers
from lmkick_plugin.report.paired_statistics import PairedStatistics, paired_statistics
from lmkick_plugin.report.scoring import ItemValues, Scoring, UnusableValuesError, scoring_of
from lmkick_plugin.report.verdict import Rule
from lmkick_plugin.report.why_not import ASKED, NAN, OTHER
from lmkick_plugin.results.judges import judges_differ
from lmkick_plugin.results.results_file import ResultsError, ResultsFile
from lmkick_plugin.results.samples import Value
from lmkick_plugin.results.task_facts import facts_in

__all__ = ["Key", "Measured", "measure_task", "pool"]

Key: TypeAlias = tuple[str, str]
"""Metric and filter, as in lm-eval's ``metric,filter``."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of a task, or of a group's pooled tasks, on both runs' items.

    Attributes:
        scoring: Facts about the metric.
        dense, compressed: The values, item by item in the same order.
        clusters: int64 [n], the cluster of each item, 0 ... K-1; None where each item is its own.
        changed: Whether the chosen answers differ, of a binary metric; None where they are not
            known.
        available: Items that the task has; None where it is not known.
    """

    scoring: Scoring
    dense: ItemValues
    compressed: ItemValues
    clusters: NDArray[np.int64] | None
    changed: NDArray[np.bool_] | None
    available: int | None = None

    @property
    def flips(self) -> Flips | None:
        """Flips of right and wrong answers; None for a graded metric."""
        if not self.scoring.metric.binary:
            return None
        return flips_of(
            self.dense.values,
            self.compressed.values,
            answer_changed=self.changed,
            clusters=self.clusters,
        )

    def statistics(self, rule: Rule) -> PairedStatistics:
        """Compare the two runs.

        Args:
            rule: Tolerance, resamples, seed.
        """
        return paired_statistics(
            self.dense.values,
            self.compressed.values,
            weights=self.dense.weights,
            clusters=self.clusters,
            metric=self.scoring.metric,
            flips=self.flips,
            available=self.available,
            rule=rule,
        )


class _NotComparedError(Exception):
    """Reason why a metric is left out: a note, not a failure; ``why`` is it in few words."""

    def __init__(self, reason: str, why: str = OTHER) -> None:
        super().__init__(reason)
        self.why = why


def measure_task(
    task: str,
    dense: ResultsFile,
    compressed: ResultsFile,
    metrics: Sequence[str],
    notes: list[str],
    *,
    requested: Sequence[str] = (),
    left_out: dict[Key, str] | None = None,
) -> tuple[dict[Key, Measured], set[str]]:
    """Pair one task's items and read every metric's values.

    Args:
        task: Name of the task.
        dense: First evaluation.
        compressed: Second evaluation.
        metrics: Metric names to keep; all if empty.
        notes: Lines on what is left out are added here.
        requested: Metrics that the user asked for by name.
        left_out: Metrics that are left out are added here, with `why_not`'s words.

    Returns:
        The metrics that can be compared, and the names of all metrics that the items have.

    Raises:
        MismatchError: If the items differ.
        ResultsError: Where samples were not logged.
        SamplesError: Where a samples file is broken.
    """
    measured: dict[Key, Measured] = {}
    names: set[str] = set()
    _check_floors(task, dense)
    for filter_name, pairs in pair_items(task, dense, compressed).items():
        available = _metrics_of(pairs)
        names.update(available)
        empty = on_empty_answers(task, pairs)
        if empty is not None and empty not in notes:
            notes.append(empty)
        for metric in available:
            if metrics and metric not in metrics:
                continue
            try:
                measured[metric, filter_name] = _measure(
                    task, metric, filter_name, pairs, dense, compressed, notes, metric in requested
                )
            except (_NotComparedError, UnusableValuesError) as reason:
                notes.append(f"{task}, {metric}: not compared: {reason}")
                if left_out is not None:
                    left_out[metric, filter_name] = getattr(reason, "why", OTHER)
    return measured, names


def _metrics_of(pairs: Sequence[Pair]) -> list[str]:
    """Metrics that every item of both runs has, in the first item's order."""
    common = set.intersection(*(set(sample.values) for pair in pairs for sample in pair))
    return [metric for metric in pairs[0][0].values if metric in common]


def _measure(
    task: str,
    metric: str,
    filter_name: str,
    pairs: Sequence[Pair],
    dense: ResultsFile,
    compressed: ResultsFile,
    notes: list[str],
    requested: bool,
) -> Measured:
    if metric == "bypass":
        raise _NotComparedError("the run was made with --predict_only and has no scores")
    judges = judges_differ(task, metric, dense, compressed)
    if judges is not None:
        raise _NotComparedError(judges)
    scoring = scoring_of(
        metric,
        higher_is_better=dense.higher_is_better(task, metric),
        floor=facts_in(dense, task).floors.get(metric, 0.0),
        requested=requested,
    )
    scored = [p for p in pairs if all(_has_score(metric, s.values[metric]) for s in p)]
    dropped = len(pairs) - len(scored)
    if not scored:
        raise _NotComparedError("no item has a score in both runs")
    if dropped:
        notes.append(f"{task}, {metric}: {dropped} of {len(pairs)} items without a score left out")
    first, second = (scoring.items([pair[i].values[metric] for pair in scored]) for i in (0, 1))
    _check_sizes(first, second)
    if not dropped:
        for items, file in ((first, dense), (second, compressed)):
            _check_score(items, scoring, file.score(task, metric, filter_name))
    scoring = scoring.of_values(first.values, second.values)
    changed = None
    if scoring.metric.binary:
        delimiter = dense.target_delimiter(task)
        answers = [
            tuple(s.answer(metric, target_delimiter=delimiter) for s in pair) for pair in scored
        ]
        if all(a is not None and b is not None for a, b in answers):
            changed = np.asarray([a != b for a, b in answers], dtype=np.bool_)
    clusters = numbered([pair[0] for pair in scored], len(first.values))
    unknown = f"{task}: the samples do not say which items belong together: each by itself"
    if clusters is None and unknown not in notes:  # once for all metrics
        notes.append(unknown)
    available = None if len(first.values) != len(scored) else _available(task, dense)
    return Measured(scoring, first, second, clusters, changed, available)


def _available(task: str, file: ResultsFile) -> int | None:
    counts = file.mapping("n-samples").get(task)
    original = counts.get("original") if isinstance(counts, dict) else None
    return original if isinstance(original, int) and original > 0 else None


def _check_floors(task: str, file: ResultsFile) -> None:
    """Refuse floors of missing metrics, or that are not numbers."""
    config = file.mapping("configs").get(task)
    listed = config.get("metric_list") if isinstance(config, dict) else None
    names = {one.get("metric") for one in listed if isinstance(one, dict)} if listed else set()
    names |= {str(key).partition(",")[0] for key in file.mapping("results").get(task, ())}
    floors: Mapping[str, object] = facts_in(file, task).floors
    for metric, floor in floors.items():
        if metric not in names and not metric.startswith("judge_"):
            known = ", ".join(sorted(n for n in map(str, names) if not n.endswith("_stderr")))
            raise ResultsError(f"{task}: metadata floors: no metric {metric}; it has {known}")
        if (
            isinstance(floor, bool)
            or not isinstance(floor, int | float)
            or not math.isfinite(floor)
        ):
            raise ResultsError(f"{task}: metadata floors: {metric}: {floor!r} is not a number")


def _check_sizes(first: ItemValues, second: ItemValues) -> None:
    """Refuse items that are different texts in the two runs."""
    if first.values.shape != second.values.shape:
        raise _NotComparedError(
            f"{len(first.values)} windows against {len(second.values)}: another tokenizer or"
            " context length",
            ASKED,
        )
    if not _equal(first.weights, second.weights):
        raise _NotComparedError("the items' sizes differ between the runs", ASKED)


def _equal(first: FloatArray | None, second: FloatArray | None) -> bool:
    if first is None or second is None:
        return first is second
    return bool(np.array_equal(first, second))


def _has_score(metric: str, value: Value) -> bool:
    # A judge's unusable reply says nothing of the answer. A NaN of any other metric is the model's
    # own and stays: leaving out the items on which it broke would flatter it.
    unusable = metric.startswith("judge_") and isinstance(value, float) and math.isnan(value)
    return value is not None and not unusable


def _check_score(items: ItemValues, scoring: Scoring, reported: float | None) -> None:
    """Refuse a metric whose score differs from the aggregate of its items."""
    score = items.score(scoring.metric.transform)
    if reported is None or (math.isnan(score) and math.isnan(reported)):
        return
    broken = int(np.isnan(items.values).sum())
    if broken:
        raise _NotComparedError(
            f"{broken} of {plural(len(items.values), 'item')} are NaN, and the results file says"
            f" {reported:.6g}",
            NAN,
        )
    if not math.isclose(score, reported, rel_tol=1e-6, abs_tol=1e-9):
        raise _NotComparedError(
            f"its items average {score:.6g} and the results file says {reported:.6g}: the metric "
            "is not a mean, or the samples are of another run"
        )


def pool(parts: Sequence[Measured]) -> Measured:
    """Pool the items of several tasks.

    Args:
        parts: The same metric of each task.

    Returns:
        That metric over all items.
    """

    def join(items: Sequence[ItemValues]) -> ItemValues:
        weights = [item.weights for item in items if item.weights is not None]
        return ItemValues(
            np.concatenate([item.values for item in items]),
            np.concatenate(weights) if len(weights) == len(items) else None,
        )

    changed = [part.changed for part in parts if part.changed is not None]
    counts = [part.available for part in parts if part.available is not None]
    sizes = [len(part.dense.values) for part in parts]
    dense, compressed = (
        join([getattr(p, which) for p in parts]) for which in ("dense", "compressed")
    )
    floor = float(np.average([part.scoring.metric.floor for part in parts], weights=sizes))
    scoring = replace(
        parts[0].scoring, metric=replace(parts[0].scoring.metric, floor=floor)
    ).of_values(dense.values, compressed.values)
    return Measured(
        scoring,
        dense,
        compressed,
        joined([part.clusters for part in parts], sizes),
        np.concatenate(changed) if len(changed) == len(parts) else None,
        sum(counts) if len(counts) == len(parts) else None,
    )
