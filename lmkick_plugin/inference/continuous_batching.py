# SPDX-License-Identifier: Apache-2.0
"""Decoding by continuous batching: finished rows are replaced by waiting prompts.

``generate`` of transformers runs each batch until its last row has finished. Here a finished row is
dropped, and waiting prompts take its place once there are enough of them. Samples of one prompt
that enter together read it once.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lmkick_plugin.inference.batch_cache import RowCache
from lmkick_plugin.inference.batch_sizes import BatchSize, give_back_memory, is_out_of_memory
from lmkick_plugin.inference.sampling import Sampling, choose
from lmkick_plugin.inference.stop_strings import StopStrings
from lmkick_plugin.inference.thoughts import Thoughts

__all__ = ["Answer", "DecodingModel", "decode"]

#: Minimum new tokens before waiting prompts are admitted, or a shared prefix is computed apart.
WORTH_TOKENS = 512
#: Prompts that begin with so many equal tokens are answered together.
ALIKE = 64


@dataclass(slots=True)
class Answer:
    """A prompt and the tokens generated for it.

    Attributes:
        prompt: Token ids, at least one.
        limit: Most tokens to generate.
        ends: Token ids that end the answer.
        stops: Strings that end it.
        sampling: How tokens are sampled; None for the likeliest ones.
        generated: The answer so far, with what ended it.
        complete: Whether it has ended.
    """

    prompt: list[int]
    limit: int
    ends: frozenset[int]
    stops: StopStrings | Thoughts
    sampling: Sampling | None = None
    generated: list[int] = field(default_factory=list)
    complete: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the prompt and of the longest possible answer."""
        return len(self.prompt) + self.limit

    def add(self, token: int) -> None:
        """Append a token; whether it was the last one."""
        self.generated.append(token)
        self.complete = (
            len(self.generated) >= self.limit
            or token in self.ends
            or self.stops.reached(self.generated)
        )


@dataclass(slots=True)
class _Counts:
    """Counters: padded tokens and forward passes."""

    tokens: int = 0
    passes: int = 0


