# SPDX-License-Identifier: Apache-2.0
"""Paired statistics against scipy, statsmodels and plain loops."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from lmkick_plugin.report import statistics
from lmkick_plugin.report.statistics import (
    StatisticsError,
    Verdict,
    bootstrap_sums,
    flips_of,
    matches,
    mcnemar_exact,
    paired_statistics,
    percentile_interval,
    recovery,
    statistics_of_draws,
    verdict_of,
)

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def answers(n: int, right: float, *, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < right).astype(float)


# -- McNemar ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "c"),
    [(0, 0), (0, 1), (1, 0), (5, 5), (6, 5), (3, 17), (40, 90), (2000, 2100), (14042, 0)],
)
def test_mcnemar_equals_scipy_and_statsmodels(b: int, c: int) -> None:
    p = mcnemar_exact(b, c)
    if b + c:
        assert p == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue, rel=1e-9)
        table = [[7, b], [c, 11]]
        assert p == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)
    else:
        assert p == 1.0


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_a_symmetric_probability(b: int, c: int) -> None:
    p = mcnemar_exact(b, c)
    assert 0 <= p <= 1
    assert p == mcnemar_exact(c, b)
    assert (p == 1.0) == (abs(b - c) <= 1)


def test_mcnemar_tail_does_not_round_to_one_or_overflow() -> None:
    assert mcnemar_exact(0, 1000) == pytest.approx(2.0**-999)
    assert mcnemar_exact(0, 5000) == 0.0  # below the smallest double


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(StatisticsError, match="negative"):
        mcnemar_exact(-1, 3)


# -- flips --------------------------------------------------------------------------------------


@given(ANSWERS, st.randoms(use_true_random=False))
def test_flips_equal_a_plain_loop(pairs: list[tuple[bool, bool]], rng: random.Random) -> None:
    changed = [rng.random() < 0.5 for _ in pairs]
    b = c = other = 0
    for (before, after), moved in zip(pairs, changed, strict=True):
        b += before and not after
        c += after and not before
        other += (not before) and (not after) and moved
    flips = flips_of([a for a, _ in pairs], [z for _, z in pairs], answer_changed=changed)
    n = len(pairs)
    assert (flips.right_to_wrong, flips.wrong_to_right) == (b, c)
    assert flips.net == (c - b) / n
    assert flips.churn == (b + c) / n
    assert flips.all_flips == (b + c + other) / n
    assert flips.p_value == mcnemar_exact(b, c)


def test_equal_accuracy_can_hide_flips() -> None:
    same = flips_of([1, 1, 0, 0], [1, 1, 0, 0])
    moved = flips_of([1, 1, 0, 0], [0, 0, 1, 1])
    assert same.net == moved.net == 0
    assert (same.churn, moved.churn) == (0, 1)
    assert same.all_flips is None  # nothing is said of answers that are not known


def test_a_changed_right_answer_is_no_flip() -> None:
    assert flips_of([1, 1], [1, 1], answer_changed=[True, True]).all_flips == 0
    assert flips_of([0, 0], [0, 0], answer_changed=[True, True]).all_flips == 1


@pytest.mark.parametrize(
    ("dense", "compressed", "changed", "message"),
    [
        ([0, 1], [0.5, 1], None, "other values"),
        ([math.nan], [1], None, "other values"),
        ([0, 1], [1], None, "one length"),
        ([[0, 1]], [[0, 1]], None, "flat"),
        ([], [], None, "no items"),
        ([0, 1], [1, 1], [True], "answer_changed"),
    ],
)
def test_flips_refuse(dense: list, compressed: list, changed: list | None, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        flips_of(dense, compressed, answer_changed=changed)


# -- bootstrap ----------------------------------------------------------------------------------


def test_bootstrap_equals_scipy_draw_for_draw() -> None:
    rng = np.random.default_rng(5)
    dense = rng.random(80)
    compressed = dense + rng.normal(0, 0.2, 80)

    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return y.mean(axis=axis) - x.mean(axis=axis)

    expected = stats.bootstrap(
        (dense, compressed),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(3),
    )
    ours = paired_statistics(dense, compressed, resamples=2000, seed=3)
    assert ours.interval == pytest.approx(tuple(expected.confidence_interval), rel=1e-12)
    moved = paired_statistics(dense, compressed, resamples=2000, seed=4)
    assert moved.interval != pytest.approx(ours.interval, rel=1e-6)  # another seed, other draws


def test_resamples_do_not_depend_on_how_they_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).random((37, 2))
    whole = bootstrap_sums(columns, resamples=501, seed=9)
    monkeypatch.setattr(statistics, "_BATCH_BYTES", 8 * 37 * 10)
    assert np.array_equal(bootstrap_sums(columns, resamples=501, seed=9), whole)


def test_counts_of_distinct_items_have_the_distribution_of_drawn_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = np.stack([answers(400, 0.7, seed=1), answers(400, 0.6, seed=2)], axis=1)
    counted = bootstrap_sums(items, resamples=10_000, seed=0)
    monkeypatch.setattr(statistics, "_INDEX_COST", 10**9)
    drawn = bootstrap_sums(items, resamples=10_000, seed=0)
    assert not np.array_equal(counted, drawn)  # the two ways really are two
    for column in (counted[:, 0], counted[:, 1], counted[:, 1] - counted[:, 0]):
        assert np.array_equal(column, np.rint(column))
    difference = [sums[:, 1] - sums[:, 0] for sums in (counted, drawn)]
    assert stats.ks_2samp(*difference).pvalue > 1e-3
    assert stats.ks_2samp(counted[:, 0], drawn[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp(counted[:, 0], drawn[:, 1]).pvalue < 1e-10  # control: it can tell


def test_interval_agrees_with_scipy_on_binary_answers() -> None:
    dense, compressed = answers(3000, 0.7, seed=1), answers(3000, 0.65, seed=2)
    ours = paired_statistics(dense, compressed)
    scipys = stats.bootstrap(
        (compressed - dense,), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert ours.interval == pytest.approx(tuple(scipys), abs=2e-3)
    assert ours.n == 3000
    assert ours.difference == pytest.approx(compressed.mean() - dense.mean())


def test_memory_stays_bounded_at_the_size_of_mmlu() -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    dense, compressed = rng.random(14_042), rng.random(14_042)
    tracemalloc.start()
    paired_statistics(dense, compressed, resamples=900)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * 2**20  # all indices at once would be 100 MB, at 10,000 resamples 1.1 GB


def test_many_columns_are_resampled_together_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix product draws what gathering draws, item for item."""
    columns = np.random.default_rng(3).normal(size=(40, 12))
    together = bootstrap_sums(columns, resamples=300, seed=4)
    rng = np.random.default_rng(4)
    picked = rng.integers(0, 40, size=(300, 40))
    assert together == pytest.approx(np.stack([columns[row].sum(axis=0) for row in picked]))
    monkeypatch.setattr(statistics, "_BATCH_BYTES", 8 * 40 * 7)  # in batches too
    assert bootstrap_sums(columns, resamples=300, seed=4) == pytest.approx(together)
    assert len(np.unique(together[:, 0])) > 250  # a control: they do vary


