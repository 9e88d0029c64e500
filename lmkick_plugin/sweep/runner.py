# SPDX-License-Identifier: Apache-2.0
"""Runner of a sweep: checks, plan, lock of its folder, executor."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from lmkick_plugin.files import check_folder
from lmkick_plugin.preflight.tasks import check_data_dir, check_metadata_names
from lmkick_plugin.sweep.cell_files import Ledger
from lmkick_plugin.sweep.checks import check_folders, check_sweep
from lmkick_plugin.sweep.config import SweepConfig, read_config
from lmkick_plugin.sweep.jobs import LOG, Job
from lmkick_plugin.sweep.plan import PlannedCell, SweepPlan, make_plan, task_settings
from lmkick_plugin.sweep.tasks import TaskCache
from lmkick_plugin.terminal import CommandError

__all__ = ["CellResult", "Progress", "SweepResult", "open_plan", "run_plan", "run_sweep"]

_LOCK = ".sweep.lock"


@dataclass(frozen=True)
class Progress:
    """A task of a cell has ended.

    Attributes:
        done: Evaluations (a task of a cell) that have ended in this run, failed ones included.
        total: How many this run has.
        cell: The cell's name.
        task: The task.
        state: ``done`` or ``failed``.
        seconds: What it took.
        seconds_left: For the rest of this run, by the pace so far.
    """

    done: int
    total: int
    cell: str
    task: str
    state: str
    seconds: float
    seconds_left: float


@dataclass(frozen=True)
class CellResult:
    """Outcome of a cell.

    Attributes:
        name: Its name: model, slash, recipe.
        folder: Its results, as lm-eval writes them.
        model: Arguments of its model.
        recipe: Arguments of its compression; none for the dense model.
        state: ``done``, ``failed``, or ``partial``: interrupted.
        results: Results file by task that is done.
        seconds: What it took, over all runs; None where it was never finished.
        errors: Message by task that failed; ``""`` is the making of the model.
    """

    name: str
    folder: Path
    model: Mapping[str, Any]
    recipe: Mapping[str, Any]
    state: str
    results: Mapping[str, Path]
    seconds: float | None
    errors: Mapping[str, str]


@dataclass(frozen=True)
class SweepResult:
    """Outcome of a sweep.

    Attributes:
        output: Its folder.
        cells: Its cells, the dense one of each model first.
        seconds: What this run took.
    """

    output: Path
    cells: tuple[CellResult, ...]
    seconds: float

    @property
    def folders(self) -> list[Path]:
        """Folders of all cells with results."""
        return [cell.folder for cell in self.cells if cell.results]

    @property
    def failures(self) -> list[CellResult]:
        """Cells with a failed task."""
        return [cell for cell in self.cells if cell.state == "failed"]

    @property
    def status(self) -> int:
        """Exit status: 0 where all is done, 1 otherwise."""
        return int(any(cell.state != "done" for cell in self.cells))


def run_sweep(
    config: Mapping[str, Any] | str | Path,
    *,
    retry_failed: bool = False,
    progress: bool | Callable[[Progress], None] = True,
    quiet: bool = True,
    **changes: Any,
) -> SweepResult:
    """Run what is missing of a sweep.

    Args:
        config: A configuration: its file, or a mapping of the same keys.
        retry_failed: Try again what has failed before.
        progress: Show a bar; or call this instead, after each task of a cell.
        quiet: Send what evaluations say to ``log.txt`` in each cell's folder.
        **changes: Keys that override the configuration.

    Returns:
        Folders, failures and times. A cell that fails is recorded and does not stop the others.

    Raises:
        SettingsError: The configuration is wrong (``CommandError`` likewise); nothing was run.
        KeyboardInterrupt: The user stopped it; what is finished is kept.
    """
    plan, tasks = open_plan(read_config(config, **changes), retry_failed=retry_failed)
    return run_plan(plan, tasks, progress=progress, quiet=quiet)


def open_plan(config: SweepConfig, *, retry_failed: bool = False) -> tuple[SweepPlan, TaskCache]:
    """Check a configuration without reading data, weights or the Hub, and plan.

    Args:
        config: The configuration.
        retry_failed: Try again what has failed before.

    Raises:
        SettingsError: Something is wrong (``CommandError`` likewise).
    """
    from lmkick_plugin.judge.plan import JudgePlan

    check_data_dir(config.data_dir)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CommandError(
            "lmkick sweep starts its own processes: run it without accelerate launch or torchrun, "
            "with --executor gpus"
        )
    check_folder("output", config.output_path)
    JudgePlan.read(config.metadata)
    check_metadata_names(config.metadata)
    tasks = TaskCache(config.tasks, metadata=config.metadata, include_path=config.include_path)
    plan = make_plan(config, tasks.names, retry_failed=retry_failed)
    check_folders(plan)
    return plan, tasks


def run_plan(
    plan: SweepPlan,
    tasks: TaskCache,
    *,
    progress: bool | Callable[[Progress], None] = True,
    quiet: bool = True,
) -> SweepResult:
    """Run what is missing of a plan.

    Args:
        plan: As :func:`open_plan` returned it.
        tasks: Likewise.
        progress: Show a bar; or call this instead, after each task of a cell.
        quiet: Send what evaluations say to ``log.txt`` in each cell's folder.

    Returns:
        As :func:`run_sweep`.
    """
    begun = time.perf_counter()
    with _locked(plan.config.output_path):
        # What another run finished while this one read its configuration is not run again.
        plan = make_plan(plan.config, plan.tasks, retry_failed=plan.retry_failed)
        if plan.to_do:
            check_sweep(plan, tasks)
            with _Watch(plan, progress) as watch:
                _execute(plan, tasks, watch, quiet=quiet)
    after = make_plan(plan.config, plan.tasks)
    cells = tuple(_result(after, planned) for planned in after.cells)
    return SweepResult(plan.config.output_path, cells, time.perf_counter() - begun)


def _result(plan: SweepPlan, planned: PlannedCell) -> CellResult:
    ledger = planned.ledger
    errors = {
        task: str((ledger.tasks[task].get("error") or {}).get("message", ""))
        for task in plan.tasks
        if ledger.tasks.get(task, {}).get("state") == "failed"
    }
    if ledger.error is not None:
        errors[""] = str(ledger.error.get("message", ""))
    unfinished = "failed" if errors else "partial"
    return CellResult(
        name=planned.cell.name,
        folder=planned.folder,
        model=planned.cell.model,
        recipe=planned.cell.recipe,
        state="done" if len(planned.done) == len(plan.tasks) else unfinished,
        results=planned.done,
        seconds=ledger.facts.get("seconds"),
        errors=errors,
    )


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the lock of the output folder; a killed process releases it."""
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CommandError(
            f"another sweep is running in {output}. Wait until it ends, or give another output"
        ) from error
    try:
        yield
    finally:
        lock.release()


