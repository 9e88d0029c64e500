# SPDX-License-Identifier: Apache-2.0
"""Scores of a judge's reply, or the reason why it has none.

A wrong score is worse than none: it enters a mean unseen, while an unjudged item is counted and
shown. So where a reply allows two readings the answer is None. In order of trust:

1. a reply that *is* JSON is read as JSON and nothing else;
2. the first line, if it is a line of scores, as judges are asked for: nothing later overrides it,
   so an answer that is discussed or repeated further down cannot;
3. otherwise the first complete statement of scores in the judge's own words (``Assistant 1: 8/10``
   and the same for the other, ``the final scores are (10, 4)``, a closing tuple or pair). One
   overall score (``Rating: [[8]]``) has to be the only one stated.

Thoughts and echoes of the prompt are taken off before (:mod:`.own_words`).

Scores from 0 to 10 count as they are; 0 too, though judges are asked for 1 to 10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lmkick_plugin.judge.parsing.aspects import aspect_rows
from lmkick_plugin.judge.parsing.json_scores import find_json, json_pair, json_single
from lmkick_plugin.judge.parsing.own_words import read_verdict
from lmkick_plugin.judge.parsing.statements import (
    Pair,
    bare_pair,
    is_cued,
    is_heading,
    is_quotation,
    is_reversed_heading,
    is_verdict,
    label_scores,
    labelled_pair,
    labels,
    significant,
)
from lmkick_plugin.judge.parsing.text import (
    QUOTATION,
    clean_lines,
    closing_fence,
    sentences,
)
from lmkick_plugin.judge.parsing.tokens import Token, may_hold_scores, tokenize

__all__ = [
    "parse_aspect_grades",
    "parse_aspects",
    "parse_pair",
    "parse_single",
    "read_aspect_grades",
    "read_aspects",
    "read_pair",
    "read_single",
]

_OPENING_END = re.compile(r"(?<=[.!?;])\s+(?=\S)|\s[-\u2013\u2014]\s+(?=[A-Z])")


_NAMES_SCORES = re.compile(r"[^\W\d_]|/")  # a word for scores or assistants, or a scale: 8/10


def parse_pair(text: str) -> tuple[float, float] | None:
    """Read two overall scores, the first assistant's first.

    Args:
        text: A judge's reply.

    Returns:
        The two scores, each from 0 to 10; None where the reply holds no such pair.
    """
    return read_verdict(text, read_pair)


def parse_aspects(text: str) -> dict[str, tuple[float, float]] | None:
    """Read two scores for each of the four aspects of a summary.

    Args:
        text: A judge's reply: four lines of two numbers, named aspects in any order, a table, JSON.

    Returns:
        ``coherence``, ``consistency``, ``fluency`` and ``relevance`` with the first and the second
        assistant's score; None where one of the eight is missing, no score, or stated twice before
        all are there.
    """
    return read_verdict(text, read_aspects)


def parse_aspect_grades(text: str) -> dict[str, float] | None:
    """Read one score for each of the four aspects: a summary judged alone.

    Args:
        text: A judge's reply.

    Returns:
        The four scores, or None, as for :func:`parse_aspects`.
    """
    return read_verdict(text, read_aspect_grades)


def parse_single(text: str) -> float | None:
    """Read the one overall score of an answer judged alone.

    Args:
        text: A judge's reply, such as ``8``, ``Rating: [[8]]`` or ``I rate this answer 8/10``.

    Returns:
        The score, from 0 to 10; None where the reply holds none, or several.
    """
    return read_verdict(text, read_single)


def read_pair(text: str) -> Pair | None:
    """Read as :func:`parse_pair` does, in a text without thoughts."""
    found, value = find_json(text)
    if found:
        return json_pair(value)
    lines = clean_lines(text)
    first = _first_verdict(lines)
    if first is None:
        return _stated_pair(text, lines)
    position, pair = first
    following = tokenize(lines[position + 1]) if position + 1 < len(lines) else []
    if bare_pair(tokenize(lines[position])) and bare_pair(following):
        return None  # a block of pairs: scores by aspect
    return pair


def read_aspects(text: str) -> dict[str, tuple[float, float]] | None:
    """Read as :func:`parse_aspects` does, in a text without thoughts."""
    rows = aspect_rows(text, 2)
    return None if rows is None else {aspect: (row[0], row[1]) for aspect, row in rows.items()}


def read_aspect_grades(text: str) -> dict[str, float] | None:
    """Read as :func:`parse_aspect_grades` does, in a text without thoughts."""
    rows = aspect_rows(text, 1)
    return None if rows is None else {aspect: row[0] for aspect, row in rows.items()}


def read_single(text: str) -> float | None:
    """Read as :func:`parse_single` does, in a text without thoughts."""
    found, value = find_json(text)
    if found:
        return json_single(value)
    lines = clean_lines(text)
    tokens = map(tokenize, lines)
    first = next((line for line in tokens if not (is_heading(line) or is_quotation(line))), ())
    if is_verdict(first):
        return _only_score(first)
    stated: set[float | None] = set()
    for line in lines:
        if not may_hold_scores(line):
            continue
        for sentence in map(tokenize, sentences(line)):
            if is_verdict(sentence) and is_cued(sentence):
                stated.add(_only_score(sentence))
    closing = tokenize(lines[-1]) if lines else ()
    if lines and all(token.kind in ("mark", "score") for token in closing):
        stated.add(_only_score(closing) if _introduces(lines, len(lines) - 1) else None)
    return stated.pop() if len(stated) == 1 else None


def _only_score(tokens: Sequence[Token]) -> float | None:
    rest = [token for token in significant(tokens) if token.kind != "label"]
    return rest[0].values[0] if [token.kind for token in rest] == ["score"] else None


def _first_verdict(lines: Sequence[str]) -> tuple[int, Pair | None] | None:
    """The pair on the first line that is more than a heading, prose after it or not.

    Returns:
        The line's place and its pair, which is None for a verdict that cannot be read (``-1 11``,
        ``N/A``): then no other line is the verdict. None where the line is not a verdict on both.
    """
    before: Sequence[Token] = ()
    for position, line in enumerate(lines):
        tokens = tokenize(line)
        if is_heading(tokens) or is_quotation(tokens):
            before = tokens
            continue
        whole = is_verdict(tokens)
        if not whole:
            tokens = tokenize(_OPENING_END.split(line, maxsplit=1)[0])
        kinds = [token.kind for token in significant(tokens)]
        readable = "bad" not in kinds and "comma" not in kinds
        if not is_verdict(tokens) or kinds == ["score"]:
            return None
        if kinds.count("label") == 1 and readable:
            return None
        labelled = "label" in kinds
        pair = labelled_pair(tokens) if labelled else _turned(bare_pair(tokens), before)
        return (position, pair) if whole or pair else None
    return None


def _turned(pair: Pair | None, before: Sequence[Token]) -> Pair | None:
    """Mind a heading over the pair that names the second assistant first."""
    if pair is not None and before and is_reversed_heading(before):
        return pair[1], pair[0]
    return pair


def _stated_pair(text: str, lines: Sequence[str]) -> Pair | None:
    """The first pair that prose states, in one sentence or in one for each assistant."""
    given: dict[str, set[float]] = {"1": set(), "2": set()}
    section: str | None = None
    before: Sequence[Token] = ()
    for position, line in enumerate(lines):
        whole = tokenize(line)
        if is_heading(whole) and len(labels(whole)) == 1:
            section = labels(whole)[0]
        closes = (
            position == len(lines) - 1
            and bare_pair(whole) is not None
            and _introduces(lines, position)
        )
        states = may_hold_scores(line) and (closes or _NAMES_SCORES.search(line))
        for sentence in map(tokenize, sentences(line) if states else ()):
            pair = _sentence_pair(sentence, before, closes=closes)
            if pair is not None:
                return _undisputed(pair, given, lines[position : position + 2])
            if section and is_verdict(sentence) and is_cued(sentence) and not labels(sentence):
                score = _only_score(sentence)
                given[section] |= set() if score is None else {score}
            else:
                for label, score in label_scores(sentence):
                    given[label].add(score)
            if given["1"] and given["2"]:
                pair = next(iter(given["1"])), next(iter(given["2"]))
                return _undisputed(pair, given, lines[position : position + 2])
        before = whole
    fenced = _fenced_pair(text)
    return None if fenced is None else _undisputed(fenced, given, ())


def _undisputed(pair: Pair, given: Mapping[str, set[float]], lines: Sequence[str]) -> Pair | None:
    """The pair, unless single scores before it or the line right after it say otherwise.

    Args:
        pair: The first complete one.
        given: What single assistants were given up to there.
        lines: The line that completes the pair, and the next one if there is one.
    """
    if not (given["1"] <= {pair[0]} and given["2"] <= {pair[1]}):
        return None
    own, following = (*map(tokenize, lines), (), ())[:2]
    other = _sentence_pair(following, own, closes=True)
    return pair if other in (None, pair) else None


def _sentence_pair(
    tokens: Sequence[Token], before: Sequence[Token], *, closes: bool
) -> Pair | None:
    """Both scores, where one sentence states them: with labels, called scores, or as last line."""
    if not is_verdict(tokens):
        return None
    pair = labelled_pair(tokens)
    if pair is None and (is_cued(tokens) or closes):
        pair = _turned(bare_pair(tokens), before)
    return pair


def _introduces(lines: Sequence[str], position: int) -> bool:
    """Whether bare numbers on a line can be the judge's: nothing else is announced before them."""
    lead = lines[position - 1] if position else ""
    return not lead.endswith((":", QUOTATION)) or is_heading(tokenize(lead))


def _fenced_pair(text: str) -> Pair | None:
    """The pair in fenced code that ends the reply, if the words before it announce scores."""
    fence = closing_fence(text)
    if fence is None:
        return None
    lead, content = tokenize(fence[0]), tokenize(fence[1])
    if not (is_verdict(content) and is_heading(lead) and (is_cued(lead) or is_cued(content))):
        return None
    return labelled_pair(content) or bare_pair(content)
