# SPDX-License-Identifier: Apache-2.0
"""AWQ against the loop written from its paper, and what it promises beyond the contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compressors import AWQ, SettingsError, compress_model
from compressors.base import CompressedWeight
from compressors.statistics import HessianAndMagnitude
from tests import oracles
from tests.compressors.method_cases import make_inputs, make_stats, make_weight
from tests.tiny_models import make


def outlying_inputs(columns: int = 96) -> Tensor:
    """Inputs of which a few features are far larger than the rest: what AWQ is for."""
    inputs = make_inputs(columns)
    inputs[:, ::17] *= 30
    return inputs


def shared_weights() -> list[Tensor]:
    return [make_weight(rows, seed=rows) for rows in (24, 8, 40)]


def error(weight: Tensor, result: CompressedWeight, inputs: Tensor) -> float:
    return oracles.output_error(weight, result.weight, inputs)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_bits": 4, "group_size": 32},
        # Of 20 exponents the best two are within 0.1 %: rounding would choose.
        {"num_bits": 3, "group_size": 16, "symmetric": True, "grid_points": 6},
        {"num_bits": 3, "group_size": 40},  # the last group is shorter
        {"num_bits": 4, "group_size": None, "grid_points": 7},
        {"num_bits": 3, "group_size": 32, "clip": False},
        {"num_bits": 3, "group_size": 32, "duo_scaling": True},
    ],
    ids=str,
)
def test_awq_is_the_loop(settings: dict[str, Any]) -> None:
    inputs, weights = outlying_inputs(), shared_weights()
    method = AWQ(**settings)
    scores = [True, False, False]
    found = method.compress_together(weights, make_stats(method, inputs), scores)
    expected = oracles.awq(
        weights,
        inputs,
        num_bits=method.num_bits,
        group_size=method.group_size,
        symmetric=method.symmetric,
        grid_points=method.grid_points,
        clip=[method.clip and not kept for kept in scores],
        duo_scaling=method.duo_scaling,
    )
    for weight, result, wanted in zip(weights, found, expected, strict=True):
        rounded = oracles.rtn(weight, method.num_bits, method.group_size, method.symmetric)
        assert float((wanted - rounded).abs().max()) > 0.05, "the loop only rounds"
        close = torch.isclose(result.weight, wanted, rtol=1e-4, atol=1e-5)
        # The ends of a group that was clipped lie on rounding ties, and so does its zero point:
        # the last bits decide, in the released code as well.
        assert float(close.float().mean()) > (0.9 if method.clip else 0.998)
        lost = error(weight, result, inputs)
        assert lost == pytest.approx(oracles.output_error(weight, wanted, inputs), rel=0.05)


def test_without_its_searches_it_is_rtn_bit_for_bit() -> None:
    weight, inputs = make_weight().to(torch.bfloat16), outlying_inputs()
    plain = AWQ(group_size=32, grid_points=1, clip=False)
    stats = make_stats(plain, inputs)
    rounded = plain.fallback().compress(weight)
    found = plain.compress(weight, stats)
    assert found.input_scale is None
    for name in ("weight", "codes", "scale", "zero_point", "g_idx"):
        assert torch.equal(getattr(found, name), getattr(rounded, name)), name
    searched = AWQ(group_size=32).compress(weight, stats)
    assert float((searched.weight != rounded.weight).float().mean()) > 0.5


def test_each_search_lowers_the_error_of_the_output() -> None:
    inputs, weight = outlying_inputs(), make_weight()
    settings: dict[str, Any] = {"num_bits": 3, "group_size": 32}
    errors = [
        error(weight, method.compress(weight, make_stats(method, inputs)), inputs)
        for method in (
            AWQ(**settings, grid_points=1, clip=False),
            AWQ(**settings, clip=False),
            AWQ(**settings),
        )
    ]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < errors[1]


def test_matrices_of_one_input_share_their_scale() -> None:
    inputs, weights = outlying_inputs(), shared_weights()
    weights[2][:, ::17] *= 8  # by itself, this one would choose another exponent
    method = AWQ(num_bits=3, group_size=32)
    stats = make_stats(method, inputs)
    together = method.compress_together(weights, stats)
    alone = [method.compress(weight, stats) for weight in weights]
    scales = [result.input_scale for result in together]
    assert scales[0] is not None
    assert all(scale is not None and torch.equal(scale, scales[0]) for scale in scales)
    assert len({tuple(result.input_scale.tolist()) for result in alone}) > 1  # type: ignore[union-attr]

    def total(results: list[CompressedWeight]) -> float:
        return sum(
            float((inputs @ (result.weight - weight).t()).square().sum())
            for weight, result in zip(weights, results, strict=True)
        )

    plain = AWQ(num_bits=3, group_size=32, grid_points=1)
    assert total(together) < total(plain.compress_together(weights, stats))


def test_queries_and_keys_are_not_clipped() -> None:
    inputs, weights = outlying_inputs(), shared_weights()
    method, unclipped = AWQ(num_bits=3, group_size=32), AWQ(num_bits=3, group_size=32, clip=False)
    stats = make_stats(method, inputs)
    found = method.compress_together(weights, stats, [True, True, False])
    wanted = unclipped.compress_together(weights, stats)
    same = [torch.equal(a.weight, b.weight) for a, b in zip(found, wanted, strict=True)]
    assert same == [True, True, False]


def test_a_model_tells_its_queries_and_keys() -> None:
    tokens = torch.randint(0, 128, (8, 32), generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"num_bits": 3, "group_size": 16}
    weights = []
    for clip in (True, False):
        model = make("llama")
        report = compress_model(
            model, AWQ(**settings, clip=clip), calibration=tokens, progress=False
        )
        assert all(row.error is not None and row.note is None for row in report.layers)
        weights.append(dict(model.model.layers[0].named_parameters()))
    differ = {
        name.split(".")[1]
        for name, weight in weights[0].items()
        if weight.ndim == 2 and not torch.equal(weight, weights[1][name])
    }
    assert differ == {"v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_inputs_that_are_always_zero_leave_the_rest_alone() -> None:
    inputs, weight = outlying_inputs(), make_weight()
    inputs[:, 5:9] = 0
    method = AWQ(group_size=32)
    result = method.compress(weight, make_stats(method, inputs))
    assert torch.isfinite(result.weight).all()
    plain = method.fallback().compress(weight)
    assert error(weight, result, inputs) < 0.5 * error(weight, plain, inputs)
    # The other columns are scaled all the same.
    assert result.input_scale is not None
    assert torch.isfinite(result.input_scale).all()
    assert (result.input_scale[5:9] == result.input_scale.min()).all()
    assert result.input_scale.max() > 2 * result.input_scale.min()


def test_a_hessian_without_magnitudes_cannot_be_taken_for_one() -> None:
    with pytest.raises(SettingsError, match="no calibration tokens"):
        AWQ().compress(make_weight(), HessianAndMagnitude(96))
