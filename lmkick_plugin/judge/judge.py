# SPDX-License-Identifier: Apache-2.0
"""From answers to verdicts: what a task asks of the judge, and gets."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lmkick_plugin.judge.client import ChatClient, Outcome
from lmkick_plugin.judge.endpoint import Request, missing_requirement
from lmkick_plugin.judge.limits import Budget
from lmkick_plugin.judge.parsing.parser import (
    parse_aspect_grades,
    parse_aspects,
    parse_pair,
    parse_single,
)
from lmkick_plugin.judge.parsing.tokens import ASPECTS
from lmkick_plugin.judge.prompts import Prompts, response_format
from lmkick_plugin.judge.reply_store import ReplyStore
from lmkick_plugin.judge.settings import JudgeSettings

__all__ = ["LOWEST_SCORE", "Item", "Judge", "Summary", "Verdict", "shared_judge"]

LOWEST_SCORE = 1.0
"""Score of an empty answer in every aspect; the judge is not asked."""

Scores = dict[str, float]
Result = Literal["win", "tie", "lose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One answer to judge.

    Attributes:
        question: What the model was asked: the story for a summary.
        answer: What it answered.
        reference: Another answer to compare with; None to judge the answer alone.
        category: ``coding`` and ``math`` have prompts of their own, all else is general.
        kind: ``overall`` for one score, ``aspects`` for the four of a summary.
        history: Earlier turns, as pairs of the user's and the model's text.
        reference_history: The same for the reference.
        solution: A correct solution the judge may compare with; it is not graded.
    """

    question: str
    answer: str
    reference: str | None = None
    category: str = "general"
    kind: Literal["overall", "aspects"] = "overall"
    history: tuple[tuple[str, str], ...] = ()
    reference_history: tuple[tuple[str, str], ...] = ()
    solution: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one item.

    Attributes:
        scores: The answer's scores by name (``score``, or the four aspects), averaged over the
            orders in which the answers were shown; None where the item is unjudged.
        reference_scores: The reference's, where one was shown and judged.
        result: The answer against the reference, by the sum of the scores; None without one.
        replies: The judge's own words, one for each order asked.
        reason: Why the item is unjudged; None where it is judged.
        by_rule: The answer is empty: the lowest score, without asking.
    """

    scores: Scores | None
    reference_scores: Scores | None = None
    result: Result | None = None
    replies: tuple[str, ...] = ()
    reason: str | None = None
    by_rule: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain data, for a samples file."""
        return {
            "scores": self.scores,
            "reference_scores": self.reference_scores,
            "result": self.result,
            "replies": list(self.replies),
            "reason": self.reason,
            "by_rule": self.by_rule,
        }


@dataclass(slots=True)
class Summary:
    """What judging came to so far.

    Attributes:
        items: Judged or not.
        by_rule: Empty answers.
        unjudged: Items without scores, by reason.
        replies: Replies used, from the store or new.
        sent: Requests sent, retries included.
    """

    items: int = 0
    by_rule: int = 0
    unjudged: Counter[str] = field(default_factory=Counter)
    replies: int = 0
    sent: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.items} answers judged with {self.replies} replies, {self.sent} requests sent; "
            f"{self.by_rule} empty ones scored by rule; {self.unjudged.total()} unjudged"
        )
        reasons = "; ".join(f"{count} x {reason}" for reason, count in self.unjudged.most_common(5))
        return f"{text} ({reasons})" if reasons else text


@dataclass(frozen=True, slots=True)
class _Question:
    """One request of an item: which template, and in which order the two answers stand in it."""

    template: str
    swapped: bool
    request: Request


