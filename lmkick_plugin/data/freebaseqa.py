# SPDX-License-Identifier: Apache-2.0
"""FreebaseQA: trivia questions with the names of Freebase entities as answers.

References:
    Jiang et al., "FreebaseQA: A New Factoid QA Data Set Matching Trivia-Style Question-Answer Pairs
    with Freebase", NAACL 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

from lmkick_plugin.data.columns import TEXT, TEXTS, table
from lmkick_plugin.data.sources import DataError, Origin, Source, WebFile, locate

__all__ = [
    "EVAL",
    "RELEASED_QUESTIONS",
    "SHOTS",
    "SOLVED",
    "TRAIN",
    "all_names",
    "first_answer",
    "load",
    "load_released",
]

_FOLDER = "https://raw.githubusercontent.com/kelvin-jiang/FreebaseQA/master"
_FIELDS = ("RawQuestion", "Parses")
EVAL = Source(
    "freebase_qa/eval.jsonl",
    _FIELDS,
    WebFile(f"{_FOLDER}/FreebaseQA-eval.json", rows=3_996, field="Questions"),
)
TRAIN = Source(
    "freebase_qa/train.jsonl",
    _FIELDS,
    WebFile(f"{_FOLDER}/FreebaseQA-train.json", rows=20_358, field="Questions"),
)
SHOTS = replace(TRAIN, fields=(*_FIELDS, "Question-ID"))
"""The train split, for examples: these are chosen by their identifier."""

RELEASED_QUESTIONS = 1_001
SOLVED = "Please give answer to this question: {}\nThe answer is {}"
"""A question with its answer, as in the task's prompt."""


def load(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """The eval split: every question with the names of every answer of every parse."""
    return {"eval": _questions(locate(EVAL, data_dir))}


@lru_cache(maxsize=2)
def _questions(origin: Origin) -> Any:
    docs = []
    for where, row in origin.rows():
        aliases = all_names(row, where)
        if not aliases:
            raise DataError(f"{where}: field 'Parses' is empty, so the question has no answer")
        docs.append({"question": row["RawQuestion"], "aliases": aliases})
    return table(docs, question=TEXT, aliases=TEXTS)


def load_released(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """The first 1,001 of the train split, with the names of the first parse's first answer."""
    return {"train": _released(locate(TRAIN, data_dir))}


@lru_cache(maxsize=2)
def _released(origin: Origin) -> Any:
    docs = []
    for where, row in islice(origin.rows(), RELEASED_QUESTIONS):
        prompt = f"Please give answer to this question: {row['RawQuestion']}\nThe answer is "
        docs.append({"prompt": prompt, "aliases": first_answer(row, where)})
    return table(docs, prompt=TEXT, aliases=TEXTS)


def all_names(row: Mapping[str, Any], where: str) -> list[str]:
    """Names of every answer of every parse, each once."""
    names = [name for answers in _answers(row, where) for name in _names(answers, where)]
    return list(dict.fromkeys(names))


def first_answer(row: Mapping[str, Any], where: str) -> list[str]:
    """The names of the first parse's first answer."""
    first = [answer for answers in _answers(row, where)[:1] for answer in answers[:1]]
    return _names(first, where)


def _answers(row: Mapping[str, Any], where: str) -> list[Any]:
    """The answers of each parse."""
    try:
        return [parse["Answers"] for parse in row["Parses"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where}: field 'Parses' must be a list of parses with Answers, not "
            f"{row['Parses']!r:.60}"
        ) from error


def _names(answers: Iterable[Mapping[str, Any]], where: str) -> list[str]:
    try:
        return [str(name) for answer in answers for name in answer["AnswersName"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: each of the Answers must have a list AnswersName") from error
