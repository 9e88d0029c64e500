# SPDX-License-Identifier: Apache-2.0
"""Scores of one reply, and the verdict from all replies on one answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmkick_plugin.judge.items import LOWEST_SCORE, Item
from lmkick_plugin.judge.parsing.own_words import (
    holds_end_of_thoughts,
    read_cautiously,
    read_verdict,
)
from lmkick_plugin.judge.parsing.parser import (
    read_aspect_grades,
    read_aspects,
    read_pair,
    read_single,
)
from lmkick_plugin.judge.parsing.tokens import ASPECTS
from lmkick_plugin.judge.prompts import boundary

__all__ = ["Scores", "Verdict", "empty_verdict", "read_scores", "verdict_of"]

Scores = dict[str, float]
Result = Literal["win", "tie", "lose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judge's verdict on one item.

    Attributes:
        scores: The answer's scores by name (``score``, or the four aspects), averaged over the
            orders in which the answers were shown; None where the item is unjudged.
        reference_scores: The reference's, where one was shown and judged.
        result: The answer against the reference; None without one. Where the two orders disagree
            it is a tie (FastChat's rule).
        by_order: The result in each order asked, by the sum of the scores.
        replies: The judge's own words, one for each order asked.
        reason: Why the item is unjudged; None where it is judged.
        by_rule: The answer is empty: the lowest score, without asking.
    """

    scores: Scores | None
    reference_scores: Scores | None = None
    result: Result | None = None
    by_order: tuple[Result, ...] = ()
    replies: tuple[str, ...] = ()
    reason: str | None = None
    by_rule: bool = False

    @property
    def consistent(self) -> bool | None:
        """Whether both orders gave the same result; None unless both were asked."""
        return len(set(self.by_order)) == 1 if len(self.by_order) == 2 else None

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain data, for a samples file."""
        return {
            "scores": self.scores,
            "reference_scores": self.reference_scores,
            "result": self.result,
            "by_order": list(self.by_order),
            "replies": list(self.replies),
            "reason": self.reason,
            "by_rule": self.by_rule,
        }


def read_scores(
    template: str, texts: Mapping[str, str], reply: str
) -> tuple[Scores, Scores | None] | None:
    """Read a reply to a prompt.

    Args:
        template: The prompt's name.
        texts: The texts in it, by placeholder. What the judge may have repeated of them is seen
            by the name of their boundary lines, which no answer can hold.
        reply: The judge's.

    Returns:
        The first assistant's scores and the second's, which are None for an answer judged alone;
        None where the reply holds none.
    """
    # An echo whose beginning the reply leaves out ends with its last boundary line.
    end = rf"^END {boundary(texts)} .*$"
    begin = f"BEGIN {boundary(texts)} "
    if begin not in reply:
        reply = re.split(end, reply, flags=re.MULTILINE)[-1]
    planted = any(map(holds_end_of_thoughts, texts.values()))

    def read(reader: Callable[[str], Any]) -> Any:
        return (read_cautiously if planted else read_verdict)(reply, reader)

    if template == "summary":
        rows = read(read_aspects)
        if rows is None:
            return None
        return {k: row[0] for k, row in rows.items()}, {k: row[1] for k, row in rows.items()}
    if template == "summary_single":
        grades = read(read_aspect_grades)
        return None if grades is None else (grades, None)
    if template.startswith("single"):
        score = read(read_single)
        return None if score is None else ({"score": score}, None)
    pair = read(read_pair)
    return None if pair is None else ({"score": pair[0]}, {"score": pair[1]})


def empty_verdict(item: Item) -> Verdict:
    """The verdict on an empty answer: the lowest score; against an empty reference a tie."""
    names = ASPECTS if item.kind == "aspects" else ("score",)
    result: Result | None = None
    if item.reference is not None:
        result = "lose" if item.reference.strip() else "tie"
    return Verdict(scores=dict.fromkeys(names, LOWEST_SCORE), result=result, by_rule=True)


def verdict_of(
    item: Item,
    found: Sequence[tuple[bool, tuple[Scores, Scores | None] | None]],
    replies: Sequence[str],
    reason: str | None,
) -> Verdict:
    """Average over the orders; all of them have to be there, or the position would count.

    Args:
        item: What was judged.
        found: For each order asked, whether the reference stood first, and what was read.
        replies: The judge's words.
        reason: Why scores are missing, where they are.
    """
    replies = tuple(replies)
    own: list[Scores] = []
    other: list[Scores] = []
    for swapped, scores in found:
        if scores is None:
            return Verdict(scores=None, replies=replies, reason=reason or "no scores in the reply")
        pair = scores[::-1] if swapped else scores
        first, second = ({k: max(item.floor, v) for k, v in (one or {}).items()} for one in pair)
        own.append(first)
        other.append(second)
    if item.reference is None:
        return Verdict(scores=_mean(own), replies=replies)
    by_order = tuple(_result(first, second) for first, second in zip(own, other, strict=True))
    return Verdict(
        scores=_mean(own),
        reference_scores=_mean(other),
        result=by_order[0] if len(set(by_order)) == 1 else "tie",
        by_order=by_order,
        replies=replies,
    )


def _result(own: Scores, other: Scores) -> Result:
    difference = sum(own.values()) - sum(other.values())
    if abs(difference) < 1e-9:
        return "tie"
    return "win" if difference > 0 else "lose"


def _mean(rows: Sequence[Scores]) -> Scores:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