class Judge:
    """Grades answers with one model, within one budget, keeping every reply.

    Args:
        settings: Which model, how, and what it may cost.
        share: This process is one of so many that judge at once: it gets that share of budget and
            concurrent requests.
    """

    def __init__(self, settings: JudgeSettings, *, share: int = 1) -> None:
        self.settings = settings
        self.prompts = Prompts.load(settings.prompt)
        self.store = ReplyStore(settings.store_path)
        self.summary = Summary()
        self._budget = Budget(max(1, settings.max_requests // share))
        self._concurrency = max(1, settings.concurrency // share)
        self._clients: dict[tuple[str, str | None], ChatClient] = {}
        self._stopped: str | None = None

    def problem(self) -> str | None:
        """What keeps the judge from asking anything (package, key), found without asking."""
        return missing_requirement(self.settings.base_url)

    def grade(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge answers.

        Args:
            items: What to judge; the order of the answers in each is not the judge's.

        Returns:
            One verdict for each item. One that could not be judged says why; nothing raises for
            what an endpoint does.
        """
        asked = [() if _is_empty(item.answer) else self._questions(item) for item in items]
        client = self._client(self.settings.model, self.settings.base_url)
        flat = [question.request for questions in asked for question in questions]
        outcomes = iter(self._ask(client, flat, "judge"))
        verdicts = []
        for item, questions in zip(items, asked, strict=True):
            if not questions:
                verdicts.append(_empty_verdict(item))
                continue
            verdicts.append(_verdict(item, questions, [next(outcomes) for _ in questions]))
        self._count(verdicts)
        return verdicts

    def answer(
        self,
        questions: Sequence[str | Sequence[Mapping[str, str]]],
        *,
        model: str,
        base_url: str | None = None,
    ) -> list[Outcome]:
        """Have a reference model answer; its answers are kept like the judge's replies.

        Args:
            questions: What to ask: a text, or the messages of a conversation so far.
            model: The reference model.
            base_url: Its endpoint; None for the judge's.

        Returns:
            One outcome for each question.
        """
        requests = [
            Request(messages=tuple(_messages(question)), version="answer") for question in questions
        ]
        client = self._client(model, base_url or self.settings.base_url)
        return self._ask(client, requests, f"answers of {model}")

    def start(self) -> None:
        """Send again after an earlier run was stopped, by a fault of the endpoint or its user."""
        self._stopped = None
        for client in self._clients.values():
            client.stopped = None

    def stop(self, reason: str) -> None:
        """Send nothing more; what is in the store is still used.

        Args:
            reason: Stands with every item that is left unjudged by it.
        """
        self._stopped = reason
        for client in self._clients.values():
            client.stopped = client.stopped or reason

    def _ask(
        self, client: ChatClient, requests: Sequence[Request], description: str
    ) -> list[Outcome]:
        """Ask, and leave the store as one whole file behind."""
        try:
            return client.ask(requests, description=description)
        finally:
            self.store.close()
            self.summary.sent = self._budget.sent

    def _client(self, model: str, base_url: str | None) -> ChatClient:
        name = (model, base_url)
        if name not in self._clients:
            self._clients[name] = ChatClient(
                self.settings,
                self.store,
                self._budget,
                model=model,
                base_url=base_url,
                concurrency=self._concurrency,
            )
            self._clients[name].stopped = self._stopped
        return self._clients[name]

    def _questions(self, item: Item) -> tuple[_Question, ...]:
        if item.reference is None:
            return (self._question(item, swapped=False),)
        if self.settings.order == "both":
            return self._question(item, swapped=False), self._question(item, swapped=True)
        return (self._question(item, swapped=self.settings.order == "reference_first"),)

    def _question(self, item: Item, *, swapped: bool) -> _Question:
        name = _template(item)
        texts = _texts(item, swapped=swapped)
        request = Request(
            messages=tuple(self.prompts.messages(name, texts)),
            version=self.prompts.version,
            schema=response_format(name),
            accepts=functools.partial(_holds_scores, name),
        )
        return _Question(name, swapped, request)

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        self.summary.items += len(verdicts)
        self.summary.by_rule += sum(verdict.by_rule for verdict in verdicts)
        self.summary.replies += sum(len(verdict.replies) for verdict in verdicts)
        self.summary.unjudged.update(v.reason for v in verdicts if v.reason is not None)


@functools.lru_cache(maxsize=8)
def shared_judge(settings: JudgeSettings, share: int = 1) -> Judge:
    """The one judge of a process for these settings: its tasks share budget, store and faults.

    Args:
        settings: As for :class:`Judge`.
        share: As for :class:`Judge`.

    Returns:
        The same object for the same arguments.
    """
    return Judge(settings, share=share)


def _is_empty(answer: str) -> bool:
    return not answer.strip()


def _sendable(text: str) -> str:
    """Text without lone surrogates, which no request can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _messages(question: str | Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The messages of a question, or of a conversation so far."""
    turns = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return [{name: _sendable(text) for name, text in turn.items()} for turn in turns]


def _template(item: Item) -> str:
    alone = item.reference is None
    if item.kind == "aspects":
        return "summary_single" if alone else "summary"
    ending = f"_{item.category}" if item.category in ("coding", "math") else ""
    return ("single" if alone else "pair") + ending


def _texts(item: Item, *, swapped: bool) -> Mapping[str, str]:
    """The texts of one prompt by placeholder."""
    texts = {"question": item.question}
    if item.solution:
        texts["solution"] = item.solution
    if item.reference is None:
        texts["answer"] = item.answer
        if item.history:
            turns = [f"User: {user}\n\nAssistant: {model}" for user, model in item.history]
            texts["history"] = "\n\n".join(turns)
    else:
        own = _with_earlier(item.history, item.answer)
        other = _with_earlier(item.reference_history, item.reference)
        texts["answer_1"], texts["answer_2"] = (other, own) if swapped else (own, other)
        if item.history:
            texts["history"] = "\n\n".join(f"User: {user}" for user, _ in item.history)
    return {name: _sendable(text) for name, text in texts.items()}


def _with_earlier(history: Sequence[tuple[str, str]], answer: str) -> str:
    """An answer with the same assistant's earlier ones before it."""
    earlier = [f"(to the earlier question {i})\n{text}" for i, (_, text) in enumerate(history, 1)]
    return "\n\n".join([*earlier, f"(to the question above)\n{answer}"]) if earlier else answer


def _read(template: str, reply: str) -> tuple[Scores, Scores | None] | None:
    """The scores that a reply to a template holds: the first assistant's and the second's."""
    if template == "summary":
        rows = parse_aspects(reply)
        if rows is None:
            return None
        return {k: row[0] for k, row in rows.items()}, {k: row[1] for k, row in rows.items()}
    if template == "summary_single":
        grades = parse_aspect_grades(reply)
        return None if grades is None else (grades, None)
    if template.startswith("single"):
        score = parse_single(reply)
        return None if score is None else ({"score": score}, None)
    pair = parse_pair(reply)
    return None if pair is None else ({"score": pair[0]}, {"score": pair[1]})


def _holds_scores(template: str, reply: str) -> bool:
    return _read(template, reply) is not None


def _empty_verdict(item: Item) -> Verdict:
    """An empty answer gets the lowest score; against an empty reference it ties."""
    names: tuple[str, ...] = ("score",)
    if item.kind == "aspects":
        names = ASPECTS
    result: Result | None = None
    if item.reference is not None:
        result = "tie" if _is_empty(item.reference) else "lose"
    return Verdict(scores=dict.fromkeys(names, LOWEST_SCORE), result=result, by_rule=True)


def _verdict(item: Item, questions: Sequence[_Question], outcomes: Sequence[Outcome]) -> Verdict:
    """Average over the orders; all of them have to be there, or the position would count."""
    replies = tuple(outcome.reply.text for outcome in outcomes if outcome.reply is not None)
    reasons = [outcome.reason for outcome in outcomes if outcome.reason is not None]
    own: list[Scores] = []
    other: list[Scores] = []
    for question, outcome in zip(questions, outcomes, strict=True):
        read = None
        if outcome.reply is not None and outcome.reason is None:
            read = _read(question.template, outcome.reply.text)
        if read is None:
            reason = reasons[0] if reasons else "no scores in the reply"
            return Verdict(scores=None, replies=replies, reason=reason)
        first, second = read
        if second is None:
            own.append(first)
        else:
            own.append(second if question.swapped else first)
            other.append(first if question.swapped else second)
    scores = _mean(own)
    if item.reference is None or not other:
        return Verdict(scores=scores, replies=replies)
    reference_scores = _mean(other)
    difference = sum(scores.values()) - sum(reference_scores.values())
    result: Result = "tie"
    if abs(difference) > 1e-9:
        result = "win" if difference > 0 else "lose"
    return Verdict(scores=scores, reference_scores=reference_scores, result=result, replies=replies)


def _mean(rows: Sequence[Scores]) -> Scores:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
