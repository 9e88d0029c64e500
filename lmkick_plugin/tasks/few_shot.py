# SPDX-License-Identifier: Apache-2.0
"""Question tasks with solved examples from a train split, which is not a split of the task.

Examples are turns of a conversation where a chat template is applied, unless
``--fewshot_as_multiturn false`` puts all into one message. The introduction begins the first turn;
lm-eval would make a system message of it, and another prompt where there are no examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lm_eval.api.task import ConfigurableTask
from lm_eval.api.utils import Message

from lmkick_plugin.data import freebaseqa, triviaqa
from lmkick_plugin.data.shots import Shot, freebaseqa_shots, triviaqa_shots

__all__ = ["FewShotTask", "FreebaseQATask", "TriviaQATask"]


class FewShotTask(ConfigurableTask):  # type: ignore[misc]  # lm_eval has no type information
    """As lm-eval's task; examples come before what ``doc_to_text`` makes of a question.

    Where there are some, ``doc_to_text`` finds ``shots`` defined and leaves the introduction to
    them.
    """

    INTRO: ClassVar[str] = ""
    FORM: ClassVar[str]  # of a question and, after a space, its answer
    load_shots: ClassVar[Any]  # (count, data_dir, questions that are scored) -> list of Shot

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        self._shots: dict[int, list[Shot]] = {}
        self._before: list[Shot] = []  # of the prompt that is being built

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **options: Any) -> Any:
        """The prompt: examples, then the question.

        Args:
            doc: The document.
            num_fewshot: How many examples.
            **options: As lm-eval's.

        Raises:
            DataError: The train split is missing or has too few questions.
        """
        self._before = self._find_shots(num_fewshot) if num_fewshot else []
        if num_fewshot:
            doc = {**doc, "shots": ""}
        return super().fewshot_context(doc, 0, **options)

    def build_qa_turn(self, **parts: Any) -> list[Message]:
        """Turns of the examples, then lm-eval's of the question.

        lm-eval makes of them one text, one message or a conversation.

        Args:
            **parts: As lm-eval's.
        """
        turns = []
        ask = self.FORM.removesuffix(" {}")
        for number, shot in enumerate(self._before):
            intro = "" if number else self.INTRO
            turns.append(Message("user", intro + ask.format(shot.question), " "))
            turns.append(Message("assistant", shot.answer, "\n\n"))
        return [*turns, *super().build_qa_turn(**parts)]

    def _find_shots(self, count: int) -> list[Shot]:
        # Once for all documents: it reads every question that is scored.
        if count not in self._shots:
            data_dir = (self.config.metadata or {}).get("data_dir")
            self._shots[count] = type(self).load_shots(count, data_dir, self.eval_docs["question"])
        return self._shots[count]


class TriviaQATask(FewShotTask):
    """TriviaQA, with or without evidence; examples have none."""

    INTRO = "Answer these questions:\n\n"
    FORM = triviaqa.SOLVED
    load_shots = staticmethod(triviaqa_shots)


class FreebaseQATask(FewShotTask):
    """FreebaseQA."""

    FORM = freebaseqa.SOLVED
    load_shots = staticmethod(freebaseqa_shots)
