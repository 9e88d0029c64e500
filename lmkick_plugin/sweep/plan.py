# SPDX-License-Identifier: Apache-2.0
"""Plan of a sweep: cells, finished tasks, time left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmkick_plugin.judge.settings import decides_scores, of_judge
from lmkick_plugin.recipe.readers import suggest
from lmkick_plugin.report.formatting import plural
from lmkick_plugin.results.task_facts import facts_of
from lmkick_plugin.sweep.cell_files import Ledger
from lmkick_plugin.sweep.config import SweepConfig
from lmkick_plugin.sweep.evaluate import environment
from lmkick_plugin.sweep.grid import Cell, list_cells
from lmkick_plugin.terminal import CommandError, render_table

__all__ = ["PlannedCell", "SweepPlan", "make_plan", "task_settings"]


@dataclass(frozen=True)
class PlannedCell:
    """A cell and its state.

    Attributes:
        cell: The cell.
        folder: Where its results are kept.
        done: Results file by task.
        failed: Tasks whose last evaluation failed.
        missing: Tasks that were never evaluated to their end.
        ledger: What its folder says.
    """

    cell: Cell
    folder: Path
    done: Mapping[str, Path]
    failed: tuple[str, ...]
    missing: tuple[str, ...]
    ledger: Ledger


@dataclass(frozen=True)
class SweepPlan:
    """All cells of a sweep.

    Attributes:
        config: The configuration.
        tasks: Tasks and groups evaluated and saved separately.
        cells: The cells, the dense one of each model first.
        repeated: Points of the grid left out as duplicates.
        retry_failed: Whether what failed is tried again.
    """

    config: SweepConfig
    tasks: tuple[str, ...]
    cells: tuple[PlannedCell, ...]
    repeated: int
    retry_failed: bool

    def pending(self, planned: PlannedCell) -> tuple[str, ...]:
        """Tasks to run now, in order."""
        wanted = {*planned.missing, *(planned.failed if self.retry_failed else ())}
        return tuple(task for task in self.tasks if task in wanted)

    @property
    def to_do(self) -> list[PlannedCell]:
        """Cells that are not finished."""
        return [planned for planned in self.cells if self.pending(planned)]

    def seconds(self, planned: PlannedCell) -> float | None:
        """Estimated seconds of pending tasks, by finished ones; None without any."""
        pending = self.pending(planned)
        if not pending:
            return 0.0
        spans = [_mean(self._spans(planned, task)) for task in pending]
        making = _mean(self._making(planned))
        known = [span for span in spans if span is not None]
        if not known:
            return None
        # A task that was never run is estimated by the others.
        mean = statistics.fmean(known)
        return (making or 0.0) + sum(mean if span is None else span for span in spans)

    def _spans(self, planned: PlannedCell, task: str) -> list[float]:
        found = [
            (other.cell.group, float(other.ledger.tasks[task]["seconds"]))
            for other in self.cells
            if task in other.done and other.ledger.tasks[task].get("seconds") is not None
        ]
        same = [span for group, span in found if group == planned.cell.group]
        return same or [span for _, span in found]

    def _making(self, planned: PlannedCell) -> list[float]:
        found = [
            (other.cell, float(other.ledger.facts["compress_seconds"]))
            for other in self.cells
            if "compress_seconds" in other.ledger.facts
        ]
        for alike in ("group", "compressor"), ("compressor",), ("group",):
            same = [
                span
                for cell, span in found
                if all(getattr(cell, name) == getattr(planned.cell, name) for name in alike)
            ]
            if same:
                return same
        return []

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds of everything pending in one process; None where unknown."""
        spans = [self.seconds(planned) for planned in self.to_do]
        known = [span for span in spans if span is not None]
        return sum(known) if len(known) == len(spans) else None

    def text(self) -> str:
        """The plan as a table."""
        rows = [
            [
                planned.cell.name,
                self._state(planned),
                f"{len(planned.done)}/{len(self.tasks)}",
                _span(self.seconds(planned)) if self.pending(planned) else "",
                _size(planned.ledger.facts.get("bytes")),
            ]
            for planned in self.cells
        ]
        table = render_table(["cell", "state", "tasks", "about", "bytes"], rows, text_columns=2)
        left = len(self.to_do)
        failed = sum(bool(planned.failed) for planned in self.cells)
        counts = f"{plural(len(self.cells), 'cell')} of {plural(len(self.tasks), 'task')}"
        lines = [
            table,
            "",
            f"{counts} below {self.config.output}: "
            f"{len(self.cells) - left} done, {left} to do" + (self._estimate() if left else ""),
            f"tasks: {' '.join(self.tasks)}",
        ]
        if failed and not self.retry_failed:
            lines.append(
                f"{failed} cells have failed and are skipped: --retry_failed runs them again"
            )
        if self.repeated:
            lines.append(f"{self.repeated} points of the grid were given twice and count once")
        return "\n".join(lines)

    def _estimate(self) -> str:
        seconds = self.seconds_left
        if seconds is None:
            return "; time estimate after the first cells"
        return f", about {_span(seconds)} judging by finished cells"

    def _state(self, planned: PlannedCell) -> str:
        pending = self.pending(planned)
        if planned.failed and not self.retry_failed:
            return "failed" if not pending else "to do (some failed)"
        return ("to do" if not planned.done else "to go on") if pending else "done"


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(size: object) -> str:
    return f"{size:,}" if isinstance(size, int) else ""


