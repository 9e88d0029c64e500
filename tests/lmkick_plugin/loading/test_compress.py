# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are compressed once more: recognised first, recorded with both steps."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from compressors import SettingsError
from lmkick_plugin import cli
from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.inference.test_divergence import ask

CPU: dict[str, Any] = {"device": "cpu", "batch_size": 3}
RTN: dict[str, Any] = {"compressor": "rtn", "bits": 8, "group_size": -1}
PRUNE: dict[str, Any] = {"compressor": "magnitude", "pattern": "2:4"}


@pytest.fixture(scope="module")
def pruned_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pruned"
    KickLM(pretrained=str(tiny_model_dir), save_compressed=str(folder), **PRUNE, **CPU)
    return folder


def record(model: KickLM) -> dict[str, Any]:
    return dict(model.get_model_info()["kick"])


def test_both_steps_are_recorded_and_saved(
    pruned_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "twice"
    made = record(KickLM(pretrained=str(pruned_dir), save_compressed=str(folder), **RTN, **CPU))
    steps = [(step["compressor"], step["pattern"]) for step in made["earlier"]]
    assert (made["compressor"], made["num_bits"], steps) == ("rtn", 8, [("magnitude", "2:4")])
    assert made["base_model"] == str(tiny_model_dir)
    saved = json.loads((folder / "kick.json").read_text())["record"]
    assert saved["earlier"] == made["earlier"]
    for model in (folder, folder):  # evaluated, and compressed a third time
        found = record(KickLM(pretrained=str(model), **CPU))
        assert (found["compressor"], found["earlier"]) == ("rtn", made["earlier"])
    third = record(KickLM(pretrained=str(folder), compressor="magnitude", sparsity=0.7, **CPU))
    assert [step["compressor"] for step in third["earlier"]] == ["magnitude", "rtn"]
    once = record(KickLM(pretrained=str(tiny_model_dir), **RTN, **CPU))
    assert once["earlier"] is None


def test_its_own_weights_are_not_the_dense_ones(pruned_dir: Path, tiny_model_dir: Path) -> None:
    model = KickLM(pretrained=str(pruned_dir), **RTN, **CPU)
    with pytest.raises(SettingsError, match=f"already compressed.*reference={tiny_model_dir}"):
        ask(model)
    assert model.dense_problem is not None
    given = KickLM(pretrained=str(pruned_dir), reference=str(tiny_model_dir), **RTN, **CPU)
    assert given.dense_problem is None
    # Nearly all of it is the pruning's: 8 bits alone move the scores a thousandth of that.
    rounded = ask(KickLM(pretrained=str(tiny_model_dir), **RTN, **CPU))
    assert ask(given)[0]["kl"] > 100 * rounded[0]["kl"] > 0


def test_zeros_without_a_manifest_are_recognised_too(pruned_dir: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(pruned_dir, tmp_path / "anonymous")
    for name in ("kick.json", "README.md"):
        (folder / name).unlink()
    model = KickLM(pretrained=str(folder), **RTN, **CPU)
    steps = record(model)["earlier"]
    assert [(step["compressor"], step["pattern"]) for step in steps] == [("pruned", "2:4")]
    with pytest.raises(SettingsError, match="reference=NAME"):
        ask(model)


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ({"compressor": "magnitude", "sparsity": 0.6}, None),
        ({"compressor": "gptq", "bits": 4, "group_size": 16}, "2:4 pattern is lost: 50.0 %"),
        ({"compressor": "wanda", "pattern": "4:8"}, None),
    ],
    ids=["kept", "lost", "kept within another"],
)
def test_what_is_lost_of_the_first_step_is_logged(
    again: dict[str, Any],
    said: str | None,
    pruned_dir: Path,
    calibration_file: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = {"calibration": calibration_file, "nsamples": 4, "seqlen": 32}
    how = {**again, **(text if again["compressor"] != "magnitude" else {})}
    with caplog.at_level(logging.WARNING, logger="lmkick_plugin"):
        KickLM(pretrained=str(pruned_dir), **how, **CPU)
    assert "already compressed" in caplog.text
    assert ("lost" in caplog.text) is (said is not None)
    assert said is None or said in caplog.text


@pytest.mark.slow
def test_divergence_stops_before_it_measures(
    pruned_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "Some text to measure on. " * 8}) + "\n")
    arguments = [
        "run", "--model", "kick", "--model_args",
        f"pretrained={pruned_dir},compressor=rtn,bits=8,group_size=-1", "--tasks",
        "kickonly_divergence", "--metadata", f"divergence_text={texts}", "--device", "cpu",
        "--batch_size", "2",
    ]  # fmt: skip
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "kickonly_divergence: the checkpoint is already compressed" in said
    assert "reference=" in said
