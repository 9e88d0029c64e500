# SPDX-License-Identifier: Apache-2.0
"""Answers shown beside a changed score are those that were scored."""

from __future__ import annotations

from typing import Any

from lmkick_plugin.report.evidence import Settings, gather
from lmkick_plugin.report.examples import Example, examples_of
from lmkick_plugin.report.models import collect
from tests.lmkick_plugin.report.worlds import record
from tests.lmkick_plugin.run_files import Writer, choice_item

ENDINGS = ["short one", "a very long ending that is right indeed"]


def item(
    number: int, scores: list[float], metrics: dict[str, float], *, names: list[str] | None = None
) -> dict[str, Any]:
    """Four or two choices in words; where there are more scores than names, asked twice."""
    names = names or ENDINGS
    made = choice_item(number, scores[: len(names)], gold=1)
    asked = [*((f"question {number}", f" {n}") for n in names), *(("", f" {n}") for n in names)]
    return {
        **made,
        "doc": {"question": f"question {number}", "choices": names},
        "arguments": {
            f"gen_args_{i}": {"arg_0": context, "arg_1": text}
            for i, (context, text) in enumerate(asked[: len(scores)])
        },
        "filtered_resps": [[str(score), "False"] for score in scores],
        "metrics": list(metrics),
        **metrics,
    }


def examples(
    write: Writer, dense: list[dict[str, Any]], run: list[dict[str, Any]]
) -> tuple[Example, ...]:
    for name, kick, items in (
        ("dense", record(), dense),
        ("wanda", record("wanda", requested_sparsity=0.5), run),
    ):
        write(name, {"endings": items}, record=kick, directions={"acc_norm": True})
    evidence = gather(collect([write.folder]), Settings(resamples=100))
    (model,) = evidence.collection.models
    (found,) = examples_of(evidence, model).values()
    return found


def test_the_choice_is_that_of_the_metric(write: Writer) -> None:
    """-20 against -30 is likelier as it stands, not by the character."""
    right = [item(i, [-20.0, -30.0], {"acc_norm": 1.0}) for i in range(30)]
    wrong = [item(i, [-2.0, -30.0], {"acc_norm": 0.0}) for i in range(30)]
    found = examples(write, right, wrong)
    assert {(one.dense, one.run, one.won) for one in found} == {(ENDINGS[1], ENDINGS[0], False)}


def test_choices_asked_twice_are_shown_by_the_question(write: Writer) -> None:
    """As of the recall tasks: the likelier half is that without the question, and bytes count."""
    names = ["Rome", "東京"]
    scores = {"acc_norm": 1.0, "acc_pmi": 1.0}
    right = [item(i, [-5.0, -3.0, -1.0, -0.1], scores, names=names) for i in range(30)]
    lost = dict.fromkeys(scores, 0.0)
    wrong = [item(i, [-1.0, -3.0, -0.1, -0.1], lost, names=names) for i in range(30)]
    broken = [item(i, [-1.0, float("nan"), -1, -1], lost, names=names) for i in range(30)]
    found = examples(write, right, [*wrong[:1], *broken[1:]])
    assert [(one.dense, one.run) for one in found] == [
        ("東京", "Rome"), ("東京", "(nothing)"), ("東京", "(nothing)"),
    ]  # fmt: skip
    assert {one.wanted for one in found} == {"東京"}
