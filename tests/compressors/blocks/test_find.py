# SPDX-License-Identifier: Apache-2.0
"""Blocks and matrices are found from the model itself, and what is not known is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from compressors import UnsupportedModelError, Wanda, compress_model
from compressors.blocks.find import check_supported, find_blocks
from compressors.patterns import Unstructured
from tests.plain_driver import BLOCKS, weights_of
from tests.tiny_models import CONFIGS, MOE, make


@pytest.mark.parametrize("family", CONFIGS)
def test_all_matrices_of_all_blocks_are_found(family: str) -> None:
    model = make(family)
    blocks = find_blocks(model)
    path = BLOCKS.get(family, "model.layers")
    assert [block.name for block in blocks] == [f"{path}.{index}" for index in range(3)]
    found = {m.name.removeprefix(path + "."): m for block in blocks for m in block.matrices}
    expected = weights_of(family, model)
    assert set(found) == set(expected)
    for name, matrix in found.items():
        assert torch.equal(matrix.view(), expected[name]), name


@pytest.mark.parametrize("family", CONFIGS)
def test_queries_and_keys_are_told_from_the_rest(family: str) -> None:
    matrices = [matrix for block in find_blocks(make(family)) for matrix in block.matrices]
    found = {matrix.name.rpartition(".")[2] for matrix in matrices if matrix.feeds_scores}
    fused = {
        "gpt_neox": {"query_key_value"}, "falcon": {"query_key_value"},
        "falcon_alibi": {"query_key_value"}, "bloom": {"query_key_value"},
        "phi3": {"qkv_proj"}, "gpt2": {"c_attn"},
        "deepseek_v3": {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"},
    }  # fmt: skip
    assert found == fused.get(family, {"q_proj", "k_proj"})


@pytest.mark.parametrize("family", CONFIGS)
def test_writing_a_matrix_changes_the_model_and_no_other_matrix(family: str) -> None:
    model = make(family)
    matrices = [matrix for block in find_blocks(model) for matrix in block.matrices]
    for number, matrix in enumerate(matrices):
        matrix.write(torch.full(matrix.view().shape, float(number)))
    for number, matrix in enumerate(matrices):
        assert bool((matrix.view() == number).all()), matrix.name
    tokens = torch.arange(3, 11)[None]
    assert not torch.equal(model(tokens).logits, make(family)(tokens).logits)


@pytest.mark.parametrize("family", MOE)
def test_routers_are_not_matrices(family: str) -> None:
    names = [matrix.name for block in find_blocks(make(family)) for matrix in block.matrices]
    assert not any("router" in name or name.endswith((".gate", "expert_gate")) for name in names)


class _Router(nn.Module):
    """A router with a hidden layer, as a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 16)
        self.choice = nn.Linear(16, 6)


class _ListedExperts(nn.Module):
    """The older way: a list of experts, an nn.Linear for a router."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 6)
        self.router = _Router()
        self.shared_gate = nn.Linear(64, 1)
        self.shared = nn.Linear(64, 64)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, 64)) for _ in range(6))


def test_routers_beside_a_list_of_experts_are_not_matrices() -> None:
    model = make("llama")
    model.model.layers[0].mlp = _ListedExperts()
    names = [
        matrix.name.removeprefix("model.layers.0.mlp.") for matrix in find_blocks(model)[0].matrices
    ]
    assert "gate" not in names
    assert "shared_gate" not in names
    assert not any(name.startswith("router") for name in names)
    assert {"shared", *(f"experts.{index}.0" for index in range(6))} < set(names)


@pytest.mark.parametrize("known", [True, False])
def test_text_blocks_of_a_model_with_vision_are_found(known: bool) -> None:
    text = {**CONFIGS["gemma3"][1], "num_hidden_layers": 2}
    text["layer_types"] = text["layer_types"][:2]
    # More blocks than the text has: the largest list is not the right one.
    vision = {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 6,
        "num_attention_heads": 4, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    if not known:
        model._no_split_modules = None
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == [
        "model.language_model.layers.0",
        "model.language_model.layers.1",
    ]


def test_blocks_are_found_without_no_split_modules() -> None:
    for family in ("llama", "gpt2", "mixtral"):
        model = make(family)
        model._no_split_modules = []
        assert len(find_blocks(model)) == 3, family


class _Adapted(nn.Module):
    """What an adapter library puts in a linear layer's place."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 4, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(4, base_layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + low


