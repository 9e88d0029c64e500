# SPDX-License-Identifier: Apache-2.0
"""Answers to judge, and the texts of the prompt on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["LOWEST_SCORE", "Item", "sendable"]

LOWEST_SCORE = 1.0
"""Score of an empty answer in every aspect; the judge is not asked."""


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
        floor: A lower score counts as this one.
    """

    question: str
    answer: str
    reference: str | None = None
    category: str = "general"
    kind: Literal["overall", "aspects"] = "overall"
    history: tuple[tuple[str, str], ...] = ()
    reference_history: tuple[tuple[str, str], ...] = ()
    solution: str | None = None
    floor: float = LOWEST_SCORE

    @property
    def is_empty(self) -> bool:
        """Whether the answer holds nothing to judge."""
        return not self.answer.strip()

    @property
    def template(self) -> str:
        """The name of the prompt that the judge is asked with."""
        alone = self.reference is None
        if self.kind == "aspects":
            return "summary_single" if alone else "summary"
        ending = f"_{self.category}" if self.category in ("coding", "math") else ""
        return ("single" if alone else "pair") + ending

    def texts(self, *, swapped: bool) -> dict[str, str]:
        """The texts of that prompt by placeholder.

        Args:
            swapped: Show the reference first.
        """
        texts = {"question": self.question}
        if self.solution:
            texts["solution"] = self.solution
        if self.reference is None:
            texts["answer"] = self.answer
            if self.history:
                turns = [f"User: {user}\n\nAssistant: {model}" for user, model in self.history]
                texts["history"] = "\n\n".join(turns)
        else:
            own = _with_earlier(self.history, self.answer)
            other = _with_earlier(self.reference_history, self.reference)
            texts["answer_1"], texts["answer_2"] = (other, own) if swapped else (own, other)
            if self.history:
                texts["history"] = "\n\n".join(f"User: {user}" for user, _ in self.history)
        return {name: sendable(text) for name, text in texts.items()}


def sendable(text: str) -> str:
    """Replace lone surrogates, which no request can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _with_earlier(history: Sequence[tuple[str, str]], answer: str) -> str:
    """An answer with the same assistant's earlier ones before it."""
    earlier = [f"(to the earlier question {i})\n{text}" for i, (_, text) in enumerate(history, 1)]
    return "\n\n".join([*earlier, f"(to the question above)\n{answer}"]) if earlier else answer
