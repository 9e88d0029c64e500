# SPDX-License-Identifier: Apache-2.0
"""Tasks that give an instruction and score the whole answer against one reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from lmkick_plugin.generation_metrics import rouge
from lmkick_plugin.metrics import exact_match, f1

__all__ = ["InstructionTask", "score_instruction"]


class InstructionTask(ConfigurableTask):  # type: ignore[misc]  # lm_eval has no type information
    """As lm-eval's own kind, except that two newlines end a prompt without chat template."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc: dict[str, Any], ctx: str, **options: Any) -> Any:
        """The request for one answer."""
        if not options.get("apply_chat_template"):
            ctx += "\n\n"
        return super().construct_requests(doc, ctx, **options)


def score_instruction(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score an answer against ``doc["output"]``.

    Args:
        doc: ``output`` is the reference.
        results: The whole answer.

    Returns:
        ``exact_match`` and token ``f1`` after TriviaQA's normalisation, and ``rouge1``, the F1 of
        shared stems; 0 for an answer that is to be empty.
    """
    said, gold = results[0], doc["output"]
    return {
        "exact_match": exact_match(said, [gold]),
        "f1": f1(said, [gold]),
        "rouge1": rouge(said, gold)["rouge1"],
    }
