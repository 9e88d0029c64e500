# SPDX-License-Identifier: Apache-2.0
"""Table of a report: every score with its run's record, recovery and verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from compressors.files import csv_text
from lmkick_plugin.record.fields import RECORD_FIELDS
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.summary import RunLine, Summary
from lmkick_plugin.results.task_groups import children_of, leaves_of

__all__ = ["cells_csv"]

_RUN = (
    "share_of_dense", "run_verdict", "knowledge_recovery", "knowledge_low", "knowledge_high",
    "knowledge_tasks", "tasks_match", "tasks_inconclusive", "tasks_too_few", "tasks_open",
    "tasks_fail",
)  # fmt: skip
_SCORE = ("task", "metric", "filter", "value", "stderr", "n")
_PAIRED = (
    "clusters", "dense", "difference", "recovery", "recovery_low", "recovery_high",
    "recovery_above_chance", "above_chance_low", "above_chance_high", "verdict", "settle_n",
    "available",
)  # fmt: skip


def cells_csv(evidence: Evidence, summaries: Sequence[Summary]) -> str:
    """One line per run, task and metric.

    Args:
        evidence: What is known.
        summaries: Of its models.

    Returns:
        CSV: label and model, every field of the record, the run's verdict and sizes, the score,
        what was found against the dense run (empty where nothing was compared), the results file.
        Fields that hold several values are JSON, but for ``truncated_prompts``: that of the row's
        task. The table of layers is left out: ``lmkick layers`` unpacks it.
    """
    cells = evidence.collection.cells
    unknown = sorted({str(k) for cell in cells for k in cell.record} - {*RECORD_FIELDS, "layers"})
    fields = [*RECORD_FIELDS, *unknown]
    rows: list[list[str]] = [["label", "model", *fields, *_RUN, *_SCORE, *_PAIRED, "results"]]
    cut = 2 + fields.index("truncated_prompts")
    for line in [line for summary in summaries for line in summary.lines]:
        cell = line.cell
        of_run = [cell.label, cell.model, *(_field(cell.record.get(f)) for f in fields)]
        base = [*of_run, *_run(line)]
        children = children_of(cell.run)
        for score in evidence.scores[cell.name]:
            counts = [cell.truncated(leaf) for leaf in leaves_of(score.task, children)]
            known = [count for count in counts if count is not None]
            base[cut] = str(sum(known)) if len(known) == len(counts) else ""
            own: list[Any] = [score.task, score.metric, score.filter, score.value, score.stderr]
            key = (score.metric, score.filter)
            own.append(evidence.items(cell, score.task, key))
            pairing = evidence.pairings.get((cell.name, score.task, key))
            paired: list[Any] = [None] * len(_PAIRED)
            if pairing is not None:
                one = pairing.statistics
                ends = one.recovery_interval or (None, None)
                paired = [one.clusters, one.dense, one.difference, one.recovery, *ends]
                ends = one.above_chance_interval or (None, None)
                paired += [one.recovery_above_chance, *ends]
                paired += [one.verdict, one.settle_n, one.available]
            row = [*map(_field, own), *map(_field, paired), str(score.file)]
            rows.append([*base, *row])
    return csv_text(rows)


def _run(line: RunLine) -> list[str]:
    found = line.verdict
    values: list[Any] = [line.share, line.word]
    if found is None:
        values += [None] * (len(_RUN) - len(values))
    else:
        values += [found.mean_recovery, *(found.mean_interval or (None, None)), found.over]
        values += [found.counts[kind] for kind in ("match", "inconclusive", "too few")]
        values += [line.open, found.counts["fail"]]
    return [_field(value) for value in values]


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return repr(value) if isinstance(value, float) else str(value)
