# SPDX-License-Identifier: Apache-2.0
"""SparseGPT and GPTQ against the loops of the papers, and the column pass in hard cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compressors import GPTQ, NM, RTN, NumericalError, SparseGPT, Unstructured
from compressors.errors import SettingsError
from compressors.obs.cholesky import factorize
from compressors.statistics import Hessian
from tests import oracles
from tests.compressors.method_cases import make_inputs, make_stats, make_weight

#: The oracle's defaults, the released code's.
PLAIN = {"act_order": False, "act_group_aware": False, "static_groups": False}


def same(a: Tensor, b: Tensor) -> float:
    """Share of the weights that agree up to rounding."""
    return float(((a - b).abs() <= 1e-4 * b.abs().max()).float().mean())


@pytest.mark.parametrize("block_size", [16, 40, 96, 128])
@pytest.mark.parametrize(
    ("pattern", "choice"),
    [
        (Unstructured(0.5), {"sparsity": 0.5}),
        (Unstructured(0.1), {"sparsity": 0.1}),
        (NM(2, 4), {"nm": (2, 4)}),
        (NM(5, 8), {"nm": (5, 8)}),
    ],
)
@pytest.mark.parametrize("bits", [None, (4, 16, True), (3, None, False), (4, 36, True)])
def test_sparsegpt_is_the_loop(
    pattern: Any, choice: Any, bits: tuple[int, int | None, bool] | None, block_size: int
) -> None:
    weight, inputs = make_weight(), make_inputs()
    stats = make_stats(SparseGPT, inputs)
    quantize = None
    if bits:
        quantize = RTN(num_bits=bits[0], group_size=bits[1], symmetric=bits[2])
    method = SparseGPT(pattern=pattern, block_size=block_size, quantize=quantize)
    result = method.compress(weight, stats)
    expected, mask = oracles.sparsegpt(
        weight, stats.matrix, block_size=block_size, quantize=bits, **choice
    )
    # One choice that rounding tips changes all that follows in its row.
    assert float((result.mask == mask).float().mean()) > 0.98
    assert same(result.weight, expected) > 0.97
    assert same(weight, expected) < 0.6, "the loop changed nothing"
    ours = oracles.output_error(weight, result.weight, inputs)
    assert ours == pytest.approx(oracles.output_error(weight, expected, inputs), rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": None},
        {"group_size": None, "symmetric": False},
        {"group_size": None, "act_order": True},
        {"group_size": 32},
        {"group_size": 16, "symmetric": False},
        {"group_size": 8, "block_size": 24},
        {"group_size": 48, "block_size": 16},
        {"group_size": 48, "block_size": 32, "symmetric": False},
        {"group_size": 32, "block_size": 20},
        {"group_size": 32, "static_groups": True},
        {"group_size": 32, "act_order": True},
        {"group_size": 16, "act_order": True, "static_groups": True, "symmetric": False},
        {"group_size": 40},
        {"group_size": 36, "block_size": 20, "symmetric": False},
        {"group_size": 128, "static_groups": True},
        {"group_size": 40, "act_order": True},
        {"group_size": 40, "act_order": True, "static_groups": True, "symmetric": False},
        {"group_size": 16, "act_order": True, "act_group_aware": True},
        {"group_size": 40, "act_order": True, "act_group_aware": True, "symmetric": False},
        {"group_size": 48, "act_order": True, "act_group_aware": True, "block_size": 32},
        {"group_size": None, "act_order": True, "act_group_aware": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("num_bits", [2, 4])
def test_gptq_is_the_loop(settings: dict[str, Any], num_bits: int) -> None:
    weight, inputs = make_weight(), make_inputs()
    stats = make_stats(GPTQ, inputs)
    result = GPTQ(num_bits=num_bits, **{**PLAIN, **settings}).compress(weight, stats)
    expected = oracles.gptq(weight, stats.matrix, num_bits=num_bits, **settings)
    assert same(result.weight, expected) > 0.97
    ours = oracles.output_error(weight, result.weight, inputs)
    assert ours == pytest.approx(oracles.output_error(weight, expected, inputs), rel=0.03)
    rounded = oracles.rtn(weight, num_bits, settings["group_size"], settings.get("symmetric", True))
    assert same(rounded, expected) < 0.9, "the loop only rounds"


def test_act_order_carries_its_groups() -> None:
    weight, inputs = make_weight(), make_inputs()
    stats = make_stats(GPTQ, inputs)
    order = stats.matrix.diagonal().argsort(descending=True)
    torn = GPTQ(num_bits=4, group_size=32, static_groups=False).compress(weight, stats)
    assert torn.g_idx is not None
    assert torch.equal(torn.g_idx[order], torch.arange(96, dtype=torch.int32) // 32)
    aware = {"act_group_aware": True, "static_groups": False}
    for settings in ({}, aware):
        whole = GPTQ(num_bits=4, group_size=32, **settings).compress(weight, stats)
        assert whole.g_idx is not None
        assert torch.equal(whole.g_idx, torch.arange(96, dtype=torch.int32) // 32)


@pytest.mark.parametrize("settings", [{}, {"static_groups": False, "act_order": False}], ids=str)
def test_a_group_aware_order_needs_the_order_and_grids_found_in_the_pass(
    settings: dict[str, bool],
) -> None:
    with pytest.raises(SettingsError, match="goes with act_order=true and static_groups=false"):
        GPTQ(num_bits=4, act_group_aware=True, **settings)


def test_loss_hardly_depends_on_the_block_size() -> None:
    weight, inputs = make_weight(), make_inputs()
    stats = make_stats(GPTQ, inputs)
    errors = [
        oracles.output_error(
            weight,
            GPTQ(num_bits=4, group_size=None, block_size=size).compress(weight, stats).weight,
            inputs,
        )
        for size in (1, 7, 32, 96, 500)
    ]
    assert max(errors) < 1.02 * min(errors)


def test_dead_inputs_gptq() -> None:
    weight, inputs = make_weight(), make_inputs()
    inputs[:, [3, 50, 51]] = 0
    weight[:, 3] = 100
    stats = make_stats(GPTQ, inputs)
    result = GPTQ(num_bits=4, group_size=None, act_order=False).compress(weight, stats)
    assert torch.count_nonzero(result.weight[:, [3, 50, 51]]) == 0
    clean = weight.clone()
    clean[:, 3] = 0
    expected = oracles.gptq(clean, stats.matrix, num_bits=4)
    assert same(result.weight, expected) > 0.97


def test_dead_inputs_sparsegpt_go_first_but_no_more_than_asked() -> None:
    weight, inputs = make_weight(), make_inputs()
    dead = [3, *range(20, 40)]
    inputs[:, dead] = 0
    stats = make_stats(SparseGPT, inputs)
    half = SparseGPT(pattern=Unstructured(0.5)).compress(weight, stats)
    assert torch.count_nonzero(half.weight[:, dead]) == 0
    expected, mask = oracles.sparsegpt(weight, stats.matrix, sparsity=0.5)
    assert float((half.mask == mask).float().mean()) > 0.98
    assert same(half.weight, expected) > 0.97
    tenth = SparseGPT(pattern=Unstructured(0.1)).compress(weight, stats)
    assert tenth.mask is not None
    gone = ~tenth.mask
    assert int(gone.sum()) == int(0.1 * weight.numel()) == int(gone[:, dead].sum())
    assert torch.equal(tenth.weight[:, dead] != 0, tenth.mask[:, dead])


def definite(size: int = 12) -> Tensor:
    a = torch.randn(30, size, generator=torch.Generator().manual_seed(0))
    return a.t() @ a


@pytest.mark.parametrize("block_size", [1, 5, 12, 128])
def test_factor_rebuilds_the_damped_hessian(block_size: int) -> None:
    h = definite()
    factor = factorize(lambda: h.clone(), 0.25, block_size)
    assert factor.dampening == 0.25
    lower = factor.lower.tril()
    damped = h + 0.25 * h.diagonal().mean() * torch.eye(12)
    torch.testing.assert_close(lower.t() @ lower, damped, rtol=1e-4, atol=1e-4)
    for index, inverse in enumerate(factor.inverses):
        block = lower[index * block_size :, index * block_size :][:block_size, :block_size]
        torch.testing.assert_close(inverse @ block, torch.eye(len(block)), rtol=1e-4, atol=1e-4)
    # The same as the papers' Cholesky factor of the inverse: U = X^-T.
    upper = torch.linalg.inv(lower).t()
    torch.testing.assert_close(upper, oracles.inverse_factor(h, 0.25), rtol=1e-3, atol=1e-4)


def test_damping_is_raised_and_reported() -> None:
    weight = make_weight()
    few = make_inputs(tokens=10)  # rank 10 of 96: not definite without damping
    stats = make_stats(GPTQ, few)
    result = GPTQ(num_bits=4, group_size=None, dampening_frac=0.0).compress(weight, stats)
    assert result.dampening is not None
    assert 0 < result.dampening <= 1
    assert torch.isfinite(result.weight).all()
    enough = GPTQ(num_bits=4, group_size=None).compress(weight, make_stats(GPTQ, make_inputs()))
    assert enough.dampening == 0.01


def test_a_hopeless_hessian_is_an_error_not_the_identity() -> None:
    stats = Hessian(96)
    stats.tokens = 1
    stats.lower_sum.copy_(torch.eye(96))
    stats.lower_sum[40, 2] = 50.0
    for method in (GPTQ(num_bits=4, group_size=None), SparseGPT(pattern=NM(2, 4))):
        with pytest.raises(NumericalError, match=r"not positive definite.*add calibration samples"):
            method.compress(make_weight(), stats)
