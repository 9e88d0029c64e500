# SPDX-License-Identifier: Apache-2.0
"""Inputs that are always zero: results do not depend on the Hessian's scale."""

from __future__ import annotations

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

SAMPLES, SEQLEN = 8, 96
#: One input in ten is dead.
EVERY = 10
#: Of widths 80 and 160, 48 divides neither.
GPTQS: list[dict[str, Any]] = [
    {"group_size": None},
    {"group_size": 32},
    {"group_size": 48},
    {"group_size": None, "act_order": True},
    {"group_size": 48, "act_order": True, "static_groups": True},
    {"group_size": 48, "act_order": True},
]


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[Tensor, Tensor]]:
    """Each matrix of an OPT with what it reads, ``[tokens, in]``, a tenth of it always zero."""
    model = make("opt", hidden_size=80, word_embed_proj_dim=80, ffn_dim=160)
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
                    {name: (module.weight.detach(), args[0].reshape(-1, args[0].shape[-1]))}
                )
            )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model(input_ids=torch.randint(3, 128, (SAMPLES, SEQLEN), generator=draw), use_cache=False)
    assert len(seen) == 18
    for name, (_, inputs) in seen.items():
        dead = (inputs == 0).all(dim=0)
        assert dead[::EVERY].all(), name
        assert int(dead.sum()) < 0.3 * len(dead), name
    return seen


def released_hessian(inputs: Tensor) -> Tensor:
    """2 / samples times the sum of x x^T over all tokens, of samples of 2,048 tokens."""
    return oracles.hessian(inputs) * (2 * 2048)


def same_codes(result: CompressedWeight, expected: Tensor) -> float:
    """Share of the weights with one code: less than half a step of their grid apart."""
    assert result.scale is not None
    assert result.g_idx is not None
    step = result.scale[:, result.g_idx]
    return float(((result.weight - expected).abs() < step / 2).float().mean())


def gptq_of(settings: dict[str, Any]) -> GPTQ:
    return GPTQ(num_bits=4, **{"act_order": False, "static_groups": False, **settings})


@pytest.mark.parametrize("settings", GPTQS, ids=str)
def test_gptq_is_the_loop_that_leaves_dead_inputs_out(
    layers: dict[str, tuple[Tensor, Tensor]], settings: dict[str, Any]
) -> None:
    shares, counted = [], []
    for weight, inputs in layers.values():
        stats = make_stats(GPTQ, inputs)
        result = gptq_of(settings).compress(weight, stats)
        plain = {"num_bits": 4, **settings}
        shares.append(same_codes(result, oracles.gptq(weight, stats.matrix, **plain)))
        # The control: a diagonal far above the others', and the damping that it inflates.
        wrong = oracles.gptq(weight, stats.matrix, **plain, dead_diagonal=1000)
        counted.append(same_codes(result, wrong))
    assert mean(shares) > 0.999
    assert mean(counted) < 0.9


@pytest.mark.parametrize("settings", GPTQS, ids=str)
def test_gptq_differs_from_the_released_code_by_its_damping_alone(
    layers: dict[str, tuple[Tensor, Tensor]], settings: dict[str, Any]
) -> None:
    shares, losses, matched = [], [], []
    for weight, inputs in layers.values():
        result = gptq_of(settings).compress(weight, make_stats(GPTQ, inputs))
        h = released_hessian(inputs)
        released = {"num_bits": 4, "dead_diagonal": 1, **settings}
        expected = oracles.gptq(weight, h, **released)
        shares.append(same_codes(result, expected))
        error = oracles.output_error(weight, result.weight, inputs)
        losses.append(error / oracles.output_error(weight, expected, inputs))
        # Its mean counts a tenth of ones: damp as much as without them.
        live = h.diagonal()[h.diagonal() > 0]
        same_damping = 0.01 * live.mean() / ((live.sum() + len(h) - len(live)) / len(h))
        expected = oracles.gptq(weight, h, **released, dampening_frac=float(same_damping))
        matched.append(same_codes(result, expected))
    assert mean(matched) > 0.995
    assert mean(shares) > 0.98
    assert mean(losses) == pytest.approx(1, abs=0.01)


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
    # The same solve without those rows and columns of H.
    weight[:, dead] = 0
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
