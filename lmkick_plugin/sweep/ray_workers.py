# SPDX-License-Identifier: Apache-2.0
"""Workers on a Ray cluster: actors that keep a model from cell to cell.

Where an actor sees the sweep's output folder, it writes there. Where it does not (no shared
storage), it writes into a local folder, and the files are sent to the driver with each cell.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from compressors.files import unfinished, write_atomically
from lmkick_plugin.sweep.cell_files import NAME, Ledger
from lmkick_plugin.sweep.config import SweepConfig
from lmkick_plugin.sweep.evaluate import environment, set_environment
from lmkick_plugin.sweep.jobs import CellWorker, Job
from lmkick_plugin.sweep.pool import Ended, Lost, Task

__all__ = ["Cell", "RayWorkers", "import_ray"]


def import_ray() -> Any:
    """Import Ray, an optional dependency.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SettingsError(
            "executor=ray needs Ray, which is not installed: pip install 'lmkick[ray]'"
        ) from error
    return ray


class Cell:
    """Body of an actor; plain Python, testable without Ray."""

    def __init__(self, config: str, probe: str, variables: Mapping[str, str]) -> None:
        """Find out whether the output folder is shared.

        Args:
            config: The sweep, as JSON.
            probe: A file that the driver has put into the output folder.
            variables: Of the driver's environment, what a sweep uses.
        """
        set_environment(variables)
        self._config = SweepConfig.from_json(config)
        shared = Path(probe).is_file()
        self._own = None if shared else Path(tempfile.mkdtemp(prefix="lmkick-sweep-"))
        if self._own is not None:
            # An actor is never told that it is done: its folder goes when it does.
            weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)
        self._output = self._own or self._config.output_path
        self._worker: CellWorker | None = None

    def run(self, job: str) -> dict[str, Any]:
        """Run a cell.

        Args:
            job: The :class:`Job`, as JSON.

        Returns:
            ``tasks``, which have ended and how; ``files``, by name relative to the cell's folder,
            where the driver does not see them anyway.
        """
        asked = Job.from_json(job)
        if self._worker is None:
            self._worker = CellWorker(self._config, output=self._output)
        ended: list[tuple[str, str, float]] = []
        self._worker.run(asked, lambda *told: ended.append(told))
        files: dict[str, bytes] = {}
        if self._own is not None:
            folder = self._output / asked.cell.name
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        return {"tasks": ended, "files": files}


@dataclass(eq=False)
class _Actor:
    handle: Any
    job: Job | None = None
    result: Any = None
    events: list[Task] = field(default_factory=list)


class RayWorkers:
    """A :class:`lmkick_plugin.sweep.pool.Backend` of Ray actors."""

    def __init__(self, config: SweepConfig) -> None:
        """Connect to the cluster, or start one on this machine.

        Args:
            config: The sweep.

        Raises:
            SettingsError: Ray is missing, the cluster cannot be reached, or it has not what a
                cell needs.
        """
        self._ray = import_ray()
        self._config = config
        self._started = not self._ray.is_initialized()
        if self._started:
            _connect(self._ray, config)
        total = self._ray.cluster_resources()
        self._gpus, self._size = _share(config, total)
        self._probe = unfinished(config.output_path.resolve() / "probe")
        write_atomically(self._probe, "")
        self._actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0)(Cell)

    @property
    def size(self) -> int:
        """Number of actors: as requested, or as the cluster has room for."""
        return self._size

    def start(self) -> _Actor:
        """Start an actor."""
        absolute = self._config.absolute()
        variables = environment(absolute.metadata)
        handle = self._actor.remote(absolute.to_json(), str(self._probe), variables)
        return _Actor(handle)

    def submit(self, worker: _Actor, job: Job) -> None:
        """Send a cell."""
        worker.job = job
        worker.result = worker.handle.run.remote(job.to_json())

    def wait(self, busy: Sequence[_Actor]) -> list[Task | Ended | Lost]:
        """Wait for the first finished cell or dead actor."""
        results = {worker.result: worker for worker in busy}
        ready, _ = self._ray.wait(list(results), num_returns=1, timeout=60)
        events: list[Task | Ended | Lost] = []
        for reference in ready:
            worker = results[reference]
            try:
                found = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                events.append(Lost(worker, _first_lines(error)))
                continue
            if worker.job is not None:
                _store(self._config.output_path / worker.job.cell.name, found["files"])
            events += [Task(worker, *told) for told in found["tasks"]]
            events.append(Ended(worker))
        return events

    def stop(self, worker: _Actor) -> None:
        """Kill an actor."""
        self._ray.kill(worker.handle, no_restart=True)

    def close(self) -> None:
        """Disconnect; a cluster started here ends."""
        self._probe.unlink(missing_ok=True)
        if self._started:
            self._ray.shutdown()


def _connect(ray: Any, config: SweepConfig) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = config.ray_address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address:
        options["address"] = address
    else:
        options["include_dashboard"] = False
        if config.workers is not None:
            options["num_cpus"] = config.workers
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises anything
        raise SettingsError(
            f"executor=ray: no cluster at {address or 'this machine'}: {error}. Start one with "
            "`ray start --head`, or leave ray_address (and RAY_ADDRESS) out to use this machine."
        ) from error


def _share(config: SweepConfig, total: Mapping[str, float]) -> tuple[float, int]:
    """GPUs per actor, and the largest number of actors.

    Raises:
        SettingsError: The cluster has not what a cell needs.
    """
    gpus = float(total.get("GPU", 0))
    each = (1.0 if gpus else 0.0) if config.gpus_per_cell is None else config.gpus_per_cell
    if each > gpus:
        raise SettingsError(
            f"gpus_per_cell={each:g}: the Ray cluster has {gpus:g} GPUs. Give fewer, 0 for the "
            "CPU, or add nodes with GPUs."
        )
    room = int(total.get("CPU", 0))
    if each:
        room = min(room, int(gpus / each))
    elif config.workers is None:
        raise SettingsError(
            "executor=ray: the cluster has no GPU for cells. Give workers=2 to run two cells on "
            "CPUs."
        )
    if room < 1:
        raise SettingsError(
            "executor=ray: the cluster has no CPU left for a cell. Start it with `ray start --head "
            "--num-cpus 1` or more."
        )
    return each, min(config.workers or room, room)


def _store(folder: Path, files: Mapping[str, bytes]) -> None:
    """Save the files of a cell; its state is written last and merged."""
    for name in sorted(files, key=lambda name: name == NAME):
        text = files[name].decode("utf-8", "replace")
        if name == NAME:
            new = Ledger.parse(folder, text)
            old = Ledger.open(folder, new.cell, new.identity)
            new.tasks = {**old.tasks, **new.tasks}
            new.write()
        else:
            write_atomically(folder / name, text)


def _first_lines(error: Exception) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:500]
