# SPDX-License-Identifier: Apache-2.0
"""``lmkick export``: one row per model and recipe.

JSON Lines and CSV for leaderboards, and a table in Markdown for a model card.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressors.files import csv_text, write_atomically
from lmkick_plugin.record.fields import RECORD_FIELDS
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.formatting import NOTHING, number, recovery_of
from lmkick_plugin.report.markdown import escaped, table
from lmkick_plugin.report.models import Cell, Collection
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.recall import STATES

__all__ = ["leaderboard_rows", "write_leaderboard"]

SCHEMA = "lmkick-leaderboard-2"
"""Changes when a field is renamed, removed or given another meaning."""

_LEFT_OUT = (
    "checkpoint", "from_cache", "layer_summary", "prefix_reuse", "truncated_prompts", "versions",
)  # fmt: skip
FIELDS = (
    "schema",
    "label",
    "model",
    "dense",
    *(field for field in RECORD_FIELDS if field not in _LEFT_OUT),
    "versions",
    "scores",
    "recall",
    "verdict",
    "results",
)
"""Fields of a row of ``leaderboard.jsonl``, in order."""


def leaderboard_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """One row per model and recipe.

    Args:
        evidence: What is known.

    Returns:
        The fields of `FIELDS`. ``scores`` maps each task to its headline metric: name,
        value, stderr, n, clusters, recovery, recovery above chance, verdict, version of the task.
        ``recall`` maps sources of facts to :meth:`.Recall.to_dict`, where recall tasks were run.
        ``verdict`` is that on the run; null for a dense one. Numbers that are not finite are null,
        for JSON has none.
    """
    rows = []
    for cell in evidence.collection.cells:
        scores: dict[str, Any] = {}
        for task in evidence.tasks:
            score = evidence.score(cell, task)
            if score is None:
                continue
            pairing = evidence.pairing(cell, task)
            found = pairing.statistics if pairing is not None else None
            file = next(f for f in cell.run.files if f.path == score.file)
            scores[task] = {
                "metric": score.metric,
                "filter": score.filter,
                "value": score.value,
                "stderr": score.stderr,
                "n": evidence.items(cell, task),
                "clusters": None if found is None else found.clusters,
                **_kept(found),
                "verdict": None if found is None else found.verdict,
                "version": _version(file.mapping("versions").get(task)),
            }
        recalls = evidence.recalls.get(cell.name, ())
        values = {field: cell.record.get(field) for field in RECORD_FIELDS}
        rows.append(
            {
                "schema": SCHEMA,
                "label": cell.label,
                "model": cell.model,
                "dense": cell.dense,
                **values,
                "scores": scores,
                "recall": {one.source: one.to_dict() for one in recalls},
                "verdict": _run_verdict(evidence, cell),
                "results": [str(file.path) for file in cell.run.files],
            }
        )
    return [{field: _finite(row[field]) for field in FIELDS} for row in rows]


def _run_verdict(evidence: Evidence, cell: Cell) -> dict[str, Any] | None:
    """The verdict on a run; None for a dense one and where it cannot be compared."""
    if cell.dense or not evidence.statistics(cell):
        return None
    return evidence.verdict(cell).to_dict()


def _version(value: Any) -> float | None:
    """A task's or group's version as a number: lm-eval writes either as number or text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _kept(found: PairedStatistics | None) -> dict[str, Any]:
    """Recovery, also above chance, with their intervals; None where nothing was compared."""
    kept = (None, None) if found is None else found.recovery_interval or (None, None)
    above = (None, None) if found is None else found.above_chance_interval or (None, None)
    return {
        "recovery": found and found.recovery,
        "recovery_low": kept[0],
        "recovery_high": kept[1],
        "recovery_above_chance": found and found.recovery_above_chance,
        "above_chance_low": above[0],
        "above_chance_high": above[1],
    }


def _finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite: a record may nest them."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_leaderboard(evidence: Evidence, output: Path) -> list[Path]:
    """Write ``leaderboard.jsonl``, ``leaderboard.csv`` and ``model_card.md``.

    Args:
        evidence: What is known.
        output: Folder; made where it is missing.

    Returns:
        The files.

    Raises:
        OSError: One cannot be written.
    """
    rows = leaderboard_rows(evidence)
    lines = [json.dumps(row, ensure_ascii=True, allow_nan=False, default=str) for row in rows]
    texts = {
        "leaderboard.jsonl": "".join(f"{line}\n" for line in lines),
        "leaderboard.csv": _csv(rows, evidence.tasks),
        "model_card.md": _card(evidence),
    }
    for name, text in texts.items():
        write_atomically(output / name, text)
    return [output / name for name in texts]


