# SPDX-License-Identifier: Apache-2.0
"""The demo's table: a row for each method and level, a column for each task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkick_plugin.results.task_facts import facts_of
from lmkick_plugin.terminal import render_table

if TYPE_CHECKING:
    from lmkick_plugin.sweep import CellResult

__all__ = ["overview"]

_COLUMNS = {
    "kick_freebaseqa": "freebaseqa",
    "kick_triviaqa_closed": "closed book",
    "kick_triviaqa_open": "open book",
    "kick_mmlu": "mmlu",
    "kick_summarization_small": "summaries",
    "kick_alpaca": "alpaca",
    "kick_wikitext": "word ppl",
    "kickonly_perplexity": "token ppl",
    "kickonly_divergence": "divergence",
}
_METRICS = {"kick_triviaqa_closed": "contains", "kick_triviaqa_open": "contains"}


def overview(cells: Sequence[CellResult]) -> str:
    """One score of each cell on each of the main tasks.

    Args:
        cells: Of the demo; a cell without a result on a task gets a dash there.

    Returns:
        A table in plain text.
    """
    rows = []
    for cell in cells:
        scores = [_score(cell.results.get(task), task) for task in _COLUMNS]
        rows.append([_label(cell.recipe), *scores])
    return render_table(["", *_COLUMNS.values()], rows)


def _label(recipe: Mapping[str, Any]) -> str:
    if not recipe:
        return "dense"
    if "bits" in recipe:
        level = f"{recipe['bits']} bits"
    else:
        level = f"{recipe['sparsity']:.0%}" if "sparsity" in recipe else str(recipe["pattern"])
    return f"{recipe['compressor']} {level}"


def _score(path: Path | None, task: str) -> str:
    if path is None:
        return "-"
    found = json.loads(path.read_text(encoding="utf-8"))["results"].get(task, {})
    metric = _METRICS.get(task) or facts_of(task).headline
    value = found.get(f"{metric},none")
    return f"{value:.3f}" if isinstance(value, int | float) else "-"
