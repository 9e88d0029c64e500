# SPDX-License-Identifier: Apache-2.0
"""Packed checkpoints stand for the very weights that were evaluated, or are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from compressors import (
    AWQ,
    GPTQ,
    NM,
    RTN,
    NumericalError,
    SettingsError,
    SparseGPT,
    UnsupportedModelError,
    compress_model,
)
from compressors.quantization_grid import QuantizationGrid
from lmkick_plugin import checkpoints
from lmkick_plugin.checkpoints.packing import pack_rows
from lmkick_plugin.checkpoints.unpack import unpack_words
from lmkick_plugin.model import KickLM
from lmkick_plugin.recipe import formats
from tests.conftest import make_tiny_tokenizer
from tests.tiny_models import make

IDS = torch.arange(3, 60)[None]
_ROWS = 9  # of a matrix are unpacked bit by bit, which is slow


def make_wide(dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaForCausalLM:
    """A random Llama whose widths are multiples of 128; loaded, so that buffers are as they are."""
    config = LlamaConfig(
        **{
            "vocab_size": 128, "hidden_size": 128, "intermediate_size": 256,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 2, **changes,
        }
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(3)
    return model.eval()


def quantize(model: Any, method: Any, storage: str, folder: Path) -> Path:
    """Compress as the format needs it, and save."""
    tokens = torch.randint(3, 128, (4, 64), generator=torch.Generator().manual_seed(0))
    fitted = checkpoints.prepare(method, model, storage)
    grids: dict[str, QuantizationGrid] = {}
    report = compress_model(model, fitted, calibration=tokens, grids=grids, progress=False)
    return checkpoints.save(
        model, folder, tokenizer=make_tiny_tokenizer(), storage=storage, grids=grids, report=report
    )


def bits_of(words: Tensor, num_bits: int) -> list[int]:
    """The codes in one column of words, bit by bit."""
    stream = [int(word) >> bit & 1 for word in words.tolist() for bit in range(32)]
    return [
        sum(stream[start + bit] << bit for bit in range(num_bits))
        for start in range(0, len(stream), num_bits)
    ]


def dequantize(tensors: dict[str, Tensor], name: str, config: dict[str, Any]) -> Tensor:
    """The first rows of a matrix as the GPTQ format's readers see it: float16, code by code."""
    num_bits = config["bits"]
    words, zeros = tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"]
    codes = torch.tensor([bits_of(words[:, row], num_bits) for row in range(_ROWS)])
    points = torch.tensor([bits_of(zeros[group], num_bits) for group in range(len(zeros))])
    points = points[:, :_ROWS]
    if config["checkpoint_format"] == "gptq":
        points = points + 1
    scales = tensors[f"{name}.scales"][:, :_ROWS]
    assert scales.dtype == torch.float16
    groups = tensors[f"{name}.g_idx"].long()
    return scales[groups].t() * (codes - points[groups].t()).to(torch.float16)


@pytest.mark.parametrize("num_bits", [2, 3, 4, 5, 8])
def test_words_hold_codes_bit_by_bit(num_bits: int) -> None:
    draw = torch.Generator().manual_seed(num_bits)
    codes = torch.randint(0, 2**num_bits, (64, 3), generator=draw, dtype=torch.uint8)
    words = pack_rows(codes, num_bits)
    assert (words.dtype, words.shape) == (torch.int32, (2 * num_bits, 3))
    for column in range(3):
        assert bits_of(words[:, column], num_bits) == codes[:, column].tolist()
    assert torch.equal(unpack_words(words, num_bits, len(codes)), codes)