_NOT_PLAIN = ("scores", "recall", "verdict", "results", "versions")


def _csv(rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    """The rows as CSV, with separate columns for each task's numbers."""
    plain_fields = [field for field in FIELDS if field not in _NOT_PLAIN]
    parts = (
        *("metric", "value", "stderr", "n", "clusters"),
        *_kept(None),
        "verdict",
    )
    columns = [f"{task}.{part}" for task in tasks for part in parts]
    sources = list(dict.fromkeys(source for row in rows for source in row["recall"]))
    columns += [f"recall {source}.{part}" for source in sources for part in _RECALL]
    lines: list[list[Any]] = [[*plain_fields, "versions", "verdict", *columns, "results"]]
    for row in rows:
        scores = row["scores"]
        lines.append(
            [
                *(_cell(row[field]) for field in plain_fields),
                _cell(row["versions"]),
                _cell((row["verdict"] or {}).get("word")),
                *(_cell(scores.get(task, {}).get(part)) for task in tasks for part in parts),
                *(one for source in sources for one in _recall_cells(row["recall"].get(source))),
                _cell(" ".join(row["results"])),
            ]
        )
    return csv_text(lines)


_RECALL = (
    "facts", "said_by_dense",
    *(f"{state}{end}" for state in STATES for end in ("", " low", " high")),
)  # fmt: skip


def _recall_cells(found: dict[str, Any] | None) -> list[str]:
    """Facts, those that dense says, and of each state its share and interval."""
    if found is None:
        return [""] * len(_RECALL)
    shares, intervals = found["shares"] or {}, found["intervals"] or {}
    states = [
        value
        for state in STATES
        for value in (shares.get(state), *intervals.get(state, (None, None)))
    ]
    return [_cell(value) for value in (found["facts"], found["said_by_dense"], *states)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return str(value)


_CARD = ("task", "metric", "n", "clusters", "dense", "this model", "recovery", "verdict")


def _card(evidence: Evidence) -> str:
    parts = []
    for model in evidence.collection.models:
        for cell in model.cells:
            rows = [_card_row(evidence, model.dense, cell, task) for task in evidence.tasks]
            known = [row for row in rows if row is not None]
            if known:
                sentence = evidence.verdict(cell, "this model").sentence
                parts += [
                    f"## {escaped(cell.label)}",
                    escaped(sentence[:1].upper() + sentence[1:]),
                    table(_CARD, known),
                    *(
                        escaped(" ".join([f"Facts of {one.source}.", *one.remarks()]))
                        for one in evidence.recalls.get(cell.name, ())
                    ),
                ]
    if not parts:
        parts = ["No compressed run here has a dense run to be compared with."]
    unknown = [cell.label for cell in evidence.collection.cells if cell.dense is None]
    if unknown:
        parts.append(f"Not known whether compressed: {escaped(', '.join(unknown))}.")
    parts.append(
        "Recovery: this model's score over the dense one's (for perplexities the dense one's over"
        " this model's, so that down is worse) with its 95 % interval, evaluated with lmkick; ± is"
        f" a standard error. Weights: {_hashes(evidence.collection)}."
    )
    return "\n\n".join(parts) + "\n"


def _card_row(
    evidence: Evidence, dense: Cell | None, cell: Cell, task: str
) -> tuple[str, ...] | None:
    score = evidence.score(cell, task)
    whole = None if dense is None else evidence.score(dense, task)
    pairing = evidence.pairing(cell, task)
    if score is None or whole is None or pairing is None:
        return None
    found = pairing.statistics
    return (
        task,
        score.metric,
        str(found.n),
        str(found.clusters),
        _with_error(whole.value, whole.stderr),
        _with_error(score.value, score.stderr),
        recovery_of(found),
        found.verdict or NOTHING,
    )


def _with_error(value: float, error: float | None) -> str:
    return number(value) + ("" if error is None else f" ± {number(error)}")


def _hashes(collection: Collection) -> str:
    known = [
        f"{escaped(cell.label)} {escaped(str(cell.record['weights_sha256'])[:12])}"
        for cell in collection.cells
        if cell.record.get("weights_sha256")
    ]
    return ", ".join(known) or "not recorded"
