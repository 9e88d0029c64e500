# SPDX-License-Identifier: Apache-2.0
"""The verdict on a run: Holm over its tasks, mean recovery, worst task, the sentence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from lmkick_plugin.report.paired_statistics import Metric, PairedStatistics, paired_statistics
from lmkick_plugin.report.run_verdict import holm, run_verdict


def task(dense: float, compressed: float, n: int = 4000, **options: float) -> PairedStatistics:
    order = np.arange(n)
    first, second = (order < dense * n).astype(float), (order < compressed * n).astype(float)
    return paired_statistics(first, second, metric=Metric(binary=True, **options))


SAME, LOST, FEW = task(0.6, 0.6), task(0.6, 0.4), task(0.6, 0.4, n=10)
OPEN, CHANCE = task(0.6, 0.58, n=60), task(0.25, 0.25, floor=0.25)
WORDS = paired_statistics(np.arange(30.0), np.arange(30.0), metric=Metric(direction=None))


def test_holm_equals_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 3, 9):
        for _ in range(8):
            p = dict(enumerate(rng.random(size) ** 6))
            expected = multipletests(list(p.values()), alpha=0.025, method="holm")[0]
            assert [str(i) in holm({str(k): v for k, v in p.items()}) for i in p] == list(expected)


@pytest.mark.parametrize(
    ("tasks", "word"),
    [
        ({"a": SAME, "b": SAME}, "keeps"),
        ({"a": SAME, "b": CHANCE, "c": WORDS}, "keeps"),  # nothing to lose there
        ({"a": SAME, "b": LOST}, "loses"),
        ({"a": SAME, "b": OPEN}, "cannot tell"),
        ({"a": SAME, "b": FEW}, "cannot tell"),
        ({"a": SAME, "b": replace(SAME, compressed=math.nan, verdict=None)}, "cannot tell"),
        ({"a": CHANCE}, "cannot tell"),
        ({}, "cannot tell"),
    ],
)
def test_word(tasks: dict[str, PairedStatistics], word: str) -> None:
    assert run_verdict(tasks, name="B").word == word


def test_one_fail_among_many_tasks_needs_holm() -> None:
    close = replace(LOST, p=0.02)
    assert run_verdict({"a": close}, name="B").word == "loses"
    many = run_verdict({"a": close, **{f"t{i}": SAME for i in range(9)}}, name="B")
    assert many.word == "cannot tell"
    assert many.counts["fail"] == 1
    assert "not after Holm's correction" in many.sentence


def test_mean_recovery_is_over_knowledge_tasks_above_their_floor() -> None:
    tasks = {"a": SAME, "b": LOST, "guess": CHANCE, "other": task(0.5, 0.1)}
    found = run_verdict(tasks, name="B", knowledge=["a", "b", "guess"])
    assert found.over == 2
    assert found.mean_recovery == pytest.approx((1 + 2 / 3) / 2, abs=1e-3)
    assert found.worst == "other"
    assert found.counts == {"match": 1, "inconclusive": 0, "fail": 2, "too few": 0}


def test_interval_of_the_mean_recovery_is_as_if_the_tasks_moved_together() -> None:
    once = run_verdict({"a": LOST}, name="B", knowledge=["a"])
    twice = run_verdict({"a": LOST, "again": LOST}, name="B", knowledge=["a", "again"])
    assert once.mean_interval == LOST.recovery_interval
    assert twice.mean_interval == once.mean_interval  # the same items twice tell nothing new
    both = run_verdict({"a": LOST, "b": OPEN}, name="B", knowledge=["a", "b"]).mean_interval
    assert both is not None
    assert LOST.recovery_interval is not None
    assert OPEN.recovery_interval is not None
    ends = zip(LOST.recovery_interval, OPEN.recovery_interval, strict=True)
    assert both == pytest.approx([np.mean(pair) for pair in ends])
    with_few = run_verdict({"a": LOST, "b": FEW}, name="B", knowledge=["a", "b"])
    assert (with_few.over, with_few.mean_interval) == (2, None)


def test_a_run_can_lose_on_perplexity_alone() -> None:
    metric = Metric(transform=np.exp, direction="at_most")
    losses = np.linspace(1, 2, 40)
    worse = paired_statistics(losses, losses + 1, metric=metric)
    found = run_verdict({"a": SAME, "text": worse}, name="B")
    assert (found.word, found.lost, found.worst) == ("loses", ("text",), "text")
    assert "36.8 %" in found.sentence


VAGUE = task(0.5, 0.2, n=24)  # keeps less than LOST, as far as 24 items can tell


@pytest.mark.parametrize(
    ("tasks", "worst"),
    [
        (
            {"same": SAME, "few": FEW, "vague": replace(VAGUE, verdict="inconclusive", p=0.1)},
            "vague",
        ),
        ({"same": SAME, "few": FEW, "open": OPEN, "lost": LOST}, "lost"),
        ({"lost": LOST, "more": task(0.6, 0.3), "vague": replace(VAGUE, p=0.9)}, "more"),
        ({"same": SAME, "few": FEW}, "few"),
        ({"same": SAME, "better": task(0.6, 0.7)}, "same"),
        ({"chance": CHANCE}, None),
    ],
)
def test_the_worst_task_is_one_that_decides_the_verdict(
    tasks: dict[str, PairedStatistics], worst: str | None
) -> None:
    found = run_verdict(tasks, name="B")
    assert found.worst == worst
    if found.word == "loses":
        assert worst in found.lost


def test_the_sentence_says_what_is_lost_kept_open_and_what_would_settle_it() -> None:
    assert OPEN.settling.startswith("about ")
    said = run_verdict({"a": SAME, "b": LOST, "c": OPEN, "d": FEW, "e": CHANCE}, name="B").sentence
    assert said.startswith("B loses on b (66.7 % [64")
    for part in (
        "it keeps a",
        f"not settled: c ({OPEN.settling})",
        "too few items on d (10)",
        "no verdict on e",
    ):
        assert part in said
    assert said.endswith(".")
    keeps = run_verdict({"a": SAME, "b": SAME}, name="B").sentence
    assert keeps == "B keeps at least 95 % of the dense score on all 2 tasks."
    beside = run_verdict({"a": OPEN}, name="B", reference="A's score").sentence
    assert beside.startswith("Cannot tell whether B keeps at least 95 % of A's score")
    assert run_verdict({}, name="B").sentence == "No metric compared here has a verdict."
    tight = run_verdict({"a": SAME, "b": SAME}, name="B", tolerance=0.01).sentence
    assert "99 %" in tight
    assert len(run_verdict({f"task {i}": LOST for i in range(60)}, name="B").sentence) < 300


def test_of_two_tasks_with_nothing_left_the_surer_loss_is_the_worst() -> None:
    few, many = task(0.1, 0.0, n=60), task(0.6, 0.0, n=60)
    for tasks in ({"few": few, "many": many}, {"many": many, "few": few}):
        found = run_verdict(tasks, name="B")
        assert (found.word, found.worst) == ("loses", "many")
