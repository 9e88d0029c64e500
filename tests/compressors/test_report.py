# SPDX-License-Identifier: Apache-2.0
"""The report can be saved, and its sizes are those of formats that exist."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors import GPTQ, NM, Magnitude, SettingsError, Unstructured, compress_model
from compressors.base import CompressedWeight
from compressors.files import write_atomically
from compressors.report import LayerReport, stored_bytes, write_table
from tests.tiny_models import make


@pytest.fixture(scope="module")
def report() -> Any:
    tokens = torch.randint(3, 128, (4, 32), generator=torch.Generator().manual_seed(0))
    method = GPTQ(num_bits=4, group_size=32)
    return compress_model(make("mixtral"), method, calibration=tokens, progress=False)


def test_json_holds_everything(report: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.json"
    write_table(report, path)
    content = json.loads(path.read_text())
    assert content == report.to_dict()
    assert tuple(LayerReport.from_dict(row) for row in content["layers"]) == report.layers
    assert set(content["stages"]) >= {"prepare", "capture", "statistics", "solve", "propagate"}
    assert 0 < sum(content["stages"].values()) <= content["seconds"]


def test_csv_holds_a_row_a_matrix(report: Any, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(report, path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["name"] for row in rows] == [layer.name for layer in report.layers]
    assert rows[0]["shape"] == "64x64"
    assert float(rows[0]["error"]) == report.layers[0].error
    assert any(row["note"].startswith("starved expert") and row["error"] == "" for row in rows)


def test_other_names_are_refused(report: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.csv or \.json"):
        write_table(report, tmp_path / "table.xlsx")
    assert not list(tmp_path.iterdir())


def test_summary_row(report: Any) -> None:
    summary = report.summary()
    json.dumps(summary, allow_nan=False)
    errors = [row.error for row in report.layers if row.error is not None]
    assert summary["mean_error"] == pytest.approx(sum(errors) / len(errors))
    assert summary["worst_error"] == max(errors)
    assert summary["matrices"] == len(report.layers) == 48
    assert "layers" not in summary
    plain = compress_model(
        make("llama"), Magnitude(pattern=Unstructured(0.5)), progress=False
    ).summary()
    assert plain["mean_error"] is plain["worst_error"] is None


@pytest.mark.parametrize(
    ("dtype", "pattern", "nonzero", "expected"),
    [
        (torch.bfloat16, None, 32 * 64, 32 * 64 * 2),  # dense: nothing saved by leaving zeros out
        (torch.bfloat16, None, 1024, 1024 * 2 + 2048 // 8),  # a bit for each weight marks zeros
        (torch.float32, None, 1024, 1024 * 4 + 2048 // 8),
        (torch.bfloat16, NM(2, 4), 1024, 1024 * 2 + 512 * 3 // 8),  # 6 ways: 3 bits a group
        (torch.bfloat16, NM(1, 2), 1024, 1024 * 2 + 1024 // 8),
        (torch.bfloat16, NM(2, 4), 1000, 1024 * 2 + 512 * 3 // 8),  # a kept weight may be zero
    ],
)
def test_bytes_of_pruned_weights(
    dtype: torch.dtype, pattern: NM | None, nonzero: int, expected: int
) -> None:
    result = CompressedWeight(weight=torch.zeros(32, 64, dtype=dtype))
    shape = (pattern.n, pattern.m) if pattern else None
    assert stored_bytes(result, nonzero, shape) == expected


def test_bytes_of_quantized_weights() -> None:
    def quantized(**changes: Any) -> CompressedWeight:
        content: dict[str, Any] = {
            "weight": torch.zeros(32, 64),
            "num_bits": 4,
            "scale": torch.ones(32, 2),
            "zero_point": torch.full((32, 2), 8, dtype=torch.int32),
            "g_idx": torch.arange(64, dtype=torch.int32) // 32,
        }
        return CompressedWeight(**{**content, **changes})

    count, groups = 32 * 64, 32 * 2
    assert stored_bytes(quantized(), count) == count // 2 + 2 * groups
    uneven = torch.randint(0, 16, (32, 2), dtype=torch.int32)
    assert (
        stored_bytes(quantized(zero_point=uneven), count) == count // 2 + 2 * groups + groups // 2
    )
    shuffled = torch.arange(64, dtype=torch.int32) % 2
    assert stored_bytes(quantized(g_idx=shuffled), count) == count // 2 + 2 * groups + 2 * 64
    factors = torch.rand(64)
    assert stored_bytes(quantized(input_scale=factors), count) == count // 2 + 2 * groups + 2 * 64
    # Joint with pruning: half the codes, and a bit for each weight.
    assert stored_bytes(quantized(), count // 2) == count // 4 + count // 8 + 2 * groups


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def failing(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
