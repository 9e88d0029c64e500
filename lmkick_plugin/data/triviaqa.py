# SPDX-License-Identifier: Apache-2.0
"""TriviaQA: trivia questions, alone or with evidence.

References:
    Joshi et al., "TriviaQA: A Large Scale Distantly Supervised Challenge Dataset for Reading
    Comprehension", arXiv:1705.03551.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from lmkick_plugin.data.columns import TEXT, TEXTS, positive, table
from lmkick_plugin.data.sources import DataError, HubFiles, Origin, Source, locate

__all__ = [
    "CLOSED",
    "EVIDENCE_CHARS",
    "OPEN",
    "SOLVED",
    "TRAIN",
    "each_once",
    "evidence",
    "load_closed",
    "load_open",
    "load_released_closed",
    "load_released_open",
]

Row = Mapping[str, Any]

_REPOSITORY = "mandarjoshi/trivia_qa"
CLOSED = Source(
    "trivia_qa/nocontext_validation.jsonl",
    ("question", "question_id", "answer.normalized_aliases"),
    HubFiles(_REPOSITORY, "rc.nocontext/validation-*"),
)
OPEN = Source(
    "trivia_qa/rc_validation.jsonl",
    (
        "question",
        "question_id",
        "answer.normalized_aliases",
        "entity_pages.wiki_context",
        "search_results.search_context",
    ),
    HubFiles(_REPOSITORY, "rc/validation-*"),
)
TRAIN = Source(
    "trivia_qa/nocontext_train.jsonl",
    ("question", "question_id", "answer.value"),
    HubFiles(_REPOSITORY, "rc.nocontext/train-*"),
)
EVIDENCE_CHARS = 6_000
"""Length of the evidence."""
SOLVED = "Q: {}\nA: {}"
"""A question with its answer, as in the tasks' prompts."""
_RELEASED_CHARS = 3_072


def load_closed(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Validation questions with their normalised aliases, each ``question_id`` once."""
    return {"validation": _closed(locate(CLOSED, data_dir))}


def load_released_closed(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """All rows of the validation split, repeated questions included."""
    return {"validation": _released_closed(locate(CLOSED, data_dir))}


@lru_cache(maxsize=2)
def _closed(origin: Origin) -> Any:
    docs = (
        {**doc, "cluster": doc["question"]}
        for doc in (_question(row, where) for where, row in each_once(origin.rows()))
    )
    return table(docs, question=TEXT, aliases=TEXTS, cluster=TEXT)


@lru_cache(maxsize=2)
def _released_closed(origin: Origin) -> Any:
    docs = (_question(row, where) for where, row in origin.rows())
    return table(docs, question=TEXT, aliases=TEXTS)


def each_once(rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    """First row of every ``question_id``; on the Hub, questions have up to two rows."""
    seen = set()
    for where, row in rows:
        if row["question_id"] not in seen:
            seen.add(row["question_id"])
            yield where, row


def _question(row: Row, where: str) -> dict[str, Any]:
    aliases = row["answer"]["normalized_aliases"]
    if not isinstance(aliases, list):
        raise DataError(
            f"{where}: field 'answer.normalized_aliases' must be a list of texts, not "
            f"{aliases!r:.60}"
        )
    return {"question": row["question"], "aliases": aliases}


def load_open(
    *, data_dir: str | None = None, evidence_chars: object = EVIDENCE_CHARS, **_: Any
) -> dict[str, Any]:
    """Validation questions with the first Wikipedia page, then the first search result.

    Args:
        data_dir: the data directory.
        evidence_chars: the evidence is cut to so many characters, at a word's end.
        **_: other metadata.

    """
    limit = positive("evidence_chars", evidence_chars)
    return {"validation": _open(locate(OPEN, data_dir), limit)}


def load_released_open(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """All rows; page and search result joined, cut at 3,072 characters."""
    return {"validation": _released_open(locate(OPEN, data_dir))}


@lru_cache(maxsize=2)
def _open(origin: Origin, limit: int) -> Any:
    docs = (
        {
            **_question(row, where),
            "evidence": evidence(row, limit),
            "cluster": str(row["question_id"]),
        }
        for where, row in each_once(origin.rows())
    )
    return table(docs, question=TEXT, aliases=TEXTS, evidence=TEXT, cluster=TEXT)


@lru_cache(maxsize=2)
def _released_open(origin: Origin) -> Any:
    docs = (
        {**_question(row, where), "evidence": "".join(_texts(row))[:_RELEASED_CHARS]}
        for where, row in origin.rows()
    )
    return table(docs, question=TEXT, aliases=TEXTS, evidence=TEXT)


def evidence(row: Row, limit: int) -> str:
    """The first Wikipedia page and, after a blank line, the first search result of a row.

    Args:
        row: A row of :data:`OPEN`'s fields.
        limit: Characters at most; cut at a word's end.
    """
    return cut_at_word_end("\n\n".join(text.strip() for text in _texts(row) if text.strip()), limit)


def _texts(row: Row) -> list[str]:
    pages = row["entity_pages"]["wiki_context"] or []
    results = row["search_results"]["search_context"] or []
    return [*pages[:1], *results[:1]]


def cut_at_word_end(text: str, limit: int) -> str:
    """Longest prefix of at most ``limit`` characters that ends with a word.

    A first word that is longer than the limit is cut all the same.

    >>> cut_at_word_end("one two three", 9), cut_at_word_end("one two", 7)
    ('one two', 'one two')
    >>> cut_at_word_end("one two three", 7), cut_at_word_end("abc", 2)
    ('one two', 'ab')
    """
    if len(text) <= limit:
        return text
    head = text[:limit]
    if not (text[limit].isspace() or head[-1].isspace()):  # the cut falls inside a word
        whole = head.rsplit(None, 1)
        head = whole[0] if len(whole) == 2 else head
    return head.rstrip()
