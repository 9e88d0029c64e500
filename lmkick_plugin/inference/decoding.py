# SPDX-License-Identifier: Apache-2.0
"""Greedy answers to many prompts: a running batch whose finished rows make room for new ones.

``generate`` of transformers runs each batch until its last row has finished. Here a row leaves when
it is done, and as soon as that pays, prompts that wait take the places that are free.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from lmkick_plugin.inference import continuous_batching
from lmkick_plugin.inference.batch_sizes import BatchSize, give_back_memory, is_out_of_memory
from lmkick_plugin.inference.continuous_batching import (
    ALIKE,
    Answer,
    GreedyModel,
    Running,
    common_length,
)

__all__ = ["decode_greedily"]


def decode_greedily(
    model: GreedyModel, answers: Sequence[Answer], size: BatchSize
) -> Iterator[Answer]:
    """Answer prompts.

    Args:
        model: The model.
        answers: Prompts without answers. Those with the longest prompts and limits are asked first:
            if they do not fit, that shows at once, and what takes longest does not come last.
        size: How many rows run at once.

    Yields:
        Each as soon as it is complete.

    Raises:
        RuntimeError: Memory does not suffice for a single row (or what the allocator raises).
    """
    waiting = deque(_in_order(answers))
    running = Running(model)
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
            running = Running(model)
            waiting.extendleft(answer for answer in reversed(going) if not answer.complete)
            if len(going) > 1:
                size.ran_out(len(going), longest)
            give_back_memory()
        elif entering:
            size.fitted(len(going), longest)
        yield from (answer for answer in going if answer.complete)


def _in_order(answers: Sequence[Answer]) -> list[Answer]:
    """The longest first, but those that begin alike together."""
    alike: dict[tuple[int, ...], list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: (-answer.longest, answer.prompt)):
        alike.setdefault(tuple(answer.prompt[:ALIKE]), []).append(answer)
    return [answer for group in alike.values() for answer in group]


def _next_in(
    waiting: deque[Answer], running: Running, rows: int, *, together: bool
) -> list[Answer]:
    """Take from those that wait, if that pays now.

    Args:
        waiting: Those that begin alike stand together.
        running: What runs.
        rows: How many may run.
        together: Whether those that share enough enter by themselves, to read it once.
    """
    free = min(rows - len(running.rows), len(waiting))
    if free <= 0:
        return []
    tokens = sum(len(waiting[index].prompt) for index in range(free))
    if running.rows and 4 * free < rows and tokens < continuous_batching.WORTH_TOKENS:
        return []
    count = 0
    while together and count < free:
        alike = _alike(waiting, count, rows)
        if alike[1] >= continuous_batching.WORTH_TOKENS:
            count = count or alike[0]
            break
        count += alike[0]
    count = min(count, free) if together else free
    return [waiting.popleft() for _ in range(count)]


def _alike(waiting: deque[Answer], first: int, most: int) -> tuple[int, int]:
    """How many of those that wait begin like one of them, and the tokens that sharing saves."""
    beginning = waiting[first].prompt[:ALIKE]
    end = first + 1
    last = min(first + most, len(waiting))
    while end < last and waiting[end].prompt[:ALIKE] == beginning:
        end += 1
    prompts = [waiting[index].prompt for index in range(first, end)]
    shared = common_length(min(prompts), max(prompts), min(map(len, prompts)) - 1)
    return len(prompts), (len(prompts) - 1) * shared
