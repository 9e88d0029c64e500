# SPDX-License-Identifier: Apache-2.0
"""Thoughts of reasoning models: removed before scoring, exempt from stop strings.

Such a model writes ``<think>``, its thoughts, ``</think>`` and the answer. Some chat templates open
the thoughts in the prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

__all__ = ["Thoughts", "answer_plainly", "log_thoughts", "may_think"]

OPEN, CLOSE = "<think>", "</think>"

logger = logging.getLogger(__name__)


def may_think(lm: Any) -> bool:
    """Whether a model's answers may begin with thoughts.

    Args:
        lm: A ``KickLM``.
    """
    told = lm.think_end_token is not None
    return bool(told or lm.chat_template_used)


class Thoughts:
    """Stop strings of one answer that apply after its thoughts.

    Attributes:
        inside: Whether the answer, as far as it goes, is nothing but thoughts.
        after: Number of tokens up to the end of the thoughts; None without thoughts.
        whole: Thoughts were presumed and did not end; set by :meth:`answer`.
    """

    def __init__(self, lm: Any, prompt: str, stops: Any, until: Sequence[str]) -> None:
        """Create the state of an answer without tokens.

        Args:
            lm: A ``KickLM``.
            prompt: What the answer follows.
            stops: The stop strings of an answer without thoughts
                (:class:`lmkick_plugin.inference.stop_strings.StopStrings`).
            until: The same strings as text.
        """
        self._lm = lm
        self._stops = stops
        self._until = [stop for stop in until if stop]
        end = lm.think_end_token
        self._end: str | int = CLOSE if end is None else end
        self._window = 0
        if isinstance(self._end, str):
            self._window = len(lm.tokenizer.encode(self._end, add_special_tokens=False)) + 2
        opened = _opened(prompt)
        self.inside = opened or _presumed(lm)
        self._presumed = self.inside and not opened
        self._decided = self.inside
        self.after: int | None = None
        self.whole = False

    def reached(self, generated: Sequence[int]) -> bool:
        """Whether an answer ends here.

        Args:
            generated: Its tokens; asked at each of its lengths from 1 on.
        """
        if not self._decided:
            text = self._text(generated).lstrip()
            if OPEN.startswith(text):
                return False  # may still begin with thoughts
            self._decided, self.inside = True, text.startswith(OPEN)
            if not self.inside:  # what the stop strings have missed so far
                return any(self._stops.reached(generated[:n]) for n in range(1, len(generated) + 1))
        if self.inside:
            if not self._ends(generated):
                return False
            self.inside, self.after = False, len(generated)
        if self.after is None:
            return bool(self._stops.reached(generated))
        answer = self._text(generated[self.after :]).lstrip()
        return any(stop in answer for stop in self._until)

    def answer(self, generated: Sequence[int]) -> Sequence[int]:
        """Tokens of a complete answer without its thoughts.

        Args:
            generated: All of its tokens. Where thoughts were only presumed and do not end, these
                were none: as in ``hf``, they are the answer, up to the first stop string.
        """
        if self._presumed and not self._text(generated).lstrip().startswith(OPEN):
            self.whole, self.inside = self.inside, False
        if self.inside:
            return []
        if self.after is not None:
            return generated[self.after :]
        sizes = range(1, len(generated) + 1)
        ends = (size for size in sizes if self._stops.reached(generated[:size]))
        return generated[: next(ends, len(generated))]

    def _ends(self, generated: Sequence[int]) -> bool:
        if isinstance(self._end, int):
            return generated[-1] == self._end
        return self._end in self._text(generated[-self._window :])

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._lm.tok_decode(tokens, skip_special_tokens=False))


def answer_plainly(
    lm: Any, plain: Callable[[list[Any]], list[str]], requests: list[Any]
) -> list[str]:
    """Answer by ``hf``, without stop strings where thoughts are expected.

    Args:
        lm: A ``KickLM``.
        plain: Answers as ``hf`` does.
        requests: ``generate_until`` instances.
    """
    end = lm.think_end_token
    template = str(getattr(lm.tokenizer, "chat_template", None) or "")
    if isinstance(end, int) or (end is None and OPEN not in template):
        return plain(requests)
    bare = [replace(one, arguments=(one.args[0], {**one.args[1], "until": []})) for one in requests]
    lm.think_end_token = None  # hf would not say whether the thoughts ended
    try:
        texts = plain(bare)
    finally:
        lm.think_end_token = end
    answers, thoughtful, unfinished, whole = [], 0, 0, 0
    for request, text in zip(requests, texts, strict=True):
        until = request.args[1].get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        _, closed, after = text.partition(end or CLOSE)
        sure = _opened(request.args[0]) or text.lstrip().startswith(OPEN)
        if sure or (closed and _presumed(lm)):
            thoughtful += 1
            unfinished += not closed
            text = _cut(after.lstrip(), stops)
        else:
            whole += _presumed(lm)
            text = _cut(text, stops)
            text = text.split(end)[-1].lstrip() if end else text
        answers.append(text)
    if requests:
        limit = normalize_gen_kwargs(requests[0].args[1], lm.max_gen_toks)["max_gen_toks"]
        log_thoughts(str(requests[0].task_name), thoughtful, unfinished, limit, whole)
    return answers


def _cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop string."""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _opened(prompt: str) -> bool:
    """Whether a prompt ends within thoughts."""
    return prompt.rstrip().endswith(OPEN)


def _presumed(lm: Any) -> bool:
    """Whether answers are taken to begin within thoughts, though no prompt says so."""
    told = lm.think_end_token is not None and lm.enable_thinking is not False
    return bool(told and lm.chat_template_used)


def log_thoughts(task: str, thoughtful: int, unfinished: int, limit: int, whole: int) -> None:
    """Log what became of answers with thoughts, and how to turn thoughts off.

    Args:
        task: Its name.
        thoughtful: Answers that began with thoughts.
        unfinished: Those that ended within them.
        limit: Tokens that an answer could have.
        whole: Answers whose thoughts were presumed and did not end.
    """
    if unfinished:
        logger.warning(
            "%s: %d answers are empty because their thoughts exceeded %d tokens. Use "
            "enable_thinking=False in --model_args, or --gen_kwargs max_gen_toks=N.",
            task, unfinished, limit,
        )  # fmt: skip
    elif thoughtful:
        logger.warning(
            "%s: %d answers began with thoughts (<think>), which are removed before scoring. "
            "enable_thinking=False turns them off.",
            task, thoughtful,
        )  # fmt: skip
    elif whole:
        logger.warning(
            "%s: %d answers hold no think_end_token and are scored whole, as by hf. If they are "
            "unfinished thoughts (limit: %d tokens), use --gen_kwargs max_gen_toks=N.",
            task, whole, limit,
        )  # fmt: skip
