# SPDX-License-Identifier: Apache-2.0
"""Evaluating the cells of a study one after the other, each into a result folder of its own."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmkick_plugin.data import DATA_DIR_VARIABLE
from lmkick_plugin.preflight import CommandError
from lmkick_plugin.report.output import write_atomically
from lmkick_plugin.study.plan import Cell

__all__ = ["Evaluation", "finished", "run_cell"]

_DONE = "cell.json"
# Say how fast and where, not what.
_NOT_COMPARED = frozenset({"batch_size", "device", "resume_dir"})
_VARIABLES = (
    DATA_DIR_VARIABLE,
    *(f"LMKICK_JUDGE_{name}" for name in ("MODEL", "REFERENCE", "ORDER", "TEMPERATURE", "PROMPT")),
)


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
            "environment": _environment(),
        }
        known: dict[str, Any] = json.loads(json.dumps(whole, default=str))
        return known


def _environment() -> dict[str, str]:
    """What the environment adds to the arguments, where it decides results."""
    return {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}


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


def run_cell(cell: Cell, evaluation: Evaluation, folder: Path, task_manager: Any) -> Path:
    """Evaluate a cell and keep it as ``lm_eval --output_path --log_samples`` would.

    Returns:
        The results file.

    Raises:
        CommandError: The results could not be written.
    """
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model="kick",
        model_args=dict(cell.arguments),
        tasks=list(evaluation.tasks),
        task_manager=task_manager,
        evaluation_tracker=tracker,
        log_samples=True,
        metadata=dict(evaluation.metadata),
        **evaluation.options,
    )
    if results is None:
        raise CommandError("a study runs in one process; start it without accelerate or torchrun")
    samples = results.pop("samples")
    before = set(folder.rglob("results_*.json"))
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    del results, samples
    _free_memory()
    written = sorted(set(folder.rglob("results_*.json")) - before)
    if not written:
        raise CommandError(f"the results could not be written to {folder}; see the log above")
    done = {
        "results": str(written[-1].relative_to(folder)),
        "identity": evaluation.identity(cell),
    }
    write_atomically(folder / _DONE, json.dumps(done, indent=1) + "\n")
    return written[-1]


def _free_memory() -> None:
    """Let the model go before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
