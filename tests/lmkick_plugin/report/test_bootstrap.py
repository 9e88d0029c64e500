# SPDX-License-Identifier: Apache-2.0
"""Draws of clusters' weights against plain loops over Dirichlet draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lmkick_plugin.report import bootstrap
from lmkick_plugin.report.bootstrap import (
    StatisticsError,
    cluster_sums,
    drawn_ratios,
    percentile_interval,
    t_factor,
)


def table(n11: int, n10: int, n01: int, n00: int) -> np.ndarray:
    cells = [(1.0, 1.0, 1.0)] * n11 + [(1.0, 0.0, 1.0)] * n10
    return np.asarray(cells + [(0.0, 1.0, 1.0)] * n01 + [(0.0, 0.0, 1.0)] * n00)


def test_right_and_wrong_are_a_dirichlet_table_with_one_more_in_every_cell() -> None:
    counts = np.asarray([12, 3, 0, 5])
    dense, compressed = drawn_ratios(table(*counts), binary=True, resamples=20_000, seed=0)
    drawn = np.random.default_rng(1).dirichlet(counts + 1, 20_000)
    assert stats.ks_2samp(dense, drawn[:, 0] + drawn[:, 1]).pvalue > 1e-3
    assert stats.ks_2samp(compressed - dense, drawn[:, 2] - drawn[:, 1]).pvalue > 1e-3
    bare = np.random.default_rng(1).dirichlet(counts + 0.5, 20_000)
    difference = bare[:, 2] - bare[:, 1]
    assert stats.ks_2samp(compressed - dense, difference).pvalue < 1e-10  # control: it can tell


def test_no_lost_item_is_not_no_loss() -> None:
    dense, compressed = drawn_ratios(table(20, 0, 0, 0), binary=True, resamples=4000, seed=0)
    low, high = percentile_interval(compressed - dense)
    assert low < -0.02 < 0.02 < high


def test_clusters_are_weighted_whole() -> None:
    """Items copied four times in their clusters say no more than once; by themselves they would."""
    once = table(60, 6, 4, 30)
    copied, clusters = np.repeat(once, 4, axis=0), np.repeat(np.arange(100), 4)
    widths = []
    for rows in (once, cluster_sums(copied, clusters), copied):
        dense, compressed = drawn_ratios(rows, binary=True, resamples=10_000, seed=0)
        low, high = percentile_interval(compressed - dense)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.03)
    assert widths[2] == pytest.approx(widths[0] / 2, rel=0.05)


def test_cluster_sums_equal_a_loop() -> None:
    columns = np.random.default_rng(0).random((9, 3))
    clusters = np.asarray([2, 0, 0, 1, 2, 2, 1, 0, 3])
    expected = [columns[[c == k for c in clusters]].sum(axis=0) for k in range(4)]
    assert cluster_sums(columns, clusters) == pytest.approx(np.stack(expected))
    assert cluster_sums(columns, None) is columns


@pytest.mark.parametrize("n", [3, 8, 40])
def test_graded_intervals_are_students(n: int) -> None:
    """A mean of n graded values is as wide as Student's t says; normal intervals are narrower."""
    values = np.random.default_rng(n).normal(0.5, 0.1, n)
    rows = np.stack([values, values * 0, np.ones(n)], axis=1)
    drawn, _ = drawn_ratios(rows, binary=False, resamples=40_000, seed=0)
    error = values.std(ddof=1) / math.sqrt(n)
    assert drawn.std() == pytest.approx(error * stats.t.ppf(0.975, n - 1) / 1.959964, rel=0.03)
    assert t_factor(n) > 1.03


def test_every_run_is_drawn_with_the_same_weights() -> None:
    first = table(30, 5, 5, 10)
    rows = np.insert(first, 2, first[:, 1], axis=1)  # the same run twice beside the dense one
    _, one, same = drawn_ratios(rows, binary=True, resamples=500, seed=3)
    assert np.array_equal(one, same)
    assert len(np.unique(one)) > 400


def test_draws_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).random((37, 3))
    whole = drawn_ratios(rows, binary=False, resamples=501, seed=9)
    other = drawn_ratios(rows, binary=False, resamples=501, seed=8)
    monkeypatch.setattr(bootstrap, "_BATCH_BYTES", 8 * 37 * 10)
    batched = drawn_ratios(rows, binary=False, resamples=501, seed=9)
    assert np.allclose(batched, whole, rtol=1e-12)
    assert not np.allclose(other, whole)


def test_memory_stays_bounded_at_the_size_of_mmlu() -> None:
    import tracemalloc

    rows = np.random.default_rng(0).random((14_042, 3))
    tracemalloc.start()
    drawn_ratios(rows, binary=False, resamples=900, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90 * 2**20  # all weights at once would be 100 MB, at 10,000 resamples 1.1 GB


def test_refuses_no_items_and_no_draws() -> None:
    with pytest.raises(StatisticsError, match="no items"):
        drawn_ratios(np.empty((0, 3)), binary=True, resamples=10, seed=0)
    with pytest.raises(StatisticsError, match="resamples"):
        drawn_ratios(np.ones((3, 3)), binary=True, resamples=0, seed=0)


def test_percentiles_are_numpys_and_survive_infinities() -> None:
    values = np.random.default_rng(0).random(1001)
    assert percentile_interval(values) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    low, high = percentile_interval(np.array([-math.inf] * 50 + [1.0] * 50))
    assert (low, high) == (-math.inf, 1.0)
    assert all(math.isnan(end) for end in percentile_interval(np.array([math.nan, 1.0])))
