# SPDX-License-Identifier: Apache-2.0
"""Flips against a plain loop, McNemar's test against statsmodels."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from lmkick_plugin.report.bootstrap import StatisticsError
from lmkick_plugin.report.flips import flips_of, mcnemar_exact

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


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


def test_a_question_asked_several_times_is_one_in_mcnemar() -> None:
    """Without a true change the test rejects no more often than it may, and does find a change."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 4)

    def rejected(kept: float) -> float:
        found = []
        for _ in range(200):
            dense, compressed = (np.repeat(rng.random(40) < p, 4) for p in (0.6, kept))
            found.append(flips_of(dense, compressed, clusters=clusters).p_value < 0.05)
        return float(np.mean(found))

    assert rejected(0.6) <= 0.05
    assert rejected(0.2) > 0.9


def test_a_cluster_counts_by_its_net_change() -> None:
    clusters = np.asarray([0, 0, 0, 1, 1, 2, 3])
    dense, compressed = [1, 1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0]
    found = flips_of(dense, compressed, clusters=clusters)
    assert (found.right_to_wrong, found.wrong_to_right) == (4, 2)
    assert found.p_value == mcnemar_exact(2, 0)  # cluster 1 lost as it won, 3 did not change
    alone = flips_of(dense, compressed, clusters=np.arange(7))
    assert alone == flips_of(dense, compressed)


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
