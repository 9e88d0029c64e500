# SPDX-License-Identifier: Apache-2.0
"""Identities between methods. Each first shows that without its premise it does not hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressors import GPTQ, NM, RTN, Magnitude, SparseGPT, Unstructured, Wanda
from compressors.statistics import ColumnNorm, Hessian
from tests import oracles
from tests.compressors.method_cases import make_inputs, make_stats, make_weight


def flat_hessian(columns: int = 96, size: float = 3.0) -> Hessian:
    """H = c I."""
    stats = Hessian(columns)
    stats.update(torch.eye(columns) * size)
    return stats


def flat_norm(columns: int = 96, size: float = 3.0) -> ColumnNorm:
    stats = ColumnNorm(columns)
    stats.update(torch.full((4, columns), size))
    return stats


def magnitude_by_blocks(weight: Tensor, sparsity: float, block_size: int) -> Tensor:
    blocks = torch.split(weight, block_size, dim=1)
    return torch.cat([oracles.magnitude_mask(block, sparsity) for block in blocks], dim=1)


@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_without_correlation_is_rtn(
    num_bits: int, group_size: int | None, symmetric: bool, act_order: bool
) -> None:
    weight = make_weight()
    gptq = GPTQ(num_bits=num_bits, group_size=group_size, symmetric=symmetric, act_order=act_order)
    rtn = gptq.fallback().compress(weight)
    correlated = gptq.compress(weight, make_stats(gptq, make_inputs()))
    assert float((correlated.weight != rtn.weight).float().mean()) > 0.01
    flat = gptq.compress(weight, flat_hessian())
    assert torch.equal(flat.weight, rtn.weight)
    for name in ("codes", "scale", "zero_point", "g_idx"):
        assert torch.equal(getattr(flat, name), getattr(rtn, name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block_size", [32, 40, 128])
def test_sparsegpt_without_correlation_is_magnitude_by_blocks(
    dtype: torch.dtype, block_size: int
) -> None:
    weight = make_weight().to(dtype)  # bfloat16: many ties
    method = SparseGPT(pattern=Unstructured(0.5), block_size=block_size)
    expected = magnitude_by_blocks(weight, 0.5, block_size)
    correlated = method.compress(weight, make_stats(method, make_inputs()))
    assert not torch.equal(correlated.mask, expected)
    flat = method.compress(weight, flat_hessian())
    assert torch.equal(flat.mask, expected)
    assert torch.equal(flat.weight, weight * expected)


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(3, 8), NM(1, 2)])
def test_nm_without_correlation_is_magnitude(pattern: NM) -> None:
    weight = make_weight()
    expected = oracles.nm_mask(weight.abs(), pattern.n, pattern.m)
    assert torch.equal(Magnitude(pattern=pattern).compress(weight).mask, expected)
    for method, flat in (
        (SparseGPT(pattern=pattern), flat_hessian()),
        (Wanda(pattern=pattern), flat_norm()),
    ):
        correlated = method.compress(weight, make_stats(method, make_inputs()))
        assert not torch.equal(correlated.mask, expected)
        assert torch.equal(method.compress(weight, flat).mask, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_wanda_with_flat_norms_is_magnitude_by_row(dtype: torch.dtype) -> None:
    weight = make_weight().to(dtype)
    method = Wanda(pattern=Unstructured(0.5))
    expected = torch.cat([oracles.magnitude_mask(row[None], 0.5) for row in weight])
    assert not torch.equal(
        method.compress(weight, make_stats(method, make_inputs())).mask, expected
    )
    assert torch.equal(method.compress(weight, flat_norm()).mask, expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.77]))
def test_masks_are_the_oracles(seed: int, sparsity: float) -> None:
    weight = make_weight(24, 80, seed=seed)
    stats = make_stats(Wanda, make_inputs(80, tokens=50, seed=seed))
    pattern = Unstructured(sparsity)
    magnitude = Magnitude(pattern=pattern).compress(weight)
    assert torch.equal(magnitude.mask, oracles.magnitude_mask(weight, sparsity))
    wanda = Wanda(pattern=pattern).compress(weight, stats)
    assert torch.equal(wanda.mask, oracles.wanda_mask(weight, stats.norm, sparsity))


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
def test_wandas_variant_is_the_loop(sparsity: float) -> None:
    weight, stats = make_weight(), make_stats(Wanda, make_inputs())
    weight[5] *= torch.linspace(0, 1, 96) ** 4  # a row whose total hangs on few weights
    variant = Wanda(pattern=Unstructured(sparsity), variant=True).compress(weight, stats)
    expected = oracles.wanda_variant_mask(weight, stats.norm, sparsity)
    # Shares are cumulative sums: float32 and float64 may disagree at the very threshold.
    assert int((variant.mask != expected).sum()) <= 2
    plain = Wanda(pattern=Unstructured(sparsity)).compress(weight, stats)
    assert variant.mask is not None
    assert plain.mask is not None
    assert not torch.equal(variant.mask, plain.mask)
    assert int(variant.mask[5].sum()) < int(plain.mask[5].sum())


def test_making_up_for_errors_pays_off() -> None:
    weight, inputs = make_weight(), make_inputs()

    def error(method: object) -> float:
        compressed = method.compress(weight, make_stats(method, inputs))  # type: ignore[attr-defined]
        return oracles.output_error(weight, compressed.weight, inputs)

    half, two_four = Unstructured(0.5), NM(2, 4)
    assert 0 < error(SparseGPT(pattern=half)) < error(Wanda(pattern=half))
    assert error(Wanda(pattern=half)) < error(Magnitude(pattern=half))
    assert error(SparseGPT(pattern=two_four)) < error(Wanda(pattern=two_four))
    assert error(SparseGPT(pattern=half)) < error(SparseGPT(pattern=two_four))
    for group_size in (None, 32):
        plain = error(RTN(num_bits=3, group_size=group_size))
        assert 0 < error(GPTQ(num_bits=3, group_size=group_size)) < plain
    ordered = GPTQ(num_bits=3, group_size=None)
    assert error(ordered) < error(replace(ordered, act_order=False))
    joint = SparseGPT(pattern=half, quantize=RTN(num_bits=4, group_size=32))
    masked = Magnitude(pattern=half).compress(weight).weight
    then_rounded = RTN(num_bits=4, group_size=32).compress(masked).weight
    assert error(joint) < oracles.output_error(weight, then_rounded, inputs)


def test_only_the_pruned_change_nothing_else_without_correlation() -> None:
    weight = make_weight()
    flat = SparseGPT(pattern=Unstructured(0.5)).compress(weight, flat_hessian())
    mixed = SparseGPT(pattern=Unstructured(0.5)).compress(
        weight, make_stats(SparseGPT, make_inputs())
    )
    assert torch.equal(flat.weight[flat.mask], weight[flat.mask])
    assert not torch.equal(mixed.weight[mixed.mask], weight[mixed.mask])
