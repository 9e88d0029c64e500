# SPDX-License-Identifier: Apache-2.0
"""The running batch: rows join and leave, memory runs out, answers equal those of a batch of one.

The model here is a function of a row's own tokens, which it reads from the cache, the mask and the
positions: whatever is mixed up between rows or columns changes the next token.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmkick_plugin.inference import batch_cache, continuous_batching
from lmkick_plugin.inference.batch_cache import RowCache
from lmkick_plugin.inference.batch_sizes import BatchSize
from lmkick_plugin.inference.continuous_batching import Answer, DecodingModel, decode
from lmkick_plugin.inference.sampling import sampling_of

VOCABULARY = 11
END = 0


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes its time, and changes nothing here."""
    monkeypatch.setattr(continuous_batching, "give_back_memory", lambda: None)


class NoStops:
    """Ends an answer where two equal tokens follow each other."""

    def reached(self, generated: list[int]) -> bool:
        return len(generated) > 1 and generated[-1] == generated[-2]


def following(tokens: list[int]) -> int:
    """The next token of a text: depends on every token and its place."""
    value = 7
    for place, token in enumerate(tokens):
        value = (value * 31 + token * (place + 3)) % 1009
    return value % VOCABULARY


def scores_after(tokens: list[int]) -> Tensor:
    scores = torch.zeros(VOCABULARY)
    scores[following(tokens)] = 1
    return scores


def drawn(scores: Tensor, number: float) -> int:
    """The token in whose part of [0, 1) a number lies."""
    end = 0.0
    for token, share in enumerate(scores.softmax(dim=0).tolist()):
        end += share
        if number < end:
            return token
    return VOCABULARY - 1


def alone(answer: Answer) -> list[int]:
    """The plain loop."""
    text: list[int] = []
    stops = NoStops()
    while len(text) < answer.limit:
        scores = scores_after(answer.prompt + text)
        if answer.sampling is None:
            text.append(int(scores.argmax()))
        else:
            text.append(
                drawn(answer.sampling.warp(None, scores), answer.sampling.numbers[len(text)])
            )
        if text[-1] in answer.ends or stops.reached(text):
            break
    return text


class Reader:
    """A model of two layers that keeps its tokens as keys, and their places as values."""

    def __init__(self, fails: Callable[[int, int], bool] = lambda *_: False) -> None:
        self.fails = fails
        self.calls: list[tuple[int, int]] = []

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: RowCache,
        **_: Any,
    ) -> Any:
        rows, columns = input_ids.shape
        self.calls.append((rows, columns))
        keys, places = input_ids[:, None, :, None].double(), position_ids[:, None, :, None].double()
        past_key_values.update(keys, places, 0)
        if self.fails(len(self.calls), rows):  # one layer has taken the step, the other has not
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        seen, where = past_key_values.update(keys, places, 1)
        logits = torch.zeros(rows, columns, VOCABULARY)
        for row in range(rows):
            kept = torch.ones(seen.shape[2], dtype=torch.bool)
            if attention_mask is not None:
                assert attention_mask.shape == (rows, seen.shape[2])
                kept = attention_mask[row].bool()
            tokens = seen[row, 0, kept, 0].long().tolist()
            assert where[row, 0, kept, 0].long().tolist() == list(range(len(tokens)))
            logits[row, -1] = scores_after(tokens)
        return SimpleNamespace(logits=logits)


def model_of(reader: Reader, shares: bool = True) -> DecodingModel:
    return DecodingModel(
        forward=reader,
        device=torch.device("cpu"),
        layers=2,
        takes_positions=True,
        shares_prefixes=shares,
        extra={},
    )


def answer_all(answers: list[Answer], rows: int, reader: Reader, **how: Any) -> list[list[int]]:
    """Answers in the order in which they were asked; each exactly once."""
    size = BatchSize(rows, "generation", **how)
    done = list(decode(model_of(reader), answers, size))
    assert sorted(map(id, done)) == sorted(map(id, answers))
    return [answer.generated for answer in answers]


