# SPDX-License-Identifier: Apache-2.0
"""Recall tasks with requests of their own: choices without the question, ranks."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance

from lmkick_plugin.inference.loaded_models import require_kick_model
from lmkick_plugin.tasks.few_shot import FewShotTask, FreebaseQATask, TriviaQATask

__all__ = ["FreebaseChoiceTask", "RankTask", "TriviaChoiceTask"]


class _Choices(FewShotTask):
    """Log-likelihoods of choices after the question, and of the same choices without it.

    To inherit from, before the class of a data set: a method that says ``super()`` cannot be lent
    to a class that does not inherit from its own.
    """

    def construct_requests(self, doc: dict[str, Any], ctx: str, **options: Any) -> list[Instance]:
        """One request per choice after the question, then one per choice after nothing."""
        asked: list[Instance] = super().construct_requests(doc, ctx, **options)
        alone = [
            Instance(
                request_type=one.request_type,
                doc=doc,
                arguments=("", one.args[1]),
                idx=len(asked) + one.idx,
                metadata=options.get("metadata"),
            )
            for one in asked
        ]
        return [*asked, *alone]

    def process_results(self, doc: dict[str, Any], results: Any) -> dict[str, Any]:
        """As in lm-eval; no score with ``--predict_only``.

        That replaces the task's own scores by lm-eval's, which knows of one request per choice.
        """
        if "bypass" in self._metric_fn_list:
            return {"bypass": None}
        scores: dict[str, Any] = super().process_results(doc, results)
        return scores


class TriviaChoiceTask(_Choices, TriviaQATask):
    """Choices for TriviaQA."""


class FreebaseChoiceTask(_Choices, FreebaseQATask):
    """Choices for FreebaseQA."""


class RankTask(TriviaQATask):
    """Rank of the answer: requests of type ``ranks``, for ``--model kick``."""

    def build_all_requests(self, **options: Any) -> None:
        """As in lm-eval.

        Raises:
            SettingsError: No ``kick`` model is loaded.
        """
        require_kick_model(self.task_name)
        super().build_all_requests(**options)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **options: Any) -> Instance:
        """Request: the prompt, and the answer's names."""
        delimiter = "" if options.get("apply_chat_template") else self.config.target_delimiter
        return Instance(
            request_type="ranks",
            doc=doc,
            arguments=(ctx, {"names": [f"{delimiter}{name}" for name in doc["aliases"]]}),
            idx=0,
            metadata=options["metadata"],
        )
