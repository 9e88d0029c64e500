# SPDX-License-Identifier: Apache-2.0
"""Solved examples for few-shot prompts: the first questions of a train split by hash."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import NamedTuple

from lmkick_plugin.data import freebaseqa, triviaqa
from lmkick_plugin.data.order import by_hash
from lmkick_plugin.data.sources import DataError, Origin, locate

__all__ = ["Shot", "freebaseqa_shots", "triviaqa_shots"]


class Shot(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


def triviaqa_shots(count: int, data_dir: str | None, asked: Collection[str]) -> list[Shot]:
    """TriviaQA's first train questions by SHA-256 of ``question_id``, with ``answer.value``.

    Args:
        count: How many.
        data_dir: The data directory; None: as :func:`lmkick_plugin.data.sources.locate` says.
        asked: Questions that are scored; they are left out.

    Raises:
        DataError: There are fewer.
    """
    return _first(locate(triviaqa.TRAIN, data_dir), count, frozenset(map(_key, asked)))


def freebaseqa_shots(count: int, data_dir: str | None, asked: Collection[str]) -> list[Shot]:
    """FreebaseQA's, by SHA-256 of ``Question-ID``, with the first name of the first parse."""
    return _first(locate(freebaseqa.SHOTS, data_dir), count, frozenset(map(_key, asked)))


@lru_cache(maxsize=8)
def _first(origin: Origin, count: int, asked: frozenset[str]) -> list[Shot]:
    read = _triviaqa if origin.source is triviaqa.TRAIN else _freebaseqa
    found: dict[str, Shot] = {}
    for name, shot in read(origin):
        if _key(shot.question) not in asked:
            found.setdefault(name, shot)
    if len(found) < count:
        raise DataError(f"{origin}: only {len(found)} unscored questions for num_fewshot={count}")
    return [found[name] for name in heapq.nsmallest(count, found, key=by_hash)]


def _triviaqa(origin: Origin) -> Iterator[tuple[str, Shot]]:
    for _, row in origin.rows():
        yield str(row["question_id"]), Shot(row["question"], row["answer"]["value"])


def _freebaseqa(origin: Origin) -> Iterator[tuple[str, Shot]]:
    for where, row in origin.rows():
        names = freebaseqa.first_answer(row, where)
        if names:
            yield str(row["Question-ID"]), Shot(row["RawQuestion"], names[0])


def _key(question: str) -> str:
    return " ".join(question.split()).casefold()