def flat(_tokens: Tensor | None, scores: Tensor) -> Tensor:
    return scores / 2


def sampled(prompt: list[int], limit: int, sample: int) -> Answer:
    sampling = sampling_of(flat, repr(prompt), sample, limit)
    return Answer(prompt, limit, frozenset({END}), NoStops(), sampling)  # type: ignore[arg-type]


prompts = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=12)
answers_strategy = st.lists(
    st.one_of(
        st.builds(
            lambda prompt, limit: Answer(prompt, limit, frozenset({END}), NoStops()),  # type: ignore[arg-type]
            prompts,
            st.integers(1, 30),
        ),
        st.builds(
            sampled, st.one_of(prompts, st.just([1, 2, 3])), st.integers(1, 30), st.integers(0, 9)
        ),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(answers_strategy, st.integers(1, 8))
def test_every_answer_is_as_if_alone(answers: list[Answer], rows: int) -> None:
    reader = Reader()
    assert answer_all(answers, rows, reader) == [alone(answer) for answer in answers]
    assert max(count for count, _ in reader.calls) <= rows


@settings(max_examples=25, deadline=None)
@given(answers_strategy, st.integers(2, 8), st.sets(st.integers(1, 60), max_size=6), st.booleans())
def test_running_out_of_memory_loses_nothing(
    answers: list[Answer], rows: int, when: set[int], automatic: bool
) -> None:
    reader = Reader(lambda call, count: call in when and count > 1)
    found = answer_all(answers, rows, reader, automatic=automatic)
    assert found == [alone(answer) for answer in answers]


def some_answers(count: int = 12) -> list[Answer]:
    return [
        Answer([1 + number % 5, 2 + number % 7, 1 + number % 3], 4 + number, frozenset({END}),
               NoStops())  # type: ignore[arg-type]
        for number in range(count)
    ]  # fmt: skip


def test_finished_rows_leave_and_others_enter() -> None:
    reader = Reader()
    answers = some_answers()
    texts = answer_all(answers, 4, reader)
    assert len(set(map(len, texts))) > 2  # else there is nothing to leave early
    one_after_the_other = sum(max(map(len, texts[at : at + 4])) for at in range(0, len(texts), 4))
    steps = sum(1 for _, columns in reader.calls if columns == 1)
    assert steps < one_after_the_other
    assert sum(rows for rows, columns in reader.calls if columns == 1) == sum(
        len(text) - 1 for text in texts
    )


def test_memory_that_runs_out_while_rows_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    join, left = RowCache.join, [2]

    def failing(self: RowCache, other: RowCache) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        join(self, other)

    monkeypatch.setattr(RowCache, "join", failing)
    answers = some_answers()
    assert answer_all(answers, 4, Reader()) == [alone(answer) for answer in answers]
    assert left == [0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(1, 9)), min_size=2,
             max_size=14),
    st.integers(1, 8),
    st.integers(0, 40),
)  # fmt: skip
def test_what_prompts_share_is_read_once(
    kinds: list[tuple[int, int, int]], rows: int, worth: int
) -> None:
    """Three beginnings, of which parts are equal; prompts that are beginnings of others."""
    beginnings = ([1, 2, 3, 4, 5, 6, 7, 8] * 3, [1, 2, 3, 4, 5, 6, 7, 8] * 2 + [9] * 6, [7] * 20)
    answers = [
        Answer(
            [*beginnings[kind], *range(1, own + 1)],
            limit,
            frozenset({END}),
            NoStops(),  # type: ignore[arg-type]
        )
        for kind, own, limit in kinds
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous_batching, "WORTH_TOKENS", worth)
        assert answer_all(answers, rows, Reader()) == [alone(answer) for answer in answers]


