# SPDX-License-Identifier: Apache-2.0
"""A compression that is killed goes on at the next block, and ends with the same bits."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors import (
    AWQ,
    GPTQ,
    Magnitude,
    SettingsError,
    SparseGPT,
    Unstructured,
    Wanda,
    compress_model,
    resume,
)
from compressors.quantization_grid import QuantizationGrid
from compressors.resume import ResumeStore
from tests.tiny_models import make

METHOD = SparseGPT(pattern=Unstructured(0.5))

# Compresses, and kills its own process, with no chance to tidy up, once so many blocks are kept.
# With "partial" it dies with one more block written, but not yet put in place.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from compressors import SparseGPT, Unstructured, compress_model, report, resume
from tests.tiny_models import make

directory, after, partial = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "partial"
kept = 0

def dying(path: Path, content: bytes) -> None:
    global kept
    if path.suffix == ".safetensors":
        if kept == after:
            if partial:
                Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
                report.write_atomically(path, content)
            os.kill(os.getpid(), signal.SIGKILL)
        kept += 1
    report.write_atomically(path, content)

resume.write_atomically = dying
tokens = torch.randint(3, 128, (6, 32), generator=torch.Generator().manual_seed(0))
compress_model(
    make("mixtral"), SparseGPT(pattern=Unstructured(0.5)), calibration=tokens,
    resume_dir=directory, progress=False,
)
"""


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return torch.randint(3, 128, (6, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def uninterrupted(samples: Tensor) -> dict[str, Tensor]:
    model = make("mixtral")
    compress_model(model, METHOD, calibration=samples, progress=False)
    return model.state_dict()


def run(model: nn.Module, samples: Tensor | None, directory: Path, method: Any = METHOD) -> Any:
    return compress_model(model, method, calibration=samples, resume_dir=directory, progress=False)


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("after", "partial"), [(0, False), (1, True), (2, False)])
def test_killed_and_started_again_ends_with_the_same_bits(
    after: int,
    partial: bool,
    samples: Tensor,
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
    repository: Path,
) -> None:
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path),
        str(after),
        "partial" if partial else "",
    ]
    process = subprocess.run(
        command, cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)}, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("block_*.safetensors"))) == after
    assert len(list(tmp_path.glob(".*.partial"))) == partial
    model = make("mixtral")
    assert not same_bits(model.state_dict(), uninterrupted)
    report = run(model, samples, tmp_path)
    assert report.resumed_blocks == after
    assert same_bits(model.state_dict(), uninterrupted)
    # All rows are there, those of the first run too.
    assert len(report.layers) == 3 * 16
    assert all(row.error is not None or row.note for row in report.layers)


