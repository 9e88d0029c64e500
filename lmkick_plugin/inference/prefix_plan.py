# SPDX-License-Identifier: Apache-2.0
"""Plan of forward passes: which prefixes to compute once, which rows to batch.

A request is a row of tokens of which the last few are scored. Rows are sorted by their tokens, so
that those with a long common prefix are adjacent; the lengths of the prefixes that neighbours
share are a tree of all common prefixes (:mod:`lmkick_plugin.inference.prefix_tree`). Which of them
are worth a forward pass of their own is decided by counting tokens (:func:`plan_steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lmkick_plugin.inference.prefix_tree import Node, common_prefixes, worth_it
from lmkick_plugin.inference.truncation import cut_left

__all__ = ["Plan", "Request", "Step", "batch_length", "make_request", "plan_steps"]

#: Tokens sort as bytes do when their most significant byte comes first.
_TOKEN = np.dtype(">u4")
#: A request: the bytes of all its tokens, and how many of the last ones are scored.
Request = tuple[bytes, int]
_Ints = NDArray[np.int64]


def make_request(context: Sequence[int], continuation: Sequence[int], longest: int) -> Request:
    """Request to score a continuation, cut from the left as in ``hf``.

    Args:
        context: Tokens before it, at least one.
        continuation: The tokens that are scored.
        longest: Tokens that the model takes; the last token of all is never given to it.

    Returns:
        The tokens that count, as bytes, and the number of scored ones.
    """
    tokens, _ = cut_left([*context, *continuation], longest + 1)
    return np.asarray(tokens, dtype=_TOKEN).tobytes(), len(continuation)


@dataclass(slots=True)
class Step:
    """One forward pass.

    Attributes:
        prefix: The step whose tokens, and those before them, these rows continue; -1 for none.
        start: Tokens before the rows.
        rows: Numbers of the rows; one for a prefix.
        end: Where a prefix ends; None for a batch of whole rows.
        scored: int64 ``[n, 4]``: row within the step, position within the row's own part, the
            token that is scored there, and where its score belongs.
    """

    prefix: int
    start: int
    rows: list[int]
    end: int | None = None
    scored: _Ints = field(default_factory=lambda: np.empty((0, 4), dtype=np.int64))


@dataclass(slots=True)
class Plan:
    """Steps for some requests, in order.

    Attributes:
        rows: The tokens of each row that is computed.
        steps: Prefixes come before their continuations.
        spans: For each request, index of its first score, and their number.
        scores: Number of scores of all requests.
        plain_tokens: Tokens that one row for each distinct input would take.
        tokens: Tokens that the steps take.
    """

    rows: list[NDArray[np.int64]]
    steps: list[Step]
    spans: list[tuple[int, int]]
    scores: int
    plain_tokens: int
    tokens: int

    def inputs(self, step: Step) -> list[NDArray[np.int64]]:
        """The tokens of each row of a step, without those before it."""
        return [self.rows[row][step.start : step.end] for row in step.rows]

    def cost(self, step: Step) -> int:
        """Tokens of a step, padding included."""
        return max(len(tokens) for tokens in self.inputs(step)) * len(step.rows)


def plan_steps(
    requests: Sequence[Request],
    rows_at_once: Callable[[int], int],
    *,
    reuse: bool,
    overhead: int = 0,
) -> Plan:
    """Plan the steps for some requests.

    1. An input that is the beginning of another is read from that other row: one forward pass
       serves continuations that differ in their last token, or that end earlier.
    2. A common prefix becomes a separate step where that saves more tokens than a forward pass
       is worth. The choice over all nested prefixes is the cheapest one.
    3. What continues a prefix is batched, longest first.

    Args:
        requests: As :func:`make_request` makes them; equal ones are computed once.
        rows_at_once: Rows of a forward pass, at most, given the tokens of its longest row.
        reuse: Whether prefixes may be computed once for many rows.
        overhead: What a forward pass costs beside its tokens, in tokens.

    Returns:
        The plan.
    """
    width = _TOKEN.itemsize
    inputs = sorted({tokens[:-width] for tokens, _ in requests})
    holders: dict[bytes, int] = {}
    kept: list[bytes] = []
    for one in reversed(inputs):
        # Rows that begin with ``one`` follow it directly.
        if not kept or not kept[-1].startswith(one):
            kept.append(one)
        holders[one] = len(kept) - 1
    rows = [np.frombuffer(one, dtype=_TOKEN).astype(np.int64) for one in kept]
    lengths = [len(row) for row in rows]
    nodes = (
        common_prefixes(rows) if reuse and len(rows) > 1 else [Node(0, rows=[*range(len(rows))])]
    )
    steps: list[Step] = []
    chains = _lay_out(nodes, worth_it(nodes, lengths, overhead), lengths, rows_at_once, steps)
    plan = Plan(
        rows=rows,
        steps=steps,
        spans=[],
        scores=0,
        plain_tokens=sum(map(len, inputs)) // width,
        tokens=0,
    )
    plan.tokens = sum(len(tokens) for step in steps for tokens in plan.inputs(step))
    _place_scores(plan, requests, holders, chains)
    return plan


def batch_length(row: int, start: int) -> int:
    """Length in tokens by which a row counts for the memory of a batch.

    Of what it continues, only one layer's keys and values are there at a time, which is a small
    part of what its own tokens take.

    Args:
        row: All its tokens.
        start: Those of the prefix that it continues.
    """
    return row - start + start // 8


# --- steps ----------------------------------------------------------------------------------------


def _lay_out(
    nodes: list[Node],
    chosen: set[int],
    lengths: Sequence[int],
    rows_at_once: Callable[[int], int],
    steps: list[Step],
) -> list[list[int]]:
    """Emit the steps of a tree, depth first.

    Returns:
        For each row, the steps that compute its tokens, in order.
    """
    chains: list[list[int]] = [[] for _ in lengths]
    pending: list[tuple[int, list[int]]] = [(0, [])]
    while pending:
        number, chain = pending.pop()
        rows, inner = _directly_inside(nodes, chosen, number)
        if number:
            example = rows[0] if rows else _any_row(nodes, number)
            start = steps[chain[-1]].end or 0 if chain else 0
            steps.append(Step(chain[-1] if chain else -1, start, [example], nodes[number].depth))
            chain = [*chain, len(steps) - 1]
        rows.sort(key=lambda row: (-lengths[row], row))
        depth = nodes[number].depth
        while rows:
            count = rows_at_once(batch_length(lengths[rows[0]], depth))
            batch, rows = rows[:count], rows[count:]
            steps.append(Step(chain[-1] if chain else -1, depth, batch))
            for row in batch:
                chains[row] = [*chain, len(steps) - 1]
        pending += [(child, chain) for child in inner]
    return chains


def _directly_inside(
    nodes: list[Node], chosen: set[int], number: int
) -> tuple[list[int], list[int]]:
    """Rows and chosen prefixes directly below a prefix."""
    rows = list(nodes[number].rows)
    inner = []
    pending = list(nodes[number].children)
    while pending:
        child = pending.pop()
        if child in chosen:
            inner.append(child)
        else:
            rows += nodes[child].rows
            pending += nodes[child].children
    return rows, sorted(inner)


def _any_row(nodes: list[Node], number: int) -> int:
    while not nodes[number].rows:
        number = nodes[number].children[0]
    return nodes[number].rows[0]


def _place_scores(
    plan: Plan,
    requests: Sequence[Request],
    holders: dict[bytes, int],
    chains: Sequence[Sequence[int]],
) -> None:
    """Assign each scored token to a step and position."""
    width = _TOKEN.itemsize
    places: list[list[_Ints]] = [[] for _ in plan.steps]
    inside = {
        (number, row): at
        for number, step in enumerate(plan.steps)
        for at, row in enumerate(step.rows)
        if step.end is None
    }
    for tokens, count in requests:
        row = holders[tokens[:-width]]
        last = len(tokens) // width - 1
        targets = np.frombuffer(tokens, dtype=_TOKEN).astype(np.int64)[-count:]
        for number in chains[row]:
            step = plan.steps[number]
            end = last if step.end is None else min(step.end, last)
            begin = max(step.start, last - count)
            if begin >= end:
                continue
            positions = np.arange(begin, end)
            found = np.empty((end - begin, 4), dtype=np.int64)
            found[:, 0] = inside.get((number, row), 0)
            found[:, 1] = positions - step.start
            found[:, 2] = targets[positions - (last - count)]
            found[:, 3] = plan.scores + positions - (last - count)
            places[number].append(found)
        plan.spans.append((plan.scores, count))
        plan.scores += count
    for step, found_there in zip(plan.steps, places, strict=True):
        if found_there:
            step.scored = np.concatenate(found_there)
