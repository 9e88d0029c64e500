# SPDX-License-Identifier: Apache-2.0
"""Requests divided between processes by their tokens.

lm-eval deals documents to processes one by one, regardless of length, and so that no process holds
many questions of one prefix. Here every process learns all requests, makes the same plan, and runs
a part of it: consecutive batches with about the same number of tokens. The batches are those that
one process alone would run, so answers do not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from accelerate.utils import gather_object

from lmkick_plugin.inference.prefix_plan import Plan, Request
from lmkick_plugin.inference.scores import Scores

__all__ = ["all_requests", "fewest", "merge_scores", "my_steps"]

_LAST = 4  # bytes of a request's last token


def all_requests(mine: Sequence[Request]) -> list[Request]:
    """Distinct requests of all processes, in the same order everywhere.

    Args:
        mine: Those of this process; every process has to call, also one with none.
    """
    packed: dict[bytes, set[tuple[bytes, int]]] = {}
    for tokens, count in mine:
        # The choices of a question differ in their last token: what they share travels once.
        packed.setdefault(tokens[:-_LAST], set()).add((tokens[-_LAST:], count))
    found = gather_object([(shared, sorted(ends)) for shared, ends in packed.items()])
    return sorted({(shared + last, count) for shared, ends in found for last, count in ends})


def fewest(mine: Sequence[int]) -> list[int]:
    """Minimum of each number over all processes.

    Memory and rounding may differ between processes; their plans must not.

    Args:
        mine: Those of this process; as many everywhere.
    """
    return [min(each) for each in zip(*gather_object([list(mine)]), strict=True)]


def my_steps(plan: Plan, rank: int, world_size: int) -> list[int]:
    """Steps of this process: its share of the batches, and the prefixes they continue.

    Args:
        plan: The same on every process.
        rank: Of this process.
        world_size: Number of processes.
    """
    costs: dict[int, int] = {}
    pending = 0
    for number, step in enumerate(plan.steps):
        pending += plan.cost(step)
        if step.end is None:
            costs[number] = pending
            pending = 0
    total = max(1, sum(costs.values()))
    mine: set[int] = set()
    before = 0
    for number, cost in costs.items():
        if min(world_size - 1, world_size * (2 * before + cost) // (2 * total)) == rank:
            while number >= 0 and number not in mine:
                mine.add(number)
                number = plan.steps[number].prefix
        before += cost
    return sorted(mine)


def merge_scores(scores: Scores) -> None:
    """Exchange scores, so that every process has all.

    Args:
        scores: Those of this process, with those of the others afterwards.
    """
    known = np.flatnonzero(scores.there)
    mine = (known, scores.values[known], scores.likeliest[known])
    for where, values, likeliest in gather_object([mine]):
        scores.put(where, np.stack((values, likeliest)))
