# SPDX-License-Identifier: Apache-2.0
"""Inputs that are always zero: results do not depend on the Hessian's scale."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors import GPTQ, SparseGPT, Unstructured
from compressors.base import CompressedWeight
from tests import oracles
from tests.compressors.method_cases import make_inputs, make_stats, make_weight
from tests.tiny_models import make

SAMPLES, SEQLEN, VOCABULARY = 8, 256, 1_000
#: Groups of 128 divide neither width.
WIDTH, FFN = 576, 608
#: Rows kept of each matrix; they are compressed independently.
ROWS = 48
#: One input in ten is dead.
EVERY = 10
GPTQS: list[dict[str, Any]] = [
    {"group_size": None},
    {"group_size": 128},
    {"group_size": None, "act_order": True},
    {"group_size": 128, "act_order": True, "static_groups": True},
    {"group_size": 128, "act_order": True},
]


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[Tensor, Tensor]]:
    """Each matrix of an OPT with what it reads, ``[tokens, in]``, a tenth of it always zero."""
    model = make(
        "opt",
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=FFN,
        num_hidden_layers=1,
        vocab_size=VOCABULARY,
        max_position_embeddings=SEQLEN,
    )
    with torch.no_grad():
        for layer in model.model.decoder.layers:  # type: ignore[union-attr, operator]
            for norm in (layer.self_attn_layer_norm, layer.final_layer_norm):
                norm.weight[::EVERY] = norm.bias[::EVERY] = 0
            layer.self_attn.v_proj.weight[::EVERY] = layer.self_attn.v_proj.bias[::EVERY] = 0
            layer.fc1.bias[::EVERY] = -100  # what ReLU makes a zero of
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in model.model.decoder.layers.named_modules():  # type: ignore[union-attr]
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda module, args, name=name: seen.update(
                    {name: (module.weight.detach()[:ROWS], args[0].reshape(-1, args[0].shape[-1]))}
                )
            )
    draw = torch.Generator().manual_seed(0)
    shape = (SAMPLES, SEQLEN)
    with torch.no_grad():
        model(input_ids=torch.randint(3, VOCABULARY, shape, generator=draw), use_cache=False)
    assert len(seen) == 6
    for name, (_, inputs) in seen.items():
        dead = (inputs == 0).all(dim=0)
        assert dead[::EVERY].all(), name
        assert int(dead.sum()) < 0.15 * len(dead), name
    return seen


def released_hessian(inputs: Tensor) -> Tensor:
    """2 / samples times the sum of x x^T over all tokens, of samples of 2,048 tokens."""
    return oracles.hessian(inputs) * (2 * 2048)


def same_codes(result: CompressedWeight, expected: Tensor, inputs: Tensor) -> float:
    """Share of the live columns' weights with one code: less than half a step apart."""
    assert result.scale is not None
    assert result.g_idx is not None
    step = result.scale[:, result.g_idx]
    same = ((result.weight - expected).abs() < step / 2).float()
    return float(same[:, (inputs != 0).any(dim=0)].mean())


def gptq_of(settings: dict[str, Any]) -> GPTQ:
    return GPTQ(num_bits=4, **{"act_order": False, "static_groups": False, **settings})


@pytest.mark.parametrize("settings", GPTQS, ids=str)
def test_gptq_agrees_with_the_released_code(
    layers: dict[str, tuple[Tensor, Tensor]], settings: dict[str, Any]
) -> None:
    shares, losses, controls = [], [], []
    for weight, inputs in layers.values():
        stats = make_stats(GPTQ, inputs)
        result = gptq_of(settings).compress(weight, stats)
        # An oracle without the ones, and one with them, of H in the scale they are meant for.
        plain = oracles.gptq(weight, stats.matrix, num_bits=4, **settings)
        assert same_codes(result, plain, inputs) > 0.995
        released = {"num_bits": 4, "dead_diagonal": 1, **settings}
        expected = oracles.gptq(weight, released_hessian(inputs), **released)
        shares.append(same_codes(result, expected, inputs))
        error = oracles.output_error(weight, result.weight, inputs)
        losses.append(error / oracles.output_error(weight, expected, inputs))
        # The control: ones beside a mean over tokens, which inflate the damping.
        wrong = oracles.gptq(weight, stats.matrix, **{**released, "dead_diagonal": 1000})
        controls.append(same_codes(result, wrong, inputs))
    assert mean(shares) > 0.995
    # Inputs of nearly one square mean change places in act-order with the Hessian's rounding.
    assert min(shares) > (0.98 if settings.get("act_order") else 0.999)
    assert losses == pytest.approx([1] * len(losses), abs=0.01)
    assert mean(controls) < 0.9


def test_sparsegpt_agrees_with_the_released_code(
    layers: dict[str, tuple[Tensor, Tensor]],
) -> None:
    method = SparseGPT(pattern=Unstructured(0.5))
    shares, losses = [], []
    for weight, inputs in layers.values():
        result = method.compress(weight, make_stats(SparseGPT, inputs))
        h = released_hessian(inputs)
        expected, mask = oracles.sparsegpt(weight, h, sparsity=0.5, dead_diagonal=1)
        shares.append(float((result.mask == mask).float().mean()))
        error = oracles.output_error(weight, result.weight, inputs)
        losses.append(error / oracles.output_error(weight, expected, inputs))
    assert mean(shares) > 0.99
    assert mean(losses) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("act_order", [False, True])
def test_live_columns_do_not_know_of_dead_ones(act_order: bool) -> None:
    weight, inputs = make_weight(), make_inputs()
    dead = torch.arange(0, 96, EVERY)
    live = torch.tensor([column for column in range(96) if column % EVERY])
    inputs[:, dead] = 0
    method = GPTQ(num_bits=4, group_size=None, act_order=act_order, static_groups=False)
    whole = method.compress(weight, make_stats(GPTQ, inputs))
    # The same solve without those rows and columns of H, and the mean they count in.
    weight[:, dead] = 0
    method = replace(method, dampening_frac=0.01 * len(live) / 96)
    alone = method.compress(weight[:, live], make_stats(GPTQ, inputs[:, live]))
    assert whole.codes is not None
    assert alone.codes is not None
    assert float((whole.codes[:, live] == alone.codes).float().mean()) > 0.999
    assert torch.count_nonzero(whole.weight[:, dead]) == 0


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**12])
def test_dead_inputs_do_not_bind_the_scale(scale: float) -> None:
    weight, inputs = make_weight(), make_inputs()
    inputs[:, ::EVERY] = 0
    for method in (
        GPTQ(num_bits=4, group_size=48, act_order=True, static_groups=True),
        SparseGPT(pattern=Unstructured(0.5)),
    ):
        one = method.compress(weight, make_stats(method, inputs)).weight
        other = method.compress(weight, make_stats(method, inputs * scale)).weight
        assert torch.equal(one, other)
        assert not torch.equal(one, weight)


def test_a_layer_whose_inputs_are_all_dead() -> None:
    weight, inputs = make_weight(), torch.zeros(400, 96)
    rounded = GPTQ(num_bits=4, group_size=32).compress(weight, make_stats(GPTQ, inputs))
    assert torch.count_nonzero(rounded.weight) == 0
    pruned = SparseGPT(pattern=Unstructured(0.5)).compress(weight, make_stats(SparseGPT, inputs))
    assert int((pruned.weight != 0).sum()) == weight.numel() // 2
