# SPDX-License-Identifier: Apache-2.0
"""Facts for the recall tasks: the same questions with choices, shots and evidence.

A fact is a question of TriviaQA's validation split that both of its files hold, or one of
FreebaseQA's eval split. The first 1,000 by SHA-256 of their identifier are asked, in that order, so
that ``--limit`` takes the same ones of every task.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lmkick_plugin.data import freebaseqa, triviaqa
from lmkick_plugin.data.columns import INTEGER, TEXT, TEXTS, positive, table
from lmkick_plugin.data.order import by_hash
from lmkick_plugin.data.sources import DataError, Origin, Source, locate
from lmkick_plugin.metrics.answers import contains, normalize_spelling

__all__ = ["FACTS", "Fact", "choices_of", "load", "load_freebase"]

_LOG = logging.getLogger(__name__)

FACTS = 1_000
_DISTRACTORS = 3
_COMPARED = 12  # names of an answer, when the usual one is looked for
_CLOSED = Source(
    triviaqa.CLOSED.file,
    (*triviaqa.CLOSED.fields, "answer.value", "answer.aliases"),
    triviaqa.CLOSED.remote,
)
_EVAL = Source(
    freebaseqa.EVAL.file, (*freebaseqa.EVAL.fields, "Question-ID"), freebaseqa.EVAL.remote
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A question and its answer.

    Attributes:
        name: Identifier.
        question: The question.
        answer: The answer as offered among choices.
        names: All the answer may be called, the offered form first.
    """

    name: str
    question: str
    answer: str
    names: tuple[str, ...]


def load(*, form: str, data_dir: str | None = None, **metadata: Any) -> dict[str, Any]:
    """Facts of TriviaQA, with what a form of question needs.

    Args:
        form: ``say``, ``choose``, ``read`` or ``rank``.
        data_dir: The data directory; None: as :func:`lmkick_plugin.data.sources.locate` says.
        **metadata: Other metadata; ``evidence_chars`` counts for ``read``.
    """
    closed, evidence = locate(_CLOSED, data_dir), locate(triviaqa.OPEN, data_dir)
    asked = _asked(closed, evidence)
    if form == "choose":
        return {"validation": _with_choices(asked, _triviaqa(closed))}
    if form == "read":
        limit = positive("evidence_chars", metadata.get("evidence_chars", triviaqa.EVIDENCE_CHARS))
        return {"validation": _with_evidence(asked, evidence, limit)}
    return {"validation": _plain(asked)}