def test_a_finished_compression_is_restored_without_a_forward_pass(
    samples: Tensor, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    first = run(make("mixtral"), samples, tmp_path)
    model = make("mixtral")
    model.forward = None
    again = run(model, samples, tmp_path)
    assert same_bits(model.state_dict(), uninterrupted)
    assert again.layers == first.layers
    assert (first.resumed_blocks, again.resumed_blocks) == (0, 3)


def test_methods_without_calibration_resume_too(tmp_path: Path) -> None:
    method = Magnitude(pattern=Unstructured(0.5))
    first = make("gpt2")
    run(first, None, tmp_path, method)
    (tmp_path / "block_0002.safetensors").unlink()
    second = make("gpt2")
    assert run(second, None, tmp_path, method).resumed_blocks == 2
    assert same_bits(first.state_dict(), second.state_dict())


@pytest.mark.parametrize(
    "method", [GPTQ(number_format="nvfp4"), AWQ(num_bits=3, group_size=32)], ids=str
)
def test_grids_are_kept_where_there_are_any(method: Any, samples: Tensor, tmp_path: Path) -> None:
    found: list[dict[str, QuantizationGrid]] = []
    models = [make("llama"), make("llama")]
    for model in models:
        grids: dict[str, QuantizationGrid] = {}
        report = compress_model(
            model, method, calibration=samples, resume_dir=tmp_path, grids=grids, progress=False
        )
        found.append(grids)
    assert report.resumed_blocks == report.blocks
    assert same_bits(models[0].state_dict(), models[1].state_dict())
    assert set(found[0]) == set(found[1])
    assert len(found[0]) == (0 if isinstance(method, AWQ) else len(report.layers))
    for name, grid in found[0].items():
        again = found[1][name]
        assert again.number_format == grid.number_format == "nvfp4"
        assert again.matrix_scale is not None
        assert grid.matrix_scale is not None
        assert torch.equal(again.matrix_scale, grid.matrix_scale)
        assert torch.equal(again.scale, grid.scale)


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _spoil_header(path: Path) -> None:
    path.write_bytes(b"nothing of the kind")


def _of_another_block(path: Path) -> None:
    path.write_bytes((path.parent / "block_0000.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [_flip_a_byte, _cut, _spoil_header, _of_another_block])
def test_a_damaged_block_is_named_and_done_again(
    damage: Callable[[Path], None],
    samples: Tensor,
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(make("mixtral"), samples, tmp_path)
    damage(tmp_path / "block_0001.safetensors")
    model = make("mixtral")
    with caplog.at_level(logging.WARNING):
        report = run(model, samples, tmp_path)
    assert "block_0001.safetensors is damaged" in caplog.text
    assert report.resumed_blocks == 1
    assert same_bits(model.state_dict(), uninterrupted)
    caplog.clear()
    assert run(make("mixtral"), samples, tmp_path).resumed_blocks == 3
    assert not caplog.records


def test_another_compression_is_refused_and_the_difference_named(
    samples: Tensor, tmp_path: Path
) -> None:
    run(make("llama"), samples, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other: list[tuple[Any, Tensor, Any, str]] = [
        (make("llama", seed=1), samples, METHOD, "the dense weights of the model"),
        (make("llama", rms_norm_eps=1e-3), samples, METHOD, "the configuration of the model"),
        (make("llama"), samples.flip(0), METHOD, "the calibration tokens"),
        (
            make("llama"), samples, Wanda(pattern=Unstructured(0.5)),
            r"the compression settings \(SparseGPT\(.*\) there, Wanda\(.*\) now\)",
        ),
    ]  # fmt: skip
    for model, tokens, method, message in other:
        dense = {name: weight.clone() for name, weight in model.state_dict().items()}
        with pytest.raises(SettingsError, match=f"another compression: {message}"):
            run(model, tokens, tmp_path, method)
        assert same_bits(model.state_dict(), dense)
    with pytest.raises(SettingsError, match="true_sequential"):
        compress_model(
            make("llama"), METHOD, calibration=samples, true_sequential=True,
            resume_dir=tmp_path, progress=False,
        )  # fmt: skip
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # Where the model was loaded from, and how many samples go at once, is no difference.
    model = make("llama")
    model.config._name_or_path = "/elsewhere"
    report = compress_model(
        model, METHOD, calibration=samples, batch_size=2, resume_dir=tmp_path, progress=False
    )
    assert report.resumed_blocks == 3


def test_blocks_without_their_header_are_not_guessed_at(samples: Tensor, tmp_path: Path) -> None:
    run(make("llama"), samples, tmp_path)
    (tmp_path / "resume.json").write_text("{")
    with pytest.raises(SettingsError, match=r"without a readable resume\.json"):
        run(make("llama"), samples, tmp_path)


def test_a_directory_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="choose a writable folder"):
        ResumeStore(tmp_path / "file", {"format": "1"})


def test_out_of_memory_keeps_what_is_finished(
    samples: Tensor, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    model = make("mixtral")

    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.layers[2].self_attn.o_proj.register_forward_pre_hook(failing)
    with pytest.raises(torch.OutOfMemoryError, match="continues after the finished blocks"):
        run(model, samples, tmp_path)
    again = make("mixtral")
    assert run(again, samples, tmp_path).resumed_blocks == 2
    assert same_bits(again.state_dict(), uninterrupted)


def test_a_full_disk_says_what_to_do_and_keeps_what_is_finished(
    samples: Tensor,
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = resume.write_atomically

    def full(path: Path, content: bytes) -> None:
        if path.name == "block_0001.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(resume, "write_atomically", full)
    with pytest.raises(OSError, match=r"block_0001.*No space left.*same resume_dir") as caught:
        run(make("mixtral"), samples, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    again = make("mixtral")
    assert run(again, samples, tmp_path).resumed_blocks == 1
    assert same_bits(again.state_dict(), uninterrupted)


def test_the_header_is_plain_json(samples: Tensor, tmp_path: Path) -> None:
    run(make("llama"), samples, tmp_path)
    header = json.loads((tmp_path / "resume.json").read_text())
    assert header["recipe"] == repr(METHOD)
    assert set(header) == {
        "format", "weights", "config", "recipe", "calibration", "true_sequential"
    }  # fmt: skip
