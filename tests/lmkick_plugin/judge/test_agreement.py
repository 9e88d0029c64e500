# SPDX-License-Identifier: Apache-2.0
"""Repeats and agreement against plain loops and libraries."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.stats import kendalltau

from lmkick_plugin.judge.agreement import agreement, retest


def test_repeats_against_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(5, 2, size=40)
    scores = truth + rng.normal(0, 0.5, size=(3, 40))
    found = retest(scores.tolist())
    assert found is not None
    within = scores.var(axis=0, ddof=1).mean()
    between = 3 * scores.mean(axis=0).var(ddof=1)
    assert found.sd == pytest.approx(math.sqrt(within))
    assert found.icc == pytest.approx((between - within) / (between + 2 * within))
    assert (found.items, found.repeats) == (40, 3)
    shuffled = [rng.permutation(row).tolist() for row in scores]
    control = retest(shuffled)
    assert control is not None
    assert control.icc < 0.3 < 0.9 < found.icc, "scores of other answers do not repeat"


def test_repeats_of_too_little() -> None:
    assert retest([[1.0, 2.0]]) is None, "one time"
    assert retest([[1.0, None], [1.0, 2.0]]) is None, "one answer with both"
    same = retest([[2.0, 2.0], [2.0, 2.0]])
    assert same is not None
    assert same.sd == 0
    assert math.isnan(same.icc)


def test_agreement_against_libraries() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(3)
    one = [float(rng.randint(1, 10)) for _ in range(50)]
    other = [min(10.0, max(1.0, score + rng.choice([-1, 0, 1]))) for score in one]
    names = ["win", "tie", "lose"]
    first = [rng.choice(names) for _ in one]
    second = [said if rng.random() < 0.7 else rng.choice(names) for said in first]
    found = agreement(one, other, (first, second))
    assert found is not None
    assert found.tau == pytest.approx(kendalltau(one, other).statistic)
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(first, second))
    assert found.items == 50
    alone = agreement([None, *one], [1.0, *other])
    assert alone is not None
    assert alone.items == 50
    assert alone.kappa is None


def test_agreement_without_variation_is_undefined() -> None:
    found = agreement([8.0, 8.0], [7.0, 9.0], (["win", "win"], ["win", "win"]))
    assert found is not None
    assert found.kappa is not None
    assert math.isnan(found.tau)
    assert math.isnan(found.kappa)
    assert agreement([8.0], [7.0]) is None
