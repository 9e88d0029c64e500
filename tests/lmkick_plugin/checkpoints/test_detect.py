# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that other tools made, read from their files alone: no quantization library is used.

The fixtures come from gptqmodel, llm-compressor, bitsandbytes, torchao and llama.cpp's package; see
tests/fixtures/README.md. Oracles unpack the codes one by one, in Python.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors import SettingsError, UnsupportedModelError
from lmkick_plugin.checkpoints.detect import Recognised, inspect_folder, recognise
from lmkick_plugin.checkpoints.gguf import read_gguf
from lmkick_plugin.checkpoints.manifest import MANIFEST, Manifest, describe_file
from lmkick_plugin.checkpoints.packed_matrices import stored_matrices
from lmkick_plugin.checkpoints.quantization_config import read_scheme
from lmkick_plugin.checkpoints.safetensors_headers import Shards
from lmkick_plugin.record.zero_pattern import ZeroCount

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
WEIGHTS = 147456  # of the one block's seven matrices
PARAMETERS = 164224

GPTQMODEL = {"made_by": ["gptqmodel:7.6.0"], "pattern": None}
EXPECTED: dict[str, dict[str, Any]] = {
    "gptqmodel-w4": {
        "storage": "gptq", "method": "gptq", "bits": 4, "group_size": 128, "symmetric": True,
        "act_order": True, "act_group_aware": True, **GPTQMODEL,
    },
    "gptqmodel-w3-act-order": {
        "storage": "gptq", "method": "gptq", "bits": 3, "group_size": 32, "symmetric": False,
        "act_order": True, **GPTQMODEL,
    },
    "gptqmodel-awq": {
        "storage": "awq", "method": "awq", "bits": 4, "group_size": 64, "symmetric": False,
        "layout": "gemm", **GPTQMODEL,
    },
    "llmcompressor-w4a16": {
        "storage": "compressed-tensors", "method": "gptq", "layout": "pack-quantized", "bits": 4,
        "group_size": 128, "symmetric": True, "act_order": True, "pattern": None,
        "made_by": ["GPTQModifier"], "activation_bits": None,
    },
    "llmcompressor-2of4-w4a16": {
        "storage": "compressed-tensors", "method": "sparsegpt", "layout": "pack-quantized",
        "bits": 4, "group_size": 128, "act_order": False, "pattern": "2:4",
        "made_by": ["SparseGPTModifier", "QuantizationModifier"],
    },
    "llmcompressor-w4a16-asym": {
        "storage": "compressed-tensors", "method": "rtn", "layout": "pack-quantized", "bits": 4,
        "group_size": 128, "symmetric": False, "pattern": None,
    },
    "llmcompressor-w8a8": {
        "storage": "compressed-tensors", "method": "rtn", "layout": "int-quantized", "bits": 8,
        "group_size": -1, "symmetric": True, "activation_bits": 8, "pattern": None,
    },
    "llmcompressor-fp8": {
        "storage": "compressed-tensors", "method": "fp8", "layout": "float-quantized", "bits": 8,
        "group_size": -1, "activation_bits": 8, "pattern": None,
    },
    "bitsandbytes-nf4": {
        "storage": "bitsandbytes", "method": "bnb-nf4", "bits": 4, "group_size": 64,
        "pattern": None,
    },
    "bitsandbytes-int8": {
        "storage": "bitsandbytes", "method": "bnb-int8", "bits": 8, "group_size": -1,
        "pattern": None,
    },
    "torchao-int8": {
        "storage": "torchao", "method": "torchao-int8", "bits": 8, "pattern": None,
    },
}  # fmt: skip


def quantization(folder: Path) -> dict[str, Any] | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored: dict[str, Any] | None = config.get("quantization_config")
    return stored


def found(name: str) -> Recognised:
    return recognise(FIXTURES / name, quantization(FIXTURES / name))


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("gptqmodel", "optimum", "compressed_tensors", "bitsandbytes", "torchao"):
        monkeypatch.setitem(sys.modules, library, None)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A fixture that may be damaged."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copy


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    stored = config.get("quantization_config") or {}
    config["quantization_config"] = stored | changes
    path.write_text(json.dumps(config), encoding="utf-8")


def test_every_fixture_is_expected() -> None:
    others = {"gguf-q4", "llmcompressor-2of4"}  # a file of its own, and a dense model
    assert {folder.name for folder in FIXTURES.iterdir()} == set(EXPECTED) | others


@pytest.mark.parametrize("name", EXPECTED)
def test_checkpoint_is_recognised(name: str, no_library: None) -> None:
    recognised = found(name)
    facts = recognised.facts()
    assert {key: facts[key] for key in EXPECTED[name]} == EXPECTED[name]
    assert recognised.is_compressed
    assert recognised.zeros is not None
    assert (recognised.zeros.matrices, recognised.zeros.total) == (7, WEIGHTS)
    assert recognised.parameters == PARAMETERS
    file = FIXTURES / name / "model.safetensors"
    assert facts["bytes_on_disk"] == file.stat().st_size
    assert recognised.bytes_stored is not None
    assert recognised.bytes_stored < facts["bytes_on_disk"] < 2 * PARAMETERS


