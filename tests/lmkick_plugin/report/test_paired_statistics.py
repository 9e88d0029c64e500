# SPDX-License-Identifier: Apache-2.0
"""Paired statistics against plain loops, and what they say of hopeless items."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkick_plugin.report.bootstrap import StatisticsError
from lmkick_plugin.report.flips import flips_of
from lmkick_plugin.report.formatting import recovery_of
from lmkick_plugin.report.paired_statistics import (
    Metric,
    PairedStatistics,
    paired_statistics,
    statistics_of_draws,
)
from lmkick_plugin.report.verdict import Rule, matches

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
BINARY = Metric(binary=True)
LOSS = Metric(transform=np.exp, direction="at_most")
WORDS = Metric(transform=lambda x: np.exp(-x), direction="at_most")


def answers(n: int, right: float, *, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < right).astype(float)


def test_few_unchanged_graded_items_do_not_match() -> None:
    scores = np.linspace(0.2, 1, 100)
    assert paired_statistics(scores, scores).verdict == "match"
    few = paired_statistics(scores[::3], scores[::3])
    assert few.verdict == "inconclusive"
    assert few.recovery == 1
    assert paired_statistics(scores[::3], scores[::3] / 2).verdict == "fail"
    loss = paired_statistics(scores[::3], scores[::3], metric=LOSS)
    assert loss.verdict == "match", "a perplexity changes in every window"


def test_right_answers_weigh_alike_as_graded_and_as_binary() -> None:
    right = np.ones(40)
    found = [paired_statistics(right, right, metric=metric) for metric in (Metric(), BINARY)]
    assert [one.verdict for one in found] == ["inconclusive"] * 2


def quiz(dense: float, compressed: float, n: int, **options: float) -> PairedStatistics:
    metric = Metric(binary=True, **options)
    return paired_statistics(
        answers(n, dense, seed=1), answers(n, compressed, seed=2), metric=metric
    )


def test_verdict_never_goes_by_the_point_alone() -> None:
    assert quiz(0.7, 0.69, 14_000).verdict == "match"
    assert quiz(0.7, 0.55, 14_000).verdict == "fail"
    assert quiz(0.7, 0.69, 40).verdict == "inconclusive"


def test_verdict_equals_a_plain_loop_over_draws() -> None:
    dense, compressed = answers(120, 0.8, seed=1), answers(120, 0.75, seed=3)
    rng = random.Random(0)
    cells = [(1, 1), (1, 0), (0, 1), (0, 0)]
    counts = [sum((d, c) == cell for d, c in zip(dense, compressed, strict=True)) for cell in cells]
    margins, recoveries = [], []
    for _ in range(8000):
        drawn = [rng.gammavariate(count + 1, 1) for count in counts]
        d, c = ((drawn[0] + drawn[i]) / sum(drawn) for i in (1, 2))
        margins.append(c - 0.95 * d)
        recoveries.append(c / d)
    ours = paired_statistics(dense, compressed, metric=BINARY)
    for found, drawn in ((ours.margin, margins), (ours.recovery_interval, recoveries)):
        assert found == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.01)
    assert ours.p == pytest.approx(np.mean(np.asarray(margins) >= 0), abs=0.02)


def test_a_model_against_itself() -> None:
    right = answers(400, 0.4, seed=0)
    same = paired_statistics(right, right, metric=BINARY, flips=flips_of(right, right))
    assert (same.verdict, same.recovery, same.difference) == ("match", 1.0, 0.0)
    assert same.flips is not None
    assert same.flips.p_value == 1.0
    few = paired_statistics(right[:30], right[:30], metric=BINARY)
    assert few.verdict == "inconclusive"  # 30 items cannot say that one in twenty is not lost


def test_fewer_than_twenty_clusters_are_too_few_however_many_items() -> None:
    dense, compressed = answers(400, 0.9, seed=1), answers(400, 0.3, seed=2)
    assert paired_statistics(dense, compressed, metric=BINARY).verdict == "fail"
    clusters = np.arange(400) % 19
    found = paired_statistics(dense, compressed, metric=BINARY, clusters=clusters)
    assert (found.n, found.clusters, found.verdict, found.p) == (400, 19, "too few", None)
    assert "19 independent items" in found.reason


def test_an_interval_holds_its_estimate_where_nothing_is_left() -> None:
    dense, nothing = [1.0] * 12 + [0.0] * 48, [0.0] * 60
    found = paired_statistics(dense, nothing, metric=Metric(binary=True))
    assert found.recovery == 0.0
    assert found.recovery_interval is not None
    low, high = found.recovery_interval
    assert low == 0.0
    assert 0.1 < high < 0.6
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert found.verdict == "fail"


def test_a_graded_score_that_is_never_negative_keeps_no_less_than_nothing() -> None:
    dense = np.linspace(0, 1, 24)
    found = paired_statistics(dense, np.zeros(24), metric=Metric())
    assert found.recovery_interval is not None
    assert found.recovery_interval[0] == 0.0 < found.recovery_interval[1]
    assert found.interval[0] < -found.dense  # the difference's draws do go beyond


def test_a_single_item() -> None:
    for metric in (BINARY, Metric()):
        one = paired_statistics([1.0], [0.0], metric=metric)
        assert (one.n, one.clusters, one.verdict) == (1, 1, "too few")


def test_chance_has_no_verdict_and_recovery_above_it_is_counted_from_it() -> None:
    guesser = quiz(0.25, 0.25, 1000, floor=0.25)
    assert guesser.verdict is None
    assert "chance (0.25)" in guesser.reason
    assert guesser.recovery_above_chance is None
    assert quiz(0.25, 0.25, 1000).verdict is not None  # the same answers, were the floor 0
    lost = quiz(0.47, 0.308, 14_042, floor=0.25)  # Vicuna, SparseGPT at 50 %
    assert lost.verdict == "fail"
    assert lost.recovery == pytest.approx(0.655, abs=0.02)
    assert lost.recovery_above_chance == pytest.approx(0.26, abs=0.04)
    assert lost.above_chance_interval is not None
    low, high = lost.above_chance_interval
    assert low < lost.recovery_above_chance < high
    assert re.fullmatch(
        r"6\d\.\d % \[\S+, \S+\] of dense, 2\d\.\d % \[\S+, \S+\] above chance",
        recovery_of(lost, "dense"),
    )
    assert "chance" not in recovery_of(quiz(0.47, 0.308, 1000))


def test_a_dense_score_of_zero_has_no_verdict() -> None:
    nothing = paired_statistics(np.zeros(50), answers(50, 0.3, seed=1), metric=BINARY)
    assert (nothing.verdict, nothing.recovery) == (None, None)
    assert "not above 0" in nothing.reason


def test_a_judges_lowest_score_is_a_floor() -> None:
    judge = Metric(floor=1.0)
    lowest = np.full(100, 1.0)
    assert paired_statistics(lowest, lowest, metric=judge).verdict is None
    assert paired_statistics(lowest, lowest).verdict == "match"  # the same, were the floor 0
    good = np.linspace(4, 6, 100)
    assert paired_statistics(good, good - 0.01, metric=judge).verdict == "match"


def test_what_would_settle_it_grows_with_churn_and_knows_the_task() -> None:
    calm, wild = quiz_with_churn(0.02), quiz_with_churn(0.20)
    assert calm.verdict == wild.verdict == "inconclusive"
    assert calm.settle_n is not None
    assert wild.settle_n is not None
    assert 200 < calm.settle_n < wild.settle_n / 3
    assert "items would settle it" in calm.settling
    found = quiz_with_churn(0.20, available=400).settling
    assert found == "a match takes more than this task's 400 items, a loss may not"


def quiz_with_churn(churn: float, available: int | None = None) -> PairedStatistics:
    n = 150
    dense = (np.arange(n) < 0.5 * n).astype(float)
    compressed = dense.copy()
    moved = round(churn * n / 2)
    compressed[:moved], compressed[n - moved :] = 0, 1
    return paired_statistics(dense, compressed, metric=BINARY, available=available)


def test_statistics_of_draws_are_of_those_draws() -> None:
    rng = np.random.default_rng(0)
    dense, draws = rng.normal(0.6, 0.01, 4000), rng.normal(0.5, 0.01, 4000)
    found = statistics_of_draws(
        n=100, clusters=100, dense=0.6, compressed=0.5, dense_draws=dense, draws=draws,
        metric=Metric(), rule=Rule(),
    )  # fmt: skip
    assert found.verdict == "fail"
    assert found.interval == pytest.approx((-0.1277, -0.0723), abs=0.002)
    assert found.margin == pytest.approx(tuple(np.percentile(draws - 0.95 * dense, [2.5, 97.5])))
    assert found.recovery == pytest.approx(0.5 / 0.6)
    assert found.flips is None


# -- perplexities -------------------------------------------------------------------------------


def test_perplexity_is_a_ratio_of_sums_and_worse_is_below_one() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(5, 60, 200).astype(float)
    dense = -words * rng.uniform(1.5, 2.5, 200)
    result = paired_statistics(dense, dense * 1.3, weights=words, metric=WORDS)
    assert result.dense == pytest.approx(math.exp(-dense.sum() / words.sum()))
    assert result.compressed == pytest.approx(math.exp(-1.3 * dense.sum() / words.sum()))
    assert result.verdict == "fail"
    assert result.recovery == pytest.approx(result.dense / result.compressed)
    assert result.recovery < 1
    assert result.recovery_above_chance is None


def test_perplexity_within_the_tolerance_matches_and_better_always_does() -> None:
    losses = np.linspace(1.9, 2.1, 30)
    for factor, expected in [(1.0, "match"), (1.04, "match"), (0.5, "match"), (1.06, "fail")]:
        result = paired_statistics(losses, losses + math.log(factor), metric=LOSS)
        assert result.verdict == expected, factor


def test_correlated_windows_are_clusters() -> None:
    """Windows of one article that move together: counted singly, the interval is too narrow."""
    rng = np.random.default_rng(0)
    article = np.repeat(np.arange(30), 8)
    dense = rng.normal(2, 0.1, 240)
    compressed = dense + 0.03 + rng.normal(0, 0.1, 30)[article] + rng.normal(0, 0.01, 240)
    single = paired_statistics(dense, compressed, metric=LOSS)
    whole = paired_statistics(dense, compressed, metric=LOSS, clusters=article)
    widths = [one.interval[1] - one.interval[0] for one in (single, whole)]
    assert widths[1] > 2.3 * widths[0]
    assert whole.clusters == 30


def test_infinite_perplexity_fails_and_nan_has_no_verdict() -> None:
    good = np.linspace(-3, -1, 20)
    infinite = paired_statistics(good, np.full(20, -math.inf), metric=WORDS)
    assert (infinite.compressed, infinite.verdict) == (math.inf, "fail")
    assert infinite.recovery == 0
    for values in (np.full(20, math.nan), np.where(np.arange(20) == 3, math.nan, good)):
        broken = paired_statistics(good, values, metric=WORDS)
        assert math.isnan(broken.compressed)
        assert (broken.verdict, broken.reason) == (None, "a score is NaN")


def test_no_verdict_and_no_recovery_where_the_metric_only_describes() -> None:
    result = paired_statistics(np.arange(30.0), np.arange(30.0), metric=Metric(direction=None))
    assert (result.margin, result.verdict, result.recovery) == (None, None, None)
    assert not result.can_have_verdict


@pytest.mark.parametrize(
    ("dense", "compressed", "message"),
    [([0, 1], [1], "one length"), ([[0, 1]], [[0, 1]], "flat"), ([], [], "no items")],
)
def test_refuses(dense: list, compressed: list, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        paired_statistics(dense, compressed)


@settings(max_examples=40, deadline=None)
@given(ANSWERS, st.integers(0, 2**32 - 1))
def test_properties_of_any_pair(pairs: list[tuple[bool, bool]], seed: int) -> None:
    dense, compressed = ([float(x[i]) for x in pairs] for i in (0, 1))
    rule = Rule(resamples=200, seed=seed)
    result = paired_statistics(dense, compressed, metric=BINARY, rule=rule)
    swapped = paired_statistics(compressed, dense, metric=BINARY, rule=rule)
    assert result == paired_statistics(dense, compressed, metric=BINARY, rule=rule)
    low, high = result.interval
    assert -1 <= low < high <= 1
    assert result.difference == pytest.approx(-swapped.difference)
    if result.verdict == "match":
        assert matches(result.dense, result.compressed)
