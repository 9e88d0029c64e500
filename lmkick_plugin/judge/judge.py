# SPDX-License-Identifier: Apache-2.0
"""Judge: turns items into prompts and replies into verdicts, within one budget and store."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lmkick_plugin.judge.client import ChatClient, Outcome
from lmkick_plugin.judge.endpoint import Request, missing_requirement
from lmkick_plugin.judge.items import LOWEST_SCORE, Item, sendable
from lmkick_plugin.judge.limits import Budget
from lmkick_plugin.judge.prompts import Prompts, response_format
from lmkick_plugin.judge.reply_store import ReplyStore
from lmkick_plugin.judge.settings import JudgeSettings
from lmkick_plugin.judge.verdicts import Scores, Verdict, empty_verdict, read_scores, verdict_of

__all__ = ["LOWEST_SCORE", "Item", "Judge", "Summary", "Verdict", "shared_judge"]


@dataclass(slots=True)
class Summary:
    """Counts of a judge's work so far.

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
            f"{self.items - self.unjudged.total()} of {self.items} answers judged; "
            f"{self.replies} replies, {self.sent} requests sent; "
            f"{self.by_rule} empty ones scored by rule; {self.unjudged.total()} unjudged"
        )
        reasons = "; ".join(f"{count} x {reason}" for reason, count in self.unjudged.most_common(5))
        return f"{text} ({reasons})" if reasons else text


@dataclass(frozen=True, slots=True)
class _Question:
    """One request of an item: its template, and the order of the two answers in it."""

    template: str
    texts: Mapping[str, str]
    swapped: bool
    request: Request

    def read(self, outcome: Outcome) -> tuple[Scores, Scores | None] | None:
        """The scores in the reply; None where it holds none, or does not count."""
        if outcome.reply is None or outcome.reason is not None:
            return None
        return read_scores(self.template, self.texts, outcome.reply.text)


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
        """Find what keeps the judge from asking (package, key), without asking."""
        return missing_requirement(self.settings.base_url)

    def grade(self, items: Sequence[Item], *, repeat: int = 0) -> list[Verdict]:
        """Judge answers.

        Args:
            items: What to judge; the order of the answers in each is not the judge's.
            repeat: Another number asks anew, to see how much verdicts vary.

        Returns:
            One verdict for each item. One that could not be judged says why; nothing raises for
            what an endpoint does.
        """
        asked = [() if item.is_empty else self._questions(item) for item in items]
        client = self._client(self.settings.model, self.settings.base_url)
        flat = [question.request for questions in asked for question in questions]
        outcomes = iter(self._ask(client, flat, "judge", repeat))
        verdicts = []
        for item, questions in zip(items, asked, strict=True):
            answers = [next(outcomes) for _ in questions]
            verdicts.append(
                _verdict(item, questions, answers) if questions else empty_verdict(item)
            )
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
        self, client: ChatClient, requests: Sequence[Request], description: str, repeat: int = 0
    ) -> list[Outcome]:
        """Ask, and leave the store as one whole file behind."""
        try:
            return client.ask(requests, description=description, repeat=repeat)
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
        name, texts = item.template, item.texts(swapped=swapped)
        request = Request(
            messages=tuple(self.prompts.messages(name, texts)),
            version=self.prompts.version,
            schema=response_format(name),
            accepts=lambda reply: read_scores(name, texts, reply) is not None,
        )
        return _Question(name, texts, swapped, request)

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


def _verdict(item: Item, questions: Sequence[_Question], outcomes: Sequence[Outcome]) -> Verdict:
    found = [
        (question.swapped, question.read(outcome))
        for question, outcome in zip(questions, outcomes, strict=True)
    ]
    replies = [outcome.reply.text for outcome in outcomes if outcome.reply is not None]
    reasons = [outcome.reason for outcome in outcomes if outcome.reason is not None]
    return verdict_of(item, found, replies, reasons[0] if reasons else None)


def _messages(question: str | Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The messages of a question, or of a conversation so far."""
    turns = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return [{name: sendable(text) for name, text in turn.items()} for turn in turns]