def test_recipe_of_a_dense_model_is_read() -> None:
    scheme = read_scheme(None, FIXTURES / "llmcompressor-2of4")
    assert (scheme.storage, scheme.method) == ("dense", "sparsegpt")
    assert (scheme.requested_sparsity, scheme.requested_pattern) == (0.5, "2:4")


def stored_codes(words: Tensor, bits: int, count: int) -> list[int]:
    """Codes of one column of words, read off one long binary number."""
    number = sum((int(word) & 0xFFFFFFFF) << (32 * at) for at, word in enumerate(words))
    return [(number >> (bits * at)) & (2**bits - 1) for at in range(count)]


def zeros_of(name: str, module: str) -> Tensor:
    folder = FIXTURES / name
    shards = Shards.open(folder)
    assert shards is not None
    matrices = stored_matrices(shards, read_scheme(quantization(folder), folder))
    matrix = next(matrix for matrix in matrices if matrix.name.endswith(module))
    return torch.cat(list(matrix.zeros(shards)))


def read(name: str, module: str) -> dict[str, Tensor]:
    shards = Shards.open(FIXTURES / name)
    assert shards is not None
    start = next(tensor for tensor in shards.tensors if f"{module}." in tensor).split(module)[0]
    prefix = f"{start}{module}."
    parts = [tensor for tensor in shards.tensors if tensor.startswith(prefix)]
    return {part.removeprefix(prefix): shards.read(part) for part in parts}


@pytest.mark.parametrize(("name", "bits"), [("gptqmodel-w4", 4), ("gptqmodel-w3-act-order", 3)])
def test_zeros_of_gptq_against_single_codes(name: str, bits: int) -> None:
    parts = read(name, "mlp.down_proj")
    inputs, outputs = 256, 128
    points = [stored_codes(row, bits, outputs) for row in parts["qzeros"]]
    expected = torch.zeros(outputs, inputs, dtype=torch.bool)
    for column in range(outputs):
        codes = stored_codes(parts["qweight"][:, column], bits, inputs)
        for row, code in enumerate(codes):
            expected[column, row] = code == points[int(parts["g_idx"][row])][column] + 1
    assert 0.05 < expected.float().mean() < 0.4
    assert torch.equal(zeros_of(name, "mlp.down_proj"), expected)


def test_zeros_of_awq_against_single_codes() -> None:
    parts = read("gptqmodel-awq", "mlp.down_proj")
    count = 0
    for row in range(256):
        words, points = parts["qweight"][row], parts["qzeros"][row // 64]
        for word, point in zip(words.tolist(), points.tolist(), strict=True):
            for at in range(0, 32, 4):
                count += (word >> at) & 15 == (point >> at) & 15
    assert int(zeros_of("gptqmodel-awq", "mlp.down_proj").sum()) == count > 0


def test_zeros_of_nf4_against_single_codes() -> None:
    parts = read("bitsandbytes-nf4", "mlp.down_proj")
    table = parts["weight.quant_map"].tolist()
    expected = [
        table[code] == 0
        for byte in parts["weight"].flatten().tolist()
        for code in (byte >> 4, byte & 15)
    ]
    assert any(expected)
    assert zeros_of("bitsandbytes-nf4", "mlp.down_proj").flatten().tolist() == expected


def mask(kept: int, every: int, columns: int = 96, rows: int = 64) -> Tensor:
    """Where a matrix is zero that keeps the given number of every group."""
    drawn = torch.rand(rows, columns // every, every, generator=torch.Generator().manual_seed(0))
    smallest = drawn.argsort(dim=-1).argsort(dim=-1) < every - kept
    return smallest.view(rows, columns)


def counted(*matrices: Tensor) -> ZeroCount:
    count = ZeroCount()
    for matrix in matrices:
        count.add_matrix(torch.split(matrix, 24))
    return count


@pytest.mark.parametrize("pattern", ["2:4", "1:2", "4:8", "1:4", "8:16", "3:4", "2:6", "5:6"])
def test_patterns_are_found_in_the_weights(pattern: str) -> None:
    kept, every = map(int, pattern.split(":"))
    count = counted(mask(kept, every), mask(kept, every, columns=192))
    assert count.pattern == pattern
    assert count.sparsity == pytest.approx(1 - kept / every)
    assert counted(mask(kept, every), torch.zeros(8, 96, dtype=torch.bool)).pattern is None


def test_zeros_by_rounding_do_not_hide_a_pattern() -> None:
    also = torch.rand(64, 96, generator=torch.Generator().manual_seed(1)) < 0.15
    assert counted(mask(2, 4) | also).pattern == "2:4"


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 0.97])
def test_unstructured_zeros_are_no_pattern(sparsity: float) -> None:
    zero = torch.rand(256, 192, generator=torch.Generator().manual_seed(2)) < sparsity
    count = counted(zero)
    assert count.pattern is None
    assert count.zeros == int(zero.sum())


