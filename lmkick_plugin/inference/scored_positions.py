# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities at chosen positions, in bounded memory.

A model's head turns every hidden state into a logit for each token of the vocabulary. A question
needs them at a few positions, and a long text at all, but one chunk at a time. So the hidden
states are taken as they enter the head, and only chosen ones go through it, at most
:data:`CHUNK_BYTES` of float32 scores at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CHUNK_BYTES", "Positions", "tails"]

#: Float32 scores of one chunk of positions; a chunk holds these, and at most two copies.
CHUNK_BYTES = 64 * 2**20


class Positions:
    """Causal language model that returns logits at chosen positions.

    How the model makes its logits is found out, not assumed. Where the head does not see the
    hidden states as ``[batch, length, size]``, all logits are made, as ``hf`` makes them. Where
    the model does something to its logits after the head that is not recognised (:func:`tails`),
    those of all chosen positions are computed together.
    """

    def __init__(self, model: Any) -> None:
        """Find the model's output head.

        Args:
            model: A transformers causal language model.
        """
        self.model = model
        head: Any = getattr(model, "get_output_embeddings", lambda: None)()
        self._head: Any = None
        self._at_once = 0
        if isinstance(head, nn.Module):
            self._head = head
            vocabulary = getattr(head, "out_features", None) or model.config.vocab_size
            self._at_once = max(1, CHUNK_BYTES // (4 * int(vocabulary)))
        self._tail: Callable[[Tensor], Tensor] | None = None

    def chunks(self, tokens: Tensor, chosen: Tensor, **how: Any) -> Iterator[Tensor]:
        """Run the model once; to be called without gradients.

        Args:
            tokens: int64 ``[batch, length]``.
            chosen: int64 ``[n]``, at least one, ascending positions in the flattened tokens.
            **how: Further arguments of the model.

        Yields:
            Logits ``[part, vocabulary]`` in the model's dtype; the parts make up ``chosen``.
        """
        first = chosen[: self._at_once] if self._at_once else chosen
        logits, hidden = self._run(tokens, chosen, len(first), how)
        if hidden is None:
            # Nothing was picked: the head is another one than was thought. From now on, pick here.
            self._head, self._at_once = None, 0
            yield logits.flatten(0, 1)[chosen.to(logits.device)]
            return
        if len(first) < len(chosen) and self._tail is None:
            self._tail = self._find_tail(logits[0], hidden[: len(first)])
            if self._tail is None:
                self._at_once = 0
                del logits, hidden
                yield from self.chunks(tokens, chosen, **how)
                return
        yield logits[0]
        del logits
        if self._tail is not None:
            for start in range(len(first), len(chosen), len(first)):
                yield self._tail(self._head(hidden[None, start : start + len(first)]))[0]

    def _run(
        self, tokens: Tensor, chosen: Tensor, first: int, how: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Logits ``[1, first, vocabulary]`` and the hidden states of all chosen positions.

        The latter are None where the head is not what it was taken for; then the logits are all.
        """
        taken: list[Tensor] = []

        def pick(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            states = arguments[0] if arguments else None
            if taken or states is None or states.shape[:-1] != tokens.shape:
                return None
            taken.append(states.flatten(0, 1)[chosen.to(states.device)])
            return (taken[0][None, :first], *arguments[1:])

        hook = None if self._head is None else self._head.register_forward_pre_hook(pick)
        try:
            logits: Tensor = self.model(input_ids=tokens, **how).logits
        finally:
            if hook is not None:
                hook.remove()
        return logits, taken[0] if taken else None

    def _find_tail(self, logits: Tensor, hidden: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Find what the model does to its logits after the head, bit for bit."""
        raw = self._head(hidden[None])[0]
        for tail in tails(self.model.config):
            ours = tail(raw)
            if ours.dtype == logits.dtype and torch.equal(ours, logits.to(ours.device)):
                return tail
        return None


def tails(config: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """Known operations on logits: none, a cap, a scale."""
    text = getattr(config, "text_config", None) or config
    yield lambda logits: logits
    yield lambda logits: logits.float()
    cap = getattr(text, "final_logit_softcapping", None)
    if cap:
        yield lambda logits: torch.tanh(logits / cap) * cap
    for name in ("logit_scale", "logits_scaling"):
        scale = getattr(text, name, None)
        if scale:
            yield functools.partial(torch.mul, other=scale)
            yield functools.partial(torch.div, other=scale)
