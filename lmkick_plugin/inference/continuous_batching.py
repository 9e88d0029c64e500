# SPDX-License-Identifier: Apache-2.0
"""Rows that are being answered: prompts come in, each step adds a token, what is done leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lmkick_plugin.inference.batch_cache import RowCache
from lmkick_plugin.inference.stop_strings import StopStrings

__all__ = ["ALIKE", "WORTH_TOKENS", "Answer", "Counts", "GreedyModel", "Running", "common_length"]

#: A forward pass is worth its while for so many tokens.
WORTH_TOKENS = 512
#: Prompts that begin with so many equal tokens are answered together.
ALIKE = 64


@dataclass(slots=True)
class Answer:
    """A prompt and what has been generated for it.

    Attributes:
        prompt: Token ids, at least one.
        limit: Most tokens to generate.
        ends: Token ids that end the answer.
        stops: Strings that end it.
        generated: The answer so far, with what ended it.
        complete: Whether it has ended.
    """

    prompt: list[int]
    limit: int
    ends: frozenset[int]
    stops: StopStrings
    generated: list[int] = field(default_factory=list)
    complete: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the prompt and of the longest possible answer."""
        return len(self.prompt) + self.limit

    def add(self, token: int) -> None:
        """Append a token, and see whether it is the last one."""
        self.generated.append(token)
        self.complete = (
            len(self.generated) >= self.limit
            or token in self.ends
            or self.stops.reached(self.generated)
        )


@dataclass(slots=True)
class Counts:
    """Work done: tokens that went through the model with padding, and forward passes."""

    tokens: int = 0
    passes: int = 0


@dataclass(frozen=True, slots=True)
class GreedyModel:
    """What a forward pass needs.

    Attributes:
        forward: The transformers model.
        device: Where its inputs go.
        layers: Number of layers that keep keys and values.
        shares_prefixes: Whether a row may have masked columns inside, between what it shares with
            others and its own: its positions are given, and every column sees all before it.
        takes_positions: Whether it accepts ``position_ids``; else it finds them in the mask.
        extra: Further arguments of each call.
        while_decoding: Makes a context for passes of one token a row.
        counts: What has been computed.
    """

    forward: Callable[..., Any]
    device: torch.device
    layers: int
    takes_positions: bool
    shares_prefixes: bool
    extra: dict[str, Any]
    while_decoding: Callable[[], AbstractContextManager[Any]] = nullcontext
    counts: Counts = field(default_factory=Counts)

    def next_tokens(
        self, tokens: Tensor, mask: Tensor | None, positions: Tensor, cache: RowCache
    ) -> Tensor:
        """One forward pass.

        Args:
            tokens: int64 ``[rows, new columns]``.
            mask: int64 ``[rows, all columns]``, 0 where there is no token; None where all are.
            positions: int64 as ``tokens``.
            cache: What came before; the new columns are added.

        Returns:
            int64 ``[rows]``: the most likely next tokens, found as ``generate`` finds them.
        """
        arguments = {"position_ids": positions} if self.takes_positions else {}
        output = self.forward(
            input_ids=tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            **arguments,
            **self.extra,
        )
        self.counts.tokens += tokens.numel()
        self.counts.passes += 1
        logits: Tensor = output.logits[:, -1]
        return logits.to(device=self.device, dtype=torch.float32).argmax(dim=-1)


