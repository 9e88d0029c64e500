# SPDX-License-Identifier: Apache-2.0
"""Divergences against a float64 oracle with plain loops, and their defining properties."""

from __future__ import annotations

import doctest
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor

from lmkick_plugin.metrics import divergence as module
from lmkick_plugin.metrics import rows
from lmkick_plugin.metrics.divergence import DivergenceError, divergence, first_divergent_token


def normal(positions: int, vocabulary: int, *, seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(positions, vocabulary, generator=generator)


def softmax(row: Tensor) -> list[float]:
    values = row.double().tolist()
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    total = math.fsum(weights)
    return [w / total for w in weights]


def oracle(dense: Tensor, compressed: Tensor) -> list[tuple[float, float]]:
    """JSD and KL from the definitions, in float64, a token at a time."""
    found = []
    for row_p, row_q in zip(dense, compressed, strict=True):
        p, q = softmax(row_p), softmax(row_q)
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

        def kl(one: list[float], other: list[float]) -> float:
            terms = zip(one, other, strict=True)
            return math.fsum(a * math.log2(a / b) for a, b in terms if a > 0)

        infinite = any(a > 0 and b == 0 for a, b in zip(p, q, strict=True))
        found.append(((kl(p, m) + kl(q, m)) / 2, math.inf if infinite else kl(p, q)))
    return found


def assert_equal_to_oracle(dense: Tensor, compressed: Tensor) -> None:
    found = divergence(dense, compressed)
    for i, (jsd, kl) in enumerate(oracle(dense, compressed)):
        assert found.jsd[i].item() == pytest.approx(jsd, rel=2e-5, abs=1e-6)
        assert found.kl[i].item() == pytest.approx(kl, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("step", [1e-3, 0.1, 3.0])
def test_equals_the_oracle(scale: float, step: float) -> None:
    dense = normal(6, 300, seed=1, scale=scale)
    assert_equal_to_oracle(dense, dense + normal(6, 300, seed=2, scale=step))


def test_equals_scipy() -> None:
    dense, compressed = normal(5, 50, seed=1), normal(5, 50, seed=2)
    found = divergence(dense, compressed)
    p, q = dense.double().softmax(-1).numpy(), compressed.double().softmax(-1).numpy()
    assert found.jsd.tolist() == pytest.approx(jensenshannon(p, q, base=2, axis=1) ** 2, abs=1e-6)
    assert found.kl.tolist() == pytest.approx(entropy(p, q, base=2, axis=1), abs=1e-5)
    assert found.kl.tolist() != pytest.approx(entropy(q, p, base=2, axis=1), abs=1e-3)  # direction


@pytest.mark.parametrize("offset", [0.0, 50.0, -3000.0])
def test_small_divergences_keep_their_precision(offset: float) -> None:
    """An 8-bit model is 1e-5 bits away: absolute errors of 1e-7 would be a percent of that."""
    dense = normal(4, 5000, seed=1)
    compressed = dense + normal(4, 5000, seed=2, scale=0.003)
    found = divergence(dense + offset, compressed + offset)
    for i, (jsd, kl) in enumerate(oracle(dense + offset, compressed + offset)):
        assert 0 < jsd < 1e-5
        assert found.jsd[i].item() == pytest.approx(jsd, rel=2e-3)
        assert found.kl[i].item() == pytest.approx(kl, rel=2e-3)


def test_a_large_vocabulary_sums_as_well_as_a_small_one() -> None:
    dense = normal(3, 150_000, seed=1, scale=1.0)
    assert_equal_to_oracle(dense, dense + normal(3, 150_000, seed=2, scale=0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_identical_logits_give_exactly_nothing(dtype: torch.dtype) -> None:
    dense = normal(20, 1000, seed=3, scale=5.0).to(dtype)
    dense[:, 7] = -math.inf
    found = divergence(dense, dense.clone())
    assert torch.equal(found.jsd, torch.zeros(20))
    assert torch.equal(found.kl, torch.zeros(20))
    assert bool(found.top1_agreement.all())
    moved = dense.clone()
    moved[:, 0] += 1
    assert bool((divergence(dense, moved).jsd > 0).all())  # control


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 200), st.integers(1, 40), st.data())
def test_bounded_and_symmetric(
    seed: int, scale: float, vocabulary: int, data: st.DataObject
) -> None:
    p = normal(3, vocabulary, seed=seed, scale=scale)
    q = normal(3, vocabulary, seed=seed + 1, scale=scale)
    for row in (p, q):
        excluded = data.draw(st.sets(st.integers(0, vocabulary - 1), max_size=vocabulary - 1))
        row[:, sorted(excluded)] = -math.inf
    one, other = divergence(p, q), divergence(q, p)
    assert torch.equal(one.jsd, other.jsd)
    assert torch.equal(one.top1_agreement, other.top1_agreement)
    assert bool(((one.jsd >= 0) & (one.jsd <= 1)).all())
    assert bool((one.kl >= 0).all())
    assert not bool(one.kl.isnan().any())
    for i, (jsd, kl) in enumerate(oracle(p, q)):
        assert one.jsd[i].item() == pytest.approx(jsd, rel=1e-4, abs=1e-6)
        # Probabilities below 1e-38 are 0 in float32 and not in the oracle's float64.
        if not math.isinf(kl):
            assert one.kl[i].item() == pytest.approx(kl, rel=1e-4, abs=1e-6)


def test_disjoint_distributions_are_one_bit_apart() -> None:
    low, high = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    found = divergence(low, high)
    assert found.jsd.item() == 1.0
    assert found.kl.item() == math.inf
    assert not bool(found.top1_agreement)
    # Q allows more than P: KL(P || Q) is finite, KL(Q || P) is not.
    both = torch.zeros(1, 2)
    assert divergence(low, both).kl.item() == pytest.approx(1.0)
    assert divergence(both, low).kl.item() == math.inf


def test_extreme_logits_do_not_overflow() -> None:
    dense = torch.tensor([[3e38, 0.0, -3e38], [1e4, -1e4, 0.0]])
    compressed = torch.tensor([[0.0, 3e38, -3e38], [-1e4, 1e4, 0.0]])
    found = divergence(dense, compressed)
    assert found.jsd.tolist() == [1.0, 1.0]
    assert bool((found.kl > 1e4).all())


def test_grows_with_the_distance() -> None:
    dense, noise = normal(50, 500, seed=1), normal(50, 500, seed=2, scale=1.0)
    means = [divergence(dense, dense + step * noise).jsd.mean().item() for step in range(6)]
    assert means[0] == 0
    assert all(a < b for a, b in pairwise(means))


def test_top_token_of_equals_is_the_first() -> None:
    dense = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    compressed = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    assert divergence(dense, compressed).top1_agreement.tolist() == [True, False]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    dense, compressed = normal(11, 64, seed=1), normal(11, 64, seed=2)
    whole, parts = divergence(dense, compressed), divergence(dense, compressed, chunk=chunk)
    assert torch.equal(whole.jsd, parts.jsd)
    assert torch.equal(whole.kl, parts.kl)
    assert torch.equal(whole.top1_agreement, parts.top1_agreement)


def test_memory_is_bounded_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    bits = module._bits
    monkeypatch.setattr(module, "_bits", lambda p, q: seen.append(p.shape[0]) or bits(p, q))
    monkeypatch.setattr(rows, "_CPU_BYTES", 4 * 1000 * 10)
    divergence(normal(64, 1000, seed=1), normal(64, 1000, seed=2))
    assert seen == [10] * 6 + [4]


def test_no_positions_give_no_values() -> None:
    assert divergence(torch.empty(0, 5), torch.empty(0, 5)).jsd.shape == (0,)


@pytest.mark.parametrize(
    ("dense", "compressed", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), "one tokenizer"),
        (torch.zeros(3), torch.zeros(3), r"\[positions, vocabulary\]"),
        (torch.zeros(2, 0), torch.zeros(2, 0), "vocabulary is empty"),
        (torch.tensor([[0.0, math.nan]]), torch.zeros(1, 2), "the dense model's .* position 0"),
        (torch.zeros(1, 2), torch.tensor([[0.0, math.inf]]), "the compressed model's"),
        (torch.zeros(1, 2), torch.full((1, 2), -math.inf), "all -inf"),
    ],
)
def test_what_is_no_distribution_is_refused(
    dense: Tensor, compressed: Tensor, message: str
) -> None:
    with pytest.raises(DivergenceError, match=message):
        divergence(dense, compressed)


def test_the_position_of_a_broken_distribution_is_counted_over_chunks() -> None:
    broken = torch.zeros(9, 4)
    broken[7, 2] = math.nan
    with pytest.raises(DivergenceError, match="position 7"):
        divergence(torch.zeros(9, 4), broken, chunk=2)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_first_divergent_token_equals_a_loop(a: list[int], b: list[int]) -> None:
    shared = 0
    while shared < len(a) and shared < len(b) and a[shared] == b[shared]:
        shared += 1
    assert first_divergent_token(a, b) == first_divergent_token(b, a) == shared
    assert first_divergent_token(a, a) == len(a)


def test_examples_in_the_documentation() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    dense, compressed = normal(40, 5000, seed=1), normal(40, 5000, seed=2)
    here, there = divergence(dense, compressed), divergence(dense.cuda(), compressed.cuda())
    assert torch.allclose(here.jsd, there.jsd.cpu(), atol=1e-6)
    assert torch.allclose(here.kl, there.kl.cpu(), rtol=1e-5)
    assert torch.equal(here.top1_agreement, there.top1_agreement.cpu())
