# SPDX-License-Identifier: Apache-2.0
"""Failed cells of a sweep, so that the report can name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmkick_plugin.files import parse_json
from lmkick_plugin.results.runs import is_hidden
from lmkick_plugin.terminal import plain

__all__ = ["failed_cells"]

_NAME = "cell.json"  # beside the results of each cell of `lmkick sweep`


def failed_cells(folder: Path) -> list[str]:
    """Find the failures that the cells of sweeps below a folder recorded.

    Args:
        folder: Searched with its sub-folders, but those whose names begin with a dot.

    Returns:
        A line on each cell whose model could not be made, and on each task that failed. Files that
        are not a cell's record are skipped: results do not depend on them.
    """
    lines = []
    for path in sorted(folder.rglob(_NAME)):
        if is_hidden(path.relative_to(folder)):
            continue
        try:
            data = parse_json(path.read_bytes())
        except (OSError, ValueError):
            continue
        if not isinstance(data, dict) or not isinstance(data.get("cell"), str):
            continue
        cell = plain(data["cell"], limit=120)
        if isinstance(data.get("error"), dict):
            lines.append(
                f"{cell}: failed, so it is missing here: {_message(data['error'])} ({path})"
            )
            continue
        tasks = data.get("tasks")
        for task, entry in tasks.items() if isinstance(tasks, dict) else ():
            if isinstance(entry, dict) and entry.get("state") == "failed":
                error = _message(entry.get("error"))
                lines.append(f"{cell}: {plain(task, limit=60)} failed: {error} ({path})")
    return lines


def _message(error: Any) -> str:
    if not isinstance(error, dict):
        return "no reason is recorded"
    kind, message = error.get("type"), str(error.get("message") or "").strip()
    return plain(f"{kind}: {message}" if message else kind, limit=200)
