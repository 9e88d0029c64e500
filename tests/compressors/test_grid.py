# SPDX-License-Identifier: Apache-2.0
"""Grids and round-to-nearest, against the loop and by their definition."""

from __future__ import annotations

import pytest
import torch

from compressors import RTN
from compressors.grid import Grid
from tests import oracles
from tests.compressors.method_cases import make_weight


@pytest.mark.parametrize("num_bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [None, 16, 96, 40, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_rtn_is_the_loop(num_bits: int, group_size: int | None, symmetric: bool) -> None:
    weight = make_weight()
    result = RTN(num_bits=num_bits, group_size=group_size, symmetric=symmetric).compress(weight)
    expected = oracles.rtn(weight, num_bits, group_size, symmetric)
    assert not torch.allclose(weight, expected, atol=1e-4), "nothing was rounded"
    assert torch.equal(result.weight, expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_value_is_nearest_within_the_range(symmetric: bool) -> None:
    weight = make_weight(4, 32)
    result = RTN(num_bits=3, group_size=None, symmetric=symmetric).compress(weight)
    scale, zero_point = result.scale, result.zero_point
    assert scale is not None
    assert zero_point is not None
    points = (torch.arange(8) - zero_point) * scale
    distance = (weight[:, :, None] - points[:, None, :]).abs().amin(dim=2)
    torch.testing.assert_close((weight - result.weight).abs(), distance, rtol=0, atol=1e-6)


def test_symmetric_grid_is_the_fields() -> None:
    scale, zero_point = Grid(num_bits=4, group_size=None).fit(torch.tensor([[-3.0, 1.0]]), dim=1)
    assert scale.item() == pytest.approx(2 * 3.0 / 15)
    assert zero_point.item() == 8


def test_asymmetric_grid_holds_zero() -> None:
    grid = Grid(num_bits=4, group_size=None, symmetric=False)
    for values in ([2.0, 5.0], [-5.0, -2.0], [-1.0, 4.0]):
        scale, zero_point = grid.fit(torch.tensor([values]), dim=1)
        assert zero_point.item() == round(zero_point.item())
        assert 0 <= zero_point.item() <= 15
        low, high = min(0.0, *values), max(0.0, *values)
        assert scale.item() == pytest.approx((high - low) / 15)
        assert grid.round(torch.zeros(1), scale, zero_point).item() == 0


@pytest.mark.parametrize("size", [1e-44, 3e38])
def test_extreme_weights_stay_finite(size: float) -> None:
    weight = torch.tensor([[size, -size, size / 2, 0.0]])
    for symmetric in (True, False):
        result = RTN(num_bits=4, group_size=None, symmetric=symmetric).compress(weight)
        assert torch.isfinite(result.scale).all()
        assert (result.weight - weight).abs().max() <= max(size / 7, 1e-37)


def test_more_bits_and_smaller_groups_round_better() -> None:
    weight = make_weight()

    def error(num_bits: int, group_size: int | None) -> float:
        rounded = RTN(num_bits=num_bits, group_size=group_size).compress(weight).weight
        return float((rounded - weight).square().mean())

    by_bits = [error(bits, None) for bits in range(2, 9)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert error(4, 16) < error(4, 48) < error(4, None)
