# SPDX-License-Identifier: Apache-2.0
"""``lmkick profile``: models, results, and arguments that are wrong before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmkick_plugin.cli import main

SIZES = ["--prompt_tokens", "8", "--new_tokens", "3", "--repeats", "1"]


def test_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "profile.json"
    assert main(["profile", "kick-mini", *SIZES, "--device", "cpu", "--json", str(written)]) == 0
    shown = capsys.readouterr().out
    assert "prefill" in shown
    assert "decode" in shown
    assert shown.count("tokens/s") == 6
    found = json.loads(written.read_text())
    assert found["prefill"]["low"] <= found["prefill"]["median"] <= found["prefill"]["high"]
    assert found["memory_bytes"] > 1e6
    assert found["disk_bytes"] > 1e6


def results(folder: Path, arguments: dict[str, str]) -> Path:
    folder.mkdir()
    content = {
        "results": {"t": {"acc,none": 0.5}},
        "configs": {"t": {}},
        "config": {"model": "kick", "model_args": arguments},
        "date": 1.0,
    }
    path = folder / "results_2026-01-02T03-04-05.678901.json"
    path.write_text(json.dumps(content))
    return path


def test_results_that_saved_nothing_stand_for_the_dense_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results(
        tmp_path / "run",
        {"pretrained": "kick-mini", "compressor": "magnitude", "sparsity": "0.5"},
    )
    assert main(["profile", str(path), *SIZES, "--device", "cpu"]) == 0
    assert "the dense weights: the run's own were not saved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kick-mini", "--new_tokens", "1"], "new_tokens=1: expected at least 2"),
        (["kick-mini", "--batch_size", "0"], "batch_size=0: expected at least 1"),
        (["kick-mini", "--new_tokens", "9999999"], "--new_tokens 9999999: expected at most"),
        (["kick-mini", "--prompt_tokens", "99999"], "prompt_tokens=99999 and new_tokens=32 exceed"),
        (["kick-mini", "--model_args", "bits=4"], "bits"),
        (["no/such/folder"], "no/such/folder"),
        (
            ["kick-mini", "--semi_structured"],
            "on GPUs of CUDA only, not on cpu. Leave the option out",
        ),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers

    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    assert main(["profile", *arguments, "--device", "cpu"]) == 2
    assert words in capsys.readouterr().err


def test_results_name_the_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"pretrained": "kick-mini", "subfolder": "absent"}
    assert main(["profile", str(results(tmp_path / "run", given)), *SIZES]) == 2
    assert "Unrecognized model" in capsys.readouterr().err  # there is none in that subfolder


def test_results_of_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(results(tmp_path / "run", {})), *SIZES]) == 2
    assert "do not say which model" in capsys.readouterr().err
