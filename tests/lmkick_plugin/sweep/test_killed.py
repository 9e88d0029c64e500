# SPDX-License-Identifier: Apache-2.0
"""Sweeps whose processes are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.sweep import Progress, run_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def results(folder: Path) -> set[Path]:
    # Those below .unfinished are being written.
    return {path for path in folder.rglob("results_*.json") if ".unfinished" not in path.parts}


def wait_for(happened: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := happened():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def one_result_for_each(small_sweep: dict[str, Any], found: Any) -> None:
    assert [cell.state for cell in found.cells] == ["done"] * len(found.cells)
    assert found.status == 0
    for cell in found.cells:
        assert results(cell.folder) == set(cell.results.values())
        assert len(cell.results) == len(small_sweep["tasks"])
        for path in cell.results.values():
            json.loads(path.read_text(encoding="utf-8"))
        assert not (cell.folder / ".unfinished").exists()


def test_a_sweep_killed_at_any_point_goes_on(small_sweep: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(small_sweep), encoding="utf-8")  # YAML holds JSON
    output = Path(small_sweep["output"])
    process = subprocess.Popen(
        [sys.executable, "-m", "lmkick_plugin", "sweep", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: len(results(output)) >= 2 or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    before = {each: each.stat().st_mtime_ns for each in results(output)}
    assert 2 <= len(before) < 6
    told: list[Progress] = []
    found = run_sweep(path, progress=told.append)
    one_result_for_each(small_sweep, found)
    assert all(each.stat().st_mtime_ns == stamp for each, stamp in before.items())
    assert len(told) == 6 - len(before)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_a_killed_worker_is_replaced(small_sweep: dict[str, Any]) -> None:
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    def workers() -> list[int]:
        mine = [
            pid
            for pid in children(os.getpid())
            if b"local_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return sorted(mine)

    found = run_sweep(
        {**small_sweep, "executor": "gpus", "workers": 2, "device": None}, progress=kill_one
    )
    assert killed
    one_result_for_each(small_sweep, found)
    assert workers() == []


def test_a_worker_without_its_sweep_ends(small_sweep: dict[str, Any]) -> None:
    from lmkick_plugin.sweep.config import read_config

    process = subprocess.Popen(
        [sys.executable, "-m", "lmkick_plugin.sweep.local_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(read_config(small_sweep).to_json().encode() + b"\n")
    process.stdin.close()
    assert process.wait(timeout=120) == 0


# --- Ray ------------------------------------------------------------------------------------------


def test_a_killed_ray_worker_is_replaced(
    small_sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'lmkick[ray]'")
    # Ray gives its workers way to everything else; on a busy machine they would come to nothing.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    output = Path(small_sweep["output"])

    def actors() -> list[int]:
        found = []
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if line.read_bytes().startswith(b"ray::Cell"):
                    found.append(int(line.parent.name))
            except OSError:
                continue
        return found

    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: results(output) and actors())
        killed.append(min(actors()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        found = run_sweep({**small_sweep, "executor": "ray", "workers": 2}, progress=False)
    finally:
        killer.join(120)
    assert killed
    one_result_for_each(small_sweep, found)
    assert not ray.is_initialized()
    assert list(output.glob(".lmkick-*")) == []


def test_without_shared_storage_files_come_back(
    small_sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an actor does, without Ray: it writes elsewhere, and the driver keeps what it sends."""
    from lmkick_plugin.sweep import ray_workers
    from lmkick_plugin.sweep.config import read_config
    from lmkick_plugin.sweep.jobs import Job
    from lmkick_plugin.sweep.runner import open_plan

    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
    small_sweep |= {"recipes": [], "tasks": ["kickonly_perplexity", "kick_freebaseqa"]}
    config = read_config(small_sweep)
    plan, _ = open_plan(config)
    (dense,) = plan.cells
    folder = config.output_path / dense.cell.name
    actor = ray_workers.Cell(config.to_json(), str(tmp_path / "no probe here"), {})
    for task in plan.tasks:  # as after a death in between: the second knows nothing of the first
        order = Job(dense.cell, (task,))
        answer = actor.run(order.to_json())
        assert [(name, state) for name, state, _ in answer["tasks"]] == [(task, "done")]
        assert not folder.exists() or task not in (folder / "cell.json").read_text()
        ray_workers._store(folder, answer["files"])
        actor = ray_workers.Cell(config.to_json(), str(tmp_path / "no probe here"), {})
    after, _ = open_plan(config)
    assert list(after.cells[0].done) == ["kickonly_perplexity", "kick_freebaseqa"]


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmkick_plugin.sweep.ray_workers import import_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'lmkick\[ray\]'"):
        import_ray()


@pytest.mark.parametrize(
    ("settings", "total", "expected"),
    [
        ({"workers": 2}, {"CPU": 4.0}, (0.0, 2)),
        ({}, {"CPU": 64.0, "GPU": 8.0}, (1.0, 8)),
        ({"gpus_per_cell": 2}, {"CPU": 64.0, "GPU": 7.0}, (2.0, 3)),
        ({"gpus_per_cell": 0.5, "workers": 3}, {"CPU": 64.0, "GPU": 2.0}, (0.5, 3)),
        ({}, {"CPU": 4.0}, "no GPU for cells"),
        ({"gpus_per_cell": 1, "workers": 1}, {"CPU": 4.0}, "has 0 GPUs"),
        ({"workers": 1}, {"CPU": 0.0}, "no CPU left"),
    ],
)
def test_what_a_cluster_has_room_for(
    small_sweep: dict[str, Any], settings: dict[str, Any], total: dict[str, float], expected: Any
) -> None:
    from lmkick_plugin.sweep.config import read_config
    from lmkick_plugin.sweep.ray_workers import _share

    config = read_config({**small_sweep, **settings, "executor": "ray"})
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            _share(config, total)
    else:
        assert _share(config, total) == expected


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        ({}, 3, ["0", "1", "2"]),
        ({"workers": 2}, 3, ["0", "1"]),
        ({"gpus_per_cell": 2}, 5, ["0,1", "2,3"]),
        ({"workers": 2}, 0, [None, None]),
        ({}, 0, "sees no GPU"),
        ({"workers": 4}, 2, "workers=4: only 2 GPUs"),
        ({"gpus_per_cell": 4}, 2, "sees 2 GPUs"),
        ({"gpus_per_cell": 0.5}, 2, "whole GPUs"),
    ],
)
def test_where_local_workers_go(
    small_sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any], gpus: int, expected: Any,
) -> None:  # fmt: skip
    from lmkick_plugin.sweep.config import read_config
    from lmkick_plugin.sweep.local_workers import _places

    small_sweep.pop("device")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    config = read_config({**small_sweep, **settings, "executor": "gpus"})
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            _places(config)
    else:
        assert _places(config) == expected
