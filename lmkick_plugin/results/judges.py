# SPDX-License-Identifier: Apache-2.0
"""Judge behind a results file's scores: comparison of two judges, and a line that names one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.terminal import plain

__all__ = ["judge_line", "judges_differ"]

# What two judgings have to have in common to be compared.
_IDENTITY = ("model", "prompts", "order", "temperature")


def judges_differ(task: str, metric: str, first: ResultsFile, second: ResultsFile) -> str | None:
    """Why a judged score of two results files is not comparable.

    Args:
        task: The task.
        metric: One of its metrics.
        first: One evaluation.
        second: The other.

    Returns:
        A line for people; None for other metrics, and where the same judge judged in the same way.
    """
    if not metric.startswith("judge_") and metric != "position_consistency":
        return None
    judges = [_judge_of(file, task) for file in (first, second)]
    if None in judges:
        return None  # an older file, which does not say
    shown = []
    for judge in judges:
        reference = str((judge or {}).get("reference")).partition(":")
        # The dense model's answers are the reference, wherever they lie.
        named = "dense" if reference[0] == "dense" else "".join(reference)
        shown.append([*(str((judge or {}).get(key)) for key in _IDENTITY), named])
    if shown[0] == shown[1]:
        return None
    one, other = (plain(f"{s[0]} (prompts {s[1]}, order {s[2]}, reference {s[4]})") for s in shown)
    return f"judged by {one} against {other}"


def judge_line(file: ResultsFile, task: str) -> str | None:
    """Line below a task's judged scores.

    Args:
        file: The evaluation.
        task: One of its tasks.

    Returns:
        By whom, how, and what is known of how far the judge can be trusted; None for a task
        that was not judged.
    """
    judged = file.judged.get(task)
    if judged is not None and judged.line is not None:
        return judged.line
    judge = _judge_of(file, task)
    return None if judge is None else plain(_described(judge, file, task), limit=400)


def _described(judge: Mapping[str, Any], file: ResultsFile, task: str) -> str:
    text = f"judged by {judge.get('model')}, prompts {judge.get('prompts')}"
    consistency = file.score(task, "position_consistency", "none")
    if consistency is not None and not math.isnan(consistency):
        text += f"; position consistency {consistency:.2f}"
    missing = file.score(task, "unjudged", "none")
    if missing:
        text += f"; {100 * missing:.3g} % unjudged"
    return f"{text}; judge not checked (lmkick judge RESULTS --check)"


def _judge_of(file: ResultsFile, task: str) -> Mapping[str, Any] | None:
    config = file.mapping("configs").get(task)
    metadata = config.get("metadata") if isinstance(config, Mapping) else None
    judge = metadata.get("judge") if isinstance(metadata, Mapping) else None
    return judge if isinstance(judge, Mapping) else None
