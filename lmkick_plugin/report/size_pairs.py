# SPDX-License-Identifier: Apache-2.0
"""Large pruned against small dense models, at equal non-zero parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmkick_plugin.report.bootstrap import StatisticsError
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.item_pairs import MismatchError
from lmkick_plugin.report.item_values import measure_task, pool
from lmkick_plugin.report.models import Cell
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.results.results_file import ResultsError
from lmkick_plugin.results.samples import SamplesError
from lmkick_plugin.results.task_groups import leaves_of

__all__ = ["NEAR", "Across", "compare_across", "size_pairs"]

NEAR = 0.10
"""How far apart sizes may be, as a share, that are called equal."""


@dataclass(frozen=True)
class Across:
    """A large model's pruned run and a small model's dense one, on one task.

    Attributes:
        large: The pruned run.
        small: The dense one; the reference of the statistics.
        task: What was compared.
        metric: By which metric.
        statistics: What was found; None where they cannot be compared.
        lower_is_better: Of the metric.
        problem: Why they cannot be compared.
        files: The two results files, the small model's first.
    """

    large: Cell
    small: Cell
    task: str
    metric: str
    statistics: PairedStatistics | None
    lower_is_better: bool
    problem: str
    files: tuple[Path, ...]


def size_pairs(evidence: Evidence) -> list[tuple[Cell, Cell]]:
    """Pruned runs with dense runs of smaller models of as many non-zero parameters.

    Args:
        evidence: What is known.

    Returns:
        Large and small, each pruned run with the small model nearest in size.
    """
    small = [model.dense for model in evidence.collection.models if model.dense is not None]
    pairs = []
    for model in evidence.collection.models:
        whole = None if model.dense is None else model.dense.number("total_parameters")
        for cell in model.cells:
            kept = cell.number("nonzero_parameters")
            if not cell.pruned or not kept:
                continue
            near = []
            for dense in small:
                size = dense.number("nonzero_parameters")
                smaller = whole is None or (size or 0) < whole
                if dense.model != cell.model and size and smaller and _near(size, kept):
                    near.append((abs(size / kept - 1), dense.name, dense))
            if near:
                pairs.append((cell, min(near)[2]))
    return pairs


def _near(first: float, second: float) -> bool:
    return abs(first / second - 1) <= NEAR


def compare_across(
    evidence: Evidence, large: Cell, small: Cell, tasks: Sequence[str]
) -> list[Across]:
    """Compare the two on the same items.

    Args:
        evidence: What is known.
        large: The pruned run.
        small: The dense run of the small model.
        tasks: Names of tasks or groups.

    Returns:
        One entry a task that both have; where their items differ it says so.
    """
    found = []
    for task in tasks:
        key = evidence.key(task)
        leaves = leaves_of(task, evidence.children)
        runs = (small.run.tasks, large.run.tasks)
        if key is None or not all(leaf in tasks_of for tasks_of in runs for leaf in leaves):
            continue
        files = tuple(tasks_of[leaves[0]].path for tasks_of in runs)
        statistics, problem, lower = None, "", key[0].endswith("perplexity")
        try:
            parts = []
            for leaf in leaves:
                measured, _ = measure_task(leaf, runs[0][leaf], runs[1][leaf], [key[0]], [])
                parts.append(measured[key])
            one = parts[0] if len(parts) == 1 else pool(parts)
            statistics = one.statistics(evidence.settings)
        except KeyError:
            problem = f"no items with {key[0]} in both"
        except (MismatchError, ResultsError, SamplesError, StatisticsError, OSError) as error:
            problem = str(error)
        found.append(Across(large, small, task, key[0], statistics, lower, problem, files))
    return found
