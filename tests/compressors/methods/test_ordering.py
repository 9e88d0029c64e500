# SPDX-License-Identifier: Apache-2.0
"""Better methods lose less, on a trained model: the order the papers report."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ordering import measure


@pytest.fixture(scope="module")
def perplexities(stories_model: Path) -> dict[str, float]:
    return measure(stories_model, seed=0, samples=48, length=96)


@pytest.mark.parametrize(
    "order",
    [
        ("dense", "sparsegpt 50 %", "wanda 50 %", "magnitude 50 %", "random 50 %"),
        ("dense", "gptq 4 bits", "rtn 4 bits"),
        ("gptq 8 bits", "gptq 4 bits"),
        ("gptq 4 bits", "gptq 3 bits", "rtn 3 bits"),
        ("sparsegpt 2:4", "wanda 2:4", "magnitude 2:4"),
        ("sparsegpt 50 %", "sparsegpt 2:4"),
        ("wanda 50 %", "wanda 2:4"),
        ("magnitude 50 %", "magnitude 2:4"),
    ],
    ids="<".join,
)
def test_order(perplexities: dict[str, float], order: tuple[str, ...]) -> None:
    values = [perplexities[name] for name in order]
    assert values == sorted(set(values)), values


def test_eight_bits_lose_next_to_nothing(perplexities: dict[str, float]) -> None:
    assert perplexities["gptq 8 bits"] == pytest.approx(perplexities["dense"], rel=1e-3)
    assert perplexities["gptq 4 bits"] > 1.001 * perplexities["dense"]