def test_statistics_of_draws_are_of_those_draws() -> None:
    rng = np.random.default_rng(0)
    dense, draws = rng.normal(0.6, 0.01, 4000), rng.normal(0.5, 0.01, 4000)
    found = statistics_of_draws(
        n=100, dense=0.6, compressed=0.5, dense_draws=dense, draws=draws, rule="at_least"
    )
    assert found.verdict == "fail"
    assert found.interval == pytest.approx((-0.1277, -0.0723), abs=0.002)
    assert found.margin == pytest.approx(tuple(np.percentile(draws - 0.95 * dense, [2.5, 97.5])))
    assert found.recovery == pytest.approx(0.5 / 0.6)
    assert found.flips is None


@pytest.mark.parametrize("resamples", [0, -1])
def test_bootstrap_refuses(resamples: int) -> None:
    with pytest.raises(StatisticsError, match="resamples"):
        paired_statistics([1.0], [0.0], resamples=resamples)
    with pytest.raises(StatisticsError, match="no items"):
        bootstrap_sums(np.empty((0, 2)), resamples=10, seed=0)


def test_percentiles_are_numpys_and_survive_infinities() -> None:
    values = np.random.default_rng(0).random(1001)
    assert percentile_interval(values) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    low, high = percentile_interval(np.array([-math.inf] * 50 + [1.0] * 50))
    assert (low, high) == (-math.inf, 1.0)
    assert all(math.isnan(end) for end in percentile_interval(np.array([math.nan, 1.0])))


# -- matching and the verdict -------------------------------------------------------------------


def test_matching_threshold_is_inclusive_in_both_directions() -> None:
    assert matches(0.80, 0.76)
    assert not matches(0.80, 0.7599)
    assert matches(9.5, 10.0, rule="at_most")
    assert not matches(9.5, 10.001, rule="at_most")
    assert not matches(9.5, math.inf, rule="at_most")
    assert not matches(0.5, math.nan)
    assert matches(0.5, 0.25, tolerance=0.5)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, math.nan])
def test_tolerance_is_checked(tolerance: float) -> None:
    with pytest.raises(StatisticsError, match="tolerance"):
        matches(1, 1, tolerance=tolerance)
    with pytest.raises(StatisticsError, match="tolerance"):
        paired_statistics([1.0], [1.0], tolerance=tolerance)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        ((0.0, 0.1), "match"),
        ((0.01, 0.1), "match"),
        ((-0.1, -0.01), "fail"),
        ((-0.1, 0.0), "inconclusive"),
        ((-0.1, 0.1), "inconclusive"),
        ((-1e-17, 0.1), "match"),
        ((-math.inf, -1.0), "fail"),
        ((math.nan, 0.0), None),
    ],
)
def test_verdict_of_an_interval(margin: tuple[float, float], expected: Verdict | None) -> None:
    assert verdict_of(margin) == expected