def load_freebase(*, form: str, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Facts of FreebaseQA; without evidence."""
    everything = _freebaseqa(locate(_EVAL, data_dir))
    asked = tuple(sorted(everything, key=lambda fact: by_hash(fact.name))[:FACTS])
    docs = _with_choices(asked, everything) if form == "choose" else _plain(asked)
    return {"validation": docs}


@lru_cache(maxsize=2)
def _asked(closed: Origin, evidence: Origin) -> tuple[Fact, ...]:
    """First facts by hash whose question both files hold under one identifier."""
    there = {(str(row["question_id"]), row["question"]) for _, row in evidence.rows()}
    both = [fact for fact in _triviaqa(closed) if (fact.name, fact.question) in there]
    if not both:
        raise DataError(f"{closed} and {evidence} have no question in common")
    return tuple(sorted(both, key=lambda fact: by_hash(fact.name))[:FACTS])


@lru_cache(maxsize=2)
def _triviaqa(origin: Origin) -> tuple[Fact, ...]:
    found = []
    for where, row in triviaqa.each_once(origin.rows()):
        answer, aliases = row["answer"]["value"], row["answer"]["aliases"]
        if not isinstance(aliases, list) or not isinstance(answer, str):
            raise DataError(
                f"{where}: field 'answer' must hold a text and a list of texts, not "
                f"{answer!r:.60} and {aliases!r:.60}"
            )
        answer = _usual_name(list(dict.fromkeys([answer, *aliases]))[:_COMPARED])
        names = tuple(dict.fromkeys([answer, *aliases, *row["answer"]["normalized_aliases"]]))
        found.append(Fact(str(row["question_id"]), row["question"], answer, names))
    return tuple(found)


def _usual_name(names: Sequence[str]) -> str:
    """Name that shares most words with the others; on ties the first not in capitals.

    ``answer.value`` can be any of them, a title such as "ISO 3166-1:CH" for Switzerland as well.

    >>> _usual_name(["ISO 3166-1:CH", "SWITZERLAND", "Switzerland", "Swiss"])
    'Switzerland'
    """
    words = [frozenset(normalize_spelling(name).split()) for name in names]

    def shared(at: int) -> tuple[float, bool]:
        own = words[at]
        found = sum(len(own & other) / len(own | other) for other in words if own | other)
        return found, not names[at].isupper()

    return names[max(range(len(names)), key=shared)]


@lru_cache(maxsize=2)
def _freebaseqa(origin: Origin) -> tuple[Fact, ...]:
    found = []
    for where, row in origin.rows():
        names = tuple(freebaseqa.all_names(row, where))
        if names:
            found.append(Fact(str(row["Question-ID"]), row["RawQuestion"], names[0], names))
    return tuple(found)


def _row(fact: Fact) -> dict[str, Any]:
    return {"question": fact.question, "aliases": list(fact.names), "cluster": fact.name}


@lru_cache(maxsize=2)
def _plain(asked: tuple[Fact, ...]) -> Any:
    return table(map(_row, asked), question=TEXT, aliases=TEXTS, cluster=TEXT)


@lru_cache(maxsize=2)
def _with_choices(asked: tuple[Fact, ...], everything: tuple[Fact, ...]) -> Any:
    docs = []
    for fact, offered in zip(asked, choices_of(asked, everything), strict=True):
        docs.append({**_row(fact), "choices": offered, "answer": offered.index(fact.answer)})
    return table(docs, question=TEXT, aliases=TEXTS, cluster=TEXT, choices=TEXTS, answer=INTEGER)


@lru_cache(maxsize=2)
def _with_evidence(asked: tuple[Fact, ...], origin: Origin, limit: int) -> Any:
    facts = {fact.name: fact for fact in asked}
    found = {}
    for _, row in triviaqa.each_once(origin.rows()):
        fact = facts.get(str(row["question_id"]))
        if fact is not None:
            text = triviaqa.evidence(row, limit)
            if contains(text, fact.names):
                found[fact.name] = text
    left_out = len(asked) - len(found)
    if not found:
        raise DataError(f"{origin}: no evidence holds the answer to its question")
    if left_out:
        _LOG.warning(
            "%s: %d of %d questions are not asked with evidence because it does not hold the "
            "answer",
            origin,
            left_out,
            len(asked),
        )
    docs = ({**_row(fact), "evidence": found[fact.name]} for fact in asked if fact.name in found)
    return table(docs, question=TEXT, aliases=TEXTS, cluster=TEXT, evidence=TEXT)


# --- choices --------------------------------------------------------------------------------------

Kind = tuple[str, ...]


def choices_of(asked: Sequence[Fact], everything: Sequence[Fact]) -> list[list[str]]:
    """The answer and three answers of other questions of the same kind, for each fact.

    The same kind: the same question word, shape of the answer (year, number, person, place, other)
    and number of words; where there are too few such questions, shape and question word, then the
    shape, then any. Which of them is decided by the SHA-256 of identifiers. No distractor is a name
    of the answer, holds one or is held by one.

    Args:
        asked: The facts.
        everything: Whose answers are distractors.

    Raises:
        DataError: There are too few other answers.
    """
    by_kind: dict[Kind, list[Fact]] = {}
    for fact in sorted(everything, key=lambda fact: by_hash(fact.name)):
        for kind in _kinds(fact):
            by_kind.setdefault(kind, []).append(fact)
    return [_choices(fact, by_kind) for fact in asked]


def _choices(fact: Fact, by_kind: dict[Kind, list[Fact]]) -> list[str]:
    taken = [normalize_spelling(name) for name in fact.names]
    offered: list[str] = []
    number = int(by_hash(fact.name)[:8], 16)
    for candidate in _candidates(fact, by_kind, number):
        answer = normalize_spelling(candidate.answer)
        if answer and not any(_one_holds_the_other(answer, other) for other in taken):
            offered.append(candidate.answer)
            taken.append(answer)
            if len(offered) == _DISTRACTORS:
                offered.insert(number % (_DISTRACTORS + 1), fact.answer)
                return offered
    raise DataError(f"question {fact.name}: fewer than {_DISTRACTORS} other answers to choose from")


def _candidates(fact: Fact, by_kind: dict[Kind, list[Fact]], number: int) -> Iterator[Fact]:
    for kind in _kinds(fact):
        found = by_kind[kind]
        start = number % max(1, len(found))
        yield from found[start:]
        yield from found[:start]


def _one_holds_the_other(first: str, second: str) -> bool:
    first, second = f" {first} ", f" {second} "
    return first in second or second in first


_WORD = re.compile(r"\b(?:who|whose|whom|where|when|which|what|how)\b", re.IGNORECASE)
_YEAR = re.compile(r"1\d{3}|20\d\d")
_PLACE = re.compile(
    r"\b(?:which|what)\b[^,.]*?\b(?:city|town|village|country|state|county|province|region|island|"
    r"continent|capital|river|lake|sea|ocean|mountain|street|airport)\b",
    re.IGNORECASE,
)
_NUMBERS = frozenset(
    normalize_spelling(
        "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty "
        "fifty hundred thousand million billion"
    ).split()
)


def _kinds(fact: Fact) -> tuple[Kind, ...]:
    """Kinds of a fact, narrowest first."""
    match = _WORD.search(fact.question)
    word = match[0].lower() if match else ""
    shape = _shape(fact, word)
    length = str(min(len(fact.answer.split()), 3))
    return (word, shape, length), (word, shape), (shape,), ()


def _shape(fact: Fact, word: str) -> str:
    if _YEAR.fullmatch(fact.answer.strip()):
        return "year"
    words = normalize_spelling(fact.answer).split()
    if any(one in _NUMBERS or one[0].isdigit() for one in words):
        return "number"
    if word in ("who", "whose", "whom"):
        return "person"
    if word == "where" or _PLACE.search(fact.question):
        return "place"
    return "other"
