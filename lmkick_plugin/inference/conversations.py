# SPDX-License-Identifier: Apache-2.0
"""Multi-turn conversations: each prompt holds the model's own earlier answers.

References:
    Zheng et al., arXiv:2306.05685 (MT-bench).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance

__all__ = ["answer_turns", "layout"]


def answer_turns(model: Any, requests: Sequence[Any]) -> list[list[str]]:
    """Hold conversations turn by turn, each turn batched over all of them.

    Args:
        model: A ``KickLM``, or another model with ``generate_until`` and ``apply_chat_template``.
        requests: Instances whose arguments are the first prompt and a mapping: ``turns`` (the
            user's texts), ``system`` (or None), ``chat_template`` (whether to apply it) and
            ``generation`` (settings as for ``generate_until``).

    Returns:
        The model's answers to each conversation, one a turn: what ``generate_until`` returns for
        the prompts that :func:`layout` makes.
    """
    answers: list[list[str]] = [[] for _ in requests]
    most = max((len(request.args[1]["turns"]) for request in requests), default=0)
    for turn in range(most):
        going = [i for i, request in enumerate(requests) if turn < len(request.args[1]["turns"])]
        asked = []
        for i in going:
            request = requests[i]
            first, settings = request.args
            prompt = layout(model, first, settings, answers[i]) if turn else first
            asked.append(
                Instance(
                    request_type="generate_until",
                    doc=request.doc,
                    arguments=(prompt, settings["generation"]),
                    idx=request.idx,
                    metadata=(request.task_name, request.doc_id, request.repeats),
                )
            )
        for i, answer in zip(going, model.generate_until(asked), strict=True):
            answers[i].append(answer)
    return answers


def layout(model: Any, first: str, settings: Mapping[str, Any], answers: Sequence[str]) -> str:
    """The prompt of the turn after some answers.

    Args:
        model: Applies its chat template, where the run asks for one.
        first: The first turn's prompt.
        settings: As for :func:`answer_turns`.
        answers: The model's own, as it gave them, to all turns before.

    Returns:
        The conversation in the chat template; without one, the first prompt and all that followed,
        each text with a blank line after it.
    """
    turns = settings["turns"]
    if not settings["chat_template"]:
        followed = zip(answers, turns[1:], strict=False)
        return first + "".join(f"{answer}\n\n{question}\n\n" for answer, question in followed)
    messages = [{"role": "system", "content": settings["system"]}] if settings["system"] else []
    messages.append({"role": "user", "content": turns[0]})
    for answer, question in zip(answers, turns[1:], strict=False):
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": question})
    return str(model.apply_chat_template(messages, add_generation_prompt=True))
