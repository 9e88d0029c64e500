# SPDX-License-Identifier: Apache-2.0
"""FP8, MXFP4 and NVFP4 against an enumeration of all code points."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors import GPTQ, RTN, NumericalError
from compressors.base import CompressedWeight
from compressors.float_grid import FloatGrid, points
from compressors.number_formats import FLOAT_FORMATS
from compressors.quantization_grid import QuantizationGrid
from tests import oracles
from tests.compressors.method_cases import FORMATS, make_inputs, make_stats, make_weight
from tests.compressors.methods.test_properties import flat_hessian

every_format = pytest.mark.parametrize("name", FORMATS)


@pytest.mark.parametrize("num_bits", [4, 8])
def test_codes_stand_for_all_points_of_the_format(num_bits: int) -> None:
    expected = oracles.float_points(num_bits)
    codes = torch.arange(len(expected), dtype=torch.uint8)
    assert points(codes, num_bits).tolist() == expected
    sign = 2 ** (num_bits - 1)
    assert points(codes + sign, num_bits).tolist() == [-point for point in expected]
    name = "fp8" if num_bits == 8 else "mxfp4"
    grid = FloatGrid.of(name)
    every = torch.cat([codes, codes[1:] + sign])
    assert torch.equal(grid.encode(points(every, num_bits), torch.zeros(())), every)
    assert grid.encode(torch.tensor([-0.0]), torch.zeros(())).item() == 0


@every_format
def test_rounding_is_to_the_nearest_point_ties_to_the_even_code(name: str) -> None:
    grid = FloatGrid.of(name)
    known = oracles.float_points(grid.num_bits)
    middles = [(low + high) / 2 for low, high in pairwise(known)]
    values = torch.tensor([*known, *middles, known[-1] * 2, *(m * 1.001 for m in middles)])
    values = torch.cat([values, -values])
    expected = [oracles.nearest_point(value, grid.num_bits) for value in values.tolist()]
    found = grid.round(values, torch.ones(()), torch.zeros(()))
    assert found.tolist() == expected
    away = grid.round(torch.nextafter(values, values * 2), torch.ones(()), torch.zeros(()))
    assert not torch.equal(away, found), "no value was on a tie"


@every_format
@pytest.mark.parametrize("columns", [96, 40])  # 40: the last block is shorter
@pytest.mark.parametrize("size", [1.0, 1e-3, 300.0])
def test_rtn_is_the_loop(name: str, columns: int, size: float) -> None:
    weight = make_weight(12, columns) * size
    weight[3, :20] = 0
    expected = oracles.float_rtn(weight, name)
    found = RTN(number_format=name).compress(weight)
    torch.testing.assert_close(found.weight, expected, rtol=1e-6, atol=0)
    assert not torch.allclose(weight, expected, rtol=1e-2), "nothing was rounded"
    blocks = FLOAT_FORMATS[name].group_size
    assert found.scale is not None
    assert found.scale.shape == (12, -(-columns // blocks) if blocks else 1)


@every_format
@pytest.mark.parametrize("order", [{}, {"act_order": True, "static_groups": True}], ids=str)
def test_gptq_without_correlation_is_rtn(name: str, order: dict[str, Any]) -> None:
    weight = make_weight()
    gptq, rtn = GPTQ(number_format=name, **order), RTN(number_format=name).compress(weight)
    correlated = gptq.compress(weight, make_stats(gptq, make_inputs()))
    assert float((correlated.weight != rtn.weight).float().mean()) > 0.01
    flat = gptq.compress(weight, flat_hessian())
    for part in ("weight", "codes", "scale", "zero_point", "g_idx"):
        assert torch.equal(getattr(flat, part), getattr(rtn, part)), part


@every_format
def test_gptq_loses_less_of_the_output(name: str) -> None:
    weight, inputs = make_weight(), make_inputs()

    def error(result: CompressedWeight) -> float:
        return oracles.output_error(weight, result.weight, inputs)

    gptq = GPTQ(number_format=name)
    plain = error(RTN(number_format=name).compress(weight))
    assert error(gptq.compress(weight, make_stats(gptq, inputs))) < 0.8 * plain


def test_matrices_solved_together_keep_their_own_matrix_scale() -> None:
    gptq = GPTQ(number_format="nvfp4")
    weights = [make_weight(8), make_weight(24, seed=1) * 40]
    stats = make_stats(gptq, make_inputs())
    for weight, result in zip(weights, gptq.compress_together(weights, stats), strict=True):
        alone = gptq.compress(weight, stats)
        assert result.matrix_scale is not None
        assert result.matrix_scale.item() == pytest.approx(448 * 6 / weight.abs().max().item())
        torch.testing.assert_close(result.weight, alone.weight, rtol=1e-4, atol=1e-5)


@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_can_be_had_from_the_weights(name: str, dtype: torch.dtype) -> None:
    weight = make_weight().to(dtype)
    result = RTN(number_format=name).compress(weight)
    grid = QuantizationGrid.of(result)
    assert grid is not None
    assert grid.symmetric
    codes = grid.encode(result.weight)
    assert result.codes is not None
    assert torch.equal(points(codes, grid.num_bits), points(result.codes, grid.num_bits))
    assert torch.equal(grid.decode(codes, dtype), result.weight)
    with pytest.raises(NumericalError, match="not on the grid"):
        grid.encode(weight)


@every_format
def test_zeros_and_the_smallest_weights(name: str) -> None:
    rtn = RTN(number_format=name)
    nothing = rtn.compress(torch.zeros(4, 64))
    assert nothing.scale is not None
    assert torch.equal(nothing.scale, torch.ones_like(nothing.scale))
    assert not nothing.weight.any()
    # A block far below the matrix's largest weight: NVFP4 has no smaller scale for it.
    weight = torch.ones(2, 64)
    weight[1] = 1e-7
    small = rtn.compress(weight)
    assert torch.isfinite(small.weight).all()
    assert torch.equal(small.weight[0], weight[0])


def test_every_scale_of_nvfp4_can_be_stored() -> None:
    weight = make_weight(4, 64)
    weight[1, 16:32] *= 1e-6
    found = RTN(number_format="nvfp4").compress(weight)
    assert found.scale is not None
    assert found.matrix_scale is not None
    exact = found.scale * found.matrix_scale
    stored = exact.to(torch.float8_e4m3fn).float()
    assert bool((stored > 0).all())
    assert torch.allclose(stored, exact, rtol=1e-6, atol=0)
    # The least that E4M3 has.
    assert stored[1, 1] == 2**-9


def test_scales_that_are_not_finite_stop() -> None:
    with pytest.raises(NumericalError, match="a scale of nvfp4 is not finite"):
        RTN(number_format="nvfp4").compress(torch.full((2, 32), 1e-37))
    with pytest.raises(NumericalError, match="a scale of mxfp4 is not finite"):
        RTN(number_format="mxfp4").compress(torch.full((2, 32), 3.3e38))


@every_format
def test_compressed_tensors_rounds_alike(name: str) -> None:
    args = pytest.importorskip("compressed_tensors.quantization")
    helpers = pytest.importorskip("compressed_tensors.quantization.utils")
    forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    settings: dict[str, Any] = {
        "fp8": {"num_bits": 8, "strategy": "channel"},
        "mxfp4": {"num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        "nvfp4": {
            "num_bits": 4, "strategy": "tensor_group", "group_size": 16,
            "scale_dtype": torch.float8_e4m3fn,
        },
    }[name]  # fmt: skip
    stated = args.QuantizationArgs(type="float", symmetric=True, **settings)
    weight = make_weight(16, 96)
    size = FLOAT_FORMATS[name].group_size or 96
    blocks = weight.view(16, -1, size)
    low, high = blocks.amin(dim=2), blocks.amax(dim=2)
    extra: dict[str, Tensor] = {}
    if name == "nvfp4":
        extra["global_scale"] = helpers.generate_gparam(weight.min(), weight.max())
    scale, zero_point = helpers.calculate_qparams(low, high, stated, **extra)
    expected = forward.fake_quantize(weight, scale, zero_point, stated, **extra)
    found = RTN(number_format=name).compress(weight)
    assert not torch.equal(weight, expected)
    assert torch.equal(found.weight, expected)
