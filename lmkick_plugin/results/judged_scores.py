# SPDX-License-Identifier: Apache-2.0
"""Scores from ``lmkick judge``, merged into the run that was judged.

They are in ``judged_<time>_by_<judge>_<settings>.json`` beside the results file of that time.
Where several judgings of a task are there, the newest counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmkick_plugin.files import parse_json
from lmkick_plugin.results.samples import Sample
from lmkick_plugin.terminal import plain

__all__ = ["JudgedTask", "merged", "read_judged", "with_judged"]

_Values = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class JudgedTask:
    """Scores of one task's answers.

    Attributes:
        judge: What the record says of the judge.
        metrics: Mean, standard error and number of items by metric.
        higher_is_better: By metric.
        values: Values by ``doc_id``, with the document's hash.
        line: What a reader should know of the judge; None where the file says nothing.
    """

    judge: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float | None]]
    higher_is_better: Mapping[str, bool | None]
    values: Mapping[int, tuple[str, _Values]]
    line: str | None


def read_judged(results: Path, stamp: str) -> tuple[dict[str, JudgedTask], list[str]]:
    """Read the judged scores of a results file.

    Args:
        results: The results file.
        stamp: The time in its name.

    Returns:
        The newest judging of each task, and lines on what was left out.
    """
    if not stamp:
        return {}, []
    found: list[tuple[str, Path, dict[str, JudgedTask]]] = []
    notes = []
    for path in sorted(results.parent.glob(f"judged_{stamp}_by_*.json")):
        try:
            data = parse_json(path.read_bytes())
            tasks = {str(name): _task(data, entry) for name, entry in data["tasks"].items()}
            found.append((str(data.get("date", "")), path, tasks))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = plain(error, limit=80)
            notes.append(f"{path}: not what lmkick judge writes ({reason}), left out; judge again")
    judged: dict[str, JudgedTask] = {}
    newest: dict[str, str] = {}
    for _, path, tasks in sorted(found, key=lambda one: (one[0], one[1].name)):
        newest |= dict.fromkeys(tasks.keys() & judged.keys(), path.name)
        judged |= tasks
    for task, name in newest.items():
        notes.append(f"{task}: judged more than once; {name} counts")
    return judged, notes


def _task(data: Mapping[str, Any], entry: Mapping[str, Any]) -> JudgedTask:
    metrics = {
        str(name): {key: _number(value[key]) for key in ("mean", "stderr", "n")}
        for name, value in entry["metrics"].items()
    }
    higher = entry.get("higher_is_better", {})
    directions = {name: higher.get(name, name.startswith("judge_")) for name in metrics}
    directions |= {"judge_win": None, "unjudged": False}
    values = {
        int(item["doc_id"]): (
            str(item["doc_hash"]),
            {str(name): _number(value) for name, value in item["metrics"].items()},
        )
        for item in entry["items"]
    }
    line = entry.get("line")
    return JudgedTask(
        judge=dict(data["judge"]),
        metrics=metrics,
        higher_is_better={k: v if v in (True, False) else None for k, v in directions.items()},
        values=values,
        line=plain(line, limit=400) if isinstance(line, str) else None,
    )


def _number(value: object) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise TypeError(f"{value!r:.40} is not a number")


def merged(data: Mapping[str, Any], judged: Mapping[str, JudgedTask]) -> Mapping[str, Any]:
    """Contents of a results file with judged scores added, as if judged in the run.

    Args:
        data: As lm-eval wrote it.
        judged: From :func:`read_judged`.

    Returns:
        The contents; tasks that the file does not hold are left out.
    """
    known = {
        task: one for task, one in judged.items() if isinstance(data["results"].get(task), dict)
    }
    if not known:
        return data
    parts: dict[str, dict[str, Any]] = {}
    for part in ("results", "higher_is_better", "configs"):
        whole = data.get(part)
        parts[part] = dict(whole) if isinstance(whole, dict) else {}
    for task, one in known.items():
        scores = dict(parts["results"][task])
        for metric, value in one.metrics.items():
            scores[f"{metric},none"] = math.nan if value["mean"] is None else value["mean"]
            scores[f"{metric}_stderr,none"] = "N/A" if value["stderr"] is None else value["stderr"]
        parts["results"][task] = scores
        directions = parts["higher_is_better"].get(task)
        own = directions if isinstance(directions, dict) else {}
        parts["higher_is_better"][task] = {**own, **one.higher_is_better}
        config = parts["configs"].get(task)
        config = dict(config) if isinstance(config, dict) else {}
        metadata = config.get("metadata")
        config["metadata"] = {
            **(metadata if isinstance(metadata, dict) else {}),
            "judge": dict(one.judge),
        }
        parts["configs"][task] = config
    return {**data, **parts}


def with_judged(samples: Sequence[Sample], judged: JudgedTask) -> list[Sample]:
    """Items with their judged values.

    Args:
        samples: A task's.
        judged: The task's judging.

    Returns:
        The items; those that were not judged, or whose document is another, have no such value.
    """
    absent: _Values = dict.fromkeys(judged.metrics)
    out = []
    for sample in samples:
        doc_hash, values = judged.values.get(sample.doc_id, ("", absent))
        own = values if doc_hash == sample.doc_hash else absent
        out.append(replace(sample, values={**sample.values, **absent, **own}))
    return out
