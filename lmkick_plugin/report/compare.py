# SPDX-License-Identifier: Apache-2.0
"""Compare two runs item by item.

Works on the results and samples of any lm-eval model. The first run is the reference; a dense
model there and a compressed one second is what the names below say.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from lmkick_plugin.recipe.readers import suggest
from lmkick_plugin.report import notes as notes_on
from lmkick_plugin.report.comparison_table import Comparison, Row
from lmkick_plugin.report.item_pairs import MismatchError
from lmkick_plugin.report.item_values import Key, Measured, measure_task, pool
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.recall import compare_recall
from lmkick_plugin.report.run_verdict import RunVerdict, run_verdict
from lmkick_plugin.report.scores import preferred
from lmkick_plugin.report.verdict import Rule
from lmkick_plugin.results.results_file import ResultsError
from lmkick_plugin.results.runs import Run
from lmkick_plugin.results.samples import SamplesError
from lmkick_plugin.results.task_facts import facts_in
from lmkick_plugin.results.task_groups import children_of, leaves_of, ordered
from lmkick_plugin.terminal import plain

__all__ = ["compare_runs"]

_MOST_LINES = 20  # of mismatches shown


def compare_runs(
    dense: Run,
    compressed: Run,
    *,
    metrics: Sequence[str] = (),
    tasks: Sequence[str] = (),
    rule: Rule | None = None,
) -> Comparison:
    """Compare two runs on their common tasks and groups.

    Args:
        dense: The reference.
        compressed: What is compared with it.
        metrics: Metric names to keep; all by default.
        tasks: Names or glob patterns of tasks and groups to keep; all by default.
        rule: Tolerance, resamples, seed.

    Returns:
        One row per task or group and metric, and notes on whatever a reader should know.

    Raises:
        MismatchError: If the items differ in data, prompt, settings or version, naming all tasks
            where they do.
        ResultsError: For runs without a common task, an unknown metric, or missing samples.
        SamplesError: For broken samples.
    """
    rule = rule or Rule()
    notes = [*dense.notes, *(note for note in compressed.notes if note not in dense.notes)]
    notes += notes_on.on_runs(dense, compressed)
    children = children_of(dense)
    chosen = _common_tasks(dense, compressed, tasks, children, notes)
    measured: dict[str, dict[Key, Measured]] = {}
    available: set[str] = set()
    problems = [line for run in (dense, compressed) if (line := _without_samples(run, chosen))]
    for task in [] if problems else chosen:
        try:
            measured[task], names = measure_task(
                task, dense.tasks[task], compressed.tasks[task], metrics, notes, requested=metrics
            )
            available |= names
        except (MismatchError, ResultsError, SamplesError) as error:
            problems += str(error).splitlines()
    if problems:
        hidden = len(problems) - _MOST_LINES
        shown = problems[:_MOST_LINES] + ([f"and {hidden} more"] if hidden > 0 else [])
        raise MismatchError(
            f"{plain(dense.source)} and {plain(compressed.source)} cannot be compared:\n  "
            + "\n  ".join(shown)
        )
    notes += notes_on.on_tasks({t: (dense.tasks[t], compressed.tasks[t]) for t in measured})
    absent = sorted(set(metrics) - available)
    if absent:
        known = plain(", ".join(sorted(available)))
        raise ResultsError(f"no metric {plain(', '.join(absent))}; the runs have {known}")

    rows = []
    for name, groups in ordered(list(measured), children):
        for (metric, filter_name), one in _rows_of(name, measured, children, dense):
            row = Row(
                name=name,
                kind="task" if name in measured else "group",
                groups=groups,
                metric=metric,
                filter=filter_name,
                statistics=one.statistics(rule),
            )
            rows.append(row)
            notes += notes_on.on_row(row, dense)
    if not rows:
        raise ResultsError("\n  ".join(["no metric can be compared:", *map(plain, notes)]))
    visible = _shown(rows, tasks)
    notes += notes_on.on_missing_verdicts([row for row in rows if row.name in visible])
    recall, why_not = compare_recall(dense, compressed, tasks=list(measured), rule=rule)
    return Comparison(
        dense=dense,
        compressed=compressed,
        rule=rule,
        rows=tuple(rows),
        shown=visible,
        verdict=_verdict(rows, dense, rule),
        notes=(*notes, *why_not),
        recall=tuple(recall),
    )


def _without_samples(run: Run, tasks: Sequence[str]) -> str:
    """Which tasks' samples are not there; empty where all are."""
    gone = [task for task in tasks if not run.tasks[task].has_samples(task)]
    if not gone:
        return ""
    names = plain(", ".join(gone), limit=200)
    fewer = ", or name other --tasks" if len(gone) < len(tasks) else ""
    return (
        f"{plain(run.source)}: no samples beside the results of {names}. Evaluate with "
        f"--log_samples, which saves the items' answers{fewer}"
    )


