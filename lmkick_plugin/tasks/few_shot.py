# SPDX-License-Identifier: Apache-2.0
"""Question tasks with solved examples in the prompt's own text.

lm-eval puts the introduction of a prompt and its examples into messages of their own where a chat
template is applied. Here they are part of the one text, so that the prompt without examples is the
same with and without this class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lm_eval.api.task import ConfigurableTask

from lmkick_plugin.data import freebaseqa, triviaqa
from lmkick_plugin.data.shots import freebaseqa_shots, triviaqa_shots

__all__ = ["FewShotTask", "FreebaseQATask", "TriviaQATask"]


class FewShotTask(ConfigurableTask):  # type: ignore[misc]  # lm_eval has no type information
    """As lm-eval's task; ``doc_to_text`` reads examples from ``shots``."""

    INTRO: ClassVar[str] = ""
    FORM: ClassVar[str]
    load_shots: ClassVar[Any]  # (count, data_dir, questions that are scored) -> list of Shot

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        self._shots: dict[int, str] = {}

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **options: Any) -> Any:
        """The prompt: examples, then the question.

        Args:
            doc: The document.
            num_fewshot: How many examples.
            **options: As lm-eval's.

        Raises:
            DataError: The train split is missing or has too few questions.
        """
        if num_fewshot:
            # Once for all documents: it reads every question that is scored.
            if num_fewshot not in self._shots:
                self._shots[num_fewshot] = self._find_shots(num_fewshot)
            doc = {**doc, "shots": self._shots[num_fewshot]}
        return super().fewshot_context(doc, 0, **options)

    def _find_shots(self, count: int) -> str:
        data_dir = (self.config.metadata or {}).get("data_dir")
        found = type(self).load_shots(count, data_dir, self.eval_docs["question"])
        return self.INTRO + "".join(self.FORM.format(*shot) + "\n\n" for shot in found)


class TriviaQATask(FewShotTask):
    """TriviaQA, with or without evidence; examples have none."""

    INTRO = "Answer these questions:\n\n"
    FORM = triviaqa.SOLVED
    load_shots = staticmethod(triviaqa_shots)


class FreebaseQATask(FewShotTask):
    """FreebaseQA."""

    FORM = freebaseqa.SOLVED
    load_shots = staticmethod(freebaseqa_shots)