class _Wrapper(nn.Module):
    """A wrapper that hands attributes through, as adapter libraries do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)


def test_adapters_stay_dense_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = make("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj = _Adapted(layer.self_attn.q_proj)
    wrapped = _Wrapper(model)
    with caplog.at_level(logging.WARNING):
        blocks = find_blocks(wrapped)
    names = [matrix.name for matrix in blocks[0].matrices]
    assert names[0] == "base_model.model.layers.0.self_attn.q_proj"
    assert not any("lora" in name for name in names)
    assert len(names) == 7
    assert "merge_and_unload" in caplog.text
    tokens = torch.randint(3, 128, (4, 32), generator=torch.Generator().manual_seed(0))
    report = compress_model(
        wrapped, Wanda(pattern=Unstructured(0.5)), calibration=tokens, progress=False
    )
    assert report.sparsity == 0.5
    assert bool(model.model.layers[0].self_attn.q_proj.lora_A["default"].weight.all())


def test_a_model_without_blocks_is_refused_with_a_remedy() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

    with pytest.raises(UnsupportedModelError, match=r"cannot find .* Flat.*_no_split_modules"):
        find_blocks(Flat())


def test_several_lists_of_blocks_are_refused_rather_than_left_dense() -> None:
    model = make("llama")
    model.model.slow = nn.ModuleList(model.model.layers[1:])
    match = r"LlamaForCausalLM has several .*'model\.layers', 'model\.slow'.*Use a model"
    with pytest.raises(UnsupportedModelError, match=match):
        find_blocks(model)
    config = transformers.XLMConfig(vocab_size=128, emb_dim=64, n_layers=3, n_heads=4)
    with pytest.raises(UnsupportedModelError, match=r"'transformer\.attentions', '.*\.ffns'"):
        find_blocks(transformers.XLMWithLMHeadModel(config))


def test_unknown_storage_of_weights_is_refused_rather_than_left_dense() -> None:
    config = transformers.DbrxConfig(
        d_model=64, n_heads=4, n_layers=2, max_seq_len=64, vocab_size=128,
        attn_config={"rope_theta": 1e4, "clip_qkv": 8},
        ffn_config={"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    )  # fmt: skip
    model = transformers.DbrxForCausalLM(config)
    with pytest.raises(
        UnsupportedModelError, match=r"blocks\.0: DbrxBlock keeps \d\d% of its weights"
    ):
        find_blocks(model)


def test_quantized_and_encoder_decoder_models_are_refused() -> None:
    model = make("llama")
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UnsupportedModelError, match=r"already quantized \(gptq\).*compressor=none"):
        check_supported(model)
    model = make("llama")
    model.config.is_encoder_decoder = True
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        check_supported(model)
    check_supported(make("llama"))


def test_narrow_and_offloaded_weights_are_refused() -> None:
    model = make("llama")
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1\.mlp\.up_proj.*int8"):
        find_blocks(model)
    model = make("llama")
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.data.to("meta"))
    with pytest.raises(UnsupportedModelError, match=r"up_proj.*on device 'meta'.*device_map='cpu'"):
        find_blocks(model)


def test_a_layer_shared_with_the_head_is_left_alone() -> None:
    model = make("llama", vocab_size=64)
    model.lm_head.weight = model.model.layers[0].self_attn.o_proj.weight
    names = [matrix.name for block in find_blocks(model) for matrix in block.matrices]
    assert "model.layers.0.self_attn.o_proj" not in names
    assert "model.layers.1.self_attn.o_proj" in names
