# SPDX-License-Identifier: Apache-2.0
"""Aggregations against their definitions, and their standard errors against a resampling."""

from __future__ import annotations

import copy
import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.metrics import mean_stderr

from lmkick_plugin.metrics import aggregation

LOSSES = st.lists(st.floats(0, 20), min_size=1, max_size=8)


def windows(losses: list[float], clusters: list[str] | None = None) -> dict[str, Any]:
    names = clusters or [str(number) for number in range(len(losses))]
    return {"window_losses": losses, "window_clusters": names}


@given(LOSSES, st.integers(0, 8))
def test_token_perplexity_does_not_depend_on_the_processes(losses: list[float], cut: int) -> None:
    whole = aggregation.token_perplexity([windows(losses)])
    parts = [windows(losses[:cut]), windows(losses[cut:])]
    assert whole == pytest.approx(math.exp(sum(losses) / len(losses)))
    assert aggregation.token_perplexity(parts) == pytest.approx(whole)


@given(st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 30)), min_size=1, max_size=6))
def test_weighted_perplexity_is_that_of_lm_eval(items: list[tuple[float, int]]) -> None:
    from lm_eval.api.metrics import weighted_perplexity

    expected = weighted_perplexity(items)
    assert aggregation.weighted_perplexity(list(items)) == pytest.approx(expected)


def test_perplexities_beyond_a_float() -> None:
    assert aggregation.token_perplexity([windows([1e4])]) == math.inf
    assert aggregation.weighted_perplexity([(-1e9, 1)]) == math.inf
    assert math.isnan(aggregation.token_perplexity([windows([1.0, math.nan])]))
    assert math.isnan(aggregation.token_perplexity([]))
    assert math.isnan(aggregation.weighted_perplexity([]))


def resampled(aggregate: Callable[[list[Any]], float], units: list[Any], draws: int) -> float:
    chance = random.Random(0)
    return statistics.stdev(
        aggregate(copy.deepcopy(chance.choices(units, k=len(units)))) for _ in range(draws)
    )


@pytest.mark.parametrize("kind", ["weighted", "token"])
def test_standard_errors_are_those_of_resampled_articles(kind: str) -> None:
    chance = random.Random(1)
    levels = [chance.gauss(3, 0.3) for _ in range(60)]
    if kind == "weighted":
        aggregate: Any = aggregation.weighted_perplexity
        sizes = [chance.randint(20, 90) for _ in levels]
        units: list[Any] = [(-level * n, n) for level, n in zip(levels, sizes, strict=True)]
        values = list(units)
    else:
        aggregate = aggregation.token_perplexity
        # Several windows an article, all alike: as independent windows they would say too little.
        units = [windows([level] * chance.randint(1, 8)) for level in levels]
        for number, unit in enumerate(units):
            unit["window_clusters"] = [str(number)] * len(unit["window_losses"])
        values = copy.deepcopy(units)
    score = aggregate(values)
    assert statistics.fmean(values) == pytest.approx(score)
    assert len(values) == len(units)
    expected = resampled(_apart(aggregate, kind), units, 2_000)
    assert mean_stderr(values) == pytest.approx(expected, rel=0.1)


def _apart(aggregate: Any, kind: str) -> Callable[[list[Any]], float]:
    """An article drawn twice is two articles."""

    def score(units: list[Any]) -> float:
        if kind == "token":
            for number, unit in enumerate(units):
                unit["window_clusters"] = [str(number)] * len(unit["window_losses"])
        result: float = aggregate(units)
        return result

    return score
