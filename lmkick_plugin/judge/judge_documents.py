# SPDX-License-Identifier: Apache-2.0
"""Verdicts on all answers of a task; faults of an endpoint do not raise.

Answers cost hours of a GPU, so nothing that goes wrong here may raise: an item that could not be
judged has a verdict that says why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmkick_plugin.judge.items import Item
from lmkick_plugin.judge.judge import Judge
from lmkick_plugin.judge.references import Turns
from lmkick_plugin.judge.rubric import Rubric
from lmkick_plugin.judge.verdicts import Verdict

__all__ = ["Subject", "judge_all"]

_LOGGER = logging.getLogger(__name__)
_INTERRUPTED = "judging was interrupted"


@dataclass(frozen=True, slots=True)
class Subject:
    """One document's answers.

    Attributes:
        doc: The task's document.
        answers: The model's, one per turn.
        reference: The answers to compare with; None where there are none, or a model is asked.
    """

    doc: dict[str, Any]
    answers: Turns
    reference: Turns | None = None


def judge_all(
    judge: Judge,
    rubric: Rubric,
    subjects: Sequence[Subject],
    *,
    reference_model: str | None = None,
    repeat: int = 0,
) -> list[tuple[Verdict, ...]]:
    """Judge the answers to all documents of a task.

    Args:
        judge: Asks.
        rubric: What is asked.
        subjects: The documents with their answers.
        reference_model: A model to answer first, to be compared with.
        repeat: Another number asks anew, to see how much verdicts vary.

    Returns:
        For each document one verdict per turn. Ctrl-C ends judging, not the program: what was
        judged until then is returned.
    """
    reasons: list[str | None] = [None] * len(subjects)
    try:
        if reference_model is not None:
            subjects, reasons = _with_references(judge, rubric, subjects, reference_model)
        return _grade(judge, rubric, subjects, reasons, repeat)
    except KeyboardInterrupt:
        judge.stop(_INTERRUPTED)
        _LOGGER.warning("Judging was interrupted. The answers are kept; judge the rest later.")
    except Exception as error:  # answers that took hours must reach the disk
        judge.stop(f"judging broke off ({type(error).__name__}: {error})")
        _LOGGER.exception("Judging broke off. The answers are kept; judge them later.")
    if reference_model is None:  # what has been paid for stands in the store
        try:
            return _grade(judge, rubric, subjects, reasons, repeat)
        except Exception:
            _LOGGER.exception("What had been judged cannot be read.")
    left = Verdict(scores=None, reason=_INTERRUPTED)
    return [(left,) * len(subject.answers) for subject in subjects]


def _grade(
    judge: Judge,
    rubric: Rubric,
    subjects: Sequence[Subject],
    reasons: Sequence[str | None],
    repeat: int,
) -> list[tuple[Verdict, ...]]:
    asked: list[Item] = []
    for subject, reason in zip(subjects, reasons, strict=True):
        if reason is None:
            asked += rubric.items(subject.doc, subject.answers, subject.reference)
    verdicts = iter(judge.grade(asked, repeat=repeat))
    return [
        tuple(
            rubric.accept(next(verdicts)) if reason is None else Verdict(scores=None, reason=reason)
            for _ in subject.answers
        )
        for subject, reason in zip(subjects, reasons, strict=True)
    ]


def _with_references(
    judge: Judge, rubric: Rubric, subjects: Sequence[Subject], model: str
) -> tuple[list[Subject], list[str | None]]:
    """Have the reference model answer, turn by turn, each of its turns after its own earlier ones.

    Returns:
        The subjects with their references, and why one has none.
    """
    conversations: list[list[dict[str, str]]] = [[] for _ in subjects]
    reasons: list[str | None] = [None] * len(subjects)
    turns = max((len(subject.answers) for subject in subjects), default=0)
    for turn in range(turns):
        going = [i for i, reason in enumerate(reasons) if reason is None]
        for i in going:
            prompt = rubric.prompts(subjects[i].doc)[turn]
            conversations[i].append({"role": "user", "content": prompt})
        outcomes = judge.answer(
            [conversations[i] for i in going],
            model=model,
            base_url=judge.settings.reference_base_url,
        )
        for i, outcome in zip(going, outcomes, strict=True):
            if outcome.reply is None or outcome.reason is not None:
                reasons[i] = f"no answer of the reference {model}: {outcome.reason}"
            else:
                conversations[i].append({"role": "assistant", "content": outcome.reply.text})
    answered = [
        replace(subject, reference=tuple(turn["content"] for turn in conversation[1::2]))
        for subject, conversation in zip(subjects, conversations, strict=True)
    ]
    return answered, reasons
