# SPDX-License-Identifier: Apache-2.0
"""What every method promises, in every mode and dtype."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import compressors
from compressors import (
    AWQ,
    GPTQ,
    NM,
    RTN,
    Compressor,
    Magnitude,
    NumericalError,
    Random,
    SettingsError,
    SparseGPT,
    Unstructured,
    UnsupportedModelError,
    Wanda,
)
from compressors.float_grid import points
from compressors.methods.sparsegpt import MagnitudeAndRTN
from tests import oracles
from tests.compressors.method_cases import (
    JOINT,
    METHODS,
    PRUNERS,
    QUANTIZERS,
    compared_together,
    label,
    make_inputs,
    make_stats,
    make_weight,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

every_method = pytest.mark.parametrize("method", METHODS, ids=label)


def test_every_method_is_tested() -> None:
    exported = {
        value
        for value in (getattr(compressors, name) for name in compressors.__all__)
        if isinstance(value, type) and issubclass(value, Compressor) and value is not Compressor
    }
    assert {type(method) for method in METHODS} == exported


def every_method_but(kind: type) -> pytest.MarkDecorator:
    """Every method but one, which does not promise this."""
    kept = [method for method in METHODS if not isinstance(method, kind)]
    return pytest.mark.parametrize("method", kept, ids=label)


@every_method
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_result_belongs_to_the_weight(method: Any, dtype: torch.dtype) -> None:
    weight = make_weight().to(dtype)
    before = weight.clone()
    stats = make_stats(method, make_inputs())
    result = method.compress(weight, stats)
    assert torch.equal(weight, before), "the input was modified"
    assert result.weight.data_ptr() != weight.data_ptr()
    assert result.weight.shape == weight.shape
    assert result.weight.dtype == dtype
    assert result.weight.device == weight.device
    assert result.weight.is_contiguous()
    assert not torch.equal(result.weight, weight), "nothing was compressed"
    again = method.compress(weight, make_stats(method, make_inputs()))
    assert torch.equal(result.weight, again.weight), "not deterministic"


@pytest.mark.parametrize("method", [*PRUNERS, *JOINT], ids=label)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mask_is_what_was_kept(method: Any, dtype: torch.dtype) -> None:
    weight = make_weight().to(dtype)
    result = method.compress(weight, make_stats(method, make_inputs()))
    assert result.mask.dtype == torch.bool
    assert int((result.weight[~result.mask] != 0).sum()) == 0
    if isinstance(method, (Magnitude, Random, Wanda)):
        assert torch.equal(result.weight[result.mask], weight[result.mask])
        assert not torch.signbit(result.weight[~result.mask]).any()


@pytest.mark.parametrize("method", [*PRUNERS, *JOINT], ids=label)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_counts_are_exact(method: Any, dtype: torch.dtype) -> None:
    # Coarse values, so that ties abound.
    weight = (make_weight() * 4).round().div(4).to(dtype)
    kept = method.compress(weight, make_stats(method, make_inputs())).mask
    if isinstance(method.pattern, NM):
        per_group = kept.view(len(kept), -1, method.pattern.m).sum(dim=2)
        assert torch.all(per_group == method.pattern.n)
        return
    sparsity = method.pattern.sparsity
    for group in compared_together(method, kept):
        assert int((~group).sum()) == math.floor(sparsity * group.numel())


@pytest.mark.parametrize("method", [*QUANTIZERS, *JOINT], ids=label)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_codes_rebuild_the_weight(method: Any, dtype: torch.dtype) -> None:
    weight = make_weight().to(dtype)
    result = method.compress(weight, make_stats(method, make_inputs()))
    grid = method.quantize if isinstance(method, SparseGPT) else method
    size = grid.group_size or weight.shape[1]
    groups = math.ceil(weight.shape[1] / size)
    assert result.codes.dtype == torch.uint8
    assert int(result.codes.max()) < 2**grid.num_bits
    assert len(result.codes.unique()) > 2
    assert result.scale.shape == result.zero_point.shape == (len(weight), groups)
    assert result.scale.dtype == torch.float32
    assert result.zero_point.dtype == result.g_idx.dtype == torch.int32
    assert result.num_bits == grid.num_bits
    counts = result.g_idx.bincount().tolist()
    assert counts == [size] * (groups - 1) + [weight.shape[1] - size * (groups - 1)]
    steps = result.codes.float() - result.zero_point[:, result.g_idx]
    if result.number_format != "int":
        steps = points(result.codes, result.num_bits)
    assert result.number_format == grid.number_format
    factors = 1 if result.input_scale is None else result.input_scale
    rebuilt = (steps * result.scale[:, result.g_idx] / factors).to(dtype)
    if result.mask is not None:
        assert torch.equal(rebuilt, rebuilt * result.mask), (
            "a pruned weight has a code other than 0"
        )
    assert torch.equal(rebuilt, result.weight)


@every_method_but(AWQ)  # its matrices share the factors of their columns
def test_together_is_as_one_by_one(method: Any) -> None:
    stats = make_stats(method, make_inputs())
    weights = [make_weight(rows, seed=rows) for rows in (24, 8, 40)]
    together = method.compress_together(weights, stats)
    assert len(together) == len(weights)
    for weight, result in zip(weights, together, strict=True):
        alone = method.compress(weight, stats)
        assert result.weight.is_contiguous()
        torch.testing.assert_close(result.weight, alone.weight, rtol=1e-4, atol=1e-5)
        for name in ("mask", "codes", "zero_point", "g_idx"):
            mine, other = getattr(result, name), getattr(alone, name)
            assert (mine is None and other is None) or torch.equal(mine, other), name


@every_method_but(Random)  # a random draw goes by place
def test_rows_do_not_depend_on_their_place(method: Any) -> None:
    weight, stats = make_weight(), make_stats(method, make_inputs())
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(3))
    permuted = method.compress(weight[order], stats).weight
    expected = method.compress(weight, stats).weight[order]
    assert not torch.equal(permuted, method.compress(weight, stats).weight)
    torch.testing.assert_close(permuted, expected, rtol=1e-4, atol=1e-5)


@every_method_but(Random)  # a random draw is seeded by the weight
def test_powers_of_two_scale_through(method: Any) -> None:
    weight, stats = make_weight(), make_stats(method, make_inputs())
    assert torch.equal(
        method.compress(weight * 8, stats).weight, method.compress(weight, stats).weight * 8
    )


@every_method
def test_scale_of_the_inputs_does_not_matter(method: Any) -> None:
    weight, inputs = make_weight(), make_inputs()
    small = method.compress(weight, make_stats(method, inputs)).weight
    large = method.compress(weight, make_stats(method, inputs * 16)).weight
    assert torch.equal(small, large)


@pytest.mark.parametrize(
    "method",
    [m for m in PRUNERS if not isinstance(m, (Random, SparseGPT))],
    ids=label,
)
def test_pruning_again_changes_nothing(method: Any) -> None:
    stats = make_stats(method, make_inputs())
    once = method.compress(make_weight(), stats)
    assert not once.mask.all()
    twice = method.compress(once.weight, stats)
    assert torch.equal(once.weight, twice.weight)


@every_method
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_weight_stops(method: Any, bad: float) -> None:
    weight = make_weight()
    weight[3, 5] = bad
    with pytest.raises(NumericalError, match="NaN or infinity"):
        method.compress(weight, make_stats(method, make_inputs()))


@every_method
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_inputs_stop_who_reads_them(method: Any, bad: float) -> None:
    inputs = make_inputs()
    inputs[7, 2] = bad
    stats = make_stats(method, inputs)
    if method.fallback() is method:
        method.compress(make_weight(), stats)  # looks at the weights alone
        return
    with pytest.raises(NumericalError, match="input statistics are not finite"):
        method.compress(make_weight(), stats)


@every_method
def test_no_inputs_stop_who_reads_them(method: Any) -> None:
    stats = method.statistic(96)
    if method.fallback() is method:
        method.compress(make_weight(), stats)
        return
    with pytest.raises(SettingsError, match="no calibration tokens"):
        method.compress(make_weight(), stats)


@every_method
def test_fallback_needs_no_inputs(method: Any) -> None:
    fallback = method.fallback()
    assert fallback.fallback() is fallback
    expected = Magnitude if hasattr(method, "pattern") else RTN
    if method in JOINT:
        expected = MagnitudeAndRTN
    if fallback is not method:
        assert type(fallback) is expected
    for setting in ("pattern", "quantize", "num_bits", "group_size", "symmetric"):
        if hasattr(fallback, setting):
            assert getattr(fallback, setting) == getattr(method, setting)


@pytest.mark.parametrize("method", JOINT, ids=label)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fallback_of_joint_compression_prunes_and_rounds(method: Any, dtype: torch.dtype) -> None:
    weight = make_weight().to(dtype)
    result = method.fallback().compress(weight)
    mask = Magnitude(pattern=method.pattern).compress(weight).mask
    assert mask is not None
    assert torch.equal(result.mask, mask)
    grid = method.quantize
    expected = oracles.rtn(weight * mask, grid.num_bits, grid.group_size, grid.symmetric)
    assert not torch.allclose(expected, weight.float() * mask, atol=1e-3), "nothing was rounded"
    assert torch.equal(result.weight, expected.to(dtype))
    assert torch.count_nonzero(result.weight[~mask]) == 0
    if isinstance(method.pattern, NM):
        with pytest.raises(UnsupportedModelError, match=r"layers\.0"):
            method.fallback().check("layers.0", 64, 90)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_zeros_stays_one(dtype: torch.dtype) -> None:
    for method in METHODS:
        weight = make_weight().to(dtype)
        weight[4] = 0
        result = method.compress(weight, make_stats(method, make_inputs()))
        assert torch.count_nonzero(result.weight[4]) == 0, label(method)
        assert torch.isfinite(result.weight).all(), label(method)


def test_random_differs_by_layer_and_seed() -> None:
    pattern = Unstructured(0.5)
    one, other = make_weight(seed=0), make_weight(seed=1)
    mask = Random(pattern=pattern).compress(one).mask
    assert mask is not None
    for different in (
        Random(pattern=pattern).compress(other).mask,
        Random(pattern=pattern, seed=1).compress(one).mask,
    ):
        assert different is not None
        # Two independent draws of a half agree on a half.
        assert 0.4 < float((mask == different).float().mean()) < 0.6
    assert torch.equal(oracles.magnitude_mask(one, 0.5), oracles.magnitude_mask(-one, 0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unstructured(1.5), "sparsity=1.5"),
        (lambda: Unstructured(1.0), "sparsity=1.0"),
        (lambda: Unstructured(-0.1), "sparsity=-0.1"),
        (lambda: Unstructured(float("nan")), "sparsity=nan"),
        (lambda: Unstructured(True), "sparsity=True"),
        (lambda: NM(4, 2), "4:2"),
        (lambda: NM(0, 4), "0:4"),
        (lambda: NM("2", "4"), r"NM\('2', '4'\): expected two integers"),  # type: ignore[arg-type]
        (lambda: NM(4, 4), "4:4"),
        (lambda: RTN(num_bits=1), "num_bits=1"),
        (lambda: AWQ(grid_points=0), "grid_points=0"),
        (lambda: RTN(), "num_bits is missing"),
        (lambda: RTN(number_format="fp6"), "number_format='fp6'"),
        (lambda: RTN(number_format="nvfp4", num_bits=8), "num_bits=8 does not go with"),
        (lambda: GPTQ(number_format="fp8", group_size=64), "group_size=64 does not go with"),
        (lambda: RTN(number_format="mxfp4", symmetric=False), "symmetric=False does not go with"),
        (lambda: AWQ(number_format="fp8", num_bits=3), "num_bits=3 does not go with"),
        (lambda: GPTQ(num_bits=9), "num_bits=9"),
        (lambda: GPTQ(num_bits=4, group_size=0), "group_size=0"),
        (lambda: GPTQ(num_bits=4, dampening_frac=-1), "dampening_frac=-1"),
        (lambda: GPTQ(num_bits=4, block_size=0), "block_size=0"),
        (lambda: SparseGPT(pattern=Unstructured(0.5), dampening_frac=2), "dampening_frac=2"),
        (lambda: SparseGPT(pattern=NM(2, 4), block_size=30), "such as 128"),
        (lambda: Wanda(pattern=NM(2, 4), variant=True), "variant"),
        (lambda: Random(pattern=NM(2, 4), seed=-1), "seed=-1"),
        (lambda: GPTQ(num_bits=4, dampening_frac=True), "dampening_frac=True"),
        (lambda: Magnitude(pattern="2:4"), "pattern='2:4'"),  # type: ignore[arg-type]
        (lambda: Random(pattern="2:4"), "pattern='2:4'"),  # type: ignore[arg-type]
        (lambda: Wanda(pattern=0.5), "pattern=0.5"),  # type: ignore[arg-type]
        (lambda: SparseGPT(pattern=None), "pattern=None"),  # type: ignore[arg-type]
        (lambda: SparseGPT(pattern=NM(2, 4), quantize=4), "quantize=4"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace(".", r"\.")):
        make()


@pytest.mark.parametrize(
    ("method", "fitting"),
    [
        (Magnitude(pattern=NM(2, 16)), "12"),
        (Random(pattern=NM(2, 16)), "12"),
        (Wanda(pattern=NM(2, 16)), "12"),
        (SparseGPT(pattern=NM(2, 16)), "12"),
        (SparseGPT(pattern=NM(2, 16), quantize=RTN(num_bits=4)), "12"),
    ],
    ids=label,
)
def test_a_width_that_does_not_divide_is_named(method: Any, fitting: str) -> None:
    width = 300
    with pytest.raises(UnsupportedModelError, match=r"layers\.7\.mlp.*300.*" + fitting):
        method.check("layers.7.mlp", 64, width)
    method.check("layers.7.mlp", 64, 512)
    weight, stats = make_weight(4, width), make_stats(method, make_inputs(width))
    with pytest.raises(SettingsError, match=r"in_features 300, not divisible by M=16 .*2:16"):
        method.compress(weight, stats)