def verdict(dense: float, compressed: float, n: int) -> Verdict | None:
    return paired_statistics(answers(n, dense, seed=1), answers(n, compressed, seed=2)).verdict


def test_verdict_never_goes_by_the_point_alone() -> None:
    assert verdict(0.7, 0.69, 14_000) == "match"
    assert verdict(0.7, 0.55, 14_000) == "fail"
    few_dense, few_compressed = answers(40, 0.7, seed=1), answers(40, 0.69, seed=2)
    few = paired_statistics(few_dense, few_compressed)
    assert few.verdict == "inconclusive"


def test_verdict_equals_a_plain_loop_over_resamples() -> None:
    dense, compressed = answers(120, 0.8, seed=1), answers(120, 0.75, seed=3)
    rng = random.Random(0)
    margins = []
    for _ in range(4000):
        picked = [rng.randrange(120) for _ in range(120)]
        margins.append(
            sum(compressed[i] for i in picked) / 120 - 0.95 * sum(dense[i] for i in picked) / 120
        )
    margins.sort()
    ours = paired_statistics(dense, compressed)
    assert ours.margin is not None
    assert ours.margin[0] == pytest.approx(margins[100], abs=0.01)
    assert ours.margin[1] == pytest.approx(margins[3900], abs=0.01)


def test_a_model_against_itself_matches_exactly() -> None:
    right = answers(50, 0.4, seed=0)
    same = paired_statistics(right, right, flips=flips_of(right, right))
    assert same.interval == (0.0, 0.0)
    assert same.verdict == "match"
    assert same.recovery == 1.0
    assert same.flips is not None
    assert same.flips.p_value == 1.0


def test_a_single_item_is_enough_to_compute() -> None:
    one = paired_statistics([1.0], [0.0])
    assert (one.n, one.interval, one.verdict) == (1, (-1.0, -1.0), "fail")


# -- perplexities -------------------------------------------------------------------------------


def test_perplexity_is_resampled_as_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(5, 60, 200).astype(float)
    dense = -words * rng.uniform(1.5, 2.5, 200)
    compressed = dense * 1.3
    result = paired_statistics(
        dense, compressed, weights=words, transform=lambda x: np.exp(-x), rule="at_most"
    )
    assert result.dense == pytest.approx(math.exp(-dense.sum() / words.sum()))
    assert result.compressed == pytest.approx(math.exp(-compressed.sum() / words.sum()))
    assert result.verdict == "fail"
    assert result.recovery is not None
    assert result.recovery > 1

    def ratio(ll: np.ndarray, w: np.ndarray, axis: int) -> np.ndarray:
        return np.exp(-ll.sum(axis=axis) / w.sum(axis=axis))

    expected = stats.bootstrap(
        (dense, compressed, words),
        lambda a, b, w, axis: ratio(b, w, axis) - ratio(a, w, axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert result.interval == pytest.approx(tuple(expected), rel=1e-10)


def test_perplexity_within_the_tolerance_matches_and_better_always_does() -> None:
    losses = np.full(30, 2.0)
    for factor, expected in [(1.0, "match"), (1.04, "match"), (0.5, "match"), (1.06, "fail")]:
        result = paired_statistics(
            losses, losses + math.log(factor), transform=np.exp, rule="at_most"
        )
        assert result.verdict == expected, factor


def test_infinite_perplexity_fails_and_nan_has_no_verdict() -> None:
    good = np.linspace(-3, -1, 20)
    options = {"transform": lambda x: np.exp(-x), "rule": "at_most"}
    infinite = paired_statistics(good, np.full(20, -math.inf), **options)
    assert (infinite.compressed, infinite.verdict) == (math.inf, "fail")
    assert infinite.recovery is None
    broken = paired_statistics(good, np.full(20, math.nan), **options)
    assert math.isnan(broken.compressed)
    assert broken.verdict is None


def test_no_verdict_where_matching_is_not_defined() -> None:
    result = paired_statistics([1.0, 2.0], [2.0, 1.0], rule=None)
    assert result.margin is None
    assert result.verdict is None


def test_recovery() -> None:
    assert recovery(0.5, 0.25) == 0.5
    assert recovery(0, 0.5) is None
    assert recovery(math.nan, 0.5) is None
    assert recovery(0.5, math.inf) is None


@settings(max_examples=40, deadline=None)
@given(ANSWERS, st.integers(0, 2**32 - 1))
def test_properties_of_any_pair(pairs: list[tuple[bool, bool]], seed: int) -> None:
    dense, compressed = ([float(x[i]) for x in pairs] for i in (0, 1))
    result = paired_statistics(dense, compressed, resamples=200, seed=seed)
    swapped = paired_statistics(compressed, dense, resamples=200, seed=seed)
    assert result == paired_statistics(dense, compressed, resamples=200, seed=seed)
    low, high = result.interval
    assert -1 <= low <= high <= 1
    assert result.difference == pytest.approx(-swapped.difference)
    assert result.margin is not None
    if result.verdict == "match":
        assert matches(result.dense, result.compressed) or result.margin[1] == result.margin[0]