@pytest.mark.parametrize(
    ("dtype", "method", "stated"),
    [
        ("float16", RTN(num_bits=8, group_size=None, symmetric=False), ("gptq_v2", -1, False)),
        ("float16", GPTQ(num_bits=4, group_size=32, static_groups=False), ("gptq", 32, True)),
        ("bfloat16", GPTQ(num_bits=4, group_size=128), ("gptq", 128, False)),
        (
            "bfloat16",
            GPTQ(num_bits=4, group_size=32, act_group_aware=True, static_groups=False),
            ("gptq", 32, False),
        ),
        ("bfloat16", RTN(num_bits=3, group_size=32, symmetric=False), ("gptq_v2", 32, False)),
        ("float32", RTN(num_bits=2, group_size=64), ("gptq", 64, False)),
        ("bfloat16", GPTQ(num_bits=4, group_size=128, act_order=False), ("gptq", 128, False)),
        (
            "bfloat16",
            SparseGPT(pattern=NM(2, 4), quantize=RTN(num_bits=4, group_size=64)),
            ("gptq", 64, False),
        ),
    ],
    ids=[
        "8-row-asym",
        "4-act-order",
        "4",
        "4-group-aware",
        "3-asym",
        "2-float32",
        "4-ragged",
        "joint",
    ],
)
def test_gptq_dequantizes_to_what_was_evaluated(
    dtype: str,
    method: Any,
    stated: tuple[str, int, bool],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    ragged = "ragged" in request.node.callspec.id
    # 192 wide: a group of 128 and one of 64; 256: two of 128.
    model = make_wide(getattr(torch, dtype), **({"hidden_size": 192} if ragged else {}))
    dense = {name: weight.clone() for name, weight in model.state_dict().items()}
    folder = quantize(model, method, "gptq", tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    found = (config["checkpoint_format"], config["group_size"], config["desc_act"])
    assert found == stated
    assert json.loads((folder / "quantize_config.json").read_text()) == config
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        weight = model.get_submodule(name).weight[:_ROWS]
        assert torch.equal(dequantize(tensors, name, config).to(weight.dtype), weight)
        if ragged:
            assert len(tensors[f"{name}.scales"]) == 2
        assert not torch.equal(weight, dense[f"{name}.weight"][:_ROWS])
    assert not any(name.endswith("proj.weight") for name in tensors)
    assert torch.equal(tensors["lm_head.weight"], dense["lm_head.weight"])
    manifest = checkpoints.read_manifest(folder)
    assert manifest is not None
    assert (manifest.storage, manifest.record["num_bits"]) == ("gptq", config["bits"])


@pytest.mark.parametrize(
    ("dtype", "method"),
    [
        ("float32", GPTQ(num_bits=4, group_size=128, act_order=False)),
        ("bfloat16", GPTQ(num_bits=4, group_size=32)),
        ("bfloat16", GPTQ(num_bits=4, group_size=32, act_group_aware=True, static_groups=False)),
        ("bfloat16", RTN(num_bits=8, group_size=None)),
        ("bfloat16", RTN(num_bits=3, group_size=64)),
        ("float32", SparseGPT(pattern=NM(2, 4), quantize=RTN(num_bits=4, group_size=64))),
    ],
    ids=["4", "4-static-act-order", "4-group-aware", "8-row", "3", "joint"],
)
def test_compressed_tensors_in_plain_transformers(dtype: str, method: Any, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="lmkick[compressed-tensors] is not installed")
    model = make_wide(getattr(torch, dtype))
    with torch.no_grad():
        dense = model(IDS).logits
        folder = quantize(model, method, "compressed-tensors", tmp_path / "saved")
        expected = model(IDS).logits
        again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        logits = again(IDS).logits
    assert torch.equal(logits, expected)
    assert not torch.equal(logits, dense)
    assert "model.layers.0.mlp.up_proj.weight_packed" in load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("dtype", "method", "layout", "stored"),
    [
        ("bfloat16", RTN(number_format="fp8"), "float-quantized", torch.float8_e4m3fn),
        ("float32", GPTQ(number_format="fp8"), "float-quantized", torch.float8_e4m3fn),
        ("float16", RTN(number_format="fp8"), "float-quantized", torch.float8_e4m3fn),
        ("bfloat16", GPTQ(number_format="mxfp4"), "mxfp4-pack-quantized", torch.uint8),
        ("bfloat16", GPTQ(number_format="nvfp4"), "nvfp4-pack-quantized", torch.uint8),
        (
            "bfloat16", AWQ(number_format="nvfp4", grid_points=1), "nvfp4-pack-quantized",
            torch.uint8,
        ),
    ],
    ids=["fp8", "fp8-float32", "fp8-float16", "mxfp4", "nvfp4", "nvfp4-clipped"],
)  # fmt: skip
def test_floating_point_formats_come_back_bit_for_bit(
    dtype: str, method: Any, layout: str, stored: torch.dtype, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors", reason="lmkick[compressed-tensors] is not installed")
    model = make_wide(getattr(torch, dtype))
    dense = {name: weight.clone() for name, weight in model.named_parameters()}
    folder = quantize(model, method, "compressed-tensors", tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["format"] == layout
    tensors = load_file(folder / "model.safetensors")
    part = "weight" if layout == "float-quantized" else "weight_packed"
    assert tensors[f"model.layers.0.mlp.up_proj.{part}"].dtype == stored
    again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)
    found = dict(again.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(found[name], weight), name
        assert ("_proj" in name) != torch.equal(weight, dense[name]), name
    manifest = checkpoints.read_manifest(folder)
    assert manifest is not None
    assert manifest.record["layers"][0].startswith(
        "name,shape,sparsity,nonzero,requested_sparsity,num_bits,number_format,"
    )


@pytest.mark.parametrize(
    ("model", "method", "storage", "error", "message"),
    [
        ("mixtral", RTN(num_bits=4, group_size=None), "gptq", UnsupportedModelError, "experts"),
        (
            "mixtral", RTN(num_bits=4, group_size=None), "compressed-tensors",
            UnsupportedModelError, "experts in one parameter.*cannot hold. Save it dense",
        ),
        ("gpt2", RTN(num_bits=4, group_size=None), "gptq", UnsupportedModelError, "Conv1D"),
        (
            "odd", RTN(num_bits=4, group_size=None), "gptq", UnsupportedModelError,
            "is 72 x 64.*Use save_format=compressed-tensors, or save it dense",
        ),
        ("half", RTN(num_bits=8), "gptq", SettingsError, "8 bits of a bfloat16 .*dtype=float16"),
        (
            "half", RTN(num_bits=4, symmetric=False), "gptq", SettingsError,
            "asymmetric weights of 4 bits.*Use dtype=float16, or save it dense",
        ),
        (  # which compressed-tensors cannot hold either
            "odd", RTN(num_bits=4, group_size=16), "gptq", UnsupportedModelError,
            "is 72 x 64.*cannot hold. Save it dense",
        ),
        (
            "odd", RTN(num_bits=4, group_size=16), "compressed-tensors", UnsupportedModelError,
            "group_size=16, which.* Use group_size=8, -1, or save it dense",
        ),
        (
            "half", RTN(num_bits=4, symmetric=False, group_size=8), "gptq", SettingsError,
            "but group_size=8. Use one of these, or save it dense",
        ),
        (
            "half", RTN(num_bits=6, symmetric=False), "compressed-tensors", SettingsError,
            "zero points. Use symmetric=true, or save it dense",
        ),
        ("bias", RTN(num_bits=4), "gptq", UnsupportedModelError, "bias that float16 rounds"),
        ("wide", RTN(num_bits=6), "gptq", SettingsError, "or 8 bits.*, save_format=compr"),
        ("wide", RTN(num_bits=4), "gguf", SettingsError, "save_format='gguf'"),
        (
            "short", RTN(num_bits=4), "compressed-tensors", UnsupportedModelError,
            "q_proj is 192 wide.*group_size=128.*16, 32, 64, -1, save_format=gptq",
        ),
        (
            "wide", GPTQ(num_bits=4, static_groups=False), "compressed-tensors", SettingsError,
            "static_groups=true",
        ),
        (
            "wide", RTN(num_bits=4, symmetric=False), "compressed-tensors", SettingsError,
            "symmetric=false: transformers does not load",
        ),
        ("wide", RTN(number_format="fp8"), "gptq", SettingsError, "number_format=fp8"),
        (
            "wide", RTN(number_format="nvfp4"), "compressed-tensors", SettingsError,
            r"to bfloat16.*\(float32\). Use dtype=bfloat16",
        ),
        (
            "narrow", RTN(number_format="mxfp4"), "compressed-tensors", UnsupportedModelError,
            "is 72 wide, with a last block shorter than 32.*cannot hold. Save it dense",
        ),
        (
            "half", GPTQ(number_format="mxfp4", static_groups=False), "compressed-tensors",
            SettingsError, "static_groups=true",
        ),
        ("wide", AWQ(symmetric=True), "gptq", SettingsError, "AWQ's column factors.*grid_points=1"),
        ("wide", AWQ(symmetric=True), "compressed-tensors", SettingsError, "change the weights"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused_beforehand(
    model: str, method: Any, storage: str, error: type[Exception], message: str
) -> None:
    made: Any = {
        "odd": lambda: make("llama", intermediate_size=72),
        "half": lambda: make_wide(torch.bfloat16),
        "narrow": lambda: make("llama", intermediate_size=72).to(torch.bfloat16),
        "bias": lambda: make_wide(attention_bias=True),
        "wide": make_wide,
        "short": lambda: make_wide(hidden_size=192),
    }.get(model, lambda: make(model))()
    if model == "bias":
        made.model.layers[0].self_attn.q_proj.bias.data.fill_(1 / 3)
    with pytest.raises(error, match=message):
        checkpoints.prepare(method, made, storage)
    assert checkpoints.prepare(method, made, "dense") is method


#: Models that read a layer's weight while they load, or when they run; of widths that 32 divides.
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("MambaConfig", {"state_size": 16, "time_step_rank": 32}),
    "gpt_bigcode": ("GPTBigCodeConfig", {"n_head": 2, "n_inner": 64}),
    "falcon": ("FalconConfig", {"num_attention_heads": 2, "multi_query": False}),
    "jamba": (
        "JambaConfig",
        {
            "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64,
            "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1,
            "num_experts_per_tok": 1, "mamba_d_state": 16, "mamba_dt_rank": 32,
        },
    ),
}  # fmt: skip


def make_reader(family: str) -> Any:
    kind, settings = READERS[family]
    common = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
    config = getattr(transformers, kind)(**common, bos_token_id=1, eos_token_id=2, **settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("family", "storage", "layer"),
    [
        ("mamba", "compressed-tensors", r"layers.0.mixer.dt_proj"),
        ("mamba", "gptq", r"layers.0.mixer.dt_proj"),
        ("gpt_bigcode", "compressed-tensors", r"h.0.attn.c_proj"),
        ("gpt_bigcode", "gptq", r"h.0.attn.c_proj"),
        ("falcon", "compressed-tensors", r"h.0.self_attention.query_key_value"),
        ("jamba", "gptq", r"layers.0.mamba.dt_proj"),
    ],
)
def test_a_model_that_would_not_run_packed_is_refused(
    family: str, storage: str, layer: str
) -> None:
    model = make_reader(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    with pytest.raises(
        UnsupportedModelError,
        match=rf"{layer} is a layer whose weight .* reads.*{storage} cannot.*Save it dense",
    ):
        checkpoints.prepare(RTN(num_bits=4, group_size=None), model, storage)
    assert torch.equal(torch.get_rng_state(), generator)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("family", ["falcon", "gpt_bigcode", "jamba", "llama"])
def test_a_model_that_runs_packed_is_not_refused(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_wide(torch.bfloat16) if family == "llama" else make_reader(family)
    method = RTN(num_bits=4, group_size=None)
    if family == "gpt_bigcode":
        method = RTN(number_format="fp8")
    caplog.set_level("DEBUG", logger="lmkick_plugin.checkpoints")
    if family in ("falcon", "llama"):
        checkpoints.prepare(method, model, "gptq")
    if family != "falcon":
        folder = quantize(model, method, "compressed-tensors", tmp_path / "saved")
        again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        assert again(input_ids=IDS).logits.isfinite().all()
    assert "Not known" not in caplog.text


def test_code_that_cannot_run_without_weights_is_believed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_wide(torch.bfloat16)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no kernel for device meta")

    monkeypatch.setattr(LlamaForCausalLM, "forward", fail)
    caplog.set_level("DEBUG", logger="lmkick_plugin.checkpoints")
    checkpoints.prepare(RTN(num_bits=4), model, "gptq")
    assert "no kernel for device meta" in caplog.text


def test_a_missing_library_is_said_before_weights_are_loaded(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    given: dict[str, Any] = {"compressor": "rtn", "bits": 4, "group_size": 32, "device": "cpu"}
    with pytest.raises(SettingsError, match=r"pip install 'lmkick\[compressed-tensors\]'"):
        KickLM(
            str(tiny_model_dir), save_compressed=str(tmp_path / "a"),
            save_format="compressed-tensors", **given,
        )  # fmt: skip


def test_the_dtype_is_checked_before_weights_are_loaded(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    with pytest.raises(SettingsError, match="8 bits of a float32 model"):
        KickLM(
            str(tiny_model_dir), save_compressed=str(tmp_path / "a"), save_format="gptq",
            compressor="rtn", bits=8, group_size=32, device="cpu",
        )  # fmt: skip


def test_weights_that_changed_since_are_not_packed(tmp_path: Path) -> None:
    model = make_wide()
    grids: dict[str, QuantizationGrid] = {}
    method = checkpoints.prepare(RTN(num_bits=4), model, "gptq")
    compress_model(model, method, grids=grids, progress=False)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-4
    with pytest.raises(NumericalError, match="are not on the grid"):
        checkpoints.save(model, tmp_path / "saved", storage="gptq", grids=grids)
    assert list(tmp_path.iterdir()) == []


def test_scales_that_were_not_rounded_are_not_packed(tmp_path: Path) -> None:
    model = make_wide()
    grids: dict[str, QuantizationGrid] = {}
    compress_model(model, RTN(num_bits=4), grids=grids, progress=False)
    with pytest.raises(NumericalError, match="unpacking would change its weights"):
        checkpoints.save(model, tmp_path / "saved", storage="gptq", grids=grids)


def test_rounded_scales_cost_next_to_nothing() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    method = RTN(num_bits=4, group_size=32)
    errors = {
        dtype: float((replace(method, scale_dtype=dtype).compress(weight).weight - weight).norm())
        for dtype in (None, torch.float16, torch.bfloat16)
    }
    assert errors[torch.float16] == pytest.approx(errors[None], rel=1e-2)
    assert errors[torch.bfloat16] == pytest.approx(errors[None], rel=2e-2)
    tiny = replace(method, scale_dtype=torch.float16).compress(weight * 1e-7)
    assert tiny.scale is not None
    assert float(tiny.scale.min()) == 2.0**-17


@pytest.mark.slow
# optimum asks every module for an attribute that transformers deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up .*gptqmodel_:ResourceWarning")
def test_gptqmodel_and_transformers_load_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.chdir(tmp_path)  # gptqmodel may write a folder of logs
    gptqmodel = pytest.importorskip("gptqmodel", reason="lmkick[gptq] is not installed")
    model = make_wide(torch.bfloat16)
    method = GPTQ(num_bits=4, group_size=32, static_groups=False)
    with torch.no_grad():
        dense = model(IDS).logits.float()
        folder = quantize(model, method, "gptq", tmp_path / "saved")
        expected = model(IDS).logits.float()
        loaded = {
            "transformers": AutoModelForCausalLM.from_pretrained(folder, dtype="auto"),
            "gptqmodel": gptqmodel.GPTQModel.load(
                str(folder), backend=gptqmodel.BACKEND.GPTQ_TORCH, device="cpu"
            ).model,
        }
        lost = (dense - expected).abs().max()
        for name, again in loaded.items():
            for path in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
                packed = again.get_submodule(path)
                weight = model.get_submodule(path).weight
                assert torch.equal(packed.dequantize_weight().to(weight.dtype).t(), weight), name
            # Kernels sum in another order: bfloat16's rounding, small against what was lost.
            difference = (again(IDS).logits.float() - expected).abs().max()
            assert difference < 0.1 * lost, name
