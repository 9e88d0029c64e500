# SPDX-License-Identifier: Apache-2.0
"""Handing cells to workers, some of which die."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from lmkick_plugin.sweep.grid import Cell
from lmkick_plugin.sweep.jobs import Job
from lmkick_plugin.sweep.pool import Ended, Lost, Task, run_jobs


def job(name: str, *tasks: str) -> Job:
    return Job(Cell(name, {"pretrained": "m"}, {}, {"compressor": "none"}), tasks or ("t",))


@dataclass(eq=False)
class Worker:
    number: int
    job: Job | None = None
    held: list[str] = field(default_factory=list)


class Backend:
    """Workers that do a cell at once, or die at it as often as they are told to."""

    def __init__(self, size: int, deaths: dict[str, int] | None = None) -> None:
        self.size = size
        self.deaths = deaths or {}
        self.workers: list[Worker] = []
        self.stopped: list[Worker] = []

    def start(self) -> Worker:
        self.workers.append(Worker(len(self.workers)))
        return self.workers[-1]

    def submit(self, worker: Worker, job: Job) -> None:
        worker.job = job
        worker.held.append(job.cell.name)

    def wait(self, busy: Sequence[Worker]) -> list[Task | Ended | Lost]:
        worker = busy[0]
        assert worker.job is not None
        tasks, name = worker.job.tasks, worker.job.cell.name
        if self.deaths.get(name, 0) > 0:
            self.deaths[name] -= 1
            return [Task(worker, tasks[0], "done", 1.0), Lost(worker, "signal 9")]
        return [*(Task(worker, task, "done", 1.0) for task in tasks), Ended(worker)]

    def stop(self, worker: Worker) -> None:
        self.stopped.append(worker)

    def close(self) -> None:
        pass


def run(backend: Backend, jobs: list[Job], retries: int = 2) -> tuple[list, list]:
    ended: list[tuple[str, str]] = []
    given_up: list[tuple[str, str]] = []

    def again(dead: Job) -> Job | None:
        left = [task for task in dead.tasks if (dead.cell.name, task) not in ended]
        return replace(dead, tasks=tuple(left)) if left else None

    run_jobs(
        backend, jobs, retries=retries, remaining=again,
        on_task_end=lambda job, task, state, seconds: ended.append((job.cell.name, task)),
        on_give_up=lambda job, reason: given_up.append((job.cell.name, reason)),
    )  # fmt: skip
    assert {worker.number for worker in backend.stopped} == {w.number for w in backend.workers}
    return ended, given_up


def test_a_worker_keeps_to_its_model() -> None:
    backend = Backend(2)
    jobs = [job(f"{model}/{n}") for model in "abc" for n in range(3)]
    ended, given_up = run(backend, jobs)
    assert sorted(name for name, _ in ended) == sorted(each.cell.name for each in jobs)
    assert given_up == []
    assert len(backend.workers) == 2
    for worker in backend.workers:
        groups = [name[0] for name in worker.held]
        changes = sum(one != other for one, other in itertools.pairwise(groups))
        assert changes == len(set(groups)) - 1  # never back to a model it has let go


def test_what_a_dead_worker_was_at_goes_to_a_new_one() -> None:
    backend = Backend(1, {"a/1": 2})
    ended, given_up = run(backend, [job("a/0"), job("a/1", "x", "y", "z"), job("a/2")])
    # Each worker gets one task further before it dies: none is done twice.
    assert sorted(ended) == [("a/0", "t"), ("a/1", "x"), ("a/1", "y"), ("a/1", "z"), ("a/2", "t")]
    assert given_up == []
    assert [worker.held for worker in backend.workers] == [
        ["a/0", "a/1"], ["a/1"], ["a/1", "a/2"]
    ]  # fmt: skip


def test_a_cell_that_kills_every_worker_is_given_up_and_the_others_go_on() -> None:
    backend = Backend(2, {"a/1": 99})
    tasks = [f"t{number}" for number in range(9)]
    ended, given_up = run(backend, [job("a/0"), job("a/1", *tasks), job("b/0")], retries=2)
    assert given_up == [("a/1", "signal 9")]
    assert {"a/0", "b/0"} <= {name for name, _ in ended}
    assert sum("a/1" in worker.held for worker in backend.workers) == 3


def test_workers_are_ended_when_the_user_interrupts() -> None:
    class Interrupted(Backend):
        def wait(self, busy: Sequence[Worker]) -> list[Task | Ended | Lost]:
            raise KeyboardInterrupt

    backend = Interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            backend, [job("a/0"), job("a/1")], retries=0, remaining=lambda job: None,
            on_task_end=lambda *told: None, on_give_up=lambda *given: None,
        )  # fmt: skip
    assert len(backend.stopped) == 2
