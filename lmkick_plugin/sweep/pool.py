# SPDX-License-Identifier: Apache-2.0
"""Scheduler of cells over workers that may die; an interrupted cell is retried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lmkick_plugin.sweep.jobs import Job

__all__ = ["Backend", "Ended", "Lost", "Task", "run_jobs"]


@dataclass(frozen=True)
class Task:
    """A task of a worker's cell has ended."""

    worker: Any
    task: str
    state: str
    seconds: float


@dataclass(frozen=True)
class Ended:
    """A worker has finished its cell; ``cell.json`` says how."""

    worker: Any


@dataclass(frozen=True)
class Lost:
    """A worker is dead."""

    worker: Any
    reason: str


class Backend(Protocol):
    """Interface of a backend that runs workers."""

    @property
    def size(self) -> int:
        """Largest number of workers."""

    def start(self) -> Any:
        """Start a worker."""

    def submit(self, worker: Any, job: Job) -> None:
        """Give a cell to an idle worker."""

    def wait(self, busy: Sequence[Any]) -> Sequence[Task | Ended | Lost]:
        """Wait for the next event of these workers."""

    def stop(self, worker: Any) -> None:
        """End a worker."""

    def close(self) -> None:
        """Release what the workers shared."""


@dataclass
class _WorkerSlot:
    worker: Any
    group: str | None = None
    job: Job | None = None


def run_jobs(
    backend: Backend,
    jobs: Sequence[Job],
    *,
    retries: int,
    remaining: Callable[[Job], Job | None],
    on_task_end: Callable[[Job, str, str, float], None],
    on_give_up: Callable[[Job, str], None],
) -> None:
    """Run all jobs.

    A worker gets cells of the model that it holds as long as there are some, then of the model
    with most cells left. What a dead worker was at goes to a new one.

    Args:
        backend: Where workers live.
        jobs: The cells, in the order they are wanted.
        retries: How often a cell is tried again.
        remaining: What is left to do of a cell whose worker died; None where it is done.
        on_task_end: Called after each task of a cell.
        on_give_up: Called with a cell whose workers died too often, and how the last one ended.
    """
    waiting = list(jobs)
    deaths: Counter[str] = Counter()
    slots: list[_WorkerSlot] = []
    try:
        while waiting or any(slot.job for slot in slots):
            _fill(backend, slots, waiting)
            busy = [slot.worker for slot in slots if slot.job is not None]
            for event in backend.wait(busy):
                slot = next(slot for slot in slots if slot.worker is event.worker)
                job = slot.job
                if job is None:
                    continue
                if isinstance(event, Task):
                    on_task_end(job, event.task, event.state, event.seconds)
                    continue
                slot.job = None
                if isinstance(event, Lost):
                    slots.remove(slot)
                    backend.stop(slot.worker)
                    deaths[job.cell.name] += 1
                    if deaths[job.cell.name] > retries:
                        on_give_up(job, event.reason)
                    elif (rest := remaining(job)) is not None:
                        waiting.insert(0, rest)
    finally:
        for slot in slots:
            backend.stop(slot.worker)


def _fill(backend: Backend, slots: list[_WorkerSlot], waiting: list[Job]) -> None:
    """Give cells to idle workers, and start workers while cells are left."""
    for slot in slots:
        if slot.job is None and waiting:
            _give(backend, slot, waiting, slots)
    while waiting and len(slots) < backend.size:
        slot = _WorkerSlot(backend.start())
        slots.append(slot)
        _give(backend, slot, waiting, slots)


def _give(
    backend: Backend, slot: _WorkerSlot, waiting: list[Job], slots: Sequence[_WorkerSlot]
) -> None:
    own = [job for job in waiting if job.cell.group == slot.group]
    if not own:
        # A model that no worker holds yet comes first, then the one with most cells left.
        held = {other.group for other in slots if other is not slot}
        left = Counter(job.cell.group for job in waiting)
        group = max(left, key=lambda name: (name not in held, left[name]))
        own = [job for job in waiting if job.cell.group == group]
    job = own[0]
    waiting.remove(job)
    slot.group, slot.job = job.cell.group, job
    backend.submit(slot.worker, job)
