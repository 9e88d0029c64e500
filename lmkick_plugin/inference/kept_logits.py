# SPDX-License-Identifier: Apache-2.0
"""A dense reference's logits, from hidden states that an earlier cell of a sweep stored.

Logits of a text are too large to keep: 200 KB a position for a vocabulary of 49 thousand, 1 MB for
Gemma's. The hidden states that enter the head are some KB, and the head makes the same logits of
them again, without the blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmkick_plugin.inference.scored_positions import tails
from lmkick_plugin.loading.reference import Reference

__all__ = ["KEPT_BYTES", "KeptLogits"]

#: Hidden states that are kept of one task's text, in main memory.
KEPT_BYTES = 1 << 30

Tail = Callable[[Tensor], Tensor]


class KeptLogits:
    """Logits of a reference, batch by batch.

    Whether head and tail make the same logits, bit for bit, is looked at in the first batch; where
    they do not, the whole model is run each time.
    """

    def __init__(self, reference: Reference) -> None:
        """Nothing is computed yet.

        Args:
            reference: Its ``once`` keeps the states; None: it keeps nothing.
        """
        self._reference = reference
        self._left = KEPT_BYTES if reference.once else 0
        self._tail: Tail | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits ``[batch, length, vocabulary]``; within ``reference.ready()``.

        Args:
            tokens: int64 ``[batch, length]``.
        """
        model, once = self._reference.model, self._reference.once
        if once is None or self._left <= 0:
            return _run(model, tokens)[0]
        fresh: list[Tensor] = []

        def find() -> tuple[Tensor, Tail] | None:
            logits, states = _run(model, tokens)
            fresh.append(logits)
            if states is None:
                return None
            self._tail = self._tail or _find_tail(model.model, states, logits)
            return None if self._tail is None else (states.to("cpu"), self._tail)

        kept = once(["hidden states before the head", tokens.tolist()], find)
        if kept is None:
            self._left = 0
            return fresh[0] if fresh else _run(model, tokens)[0]
        states, self._tail = kept
        self._left -= states.numel() * states.element_size()
        return fresh[0] if fresh else self._tail(_head(model.model)(states.to(tokens.device)))


def _head(model: Any) -> Any:
    return getattr(model, "get_output_embeddings", lambda: None)()


def _run(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, and the states of all positions as they entered the head; None where they do not."""
    taken: list[Tensor] = []
    head = _head(model.model)

    def look(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and arguments[0].shape[:-1] == tokens.shape:
            taken.append(arguments[0])

    hook = head.register_forward_pre_hook(look) if isinstance(head, nn.Module) else None
    try:
        logits: Tensor = model._model_call(tokens)
    finally:
        if hook is not None:
            hook.remove()
    return logits, taken[0] if len(taken) == 1 else None


def _find_tail(model: Any, states: Tensor, logits: Tensor) -> Tail | None:
    raw = _head(model)(states)
    for tail in tails(model.config):
        ours = tail(raw)
        if ours.dtype == logits.dtype and torch.equal(ours, logits):
            return tail
    return None
