# SPDX-License-Identifier: Apache-2.0
"""Rubrics: what a judge is asked about a task's answers, and the metrics from its verdicts.

The same for a run that judges as it goes and for ``lmkick judge``, which judges logged answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmkick_plugin.judge.items import LOWEST_SCORE, Item
from lmkick_plugin.judge.llmkick_original import reads_pair, reads_rows
from lmkick_plugin.judge.parsing.tokens import ASPECTS
from lmkick_plugin.judge.verdicts import Verdict
from lmkick_plugin.results.task_facts import facts_of

__all__ = ["Metrics", "Rubric", "rubric_of"]

Metrics = dict[str, float | None]
"""Values of one document by metric; None where there is no score."""

_WINS = {"win": 1.0, "tie": 0.5, "lose": 0.0}
_SUMMARIZE = (
    "Summarize the given story in less than 150 words while preserving high coherence, "
    "consistency, fluency, and relevance.\n\n"
)


@dataclass(frozen=True, slots=True)
class Rubric:
    """How one task's answers are judged.

    Attributes:
        kind: ``summary`` (four aspects), ``answer`` (one score) or ``conversation`` (one per turn).
        released: Whether only those replies count that the released LLM-KICK code could read.
    """

    kind: str
    released: bool = False

    def identities(self, doc: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of a document in a file of answers."""
        return tuple(str(doc[name]) for name in ("question_id", "id") if name in doc)

    def prompts(self, doc: Mapping[str, Any]) -> tuple[str, ...]:
        """Prompts turn by turn, for a reference model."""
        if self.kind == "summary":
            return (doc.get("prompt") or _SUMMARIZE + doc["article"],)
        return tuple(doc["turns"]) if self.kind == "conversation" else (doc["question"],)

    def items(
        self, doc: Mapping[str, Any], answers: Sequence[str], reference: Sequence[str] | None
    ) -> list[Item]:
        """List the items of one document.

        Args:
            doc: The task's document.
            answers: The model's answers, one per turn.
            reference: The answers to compare with, one per turn; None to judge alone.

        Returns:
            One item per turn.
        """
        if self.kind == "summary":
            story = doc.get("prompt") or doc["article"]
            other = None if reference is None else reference[0]
            return [
                Item(
                    question=story,
                    answer=answers[0],
                    reference=other,
                    kind="aspects",
                    floor=self._floor,
                )
            ]
        questions = self.prompts(doc)
        solutions = doc.get("solutions") or [None] * len(questions)
        items = []
        for turn, question in enumerate(questions):
            before = questions[:turn]
            items.append(
                Item(
                    question=question,
                    answer=answers[turn],
                    reference=None if reference is None else reference[turn],
                    category=doc["category"],
                    history=tuple(zip(before, answers, strict=False)),
                    reference_history=tuple(zip(before, reference or (), strict=False)),
                    solution=solutions[turn],
                    floor=self._floor,
                )
            )
        return items

    @property
    def _floor(self) -> float:
        """The released code takes a 0 as it is; otherwise nothing is below an empty answer."""
        return 0.0 if self.released else LOWEST_SCORE

    def accept(self, verdict: Verdict) -> Verdict:
        """The verdict as this task counts it.

        Args:
            verdict: As the judge's reply says.

        Returns:
            The same; for a released protocol, unjudged where the released parser reads no scores.
        """
        if not self.released or verdict.scores is None:
            return verdict
        reads = reads_rows if self.kind == "summary" else reads_pair
        if all(map(reads, verdict.replies)):
            return verdict
        return replace(
            verdict,
            scores=None,
            reference_scores=None,
            result=None,
            reason="the released code's parser reads no scores in the reply",
        )

    def metrics(self, doc: Mapping[str, Any], verdicts: Sequence[Verdict]) -> Metrics:
        """The values of one document.

        Args:
            doc: The task's document.
            verdicts: One per turn, as :meth:`accept` returns them.

        Returns:
            A value for each of :meth:`names` that concerns the document: of the categories, only
            its own.
        """
        out: Metrics = {}
        by_turn = [_overall(verdict) for verdict in verdicts]
        out["judge_score"] = score = _mean(by_turn)
        if self.kind == "summary":
            scores = verdicts[0].scores or {}
            out |= {f"judge_{aspect}": scores.get(aspect) for aspect in ASPECTS}
        else:
            if self.kind == "conversation":
                out |= {f"judge_score_turn_{i}": one for i, one in enumerate(by_turn, 1)}
            out[_of_category(doc["category"])] = score
        out["judge_score_bound"] = _mean([self._floor if s is None else s for s in by_turn])
        results = [verdict.result for verdict in verdicts]
        out["judge_win"] = _mean([None if r is None else _WINS[r] for r in results])
        agreed = [verdict.consistent for verdict in verdicts]
        out["position_consistency"] = _mean([None if one is None else float(one) for one in agreed])
        out["unjudged"] = sum(score is None for score in by_turn) / len(verdicts)
        return out

    def overall(self, verdicts: Sequence[Verdict]) -> float | None:
        """The one score of a document.

        Args:
            verdicts: One per turn.

        Returns:
            The mean over aspects and turns; None where a turn is unjudged.
        """
        return _mean([_overall(verdict) for verdict in verdicts])

    def names(
        self, categories: Iterable[str], *, compared: bool, both_orders: bool
    ) -> dict[str, bool | None]:
        """All metrics of a task.

        Args:
            categories: Those of its documents; none for stories.
            compared: Whether there is a reference.
            both_orders: Whether it is shown in both places.

        Returns:
            Whether higher is better, by name in the order in which to show them. None for wins and
            consistency, which have no verdict, and for the bound, which would repeat the score's.
        """
        names: dict[str, bool | None] = {"judge_score": True}
        if self.kind == "summary":
            names |= {f"judge_{aspect}": True for aspect in ASPECTS}
        else:
            if self.kind == "conversation":
                names |= {"judge_score_turn_1": True, "judge_score_turn_2": True}
            names |= dict.fromkeys(map(_of_category, categories), True)
        names["judge_score_bound"] = None
        if compared:
            names["judge_win"] = None
        if compared and both_orders:
            names["position_consistency"] = None
        return {**names, "unjudged": False}


def rubric_of(task: str) -> Rubric | None:
    """How a task's answers are judged.

    Args:
        task: A task's name.

    Returns:
        The rubric; None for a task that is not judged.
    """
    facts = facts_of(task)
    if facts.rubric is None:
        return None
    return Rubric(facts.rubric, facts.rubric_prompts == "llmkick")


def _overall(verdict: Verdict) -> float | None:
    """The one score of a verdict: of a summary, the mean of its four aspects."""
    return None if verdict.scores is None else _mean(list(verdict.scores.values()))


def _of_category(category: str) -> str:
    return f"judge_score_{category.replace('-', '_').replace(' ', '_')}"


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None unless every value is known: half a conversation does not count."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
