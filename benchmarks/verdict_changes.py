# SPDX-License-Identifier: Apache-2.0
"""Verdicts on the runs of a folder, by the matching rule and by the one before it.

    python -m benchmarks.verdict_changes results/demo/runs

The folder holds a dense run and its compressions with logged samples, as `lmkick demo` and `lmkick
sweep` write them. The rule before: percentile intervals over resampled items, no floor, no least
number of items, and a verdict on every perplexity. Every task, subject, group and metric counts.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmkick_plugin.report.bootstrap import percentile_interval
from lmkick_plugin.report.item_values import Measured, measure_task, pool
from lmkick_plugin.report.models import collect
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.verdict import FEWEST, Rule, Verdict, margin_of, verdict_of
from lmkick_plugin.results.runs import Run
from lmkick_plugin.results.task_groups import children_of, leaves_of

RULE = Rule()
KINDS = (
    "stays",
    f"too few (below {FEWEST} clusters)",
    "dense at chance",
    "perplexity judged by tokens only",
    "other verdict by its interval",
)


def pairs(dense: Run, compressed: Run) -> Iterator[tuple[str, str, bool, Measured]]:
    """Tasks, then groups, of two runs: name, metric, whether part of a group, and the items."""
    children = children_of(dense)
    members = {child for names in children.values() for child in names}
    tasks = {
        task: measure_task(task, file, compressed.tasks[task], (), [])[0]
        for task, file in dense.tasks.items()
        if task in compressed.tasks
    }
    for name in (*tasks, *(group for group in children if group not in tasks)):
        leaves = leaves_of(name, children)
        if not all(leaf in tasks for leaf in leaves):
            continue
        for metric, filter_name in tasks[leaves[0]]:
            key = (metric, filter_name)
            # Of a group, what lm-eval aggregates.
            shared = all(key in tasks[leaf] for leaf in leaves)
            if name in tasks or (shared and dense.score(name, *key) is not None):
                yield name, metric, name in members, pool([tasks[leaf][key] for leaf in leaves])


def verdict_before(pair: Measured) -> Verdict | None:
    """The verdict of the rule before: items resampled with replacement."""
    metric = pair.scoring.metric
    if metric.direction is None:
        return None
    n = len(pair.dense.values)
    weights = np.ones(n) if pair.dense.weights is None else pair.dense.weights
    items = np.stack([pair.dense.values, pair.compressed.values, weights], axis=1)
    rows, counts = np.unique(items, axis=0, return_counts=True)
    with np.errstate(all="ignore"):  # inf and nan are results
        drawn = np.random.default_rng(RULE.seed).multinomial(n, counts / n, RULE.resamples) @ rows
        ratios = drawn[:, :2] / drawn[:, 2:]
        scores = ratios if metric.transform is None else metric.transform(ratios)
        margin = margin_of(scores[:, 0], scores[:, 1], RULE.tolerance, metric.direction)
        scale = pair.dense.score(metric.transform)
    return verdict_of(percentile_interval(margin), clusters=FEWEST, scale=scale)


def kind_of(before: Verdict, now: PairedStatistics) -> str:
    """What became of a verdict: one of `KINDS`."""
    if now.verdict is None:
        return KINDS[2] if now.at_floor else KINDS[3]
    if now.verdict == before:
        return KINDS[0]
    return KINDS[1] if now.verdict == "too few" else KINDS[4]


def print_table(found: Counter[tuple[str, str]]) -> None:
    """Print how many verdicts of each kind became what."""
    print(f"| before | {' | '.join(KINDS)} |\n{'| --- ' * (1 + len(KINDS))}|")
    for before in ("match", "inconclusive", "fail"):
        numbers = [found[before, kind] for kind in KINDS]
        cells = (f"{sum(numbers):,} {before}", *(f"{n:,}" if n else "-" for n in numbers))
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Print the tables and every verdict that the interval alone changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    everything: Counter[tuple[str, str]] = Counter()
    in_groups: Counter[tuple[str, str]] = Counter()
    changed, runs = [], 0
    for model in collect([folder]).models:
        dense = model.dense
        for cell in () if dense is None else model.cells:
            runs += 1
            for name, metric, member, pair in pairs(dense.run, cell.run):
                before, now = verdict_before(pair), pair.statistics(RULE)
                if before is None:
                    continue
                kind = kind_of(before, now)
                everything[before, kind] += 1
                if member:
                    in_groups[before, kind] += 1
                if kind == KINDS[4]:
                    changed.append(
                        f"{name}, {metric}, n = {now.n} ({now.clusters} clusters), {cell.short}:"
                        f" {before} becomes {now.verdict}"
                    )
    print_table(everything)
    print("\nOf these, members of groups (MMLU's subjects and categories):\n")
    print_table(in_groups)
    print("\nOther verdict by its interval:\n" + "\n".join(changed or ["none"]))
    settled = sum(n for (_, kind), n in everything.items() if kind in (KINDS[0], KINDS[4]))
    print(
        f"\n{runs} runs. The interval changes {len(changed)} of the {settled} verdicts on {FEWEST}"
        " clusters or more with dense above chance."
    )


if __name__ == "__main__":
    main()
