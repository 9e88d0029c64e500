# SPDX-License-Identifier: Apache-2.0
"""Plans: every token is scored after its own context, and at the least cost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from lmkick_plugin.inference import prefix_tree
from lmkick_plugin.inference.data_parallel import my_steps
from lmkick_plugin.inference.prefix_plan import Plan, Request, make_request, plan_steps

Tokens = tuple[int, ...]


def random_requests(seed: int, vocabulary: int = 5) -> list[tuple[list[int], list[int]]]:
    """Contexts that share much, and continuations of several lengths, some of them equal."""
    rng = random.Random(seed)

    def text(low: int, high: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(rng.randrange(low, high))]

    openings = [text(0, 30) for _ in range(3)]
    found = []
    for _ in range(rng.randrange(1, 25)):
        context = rng.choice(openings) + text(1, 9)
        for _ in range(rng.randrange(1, 5)):
            found.append((context, text(1, 6)))
    return found + found[:2]


def read(plan: Plan, steps: Sequence[int]) -> dict[int, tuple[Tokens, int]]:
    """For each place of a score: what a model would have seen, and the token scored there."""
    held: dict[int, Tokens] = {-1: ()}
    found: dict[int, tuple[Tokens, int]] = {}
    for number in steps:
        step = plan.steps[number]
        before = held[step.prefix]
        assert len(before) == step.start
        seen = [(*before, *inputs.tolist()) for inputs in plan.inputs(step)]
        if step.end is not None:
            (held[number],) = seen
        for row, position, token, place in step.scored.tolist():
            found[place] = (seen[row][: step.start + position + 1], token)
    return found


def make(texts: Sequence[tuple[list[int], list[int]]], longest: int = 1000) -> list[Request]:
    return [make_request(context, continuation, longest) for context, continuation in texts]


@pytest.mark.parametrize("overhead", [0, 3, 40])
@pytest.mark.parametrize("reuse", [True, False])
def test_every_token_is_scored_after_its_own_context(reuse: bool, overhead: int) -> None:
    cheaper = 0
    for seed in range(60):
        texts = random_requests(seed)
        plan = plan_steps(make(texts), lambda _: 3, reuse=reuse, overhead=overhead)
        found = read(plan, range(len(plan.steps)))
        assert sorted(found) == list(range(plan.scores))
        for (context, continuation), (first, count) in zip(texts, plan.spans, strict=True):
            assert count == len(continuation)
            for at, token in enumerate(continuation):
                assert found[first + at] == ((*context, *continuation[:at]), token)
        assert all(len(step.rows) <= 3 for step in plan.steps)
        assert plan.tokens <= plan.plain_tokens
        cheaper += plan.tokens < plan.plain_tokens
    assert cheaper > 50


def test_the_beginning_is_cut_as_hf_cuts_it() -> None:
    tokens, count = make_request(list(range(20)), [90, 91], 8)
    plan = plan_steps([(tokens, count)], lambda _: 1, reuse=True)
    ((seen, first), (whole, last)) = read(plan, range(1)).values()
    assert whole == tuple(([*range(20), 90, 91][-9:])[:-1])
    assert (seen, first, last) == (whole[:-1], 90, 91)


def cost(texts: Sequence[Tokens], chosen: Sequence[Tokens], overhead: int) -> int:
    """Tokens of a plan that computes exactly these prefixes, and what its steps cost beside."""
    total = 3 * overhead // 2 * len(chosen)
    for one in [*chosen, *texts]:
        inside = [len(other) for other in chosen if other != one and one[: len(other)] == other]
        total += len(one) - max(inside, default=0)
    return total


@pytest.mark.parametrize("overhead", [0, 1, 3])
def test_no_choice_of_prefixes_is_cheaper(overhead: int) -> None:
    different = set()
    for seed in range(40):
        rng = random.Random(seed)
        inputs = {tuple(rng.randrange(2) for _ in range(rng.randrange(3, 11))) for _ in range(7)}
        rows = [
            one for one in inputs
            if not any(other != one and other[: len(one)] == one for other in inputs)
        ]  # fmt: skip
        shared = {
            one[:length]
            for one, other in itertools.combinations(rows, 2)
            for length in [next(i for i in range(12) if one[i : i + 1] != other[i : i + 1])]
            if length
        }
        best = min(
            cost(rows, chosen, overhead)
            for size in range(len(shared) + 1)
            for chosen in itertools.combinations(sorted(shared), size)
        )
        requests = make([(list(row), [9]) for row in rows])
        plan = plan_steps(requests, lambda _: 99, reuse=True, overhead=overhead)
        chosen = [step for step in plan.steps if step.end is not None]
        assert plan.tokens + 3 * overhead // 2 * len(chosen) == best
        different.add(len(chosen))
    assert len(different) > 1  # it is a choice


def test_five_shots_are_computed_once_and_choices_share_a_row() -> None:
    rng = random.Random(0)
    shots = [rng.randrange(99) for _ in range(600)]
    texts = []
    for _ in range(100):
        question = shots + [rng.randrange(99) for _ in range(80)]
        texts += [(question, [letter]) for letter in range(4)]
    plan = plan_steps(make(texts), lambda _: 8, reuse=True, overhead=32)
    assert [step.end is not None for step in plan.steps].count(True) == 1
    assert plan.tokens < 600 + 100 * 81
    assert plan.plain_tokens == 100 * 680
    # Four choices of several tokens part after the question: a prefix of its own for each.
    several = [(question, [choice, 1, 2, 3]) for question, (choice,) in texts]
    nested = plan_steps(make(several), lambda _: 8, reuse=True, overhead=32)
    assert [step.end is not None for step in nested.steps].count(True) == 101
    assert {step.end for step in nested.steps if step.prefix > 0} <= {None, 680}
    # A forward pass that costs more than it saves is not made.
    dear = plan_steps(make(several), lambda _: 8, reuse=True, overhead=512)
    assert [step.end is not None for step in dear.steps].count(True) == 1


def test_prefixes_nested_ever_deeper(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[1] * length + [2] for length in range(1, 300)]
    requests = make([(row, [3]) for row in rows])
    for deepest, saved in ((400, 20), (64, 1.5), (3, 1)):
        monkeypatch.setattr(prefix_tree, "_DEEPEST", deepest)
        plan = plan_steps(requests, lambda _: 4, reuse=True, overhead=5)
        found = read(plan, range(len(plan.steps)))
        spans = [found[first] for first, _ in plan.spans]
        assert spans == [(tuple(row), 3) for row in rows]
        assert plan.tokens < plan.plain_tokens / saved


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_processes_share_the_tokens(world_size: int) -> None:
    rng = random.Random(1)
    texts = []
    for size in (900, 100, 300):
        shots = [rng.randrange(50) for _ in range(size)]
        texts += [
            (shots + [rng.randrange(50) for _ in range(rng.randrange(20, 120))], [5])
            for _ in range(90)
        ]
    plan = plan_steps(make(texts), lambda _: 4, reuse=True, overhead=32)
    shares = [my_steps(plan, rank, world_size) for rank in range(world_size)]
    batches = [step for share in shares for step in share if plan.steps[step].end is None]
    assert sorted(batches) == [n for n, step in enumerate(plan.steps) if step.end is None]
    together: dict[int, tuple[Tokens, int]] = {}
    for share in shares:
        together |= read(plan, share)
    assert together == read(plan, range(len(plan.steps)))
    costs = [sum(plan.cost(plan.steps[step]) for step in share) for share in shares]
    # What one process more has to do again is the prefix in whose middle its share begins.
    assert max(costs) < sum(map(plan.cost, plan.steps)) / world_size + 900 + 4 * 120


def test_more_processes_than_batches() -> None:
    plan = plan_steps(make([([1, 2], [3])]), lambda _: 4, reuse=True)
    shares = [my_steps(plan, rank, 4) for rank in range(4)]
    assert sorted(map(len, shares)) == [0, 0, 0, 1]
