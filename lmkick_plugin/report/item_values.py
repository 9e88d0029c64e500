# SPDX-License-Identifier: Apache-2.0
"""From pairs of samples to paired numbers, metric by metric, and why one is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmkick_plugin.report.item_pairs import Pair, pair_items
from lmkick_plugin.report.scoring import ItemValues, Scoring, UnusableValuesError, scoring_of
from lmkick_plugin.report.statistics import Flips, FloatArray, flips_of
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.results.samples import Value

__all__ = ["Key", "Measured", "measure_task", "pool"]

Key: TypeAlias = tuple[str, str]
"""Metric and filter, as in lm-eval's ``metric,filter``."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of one task, or of the pooled tasks of a group, on both runs' items.

    Attributes:
        scoring: What is known of the metric.
        dense, compressed: The values, item by item in the same order.
        changed: Whether the chosen answers differ, of a binary metric; None where they are not
            known.
    """

    scoring: Scoring
    dense: ItemValues
    compressed: ItemValues
    changed: NDArray[np.bool_] | None

    @property
    def flips(self) -> Flips | None:
        """How right and wrong answers changed; None for a graded metric."""
        dense, compressed = self.dense.values, self.compressed.values
        if not self.scoring.is_binary(dense, compressed):
            return None
        return flips_of(dense, compressed, answer_changed=self.changed)


class _NotComparedError(Exception):
    """Why a metric is left out: a note for the reader, not a failure."""


def measure_task(
    task: str,
    dense: ResultsFile,
    compressed: ResultsFile,
    metrics: Sequence[str],
    notes: list[str],
) -> tuple[dict[Key, Measured], set[str]]:
    """Pair one task's items and read every metric's values.

    Args:
        task: Name of the task.
        dense: First evaluation.
        compressed: Second evaluation.
        metrics: Metric names to keep; all if empty.
        notes: Lines on what is left out are added here.

    Returns:
        The metrics that can be compared, and the names of all metrics that the items have.

    Raises:
        MismatchError: If the items differ.
        ResultsError: Where samples were not logged.
        SamplesError: Where a samples file is broken.
    """
    measured: dict[Key, Measured] = {}
    names: set[str] = set()
    for filter_name, pairs in pair_items(task, dense, compressed).items():
        available = _metrics_of(pairs)
        names.update(available)
        for metric in available:
            if metrics and metric not in metrics:
                continue
            try:
                measured[metric, filter_name] = _measure(
                    task, metric, filter_name, pairs, dense, compressed, notes
                )
            except (_NotComparedError, UnusableValuesError) as reason:
                notes.append(f"{task}, {metric}: not compared: {reason}")
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
) -> Measured:
    if metric == "bypass":
        raise _NotComparedError("the run was made with --predict_only and has no scores")
    scoring = scoring_of(metric, higher_is_better=dense.higher_is_better(task, metric))
    scored = [p for p in pairs if all(_has_score(metric, s.values[metric]) for s in p)]
    dropped = len(pairs) - len(scored)
    if not scored:
        raise _NotComparedError("no item has a score in both runs")
    if dropped:
        notes.append(f"{task}, {metric}: {dropped} of {len(pairs)} items without a score left out")
    first, second = (scoring.items([pair[i].values[metric] for pair in scored]) for i in (0, 1))
    if first.values.shape != second.values.shape:
        raise _NotComparedError(
            f"{len(first.values)} windows against {len(second.values)}: another tokenizer or"
            " context length"
        )
    if not _equal(first.weights, second.weights):
        raise _NotComparedError("the items' sizes differ between the runs")
    if not dropped:
        for items, file in ((first, dense), (second, compressed)):
            _check_score(items, scoring, file.score(task, metric, filter_name))
    changed = None
    if scoring.is_binary(first.values, second.values):
        delimiter = _target_delimiter(task, dense)
        answers = [
            tuple(s.answer(metric, target_delimiter=delimiter) for s in pair) for pair in scored
        ]
        if all(a is not None and b is not None for a, b in answers):
            changed = np.asarray([a != b for a, b in answers], dtype=np.bool_)
    return Measured(scoring, first, second, changed)


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
    """Refuse a metric whose score is not what our aggregation of its items gives."""
    score = items.score(scoring.transform)
    if reported is None or (math.isnan(score) and math.isnan(reported)):
        return
    if not math.isclose(score, reported, rel_tol=1e-6, abs_tol=1e-9):
        raise _NotComparedError(
            f"its items give {score:.6g} and the results file says {reported:.6g}: another"
            " aggregation than the mean, or samples of another run"
        )


def _target_delimiter(task: str, file: ResultsFile) -> str:
    config = file.mapping("configs").get(task)
    delimiter = config.get("target_delimiter") if isinstance(config, dict) else None
    return delimiter if isinstance(delimiter, str) else " "


def pool(parts: Sequence[Measured]) -> Measured:
    """Put the items of several tasks together.

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
    return Measured(
        parts[0].scoring,
        join([part.dense for part in parts]),
        join([part.compressed for part in parts]),
        np.concatenate(changed) if len(changed) == len(parts) else None,
    )