@dataclass(frozen=True, slots=True)
class DecodingModel:
    """Model and settings of a forward pass.

    Attributes:
        forward: The transformers model.
        device: Where its inputs go.
        layers: Number of layers that keep keys and values.
        shares_prefixes: Whether a row may have masked columns inside, between what it shares with
            others and its own: its positions are given, and every column sees all before it.
        takes_positions: Whether it accepts ``position_ids``; else it finds them in the mask.
        extra: Further arguments of each call.
        while_decoding: Makes a context for passes of one token per row.
        counts: What has been computed.
    """

    forward: Callable[..., Any]
    device: torch.device
    layers: int
    takes_positions: bool
    shares_prefixes: bool
    extra: dict[str, Any]
    while_decoding: Callable[[], AbstractContextManager[Any]] = nullcontext
    counts: _Counts = field(default_factory=_Counts)

    def next_scores(
        self, tokens: Tensor, mask: Tensor | None, positions: Tensor, cache: RowCache
    ) -> Tensor:
        """Run one forward pass.

        Args:
            tokens: int64 ``[rows, new columns]``.
            mask: int64 ``[rows, all columns]``, 0 where there is no token; None where all are.
            positions: int64 as ``tokens``.
            cache: What came before; the new columns are added.

        Returns:
            float32 ``[rows, vocabulary]``: the scores of next tokens, as ``generate`` uses them.
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
        return logits.to(device=self.device, dtype=torch.float32)


class _Running:
    """Running batch: rows being answered, and their cache."""

    def __init__(self, model: DecodingModel) -> None:
        self._model = model
        self.rows: list[Answer] = []
        self._lengths: list[int] = []
        self._sizes = torch.zeros(0, dtype=torch.long, device=model.device)
        self._next = torch.zeros(0, dtype=torch.long, device=model.device)
        self._cache: RowCache | None = None
        self._prefix: list[int] = []
        self._prefix_cache: RowCache | None = None

    def _shared(self, texts: Sequence[tuple[int, ...]], later: Sequence[tuple[int, ...]]) -> int:
        """Number of leading tokens that some prompts share with the cached prefix.

        Args:
            texts: Those that enter.
            later: Others that will, and begin alike.
        """
        if not self._model.shares_prefixes:
            return 0
        every = [*texts, *later]
        # Sorted, the first and the last differ the earliest; each keeps at least one token.
        common = _common_length(
            min(every, key=list), max(every, key=list), min(map(len, every)) - 1
        )
        held = _common_length(self._prefix, texts[0], common)
        if 4 * held >= 3 * common or (len(every) - 1) * (common - held) < WORTH_TOKENS:
            return held
        tokens = torch.tensor([[*texts[0][:common]]], device=self._model.device)
        positions = torch.arange(common, device=self._model.device)[None]
        self._prefix, self._prefix_cache = [], None
        cache = RowCache(self._model.layers, 0)
        self._model.next_scores(tokens, None, positions, cache)
        self._prefix, self._prefix_cache = [*texts[0][:common]], cache
        return common

    def admit(self, answers: Sequence[Answer], waiting: Sequence[Answer] = ()) -> None:
        """Prefill prompts and add those that are not complete after their first token.

        Equal texts, which are samples of one prompt, are read once.

        Args:
            answers: Those that enter.
            waiting: Some of those that come next.
        """
        entering = [(*answer.prompt, *answer.generated) for answer in answers]
        texts = list(dict.fromkeys(entering))
        place = {text: row for row, text in enumerate(texts)}
        lengths = [len(text) for text in texts]
        coming = max(answer.limit - len(answer.generated) for answer in answers)
        cache = RowCache(self._model.layers, coming)
        device = self._model.device
        beginning = answers[0].prompt[:ALIKE]
        later = {tuple(other.prompt) for other in waiting if other.prompt[:ALIKE] == beginning}
        shared = self._shared(texts, [*later])
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
        scores = self._model.next_scores(tokens.to(device), mask, positions, cache)
        if shared and mask is not None:
            cache.close_gaps(shared, gaps)
        rows = [place[text] for text in entering]
        chosen = _next_tokens(scores if len(texts) == len(rows) else scores[rows], answers)
        kept = _take(answers, chosen)
        if not kept:
            return
        rows = [rows[number] for number in kept]
        if rows != list(range(len(texts))):
            cache.keep(rows, max(lengths[row] for row in rows))
        self.rows += [answers[number] for number in kept]
        self._lengths += [lengths[row] for row in rows]
        self._sizes = torch.cat([self._sizes, sizes[rows]])
        self._next = torch.cat([self._next, chosen[kept]])
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.join(cache)

    def step(self) -> None:
        """Decode one token per row and drop finished rows."""
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
            scores = self._model.next_scores(self._next[:, None], mask, positions, self._cache)
        self._next = _next_tokens(scores, self.rows)
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


def _common_length(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Number of equal tokens at the beginning, at most so many."""
    most = min(most, len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


def _next_tokens(scores: Tensor, answers: Sequence[Answer]) -> Tensor:
    return choose(scores, [(answer.sampling, len(answer.generated)) for answer in answers])


def _take(answers: Sequence[Answer], tokens: Tensor) -> list[int]:
    """Append one token to each answer.

    Returns:
        The numbers of those that are not complete.
    """
    for answer, token in zip(answers, tokens.tolist(), strict=True):
        answer.add(token)
    return [row for row, answer in enumerate(answers) if not answer.complete]


def decode(model: DecodingModel, answers: Sequence[Answer], size: BatchSize) -> Iterator[Answer]:
    """Answer prompts.

    Args:
        model: The model.
        answers: Prompts without answers. Those with the longest prompts and limits are asked first:
            a failure shows early, and the slowest do not come last.
        size: Rows of the running batch.

    Yields:
        Each as soon as it is complete.

    Raises:
        RuntimeError: Memory does not suffice for a single row (or what the allocator raises).
    """
    waiting = deque(_in_order(answers))
    running = _Running(model)
    while waiting or running.rows:
        longest = max(answer.longest for answer in [*running.rows, *list(waiting)[:1]])
        entering = _next_in(waiting, running, size.rows(longest), together=model.shares_prefixes)
        going = running.rows + entering
        failed = False
        try:
            if entering:
                running.admit(entering, list(islice(waiting, len(going))))
            else:
                running.step()
        except (RuntimeError, MemoryError) as error:
            if (len(going) == 1 and not model.shares_prefixes) or not is_out_of_memory(error):
                raise
            failed = True
        if failed:
            if len(going) == 1:
                # The row alone may fit, where what it shares with others beside it does not.
                model = dataclasses.replace(model, shares_prefixes=False)
            # Some layers may have taken the step and some not: all rows read their texts again.
            running = _Running(model)
            waiting.extendleft(answer for answer in reversed(going) if not answer.complete)
            if len(going) > 1:
                size.ran_out(len(going), longest)
            give_back_memory()
        elif entering:
            size.fitted(len(going), longest)
        yield from (answer for answer in going if answer.complete)


def _in_order(answers: Sequence[Answer]) -> list[Answer]:
    """Order prompts by length, keeping those with a common prefix together."""
    alike: dict[tuple[int, ...], list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: (-answer.longest, answer.prompt)):
        alike.setdefault(tuple(answer.prompt[:ALIKE]), []).append(answer)
    return [answer for group in alike.values() for answer in group]


def _next_in(
    waiting: deque[Answer], running: _Running, rows: int, *, together: bool
) -> list[Answer]:
    """Select waiting prompts to admit now, if that pays.

    Args:
        waiting: Prompts with a common prefix are adjacent.
        running: What runs.
        rows: How many may run.
        together: Whether prompts that share enough are admitted alone, to read it once.
    """
    free = min(rows - len(running.rows), len(waiting))
    if free <= 0:
        return []
    tokens = sum(len(waiting[index].prompt) for index in range(free))
    if running.rows and 4 * free < rows and tokens < WORTH_TOKENS:
        return []
    count = 0
    while together and count < free:
        alike = _alike(waiting, count, rows)
        if alike[1] >= WORTH_TOKENS:
            count = count or alike[0]
            break
        count += alike[0]
    count = _unparted(waiting, min(count, free) if together else free, rows // 2)
    return [waiting.popleft() for _ in range(count)]


def _unparted(waiting: deque[Answer], count: int, most: int) -> int:
    """So many, or fewer, where the last are up to `most` samples of a prompt and not all of them.

    These wait until there is room for all, so that their prompt is read once.
    """
    if count == len(waiting) or waiting[count].prompt != waiting[count - 1].prompt:
        return count
    first, end = count - 1, count + 1
    while first and waiting[first - 1].prompt == waiting[count].prompt:
        first -= 1
    while end < len(waiting) and waiting[end].prompt == waiting[count].prompt:
        end += 1
    return first if end - first <= most else count


def _alike(waiting: deque[Answer], first: int, most: int) -> tuple[int, int]:
    """Number of waiting prompts that share a prefix with one, and the tokens saved."""
    beginning = waiting[first].prompt[:ALIKE]
    end = first + 1
    last = min(first + most, len(waiting))
    while end < last and waiting[end].prompt[:ALIKE] == beginning:
        end += 1
    prompts = {tuple(waiting[index].prompt) for index in range(first, end)}
    shared = _common_length(min(prompts), max(prompts), min(map(len, prompts)) - 1)
    return end - first, (len(prompts) - 1) * shared
