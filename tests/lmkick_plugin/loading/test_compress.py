# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are compressed once more: recognised first, recorded with both steps."""

from __future__ import annotations

import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest

from compressors import SettingsError
from lmkick_plugin import cli
from lmkick_plugin.inference import loaded_models
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
    pruned_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A model of another test that is still alive could serve the task.
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
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


def test_the_record_says_which_text_was_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Not the nickname: the data directory's file stands in for C4."""
    import hashlib

    lines = "".join(json.dumps({"text": f"{n} some text. " * 40}) + "\n" for n in range(9))
    file = tmp_path / "web_text" / "train.jsonl"
    file.parent.mkdir()
    file.write_text(lines)
    how: dict[str, Any] = {"nsamples": 4, "seqlen": 32, "data_dir": str(tmp_path)}
    wanda: dict[str, Any] = {"compressor": "wanda", "sparsity": 0.5}
    for calibration, expected in (("c4", 1), ("mix:c4+self", 2)):
        folder = tmp_path / calibration.replace(":", "")
        model = KickLM(
            pretrained=str(tiny_model_dir), calibration=calibration,
            save_compressed=str(folder), **wanda, **how, **CPU,
        )  # fmt: skip
        first, *rest = record(model)["calibration_sources"]
        assert first == {
            "source": "c4", "domain": "web", "origin": "data_dir", "file": str(file),
            "sha256": hashlib.sha256(lines.encode()).hexdigest(), "rows": 9,
        }  # fmt: skip
        assert [one["origin"] for one in rest] == ["model"][: expected - 1]
        saved = json.loads((folder / "kick.json").read_text())["record"]
        assert saved["calibration_sources"] == [first, *rest]
    plain = KickLM(pretrained=str(tiny_model_dir), compressor="magnitude", sparsity=0.5, **CPU)
    assert record(plain)["calibration_sources"] is None


def test_the_outcome_is_logged_in_two_lines(
    tiny_model_dir: Path, calibration_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    how = {"calibration": calibration_file, "nsamples": 4, "seqlen": 32}
    with caplog.at_level(logging.INFO, logger="lmkick_plugin.loading.compress"):
        KickLM(pretrained=str(tiny_model_dir), compressor="wanda", pattern="2:4", **how, **CPU)
    said = [one.message for one in caplog.records if one.name == "lmkick_plugin.loading.compress"]
    assert len(said) == 2
    assert said[0].startswith("wanda: 50.00 % of 73728 weights in 14 matrices are zero; mean")
    assert "MB as evaluated" in said[1]


def test_experts_that_fell_back_are_counted_and_said(
    tmp_path: Path, calibration_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.conftest import make_tiny_tokenizer
    from tests.tiny_models import make

    how = {"calibration": calibration_file, "nsamples": 2, "seqlen": 32}
    with caplog.at_level(logging.WARNING, logger="lmkick_plugin.loading.compress"):
        model = KickLM(
            pretrained=make("mixtral"), tokenizer=make_tiny_tokenizer(), batch_size=2,
            compressor="wanda", sparsity=0.5, **how,
        )  # fmt: skip
    summary = record(model)["layer_summary"]
    assert 0 < summary["notes"] < summary["matrices"]
    line = f"{summary['notes']} of {summary['matrices']} matrices fell back to another method"
    assert line in caplog.text
    assert "starved expert" in caplog.text


def test_files_of_a_processor_are_saved_as_well(tiny_model_dir: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_model_dir, tmp_path / "multimodal")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).write_text(json.dumps({"name": name}))
    saved = tmp_path / "saved"
    KickLM(pretrained=str(folder), save_compressed=str(saved), **PRUNE, **CPU)
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert json.loads((saved / name).read_text()) == {"name": name}
    text = tmp_path / "text"
    KickLM(pretrained=str(tiny_model_dir), save_compressed=str(text), **PRUNE, **CPU)
    assert not list(text.glob("*processor_config.json"))
