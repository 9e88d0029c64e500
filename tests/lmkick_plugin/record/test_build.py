# SPDX-License-Identifier: Apache-2.0
"""The ``kick`` record: complete, plain, counted on the weights, and with the table of layers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lmkick_plugin.cli import main
from lmkick_plugin.loading import checks
from lmkick_plugin.model import KickLM
from lmkick_plugin.recipe.methods import OWN_SETTINGS
from lmkick_plugin.record.build import device_name, versions
from lmkick_plugin.record.fields import RECORD_FIELDS

# As the benchmark's protocol lists them.
QUANTIZATION = ["num_bits", "group_size", "symmetric", "act_order"]
CALIBRATION = ["calibration", "nsamples", "seqlen"]


@pytest.fixture(scope="module")
def make(tiny_model_dir: Path) -> Any:
    def record(**arguments: Any) -> dict[str, Any]:
        model = KickLM(pretrained=str(tiny_model_dir), device="cpu", **arguments)
        info = model.get_model_info()
        assert json.loads(json.dumps(info["kick"], allow_nan=False)) == info["kick"]
        kick: dict[str, Any] = info["kick"]
        return kick

    return record


@pytest.fixture(scope="module")
def dense(make: Any) -> dict[str, Any]:
    found: dict[str, Any] = make()
    return found


def test_dense(dense: dict[str, Any], tiny_model_dir: Path) -> None:
    assert {*dense} == {*RECORD_FIELDS, "layers"}
    known = {name for name in dense if dense[name] is not None}
    assert known == {
        *("compressor", "base_model", "weights_sha256", "total_parameters", "nonzero_parameters"),
        *("bytes_dense", "bytes_best_format", "device", "dtype", "chat_template"),
        *("truncated_prompts", "versions", "prefix_reuse", "bos"),
    }
    assert dense["base_model"] == str(tiny_model_dir)
    assert dense["bytes_best_format"] == dense["bytes_dense"] == 4 * dense["total_parameters"]


def test_pruned(make: Any, dense: dict[str, Any]) -> None:
    kick = make(compressor="magnitude", pattern="2:4", dtype="bfloat16")
    assert kick.keys() == dense.keys()
    assert (kick["pattern"], kick["requested_sparsity"]) == ("2:4", 0.5)
    assert kick["achieved_sparsity"] == 0.5
    assert [kick[name] for name in [*QUANTIZATION, *CALIBRATION, "seed"]] == [None] * 8
    assert re.fullmatch("[0-9a-f]{64}", kick["weights_sha256"])
    assert kick["weights_sha256"] != dense["weights_sha256"]
    assert kick["dtype"] == "bfloat16"
    # Two blocks of Llama: q and o 64x64, k and v 32x64, gate, up and down 128x64.
    compressed = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert kick["nonzero_parameters"] == dense["nonzero_parameters"] - compressed // 2
    assert kick["bytes_dense"] == 2 * kick["total_parameters"]
    # 2:4 in bfloat16: 16 bits for each of two kept, and which two of four: one of six ways, 3 bits.
    best = kick["bytes_dense"] - compressed * 2 + compressed // 4 * (2 * 16 + 3) // 8
    assert kick["bytes_best_format"] == best


def test_unstructured_sparsity_is_counted_not_copied(make: Any) -> None:
    kick = make(compressor="random", sparsity=0.333, seed=7)
    assert kick["requested_sparsity"] == 0.333
    assert kick["achieved_sparsity"] == pytest.approx(0.333, abs=1e-3)
    assert kick["achieved_sparsity"] != 0.333  # whole weights, so never exactly
    assert (kick["seed"], kick["pattern"]) == (7, "unstructured")


def test_calibrated(make: Any, calibration_file: str) -> None:
    text = {"calibration": calibration_file, "nsamples": 3, "seqlen": 40, "seed": 5}
    kick = make(compressor="wanda", sparsity=0.5, wanda_variant=True, **text)
    assert {name: kick[name] for name in text} == text
    given = {
        name: kick[name] for name in (*OWN_SETTINGS, "true_sequential") if kick[name] is not None
    }
    assert given == {"wanda_variant": True, "true_sequential": False}
    summary = kick["layer_summary"]
    assert (summary["matrices"], summary["tokens"], summary["notes"]) == (14, 120, 0)
    assert summary["dampening_max"] is None
    rows = list(csv.DictReader(kick["layers"]))
    errors = {row["name"]: float(row["error"]) for row in rows}
    assert len(errors) == 14
    assert summary["error_max"] == pytest.approx(max(errors.values()), rel=1e-5)
    assert summary["error_max_at"] == max(errors, key=lambda name: errors[name])
    assert summary["error_mean"] == pytest.approx(sum(errors.values()) / 14, rel=1e-5)
    assert all(float(row["sparsity"]) == 0.5 for row in rows)
    assert rows[1]["shape"] in ("32x64", "64x64")
    assert rows[0]["tokens"] == "120"


@pytest.mark.parametrize(
    ("arguments", "recorded"),
    [
        ({"compressor": "rtn", "bits": 4, "group_size": 32}, [4, 32, True, None]),
        ({"compressor": "rtn", "number_format": "nvfp4"}, [4, 16, True, None]),
        ({"compressor": "awq", "bits": 4, "group_size": 32}, [4, 32, False, None]),
        (
            {"compressor": "gptq", "bits": 3, "group_size": -1, "symmetric": False},
            [3, -1, False, 1],
        ),
        (
            {"compressor": "sparsegpt", "sparsity": 0.5, "bits": 4, "group_size": 64},
            [4, 64, True, None],
        ),
    ],
)
def test_quantized(
    make: Any, calibration_file: str, arguments: dict[str, Any], recorded: list[Any]
) -> None:
    text = {"calibration": calibration_file, "nsamples": 3, "seqlen": 64}
    calibrated = arguments["compressor"] != "rtn"
    kick = make(**arguments, **(text if calibrated else {}))
    assert [kick[name] for name in QUANTIZATION] == recorded
    assert kick["number_format"] == (
        None if arguments["compressor"] == "sparsegpt" else arguments.get("number_format", "int")
    )
    sparsity = arguments.get("sparsity")
    assert kick["requested_sparsity"] == sparsity
    assert kick["achieved_sparsity"] >= (sparsity or 0)
    assert kick["bytes_best_format"] < kick["bytes_dense"] * 0.7
    damped = arguments["compressor"] in ("gptq", "sparsegpt")
    assert (kick["layer_summary"]["dampening_max"] is not None) == damped
    bits = {row["num_bits"] for row in csv.DictReader(kick["layers"])}
    assert bits == {str(recorded[0])}


def test_short_last_groups_are_counted(make: Any) -> None:
    # Widths of 64 (q, k, v, o, gate, up) and 128 (down): 48 divides neither, 128 is never passed.
    ragged = make(compressor="rtn", bits=4, group_size=48)
    assert ragged["ragged_matrices"] == 14
    rows = list(csv.DictReader(ragged["layers"]))
    assert {row["ragged"] for row in rows} == {"True"}
    even = make(compressor="rtn", bits=4, group_size=32)
    assert even["ragged_matrices"] == 0
    assert make(compressor="rtn", bits=4)["ragged_matrices"] == 0
    assert make(compressor="magnitude", sparsity=0.5)["ragged_matrices"] is None
    # 48 and 16 of 64; 48, 48 and 32 of 128: two scales for 64 inputs, three for 128.
    weights = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    groups = 2 * ((64 + 32 + 32 + 64) * 2 + (128 + 128) * 2 + 64 * 3)
    best = ragged["bytes_dense"] - 4 * weights + weights // 2 + 2 * groups
    assert ragged["bytes_best_format"] == best


def test_owl_is_recorded_with_the_share_of_each_block(make: Any, calibration_file: str) -> None:
    text = {"calibration": calibration_file, "nsamples": 3, "seqlen": 64}
    kick = make(compressor="magnitude", sparsity=0.6, allocation="owl", owl_lambda=0.1, **text)
    assert (kick["allocation"], kick["owl_lambda"], kick["owl_threshold"]) == ("owl", 0.1, 5.0)
    assert (kick["calibration"], kick["nsamples"]) == (calibration_file, 3)
    asked = {float(row["requested_sparsity"]) for row in csv.DictReader(kick["layers"])}
    # Two blocks of one size: 0.6 plus and minus lambda.
    assert asked == {0.5, 0.7}
    assert kick["requested_sparsity"] == 0.6
    plain = make(compressor="magnitude", sparsity=0.6)
    assert plain["allocation"] is None
    assert plain["weights_sha256"] != kick["weights_sha256"]


def test_another_seed_is_another_model(make: Any) -> None:
    hashes = {make(compressor="random", sparsity=0.5, seed=n)["weights_sha256"] for n in (0, 0, 1)}
    assert len(hashes) == 2


def test_table_is_unpacked_beside_the_results(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kick = make(compressor="magnitude", sparsity=0.25)
    written = {"config": {"model": "kick", "kick": kick}, "results": {}}
    results = tmp_path / "results_2025-01-01T00-00-00.000001.json"
    results.write_text(json.dumps(written))
    # An older evaluation of the same weights holds the same table.
    results.with_name("results_2024-01-01T00-00-00.000001.json").write_text(json.dumps(written))
    assert main(["layers", str(tmp_path), "--worst", "2"]) == 0
    assert len([*tmp_path.glob("layers_*.csv")]) == 1
    with (tmp_path / "layers_2025-01-01T00-00-00.000001.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows][-1] == "model.layers.1.mlp.down_proj"
    assert {row["sparsity"] for row in rows} == {"0.25"}
    assert capsys.readouterr().out.count("model.layers.") == 2


@pytest.mark.parametrize("config", [{}, {"kick": {"layers": None}}])
@pytest.mark.parametrize("folder", [True, False])
def test_results_without_a_table(
    tmp_path: Path, config: dict[str, Any], folder: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results_2025-01-01T00-00-00.000001.json"
    results.write_text(json.dumps({"config": config, "results": {}}))
    assert main(["layers", str(tmp_path if folder else results)]) == 2
    assert "table of layers" in capsys.readouterr().err


def test_versions_and_device() -> None:
    found = versions()
    assert list(found) == ["python", "lmkick", "lm_eval", "torch", "transformers", "datasets"]
    assert all(found.values())
    assert device_name(torch.device("cpu"))


def test_revision_of_a_hub_model_is_read_off_the_cache(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "models--some--model"
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "snapshots" / commit / "config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    cached = str(tmp_path)
    assert checks.base_revision("some/model", cache_dir=cached) == commit
    assert checks.base_revision("some/other", cache_dir=cached) is None
    assert checks.base_revision(str(tiny_model_dir)) is None
    assert checks.base_revision("not / a name", cache_dir=cached) is None