def test_a_shared_beginning_costs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous_batching, "WORTH_TOKENS", 60)
    beginning = [1 + at % 9 for at in range(50)]
    answers = [
        Answer([*beginning, 1 + n % 10, 1 + n % 7][: 51 + n % 2], 3, frozenset(), NoStops())  # type: ignore[arg-type]
        for n in range(20)
    ]
    counted = [model_of(Reader(), shares) for shares in (True, False)]
    for model in counted:
        for answer in answers:
            answer.generated, answer.complete = [], False
        list(decode(model, answers, BatchSize(4, "generation")))
        assert [answer.generated for answer in answers] == [alone(answer) for answer in answers]
    assert counted[0].counts.tokens < counted[1].counts.tokens / 5


def test_samples_of_a_prompt_read_it_once() -> None:
    prompts = [[1 + (n + at) % 10 for at in range(30 + n)] for n in range(6)]
    answers = [sampled(prompt, 8, sample) for prompt in prompts for sample in range(10)]
    reader = Reader()
    found = answer_all(answers, 20, reader)
    assert found == [alone(answer) for answer in answers]
    assert all(len({*map(tuple, found[at : at + 10])}) > 1 for at in range(0, 60, 10))
    read = sum(rows * columns for rows, columns in reader.calls if columns > 1)
    assert read <= 1.1 * sum(map(len, prompts))  # with padding; a tenth of all samples' prompts


def test_memory_holds_one_batch_and_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch of ``hf`` grows to, with a little room, and what rows have in common."""
    rows, room, beginning = 6, 4, [1 + at % 9 for at in range(40)]
    answers = [
        Answer([*beginning, 1 + n % 10, 1 + n % 7], 5 + n % 16, frozenset({END}), NoStops())  # type: ignore[arg-type]
        for n in range(40)
    ]
    monkeypatch.setattr(continuous_batching, "WORTH_TOKENS", 60)
    monkeypatch.setattr(batch_cache, "_MOST_ROOM", room)
    caches: weakref.WeakSet[RowCache] = weakref.WeakSet()
    begin = RowCache.__init__

    def noting(cache: RowCache, layers: int, coming: int) -> None:
        begin(cache, layers, coming)
        caches.add(cache)

    monkeypatch.setattr(RowCache, "__init__", noting)
    held: list[int] = []

    class Measured(Reader):
        def __call__(self, **how: Any) -> Any:
            output = super().__call__(**how)
            buffers = [buffer for cache in caches for buffer in cache._parts[1]._buffers[:1]]
            held.append(sum(buffer.shape[0] * buffer.shape[2] for buffer in buffers))
            return output

    assert answer_all(answers, rows, Measured()) == [alone(answer) for answer in answers]
    longest = max(answer.longest for answer in answers)
    assert rows * longest / 2 < max(held) <= rows * (longest + room) + len(beginning)


def test_a_row_that_fits_only_without_what_it_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(continuous_batching, "WORTH_TOKENS", 10)
    monkeypatch.setattr(RowCache, "repeat", failing)
    for answer in (answers := some_answers()):
        answer.prompt = [1, 2, 3, 4, 5, 6, 7, 8, *answer.prompt]
    assert answer_all(answers, 4, reader := Reader()) == [alone(answer) for answer in answers]
    assert (1, 8) in reader.calls  # what is shared has been read


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        answer_all(some_answers(), 4, Reader(lambda *_: True))


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def broken(_call: int, _rows: int) -> bool:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    reader = Reader(broken)
    with pytest.raises(RuntimeError, match="shapes"):
        answer_all(some_answers(), 4, reader)
    assert len(reader.calls) == 1


def test_the_limit_that_was_found_is_kept() -> None:
    reader = Reader(lambda _, rows: rows > 3)
    answers = some_answers(40)
    assert answer_all(answers, 16, reader) == [alone(answer) for answer in answers]
    failed = [rows for rows, _ in reader.calls if rows > 3]
    assert len(failed) <= 4  # 16, 8, 4: not at every step