def _outermost(rows: Sequence[Row]) -> list[str]:
    """Groups under no other group that has a row, and tasks under none."""
    names = {row.name for row in rows}
    return list(dict.fromkeys(row.name for row in rows if names.isdisjoint(row.groups)))


def _shown(rows: Sequence[Row], patterns: Sequence[str]) -> frozenset[str]:
    """Names in the terminal's table: whole groups, and those of ``--tasks``."""
    asked = {row.name for row in rows for p in patterns if fnmatch.fnmatch(row.name, p)}
    return frozenset(asked.union(_outermost(rows)))


def _verdict(rows: Sequence[Row], dense: Run, rule: Rule) -> RunVerdict:
    """The verdict on the second run, by the headline metric of each outermost name."""
    found: dict[str, PairedStatistics] = {}
    knowledge = set()
    for name in _outermost(rows):
        mine = {(row.metric, row.filter): row.statistics for row in rows if row.name == name}
        file = dense.tasks.get(name) or next(
            file for file in dense.files if name in file.mapping("group_subtasks")
        )
        facts = facts_in(file, name)
        found[name] = mine[preferred(list(mine), facts)]
        if facts.knowledge:
            knowledge.add(name)
    return run_verdict(
        found, name="B", knowledge=knowledge, tolerance=rule.tolerance, reference="A's score"
    )


def _common_tasks(
    dense: Run,
    compressed: Run,
    patterns: Sequence[str],
    children: dict[str, list[str]],
    notes: list[str],
) -> list[str]:
    common = [task for task in dense.tasks if task in compressed.tasks]
    for pattern in patterns:
        names = [*common, *children]
        if not fnmatch.filter(names, pattern):
            members = {name for group in children.values() for name in group}
            shared = ", ".join(name for name in names if name not in members)
            raise ResultsError(
                f"--tasks {plain(pattern)}: not in both runs. {plain(suggest(pattern, names))}"
                f"They share {plain(shared, limit=300)}"
            )
    if patterns:
        kept = {
            leaf
            for pattern in patterns
            for name in fnmatch.filter([*common, *children], pattern)
            for leaf in leaves_of(name, children)
        }
        return [task for task in common if task in kept]
    for run, other in ((dense, compressed), (compressed, dense)):
        alone = [task for task in run.tasks if task not in other.tasks]
        if alone and common:
            notes.append(f"only in {run.label}: {', '.join(alone)}")
    if not common:
        raise ResultsError(
            "the runs share no task:"
            f"\n  {plain(dense.source)}: {plain(', '.join(dense.tasks)) or 'none'}"
            f"\n  {plain(compressed.source)}: {plain(', '.join(compressed.tasks)) or 'none'}"
        )
    return common


def _rows_of(
    name: str,
    measured: dict[str, dict[Key, Measured]],
    children: dict[str, list[str]],
    dense: Run,
) -> list[tuple[Key, Measured]]:
    """A task's metrics; of a group, those that lm-eval aggregates, over its tasks' pooled items."""
    if name in measured:
        return list(measured[name].items())
    leaves = leaves_of(name, children)
    if not all(leaf in measured for leaf in leaves):
        return []
    shared = [key for key in measured[leaves[0]] if all(key in measured[leaf] for leaf in leaves)]
    return [
        (key, pool([measured[leaf][key] for leaf in leaves]))
        for key in shared
        if dense.score(name, *key) is not None
    ]