# --- executors ------------------------------------------------------------------------------------


def _execute(plan: SweepPlan, tasks: TaskCache, watch: _Watch, *, quiet: bool) -> None:
    config = plan.config
    jobs = [
        Job(planned.cell, plan.pending(planned), _dense_hash(plan, planned))
        for planned in plan.to_do
    ]
    if config.executor == "process":
        from lmkick_plugin.sweep.jobs import CellWorker

        worker = CellWorker(config, tasks=tasks, quiet=quiet)
        for job in jobs:
            watch.begins(job)
            worker.run(job, lambda *ended, at=job: watch.on_task_end(at, *ended))
        worker.dense.release()
        return
    from lmkick_plugin.sweep.pool import Backend, run_jobs

    backend: Backend
    if config.executor == "gpus":
        from lmkick_plugin.sweep.local_workers import LocalWorkers

        backend = LocalWorkers(config)
    else:
        from lmkick_plugin.sweep.ray_workers import RayWorkers

        backend = RayWorkers(config)
    try:
        run_jobs(
            backend,
            jobs,
            retries=config.retries,
            remaining=lambda job: _remaining(plan, job, watch),
            on_task_end=watch.on_task_end,
            on_give_up=lambda job, reason: _give_up(plan, job, reason, watch),
        )
    finally:
        backend.close()


def _dense_hash(plan: SweepPlan, planned: PlannedCell) -> str | None:
    """Hash of the dense weights, from finished cells of the same model."""
    found = (
        other.ledger.facts.get("dense_sha256")
        for other in plan.cells
        if other.done and other.cell.group == planned.cell.group
    )
    return next((str(value) for value in found if value), None)


def _remaining(plan: SweepPlan, job: Job, watch: _Watch) -> Job | None:
    """Tasks of a cell that a dead worker did not finish."""
    planned = next(each for each in plan.cells if each.cell == job.cell)
    ledger = Ledger.open(planned.folder, job.cell.name, planned.ledger.identity)
    left = []
    for task in job.tasks:
        if watch.has_ended(job, task):
            continue
        if ledger.results(task, task_settings(plan.config, task)):
            watch.on_task_end(job, task, "done", float(ledger.tasks[task]["seconds"]))
        else:
            left.append(task)
    return replace(job, tasks=tuple(left)) if left else None


def _give_up(plan: SweepPlan, job: Job, reason: str, watch: _Watch) -> None:
    """Record a failed cell whose workers died."""
    planned = next(each for each in plan.cells if each.cell == job.cell)
    ledger = Ledger.open(planned.folder, job.cell.name, planned.ledger.identity)
    ledger.error = {
        "type": "WorkerLost",
        "message": f"its worker died {plan.config.retries + 1} times; the last time, {reason}",
        "traceback": "",
    }
    ledger.write()
    for task in job.tasks:
        if not watch.has_ended(job, task):
            watch.on_task_end(job, task, "failed", 0.0)


class _Watch:
    """Progress of a sweep: a bar, or calls of a given function."""

    def __init__(self, plan: SweepPlan, progress: bool | Callable[[Progress], None]) -> None:
        self._call = progress if callable(progress) else None
        self._total = sum(len(plan.pending(planned)) for planned in plan.to_do)
        self._ended: set[tuple[str, str]] = set()
        self._begun = time.perf_counter()
        # Bound to the terminal now: what runs under the bar is sent elsewhere.
        self._terminal = sys.stderr
        self._bar = tqdm(
            total=self._total,
            desc="sweep",
            unit="task",
            file=self._terminal,
            disable=progress is not True,
            dynamic_ncols=True,
        )

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begins(self, job: Job) -> None:
        """Show the running cell."""
        self._bar.set_postfix_str(job.cell.name)

    def has_ended(self, job: Job, task: str) -> bool:
        """Whether a task of a cell has ended in this run."""
        return (job.cell.name, task) in self._ended

    def on_task_end(self, job: Job, task: str, state: str, seconds: float) -> None:
        """Note that a task of a cell has ended."""
        name = job.cell.name
        self._ended.add((name, task))
        self._bar.update()
        if state == "failed" and not self._bar.disable:
            self._bar.write(f"{name}: {task} failed; see {name}/{LOG}", file=self._terminal)
        if self._call is not None:
            done = len(self._ended)
            pace = (time.perf_counter() - self._begun) / done
            left = pace * (self._total - done)
            self._call(Progress(done, self._total, name, task, state, seconds, left))
