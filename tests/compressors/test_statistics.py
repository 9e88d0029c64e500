# SPDX-License-Identifier: Apache-2.0
"""Streamed statistics are those of all inputs at once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

import compressors.matmul as products
from compressors import NumericalError, SettingsError
from compressors.statistics import ColumnNorm, Hessian, HessianAndMagnitude, NoStatistic
from tests import oracles
from tests.compressors.method_cases import make_inputs

KINDS: list[Any] = [ColumnNorm, Hessian, HessianAndMagnitude]


def value(stats: Any) -> torch.Tensor:
    if isinstance(stats, HessianAndMagnitude):
        return torch.cat([stats.matrix, stats.magnitude[None]])
    return stats.norm if isinstance(stats, ColumnNorm) else stats.matrix


def expected(kind: Any, inputs: torch.Tensor) -> torch.Tensor:
    if kind is HessianAndMagnitude:
        mean = sum(token.abs() for token in inputs.float()) / len(inputs)
        return torch.cat([oracles.hessian(inputs), torch.as_tensor(mean)[None]])
    return oracles.column_norm(inputs) if kind is ColumnNorm else oracles.hessian(inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [5, 96, 300])
def test_streamed_equals_full(kind: Any, dtype: torch.dtype, width: int) -> None:
    inputs = make_inputs(width, tokens=333).to(dtype)
    stats = kind(width)
    for piece in torch.split(inputs, 50):
        stats.update(piece[None])
    stats.update(inputs[:0])
    assert stats.tokens == 333
    assert value(stats).dtype == torch.float32
    torch.testing.assert_close(value(stats), expected(kind, inputs), rtol=2e-5, atol=2e-5)
    one_batch = expected(kind, inputs[:50])
    assert not torch.allclose(value(stats), one_batch, rtol=1e-3), "only the first batch was used"


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_full(kind: Any) -> None:
    inputs = make_inputs()
    left, right = kind(96), kind(96)
    left.update(inputs[:100])
    right.update(inputs[100:])
    before = value(right).clone()
    left.merge(right)
    assert left.tokens == len(inputs)
    torch.testing.assert_close(value(left), expected(kind, inputs), rtol=2e-5, atol=2e-5)
    assert torch.equal(value(right), before)


def test_hessian_is_symmetric_and_new_each_time() -> None:
    stats = Hessian(300)
    stats.update(make_inputs(300))
    matrix = stats.matrix
    assert torch.equal(matrix, matrix.t())
    assert torch.equal(matrix.tril(), stats.lower.tril())
    assert torch.equal(matrix.diagonal(), stats.diagonal)
    matrix.zero_()
    assert float(stats.matrix.abs().max()) > 0


def test_batch_and_sequence_dimensions_are_tokens() -> None:
    stats = NoStatistic(96)
    stats.update(torch.zeros(2, 3, 96))
    assert stats.tokens == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_bad_inputs_are_noticed(kind: Any, bad: float) -> None:
    stats = kind(96)
    inputs = make_inputs()
    inputs[5, 7] = bad
    stats.update(inputs)
    with pytest.raises(NumericalError, match="not finite"):
        value(stats)


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(SettingsError, match="95 features"):
        Hessian(96).update(torch.zeros(3, 95))
    with pytest.raises(SettingsError, match="cannot merge"):
        Hessian(96).merge(Hessian(95))
    with pytest.raises(SettingsError, match="cannot merge"):
        Hessian(96).merge(ColumnNorm(96))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="cannot merge"):
        HessianAndMagnitude(96).merge(Hessian(96))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 5), (40, 300), (1, 128)])
def test_transposed_in_strips(shape: tuple[int, int]) -> None:
    source = torch.randn(shape[0], shape[1] + 7, generator=torch.Generator().manual_seed(0))
    for part in (source[:, 7:], source[:, 7:].to(torch.bfloat16)):
        target = torch.empty(shape[1], shape[0])
        products.transpose(part, target)
        assert torch.equal(target, part.float().t())


def test_a_callers_precision_comes_back() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with products.full_precision():
            if hasattr(torch.backends, "fp32_precision"):
                assert torch.backends.cuda.matmul.fp32_precision == "ieee"
                assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="needs torch 2.9")
def test_a_precision_chosen_by_backend_comes_back() -> None:
    script = """
import torch
from compressors.matmul import full_precision

matmul = torch.backends.cuda.matmul
matmul.fp32_precision = "tf32"
with full_precision():
    assert matmul.fp32_precision == "ieee", matmul.fp32_precision
assert matmul.fp32_precision == "tf32", matmul.fp32_precision
"""
    # In a process of its own: torch does not forget which of its interfaces was used.
    subprocess.run([sys.executable, "-c", script], check=True)