class Running:
    """The rows that are being answered, and their cache."""

    def __init__(self, model: GreedyModel) -> None:
        self._model = model
        self.rows: list[Answer] = []
        self._lengths: list[int] = []
        self._sizes = torch.zeros(0, dtype=torch.long, device=model.device)
        self._next = torch.zeros(0, dtype=torch.long, device=model.device)
        self._cache: RowCache | None = None
        self._prefix: list[int] = []
        self._prefix_cache: RowCache | None = None

    def _shared(self, texts: Sequence[list[int]], later: Sequence[list[int]]) -> int:
        """How many first tokens of some texts are, or are now, in the cache of the prefix.

        Args:
            texts: Those that enter.
            later: Others that will, and begin alike.
        """
        if not self._model.shares_prefixes:
            return 0
        every = [*texts, *later]
        # Sorted, the first and the last differ the earliest; each keeps a token of its own.
        common = common_length(min(every), max(every), min(map(len, every)) - 1)
        held = common_length(self._prefix, texts[0], common)
        if 4 * held >= 3 * common or (len(every) - 1) * (common - held) < WORTH_TOKENS:
            return held
        tokens = torch.tensor([texts[0][:common]], device=self._model.device)
        positions = torch.arange(common, device=self._model.device)[None]
        self._prefix, self._prefix_cache = [], None
        cache = RowCache(self._model.layers, 0)
        self._model.next_tokens(tokens, None, positions, cache)
        self._prefix, self._prefix_cache = texts[0][:common], cache
        return common

    def admit(self, answers: Sequence[Answer], waiting: Sequence[Answer] = ()) -> None:
        """Read prompts, find their first tokens, and take in what is not complete with these.

        Args:
            answers: Those that enter.
            waiting: Some of those that come next.
        """
        texts = [answer.prompt + answer.generated for answer in answers]
        lengths = [len(text) for text in texts]
        coming = max(answer.limit - len(answer.generated) for answer in answers)
        cache = RowCache(self._model.layers, coming)
        device = self._model.device
        beginning = answers[0].prompt[:ALIKE]
        later = [other.prompt for other in waiting if other.prompt[:ALIKE] == beginning]
        shared = self._shared(texts, later)
        own = max(lengths) - shared
        tokens = torch.zeros(len(texts), own, dtype=torch.long)
        for row, text in enumerate(texts):
            tokens[row, own - len(text) + shared :] = torch.tensor(text[shared:])
        sizes = torch.tensor(lengths, device=device)
        gaps = max(lengths) - sizes
        columns = torch.arange(own, device=device)[None] - gaps[:, None]
        mask = None
        if min(lengths) < max(lengths):
            mask = (columns >= 0).to(torch.long)
            mask = torch.cat([mask.new_ones(len(texts), shared), mask], dim=1)
        if shared and self._prefix_cache is not None:
            cache.repeat(self._prefix_cache, len(texts), shared, own)
        # As in generate: what is masked has position 0.
        positions = torch.where(columns >= 0, columns + shared, 0)
        chosen = self._model.next_tokens(tokens.to(device), mask, positions, cache)
        if shared and mask is not None:
            cache.close_gaps(shared, gaps)
        kept = _take(answers, chosen)
        if not kept:
            return
        if len(kept) < len(answers):
            cache.keep(kept, max(lengths[row] for row in kept))
            chosen, sizes = chosen[kept], sizes[kept]
        self.rows += [answers[row] for row in kept]
        self._lengths += [lengths[row] for row in kept]
        self._sizes = torch.cat([self._sizes, sizes])
        self._next = torch.cat([self._next, chosen])
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.join(cache)

    def step(self) -> None:
        """One more token for every row; those that are complete with it leave."""
        if self._cache is None:
            return
        positions = self._sizes[:, None]
        self._sizes = self._sizes + 1
        self._lengths = [length + 1 for length in self._lengths]
        width = max(self._lengths)
        mask = None
        if min(self._lengths) < width:
            columns = torch.arange(width, device=self._model.device)[None]
            mask = (columns >= width - self._sizes[:, None]).to(torch.long)
        with self._model.while_decoding():
            self._next = self._model.next_tokens(self._next[:, None], mask, positions, self._cache)
        kept = _take(self.rows, self._next)
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[row] for row in kept]
        self._lengths = [self._lengths[row] for row in kept]
        self._sizes, self._next = self._sizes[kept], self._next[kept]
        if kept:
            self._cache.keep(kept, max(self._lengths))
        else:
            self._cache = None


def common_length(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Number of equal tokens at the beginning, at most so many."""
    most = min(most, len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


def _take(answers: Sequence[Answer], tokens: Tensor) -> list[int]:
    """Give each answer its token.

    Returns:
        The numbers of those that are not complete.
    """
    for answer, token in zip(answers, tokens.tolist(), strict=True):
        answer.add(token)
    return [row for row, answer in enumerate(answers) if not answer.complete]
