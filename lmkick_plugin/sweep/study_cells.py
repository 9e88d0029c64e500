# SPDX-License-Identifier: Apache-2.0
"""Evaluating the cells of a study one after the other, each into a result folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from compressors.files import write_atomically
from lmkick_plugin.sweep.evaluate import environment, evaluate, keep
from lmkick_plugin.sweep.evaluate import free_memory as _free_memory
from lmkick_plugin.sweep.study_plan import Cell
from lmkick_plugin.terminal import CommandError

__all__ = ["Bench", "Evaluation", "finished", "run_cell"]

_DONE = "cell.json"
# Say how fast and where, not what.
_NOT_COMPARED = frozenset(
    {"batch_size", "device", "resume_dir", "compress_cache", "compress_cache_gb"}
)


class Bench(NamedTuple):
    """What the cells of a study share.

    Attributes:
        manager: lm-eval's task manager.
        dense: The dense model, once it is loaded.
    """

    manager: Any
    dense: Any


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated in every cell.

    Attributes:
        tasks: Names of tasks.
        options: Of lm-eval's ``simple_evaluate``.
        metadata: For the tasks.
    """

    tasks: tuple[str, ...]
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]

    def identity(self, cell: Cell) -> dict[str, Any]:
        """All that decides a cell's results, as JSON knows it."""
        arguments = {key: cell.arguments[key] for key in cell.arguments if key not in _NOT_COMPARED}
        whole = {
            "model_args": arguments,
            "tasks": list(self.tasks),
            "options": dict(self.options),
            "metadata": dict(self.metadata),
            "environment": environment(),
        }
        known: dict[str, Any] = json.loads(json.dumps(whole, default=str))
        return known


def finished(folder: Path, identity: Mapping[str, Any]) -> Path | None:
    """The results of a cell that is already evaluated; None where it is not.

    Raises:
        CommandError: The folder holds a cell of the same name with other settings.
    """
    try:
        done = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        results = folder / done["results"]
        before = done["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    differing = [part for part in identity if before.get(part, {}) != identity[part]]
    if differing:
        part = differing[0]
        raise CommandError(
            f"{folder} holds a cell of another study: its {part} is {before.get(part)}, and now "
            f"{identity[part]}. Give another --output_path"
        )
    return results if results.is_file() else None


def run_cell(cell: Cell, evaluation: Evaluation, folder: Path, bench: Bench) -> Path:
    """Evaluate a cell and keep it as ``lm_eval --output_path --log_samples`` would.

    Args:
        cell: The cell.
        evaluation: What is evaluated.
        folder: Of its results.
        bench: What the cells share.

    Returns:
        The results file.
    """
    from lmkick_plugin.sweep.task_cache import SweptLM

    model = SweptLM(bench.dense, **cell.arguments)
    results, tracker = evaluate(
        model,
        arguments=cell.arguments,
        tasks=evaluation.tasks,
        manager=bench.manager,
        folder=folder,
        options={**evaluation.options, "metadata": dict(evaluation.metadata)},
    )
    del model

    def announce(name: str) -> None:
        done = {"results": name, "identity": evaluation.identity(cell)}
        write_atomically(folder / _DONE, json.dumps(done, indent=1) + "\n")

    written = keep(results, tracker, folder, announce)
    del results
    _free_memory()
    return written
