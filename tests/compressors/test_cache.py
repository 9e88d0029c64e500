# SPDX-License-Identifier: Apache-2.0
"""Compressed weights are kept for other runs: the same bits, found by content, safe to share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from compressors import GPTQ, NM, CompressionReport, SettingsError, Wanda, compress_model
from compressors.files import unfinished
from tests.tiny_models import make

METHOD = GPTQ(num_bits=4, group_size=32, act_order=True, static_groups=False)

# Compresses, and prints whether that was necessary and what came out.
PROCESS = """
import sys, time, torch
from pathlib import Path
from compressors import GPTQ, compress_model
from lmkick_plugin.record.weights import survey_weights
from tests.tiny_models import make

model = make("llama")
tokens = torch.randint(3, 128, (6, 32), generator=torch.Generator().manual_seed(0))
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.01)
report = compress_model(
    model, GPTQ(num_bits=4, group_size=32, act_order=True, static_groups=False), calibration=tokens,
    compress_cache=sys.argv[1], progress=False,
)
print(report.from_cache, survey_weights(model).sha256)
"""


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return torch.randint(3, 128, (6, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fresh(samples: Tensor) -> tuple[dict[str, Tensor], CompressionReport]:
    model = make("llama")
    report = compress_model(model, METHOD, calibration=samples, progress=False)
    return model.state_dict(), report


def run(model: nn.Module, samples: Tensor, folder: Path, method: Any = METHOD, **more: Any) -> Any:
    return compress_model(
        model, method, calibration=samples, compress_cache=folder, progress=False, **more
    )


def entries(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/resume.json"))


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def test_a_second_run_reads_what_the_first_made(
    samples: Tensor, fresh: tuple[dict[str, Tensor], CompressionReport], tmp_path: Path
) -> None:
    made: dict[str, Any] = {}
    first = run(make("llama"), samples, tmp_path, grids=made)
    again = make("llama")
    assert not same_bits(again.state_dict(), fresh[0])
    again.forward = None  # nothing may be computed
    read: dict[str, Any] = {}
    second = run(again, samples, tmp_path, grids=read)
    assert same_bits(again.state_dict(), fresh[0])
    assert (first.from_cache, second.from_cache) == (False, True)
    assert replace(second, from_cache=False) == first
    assert [row.error for row in second.layers] == [row.error for row in fresh[1].layers]
    # What a checkpoint of integers needs is there again too.
    assert set(read) == set(made) == {row.name for row in first.layers}
    for name, grid in made.items():
        for part in ("scale", "zero_point", "g_idx"):
            assert torch.equal(getattr(read[name], part), getattr(grid, part))
        assert not grid.in_order  # the order of the columns was at stake


def test_entries_are_found_by_content(samples: Tensor, tmp_path: Path) -> None:
    run(make("llama"), samples, tmp_path)
    assert len(entries(tmp_path)) == 1
    others: list[tuple[Any, Tensor, Any]] = [
        (make("llama", seed=1), samples, METHOD),
        (make("llama"), samples.flip(0), METHOD),
        (make("llama"), samples, replace(METHOD, scale_dtype=torch.bfloat16)),
        (make("llama").bfloat16(), samples, METHOD),
    ]
    for number, (model, tokens, method) in enumerate(others, start=2):
        assert not run(model, tokens, tmp_path, method).from_cache
        assert len(entries(tmp_path)) == number
    assert run(make("llama"), samples, tmp_path).from_cache


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip])
def test_a_damaged_block_is_made_again(
    damage: Any,
    samples: Tensor,
    fresh: tuple[dict[str, Tensor], CompressionReport],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(make("llama"), samples, tmp_path)
    (entry,) = entries(tmp_path)
    damage(entry / "block_0001.safetensors")
    model = make("llama")
    report = run(model, samples, tmp_path)
    assert (report.from_cache, report.resumed_blocks) == (False, 1)
    assert "block_0001.safetensors is damaged" in caplog.text
    assert same_bits(model.state_dict(), fresh[0])
    assert run(make("llama"), samples, tmp_path).from_cache  # and is whole again


def test_an_entry_of_another_model_is_not_taken(
    samples: Tensor,
    fresh: tuple[dict[str, Tensor], CompressionReport],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(make("llama"), samples, tmp_path / "here")
    (entry,) = entries(tmp_path / "here")
    run(make("llama", seed=1), samples, tmp_path / "there")
    (other,) = entries(tmp_path / "there")
    for path in entry.iterdir():
        path.unlink()
    entry.rmdir()
    other.rename(entry)
    model = make("llama")
    assert not run(model, samples, tmp_path / "here").from_cache
    assert same_bits(model.state_dict(), fresh[0])
    assert "is not the entry that its name says (weights differ)" in caplog.text


def test_what_was_not_used_for_longest_goes(samples: Tensor, tmp_path: Path) -> None:
    methods = [Wanda(pattern=NM(2, 4)), Wanda(pattern=NM(1, 4)), Wanda(pattern=NM(3, 4))]
    run(make("llama"), samples, tmp_path, methods[0])
    (only,) = entries(tmp_path)
    size = sum(path.stat().st_size for path in only.iterdir())
    two = {"compress_cache_gb": 2.5 * size / 1e9}
    run(make("llama"), samples, tmp_path, methods[1], **two)
    os.utime(only / "size", (1, 1))
    assert run(make("llama"), samples, tmp_path, methods[0], **two).from_cache  # used just now
    second = next(path for path in entries(tmp_path) if path != only)
    os.utime(second / "size", (2, 2))
    run(make("llama"), samples, tmp_path, methods[2], **two)
    assert only in entries(tmp_path)
    assert second not in entries(tmp_path)
    assert len(entries(tmp_path)) == 2
    assert list(tmp_path.glob(".lmkick-*")) == []


def test_an_entry_in_use_never_goes(
    samples: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(make("llama"), samples, tmp_path, Wanda(pattern=NM(2, 4)))
    (used,) = entries(tmp_path)
    size = sum(path.stat().st_size for path in used.iterdir())
    with FileLock(tmp_path / "locks" / f"{used.name}.lock"):
        one = {"compress_cache_gb": 1.5 * size / 1e9}
        run(make("llama"), samples, tmp_path, Wanda(pattern=NM(1, 4)), **one)
    assert used in entries(tmp_path)
    assert "other processes use its entries" in caplog.text


def test_what_cannot_be_kept_is_refused_before_the_work(
    samples: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama")
    model.forward = None
    with pytest.raises(SettingsError, match=r"more than compress_cache_gb=1e-06"):
        run(model, samples, tmp_path, compress_cache_gb=1e-6)
    with pytest.raises(SettingsError, match="above 0"):
        run(model, samples, tmp_path, compress_cache_gb=0)
    with pytest.raises(SettingsError, match="leave resume_dir out"):
        run(model, samples, tmp_path, resume_dir=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"compress_cache=.*choose a writable folder"):
        run(model, samples, tmp_path / "file")
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000, "total": 1, "used": 1})
    )
    with pytest.raises(SettingsError, match="the disk has 1e-06 free"):
        run(model, samples, tmp_path)


def test_an_unfinished_entry_is_gone_on_with(
    samples: Tensor, fresh: tuple[dict[str, Tensor], CompressionReport], tmp_path: Path
) -> None:
    run(make("llama"), samples, tmp_path)
    (entry,) = entries(tmp_path)
    (entry / "report.json").unlink()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass  # a process that is no longer there
    left = unfinished(entry / "x").name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    (entry / "block_0002.safetensors").rename(entry / left)
    model = make("llama")
    report = run(model, samples, tmp_path)
    assert (report.from_cache, report.resumed_blocks) == (False, 2)
    assert same_bits(model.state_dict(), fresh[0])
    assert list(entry.glob(".*")) == []
    assert json.loads((entry / "report.json").read_text())["blocks"] == 3


def test_two_processes_share_one_cache(
    fresh: tuple[dict[str, Tensor], CompressionReport], tmp_path: Path, repository: Path
) -> None:
    go, ready = tmp_path / "go", [tmp_path / "ready0", tmp_path / "ready1"]
    cache = tmp_path / "cache"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(cache), str(path), str(go)],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in ready
    ]
    try:
        while not all(path.exists() for path in ready):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        go.touch()
        said = [process.communicate(timeout=120)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sorted(words[0] for words in said) == ["False", "True"]  # one made it, one read it
    assert said[0][1] == said[1][1]
    assert len(entries(cache)) == 1