def make_plan(
    config: SweepConfig, tasks: Sequence[str], *, retry_failed: bool = False
) -> SweepPlan:
    """Expand the grid and read the state of each cell.

    Args:
        config: The configuration.
        tasks: Tasks and groups evaluated and saved separately.
        retry_failed: Whether what failed is tried again.

    Raises:
        SettingsError: A model, recipe or setting of the judge is wrong.
        CommandError: A name after ``limit`` or ``max_gen_toks`` is not a task of the sweep, or the
            output folder holds a sweep of other settings.
    """
    for name in ("limit", "max_gen_toks"):
        given = getattr(config, name)
        for task in given if isinstance(given, Mapping) else ():
            if task not in (*tasks, "default"):
                raise CommandError(
                    f"{name}.{task}: not a task of the sweep. {suggest(task, tasks)}Its tasks: "
                    f"{', '.join(tasks)}"
                )
    cells, repeated = list_cells(config)
    settings = {task: task_settings(config, task) for task in tasks}
    planned = tuple(_look(config.output_path, cell, settings) for cell in cells)
    return SweepPlan(config, tuple(tasks), planned, repeated, retry_failed)


def _look(output: Path, cell: Cell, settings: Mapping[str, Mapping[str, Any]]) -> PlannedCell:
    folder = output / cell.name
    identity: dict[str, Any] = json.loads(json.dumps(cell.identity, default=str))
    ledger = Ledger.open(folder, cell.name, identity)
    done = {task: path for task in settings if (path := ledger.results(task, settings[task]))}
    failed = tuple(task for task in settings if task not in done and ledger.failed(task))
    missing = tuple(task for task in settings if task not in done and task not in failed)
    return PlannedCell(cell, folder, done, failed, missing, ledger)


def task_settings(config: SweepConfig, task: str) -> dict[str, Any]:
    """Settings that decide a task's scores beside the weights, as JSON.

    Args:
        config: The configuration.
        task: One of the sweep's.

    Raises:
        SettingsError: A setting of the judge is wrong.
    """
    generation = dict(config.gen_kwargs)
    longest = _of(config.max_gen_toks, task)
    if longest is not None:
        generation["max_gen_toks"] = longest
    chat = config.apply_chat_template
    found = {
        "limit": _of(config.limit, task),
        "num_fewshot": config.num_fewshot,
        "apply_chat_template": chat if chat != "auto" or facts_of(task).chat_template else "false",
        "system_instruction": config.system_instruction,
        "gen_kwargs": generation,
        "bootstrap_iters": config.bootstrap_iters,
        "metadata": _deciding(config.metadata),
        "environment": _deciding(environment(config.metadata)),
    }
    if not _can_be_judged(config, task):
        for name in ("metadata", "environment"):
            found[name] = {key: value for key, value in found[name].items() if not of_judge(key)}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return {name: value for name, value in plain.items() if value not in (None, {})}


def _of(given: Any, task: str) -> Any:
    return given.get(task, given.get("default")) if isinstance(given, Mapping) else given


def _can_be_judged(config: SweepConfig, task: str) -> bool:
    # A task of include_path may be judged though its facts are unknown here.
    return config.include_path is not None or facts_of(task).rubric is not None


def _deciding(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if decides_scores(name)}
