# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that do not hold the model their config describes are refused by every loader."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
)

from compressors import NumericalError, SettingsError, UnsupportedModelError
from lmkick_plugin import cli
from lmkick_plugin.checkpoints import load
from lmkick_plugin.model import KickLM
from tests.conftest import make_tiny_llama, make_tiny_tokenizer

CPU: dict[str, Any] = {"device": "cpu", "batch_size": 3}
PRUNE: dict[str, Any] = {"compressor": "magnitude", "sparsity": 0.5}
Tensors = dict[str, Tensor]
Change = Callable[..., Path]


@pytest.fixture
def changed(tiny_model_dir: Path, tmp_path: Path) -> Change:
    """A copy of the tiny model with other tensors or another config."""

    def change(edit: Callable[[Tensors], Any] | None = None, **config: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(tiny_model_dir, folder)
        tensors = load_file(folder / "model.safetensors")
        if edit is not None:
            edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return change


def test_a_whole_checkpoint_is_taken(changed: Change) -> None:
    KickLM(pretrained=str(changed(lambda _: None)), **CPU)


@pytest.mark.parametrize("how", [{}, PRUNE], ids=["dense", "compressed"])
@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight",
     "model.norm.weight"],
)  # fmt: skip
def test_a_missing_tensor_is_named(changed: Change, name: str, how: dict[str, Any]) -> None:
    folder = str(changed(lambda tensors: tensors.pop(name)))
    AutoModelForCausalLM.from_pretrained(folder)  # which transformers takes
    with pytest.raises(SettingsError, match=f"1 tensors are missing from its files .{name}"):
        KickLM(pretrained=folder, **how, **CPU)


@pytest.mark.parametrize(
    "config", [{"num_hidden_layers": 3}, {"attention_bias": True}, {"mlp_bias": True}]
)
def test_a_config_that_wants_more_than_the_file_holds(
    changed: Change, config: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=r"tensors are missing .*would be random"):
        KickLM(pretrained=str(changed(**config)), **CPU)


def test_shapes_that_differ_are_not_filled_either(changed: Change) -> None:
    folder = str(changed(intermediate_size=96))
    with pytest.raises(SettingsError, match="6 tensors differ in shape"):
        KickLM(pretrained=folder, ignore_mismatched_sizes=True, **CPU)


def test_layers_of_the_file_that_are_left_out_are_said(
    changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        KickLM(pretrained=str(changed(num_hidden_layers=1)), **CPU)
    assert "9 tensors of its files are not used (model.layers.1" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("how", [{}, PRUNE], ids=["dense", "compressed"])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_weights_that_are_no_numbers(
    changed: Change, name: str, how: dict[str, Any], value: float
) -> None:
    folder = changed(lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    with pytest.raises(NumericalError, match=f"1 weight tensors hold NaN or infinity .{name}"):
        KickLM(pretrained=str(folder), **how, **CPU)


def test_weights_that_overflow_the_dtype_asked_for(changed: Change) -> None:
    def large(tensors: Tensors) -> None:
        tensors["lm_head.weight"][0, 0] = 1e6

    folder = str(changed(large))
    KickLM(pretrained=folder, **CPU)
    with pytest.raises(NumericalError, match=r"lm_head.*dtype=float16 overflows"):
        KickLM(pretrained=folder, dtype="float16", **CPU)


def test_objects_references_and_the_library_are_held_to_the_same(
    changed: Change, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(changed(lambda tensors: tensors.pop("model.norm.weight")))
    with pytest.raises(SettingsError, match="missing"):
        load(folder)
    with pytest.raises(SettingsError, match="missing"):  # before it is asked for
        KickLM(pretrained=str(tiny_model_dir), reference=folder, **CPU)
    model = make_tiny_llama()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NumericalError, match=r"model\.norm\.weight"):
        KickLM(pretrained=model, tokenizer=make_tiny_tokenizer(), batch_size=3)
    out = str(tmp_path / "out")
    arguments = ["--compressor", "magnitude", "--sparsity", "0.5", "--output", out]
    assert cli.main(["compress", "--pretrained", folder, *arguments]) == 2
    assert "model.norm.weight" in capsys.readouterr().err
    assert not Path(out).exists()


def test_matrices_that_a_config_ties_and_the_file_does_not(changed: Change, tmp_path: Path) -> None:
    """lm-eval ties them again, after transformers has not."""
    folder = str(changed(tie_word_embeddings=True))
    plain = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.arange(5, 60)[None]
    expected = plain(tokens).logits
    saved = str(tmp_path / "saved")
    for model in (
        KickLM(pretrained=folder, **CPU),
        KickLM(pretrained=plain, tokenizer=make_tiny_tokenizer(), batch_size=3),
        KickLM(pretrained=folder, compressor="magnitude", sparsity=0, save_compressed=saved, **CPU),
        KickLM(pretrained=saved, **CPU),
    ):
        found = model.model(tokens).logits
        assert torch.allclose(found, expected, atol=1e-5)
        assert not model.model.config.tie_word_embeddings
    tied = AutoModelForCausalLM.from_pretrained(folder)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    assert not torch.allclose(tied(tokens).logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "kind"), [(BertConfig, BertLMHeadModel), (RobertaConfig, RobertaForCausalLM)]
)
def test_encoders_are_not_causal_models(
    config: Any, kind: type[PreTrainedModel], tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 130,
    }  # fmt: skip
    torch.manual_seed(0)
    for decoder in (False, True):
        folder = str(tmp_path / str(decoder))
        kind(config(**sizes, is_decoder=decoder)).save_pretrained(folder)
        make_tiny_tokenizer().save_pretrained(folder)
        if decoder:
            KickLM(pretrained=folder, **CPU)
        else:
            with pytest.raises(
                UnsupportedModelError, match=f"{kind.__name__} attends to later tokens"
            ):
                KickLM(pretrained=folder, **CPU)


def test_a_model_without_scores_is_refused(changed: Change) -> None:
    with pytest.raises(NumericalError, match="its scores are NaN though its weights are finite"):
        KickLM(pretrained=str(changed(rms_norm_eps=float("nan"))), **CPU)


def test_a_decoder_on_its_configs_word_alone_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 130,
    }  # fmt: skip
    folder = tmp_path / "bert"
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    config = folder / "config.json"
    told = json.loads(config.read_text()) | {"is_decoder": True}
    config.write_text(json.dumps(told))
    with pytest.raises(
        UnsupportedModelError, match="names BertForMaskedLM: this architecture is not"
    ):
        KickLM(pretrained=str(folder), **CPU)
    config.write_text(json.dumps(told | {"architectures": None}))
    with caplog.at_level(logging.WARNING):
        KickLM(pretrained=str(folder), **CPU)
    assert "is_decoder in its config.json is believed" in caplog.text