def test_nothing_but_zeros_is_no_pattern() -> None:
    assert counted(torch.ones(64, 96, dtype=torch.bool)).pattern is None


class TestRefused:
    def test_truncated_shard(self, copied: Callable[[str], Path]) -> None:
        folder = copied("llmcompressor-w4a16")
        file = folder / "model.safetensors"
        inspect_folder(folder, quantization(folder))
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(SettingsError, match=r"model\.safetensors: .*not fully covered"):
            inspect_folder(folder, quantization(folder))

    @pytest.mark.parametrize(
        "content", [b"", b"12345", b"\xff" * 64, b"\x08" + b"\0" * 7 + b"x" * 8]
    )
    def test_file_that_is_no_safetensors(
        self, copied: Callable[[str], Path], content: bytes
    ) -> None:
        folder = copied("llmcompressor-w4a16")
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(SettingsError, match=r"model\.safetensors: .*Copy or download"):
            inspect_folder(folder, quantization(folder))

    def test_shard_that_is_not_there(self, copied: Callable[[str], Path]) -> None:
        folder = copied("llmcompressor-w4a16")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": names}), encoding="utf-8")
        with pytest.raises(
            SettingsError, match=r"model-00002-of-00002\.safetensors: it does not exist"
        ):
            inspect_folder(folder, quantization(folder))

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("gptqmodel-w4", {"bits": 8}),
            ("gptqmodel-w3-act-order", {"bits": 4}),
            ("gptqmodel-awq", {"bits": 8}),
        ],
    )
    def test_bits_that_the_shapes_contradict(
        self, copied: Callable[[str], Path], name: str, changes: dict[str, Any]
    ) -> None:
        folder = copied(name)
        set_config(folder, **changes)
        with pytest.raises(SettingsError, match=rf"qweight stores .* says bits={changes['bits']}"):
            inspect_folder(folder, quantization(folder))

    def test_bits_of_compressed_tensors(self, copied: Callable[[str], Path]) -> None:
        folder = copied("llmcompressor-w4a16")
        groups = (quantization(folder) or {})["config_groups"]
        groups["group_0"]["weights"]["num_bits"] = 8
        set_config(folder, config_groups=groups)
        with pytest.raises(SettingsError, match=r"weight_packed stores .* says bits=8"):
            inspect_folder(folder, quantization(folder))

    def test_method_that_nobody_knows(self, copied: Callable[[str], Path]) -> None:
        folder = copied("gptqmodel-w4")
        set_config(folder, quant_method="gptk")
        with pytest.raises(UnsupportedModelError, match=r"'gptk'.*Did you mean 'gptq'"):
            inspect_folder(folder, quantization(folder))

    def test_packed_weights_without_a_config(self, copied: Callable[[str], Path]) -> None:
        folder = copied("gptqmodel-w4")
        with pytest.raises(SettingsError, match=r"qweight is a packed tensor.*would be random"):
            inspect_folder(folder, None)

    def test_sparse_format_that_was_given_up(self, copied: Callable[[str], Path]) -> None:
        folder = copied("llmcompressor-w4a16")
        set_config(folder, sparsity_config={"format": "sparse-24-bitmask"})
        with pytest.raises(UnsupportedModelError, match="sparse-24-bitmask"):
            inspect_folder(folder, quantization(folder))

    def test_damage_that_our_own_record_shows(self, copied: Callable[[str], Path]) -> None:
        folder = copied("llmcompressor-2of4")
        file = folder / "model.safetensors"
        saved = Manifest("dense", {"compressor": "wanda"}, {file.name: describe_file(file)})
        (folder / MANIFEST).write_text(saved.to_json(), encoding="utf-8")
        inspect_folder(folder, None)
        file.write_bytes(file.read_bytes() + b"\0")
        with pytest.raises(SettingsError, match=r"model\.safetensors has \d+ bytes"):
            inspect_folder(folder, None)


class TestGguf:
    FILE = FIXTURES / "gguf-q4" / "model.gguf"

    def test_header_is_read(self) -> None:
        file = read_gguf(self.FILE)
        assert file.parameters == PARAMETERS
        assert dict(file.weights) == {"Q4_0": WEIGHTS}
        scheme = file.scheme
        assert (scheme.method, scheme.bits, scheme.group_size) == ("gguf-q4_0", 4, 32)

    @pytest.mark.parametrize("size", [0, 3, 20, 200, 600, 100_000])
    def test_truncated_file(self, tmp_path: Path, size: int) -> None:
        short = tmp_path / "short.gguf"
        short.write_bytes(self.FILE.read_bytes()[:size])
        with pytest.raises(SettingsError, match=r"short\.gguf .*Copy or download it again"):
            read_gguf(short)

    def test_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="does not exist"):
            read_gguf(tmp_path / "model.gguf")
