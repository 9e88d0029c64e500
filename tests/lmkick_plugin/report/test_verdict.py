# SPDX-License-Identifier: Apache-2.0
"""The matching rule: threshold, interval, floors, what would settle it, and its error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import verdict_changes, verdict_coverage
from lmkick_plugin.report.bootstrap import StatisticsError
from lmkick_plugin.report.paired_statistics import Metric, paired_statistics
from lmkick_plugin.report.verdict import (
    Rule,
    Verdict,
    above_floor,
    clusters_to_settle,
    exact_lower_end,
    matches,
    recovery,
    verdict_of,
)
from tests.lmkick_plugin.report.worlds import quiz, record
from tests.lmkick_plugin.run_files import Writer


def test_matching_threshold_is_inclusive_in_both_directions() -> None:
    assert matches(0.80, 0.76)
    assert not matches(0.80, 0.7599)
    assert matches(9.5, 10.0, direction="at_most")
    assert not matches(9.5, 10.001, direction="at_most")
    assert not matches(9.5, math.inf, direction="at_most")
    assert not matches(0.5, math.nan)
    assert matches(0.5, 0.25, tolerance=0.5)


@pytest.mark.parametrize("options", [{"tolerance": t} for t in (-0.1, 1.0, math.nan)])
def test_tolerance_is_checked(options: dict[str, float]) -> None:
    with pytest.raises(StatisticsError, match="tolerance"):
        matches(1, 1, **options)
    with pytest.raises(StatisticsError, match="tolerance"):
        Rule(**options)
    with pytest.raises(StatisticsError, match="resamples"):
        Rule(resamples=0)


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
    assert verdict_of(margin, clusters=20) == expected
    assert verdict_of(margin, clusters=19) == "too few"
    assert verdict_of((math.nan, math.nan), clusters=19, scale=math.nan) is None


@pytest.mark.parametrize(("right", "n"), [(1, 20), (5, 20), (20, 20), (300, 1000)])
def test_exact_end_equals_scipys(right: int, n: int) -> None:
    expected = stats.binomtest(right, n).proportion_ci(0.95, "exact").low
    assert exact_lower_end(right / n, n) == pytest.approx(expected)
    assert exact_lower_end(0, n) == 0


def test_a_guesser_has_nothing_to_lose() -> None:
    assert not above_floor(0.26, 0.25, clusters=14_042 // 10)
    assert above_floor(0.27, 0.25, clusters=14_042)
    assert above_floor(0.05, 0.0, clusters=20)
    assert not above_floor(0.0, 0.0, clusters=14_042)
    assert not above_floor(math.nan, 0.0, clusters=20)
    assert above_floor(1.4, 1.0, clusters=20, low=1.1)  # a judge's score
    assert not above_floor(1.4, 1.0, clusters=20, low=0.9)


def test_recovery_is_worse_below_for_every_metric() -> None:
    one = np.asarray(0.5)
    assert recovery(one, np.asarray(0.25), "at_least") == 0.5
    assert recovery(np.asarray(10.0), np.asarray(12.5), "at_most") == 0.8
    assert recovery(one, np.asarray(0.3), "at_least", floor=0.25) == pytest.approx(0.2)
    for dense, compressed, direction in [
        (0, 0.5, "at_least"),
        (math.nan, 0.5, "at_least"),
        (0.5, 0.5, None),
    ]:
        assert np.isnan(recovery(np.asarray(dense), np.asarray(compressed), direction))


@pytest.mark.parametrize(("dense", "expected"), [(0.30, 2000), (0.47, 815), (0.80, 280)])
def test_questions_that_settle_it_are_those_of_the_power_calculation(
    dense: float, expected: int
) -> None:
    """With churn 6 %, as the design computes it; and a simulation finds power .8 there."""
    n, churn = 100_000, 0.06
    shares = [dense - churn / 2, churn / 2, churn / 2, 1 - dense - churn / 2]
    counts = np.rint(np.asarray(shares) * n).astype(int)
    values = np.repeat([1 - 0.95, -0.95, 1.0, 0.0], counts)
    found = clusters_to_settle(values - values.mean(), 0.05 * dense)
    assert found == pytest.approx(expected, rel=0.02)
    drawn = np.random.default_rng(0).multinomial(found, shares, size=4000)
    means = drawn @ np.asarray([0.05, -0.95, 1.0, 0.0]) / found
    error = values.std() / math.sqrt(found)
    assert np.mean(means - 1.96 * error >= 0) == pytest.approx(0.8, abs=0.02)


def test_nothing_settles_what_has_no_spread_or_no_distance() -> None:
    assert clusters_to_settle(np.ones(1), 0.1) is None
    assert clusters_to_settle(np.ones(5), 0.0) is None
    assert clusters_to_settle(np.asarray([math.nan, 1.0]), 0.1) is None


# -- error rates: benchmarks/verdict_coverage.py in small ----------------------------------------

SMALL = {"dense": (0.05, 0.5, 0.95), "experiments": 400, "resamples": 400}


@pytest.mark.parametrize(
    ("kind", "n"),
    [("lost", 20), ("lost", 100), ("churn", 100), ("clusters", 100), ("graded", 30)],
)
def test_error_rates_and_coverage(kind: str, n: int) -> None:
    options = SMALL if kind != "graded" else {**SMALL, "dense": (0.25, 0.5)}
    assert verdict_coverage.line(kind, n, **options).passes(errors=2)


@pytest.mark.parametrize(("kind", "n"), [("lost", 20), ("churn", 20), ("clusters", 100)])
def test_the_rule_before_did_not_keep_them(kind: str, n: int) -> None:
    """Control: percentile intervals over resampled items, as they were until 0.1.0."""
    before = verdict_coverage.line(kind, n, old=True, **SMALL)
    assert not before.passes(errors=2)
    assert before.match[0.95] > 0.1


def test_no_lost_item_is_no_match_where_few_are_expected() -> None:
    """Of 100 items, dense 53 right: none of 2.65 lost in 7 %, so that must not be a match."""
    right = np.arange(100) < 53
    assert paired_statistics(right, right, metric=Metric(binary=True)).verdict == "inconclusive"
    right = np.arange(100) < 70
    assert paired_statistics(right, right, metric=Metric(binary=True)).verdict == "match"


@pytest.mark.parametrize("kind", ["churn", "clusters"])
def test_the_simulation_draws_as_the_product_does(kind: str) -> None:
    world = verdict_coverage.World(kind=kind, n=60, dense=0.5, recovery=0.9)
    rng = np.random.default_rng(5)
    rows, counts = verdict_coverage.clusters_of(world, 1, rng)
    dense, compressed, _ = verdict_coverage.answer_draws(rows, counts, 20_000, rng, False)
    items, clusters = [], []
    for row, count in zip(rows.astype(int), counts[0], strict=True):
        for _ in range(count):
            clusters += [len(set(clusters))] * row[2]
            items += [(i < row[0], i < row[1]) for i in range(row[2])]
    values = np.asarray(items, dtype=float).T
    found = paired_statistics(*values, clusters=np.asarray(clusters), metric=Metric(binary=True))
    expected = np.percentile(compressed[0] - dense[0], [2.5, 97.5])
    assert found.clusters == 60
    assert found.interval == pytest.approx(tuple(expected), abs=0.006)


def test_the_exact_rate_is_the_simulated_one() -> None:
    world = verdict_coverage.World(kind="lost", n=100, dense=0.65, recovery=0.95)
    tables = verdict_coverage.matching_tables(100, 1.0, 0)
    exact = verdict_coverage.share_of(tables, world)
    simulated = verdict_coverage.simulate(world, experiments=4_000, resamples=2_000, seed=0)
    assert exact == pytest.approx(simulated.match, abs=0.01)
    assert 0.02 < exact < 0.065, "not at an end"


def test_half_an_item_in_each_cell_is_too_little() -> None:
    """Control: with 2.4 lost items expected, a match would be wrong too often."""
    world = verdict_coverage.World(kind="lost", n=100, dense=0.49, recovery=0.95)
    tables = verdict_coverage.matching_tables(100, 0.5, 0)
    assert verdict_coverage.share_of(tables, world) > verdict_coverage.MOST_MATCH[0.95]


def test_changed_verdicts_are_counted_by_their_reason(
    write: Writer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"few": 10, "many": 400, "lost": 400}
    for name, kick in (("dense", record()), ("wanda", record("wanda", requested_sparsity=0.5))):
        tasks = {task: quiz("contains", 0.8, n=n) for task, n in sizes.items()}
        if name == "wanda":
            tasks["lost"] = quiz("contains", 0.4, n=400)
        write(name, tasks, record=kick, directions={"contains": True})
    monkeypatch.setattr("sys.argv", ["verdict_changes", str(write.folder)])
    verdict_changes.main()
    shown = capsys.readouterr().out
    assert "| 2 match | 1 | 1 | - | - | - |" in shown
    assert "| 1 fail | 1 | - | - | - | - |" in shown
