# SPDX-License-Identifier: Apache-2.0
"""Workers on this machine: processes, each with its own GPUs or none.

They exchange lines of JSON through pipes. A worker whose parent is gone exits immediately:
it must not write into a folder that another sweep may have taken over.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from compressors.errors import SettingsError
from lmkick_plugin.sweep.config import SweepConfig
from lmkick_plugin.sweep.jobs import Job
from lmkick_plugin.sweep.pool import Ended, Lost, Task

__all__ = ["LocalWorkers"]

_TAIL = 2000  # characters of a dead worker's last words


@dataclass(eq=False)
class _Process:
    process: subprocess.Popen[bytes]
    devices: str | None
    errors: IO[bytes]  # what it prints outside of its cells' logs
    heard: bytes = b""


class LocalWorkers:
    """A :class:`lmkick_plugin.sweep.pool.Backend` of processes."""

    def __init__(self, config: SweepConfig) -> None:
        """Find the GPUs.

        Args:
            config: The sweep.

        Raises:
            SettingsError: There is no GPU, and nobody said how many processes without one.
        """
        self._config = config
        self._free = _places(config)
        self._size = len(self._free)

    @property
    def size(self) -> int:
        """Number of workers: one per GPU or group of GPUs."""
        return self._size

    def start(self) -> _Process:
        """Start a process on free devices."""
        devices = self._free.pop(0)
        settings = dict(os.environ)
        if devices is not None:
            settings["CUDA_VISIBLE_DEVICES"] = devices
        else:
            # Processes that share the cores must not each start a thread for every core.
            settings.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.size)))
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        process = subprocess.Popen(
            [sys.executable, "-m", "lmkick_plugin.sweep.local_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=settings,
        )
        worker = _Process(process, devices, errors)
        _write(worker, self._config.to_json())
        return worker

    def submit(self, worker: _Process, job: Job) -> None:
        """Send a cell; :meth:`wait` notices a dead worker."""
        _write(worker, job.to_json())

    def wait(self, busy: Sequence[_Process]) -> list[Task | Ended | Lost]:
        """Read messages of the workers."""
        pipes = {worker.process.stdout: worker for worker in busy if worker.process.stdout}
        ready, _, _ = select.select(list(pipes), [], [], 60)
        events: list[Task | Ended | Lost] = []
        for pipe in ready:
            worker = pipes[pipe]
            said = os.read(pipe.fileno(), 1 << 16)
            if not said:
                events.append(Lost(worker, _last_words(worker)))
                continue
            *lines, worker.heard = (worker.heard + said).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message["event"] == "task":
                    events.append(
                        Task(worker, message["task"], message["state"], message["seconds"])
                    )
                elif message["event"] == "ended":
                    events.append(Ended(worker))
        return events

    def stop(self, worker: _Process) -> None:
        """Kill a worker's process."""
        worker.process.kill()
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout, worker.errors):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # something was still on its way to it
                    continue
        self._free.append(worker.devices)

    def close(self) -> None:
        """Do nothing: :meth:`stop` ended the workers."""


def _write(worker: _Process, line: str) -> None:
    stream = worker.process.stdin
    if stream is not None:
        try:
            stream.write(line.encode() + b"\n")
            stream.flush()
        except BrokenPipeError:
            return  # it is dead; wait() finds its output closed


def _last_words(worker: _Process) -> str:
    status = worker.process.wait()
    worker.errors.seek(0)
    said = worker.errors.read().decode("utf-8", "replace").strip()[-_TAIL:]
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return f"its process ended with {how}" + (f"; it last said: {said}" if said else "")


def _places(config: SweepConfig) -> list[str | None]:
    """Devices visible to each worker; None where there are none."""
    devices = _devices()
    each = config.gpus_per_cell
    if each is not None and each != int(each):
        raise SettingsError(
            f"gpus_per_cell={each:g}: a local process has whole GPUs. Give 1 or more; shares need "
            "executor=ray."
        )
    if not devices or each == 0:
        if config.workers is None:
            raise SettingsError(
                "executor=gpus: torch sees no GPU on this machine. Use workers=2 for two "
                "processes on the CPU, or executor=process."
            )
        if each:
            raise SettingsError(
                f"gpus_per_cell={each:g}: torch sees no GPU on this machine. Leave it out."
            )
        return [None] * config.workers
    count = int(each or 1)
    places = [
        ",".join(devices[at : at + count]) for at in range(0, len(devices) - count + 1, count)
    ]
    if not places:
        raise SettingsError(
            f"gpus_per_cell={count}: torch sees {len(devices)} GPUs on this machine. Give fewer."
        )
    wanted = config.workers or len(places)
    if wanted > len(places):
        raise SettingsError(
            f"workers={wanted}: only {len(devices)} GPUs, with {count} per worker. Give "
            f"workers={len(places)} or fewer."
        )
    return list(places[:wanted])


def _devices() -> list[str]:
    """GPUs of this process, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]
