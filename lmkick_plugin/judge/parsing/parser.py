# SPDX-License-Identifier: Apache-2.0
"""Read the scores out of a judge's reply, or say that there are none.

A wrong score is worse than none: it enters a mean unseen, while an unjudged item is counted and
shown. So where a reply allows two readings the answer is None. In order of trust:

1. a reply that *is* JSON is read as JSON and nothing else;
2. the first line, if it is a line of scores, as judges are asked for: nothing later overrides it,
   so an answer that is discussed or repeated further down cannot;
3. otherwise every statement of scores in the reply (``Assistant 1: 8/10``, ``the final scores are
   (10, 4)``, a closing tuple or pair), provided that they all agree.

Scores from 0 to 10 count as they are; 0 too, though judges are asked for 1 to 10.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lmkick_plugin.judge.parsing.aspects import aspect_rows
from lmkick_plugin.judge.parsing.json_scores import find_json, json_pair, json_single
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
    unwrap,
)
from lmkick_plugin.judge.parsing.tokens import Token, tokenize

__all__ = ["parse_aspect_grades", "parse_aspects", "parse_pair", "parse_single"]

_OPENING_END = re.compile(r"(?<=[.!?;])\s+(?=\S)|\s[-\u2013\u2014]\s+(?=[A-Z])")


def parse_pair(text: str) -> tuple[float, float] | None:
    """Read two overall scores, the first assistant's first.

    Args:
        text: A judge's reply.

    Returns:
        The two scores, each from 0 to 10; None where the reply holds no such pair, or several.
    """
    text = unwrap(text)
    found, value = find_json(text)
    if found:
        return json_pair(value)
    lines = clean_lines(text)
    tokens = [tokenize(line) for line in lines]
    first = _first_verdict(lines)
    if first is None:
        return _stated_pair(text, lines)
    position, pair = first
    if bare_pair(tokens[position]) and bare_pair([*tokens, []][position + 1]):
        return None  # a block of pairs: scores by aspect
    return pair


def parse_aspects(text: str) -> dict[str, tuple[float, float]] | None:
    """Read two scores for each of the four aspects of a summary.

    Args:
        text: A judge's reply: four lines of two numbers, named aspects in any order, a table, JSON.

    Returns:
        ``coherence``, ``consistency``, ``fluency`` and ``relevance`` with the first and the second
        assistant's score; None where one of the eight is missing, no score, or stated twice.
    """
    rows = aspect_rows(text, 2)
    return None if rows is None else {aspect: (row[0], row[1]) for aspect, row in rows.items()}


def parse_aspect_grades(text: str) -> dict[str, float] | None:
    """Read one score for each of the four aspects: a summary judged alone.

    Args:
        text: A judge's reply.

    Returns:
        The four scores, or None, as for :func:`parse_aspects`.
    """
    rows = aspect_rows(text, 1)
    return None if rows is None else {aspect: row[0] for aspect, row in rows.items()}


def parse_single(text: str) -> float | None:
    """Read the one overall score of an answer judged alone.

    Args:
        text: A judge's reply, such as ``8``, ``Rating: [[8]]`` or ``I rate this answer 8/10``.

    Returns:
        The score, from 0 to 10; None where the reply holds none, or several.
    """
    text = unwrap(text)
    found, value = find_json(text)
    if found:
        return json_single(value)
    lines = clean_lines(text)
    tokens = [tokenize(line) for line in lines]
    first = next((line for line in tokens if not (is_heading(line) or is_quotation(line))), [])
    if is_verdict(first):
        return _only_score(first)
    stated: set[float | None] = set()
    for line in lines:
        for sentence in map(tokenize, sentences(line)):
            if is_verdict(sentence) and is_cued(sentence):
                stated.add(_only_score(sentence))
    if lines and all(token.kind in ("mark", "score") for token in tokens[-1]):
        stated.add(_only_score(tokens[-1]) if _introduces(lines, len(lines) - 1) else None)
    return stated.pop() if len(stated) == 1 else None


def _only_score(tokens: Sequence[Token]) -> float | None:
    rest = [token for token in significant(tokens) if token.kind != "label"]
    return rest[0].values[0] if [token.kind for token in rest] == ["score"] else None


def _first_verdict(lines: Sequence[str]) -> tuple[int, Pair | None] | None:
    """The pair on the first line that is more than a heading, prose after it or not.

    Returns:
        The line's place and its pair, which is None for a verdict that cannot be read (``-1 11``,
        ``N/A``): then no other line is the verdict. None where the line is no verdict on both.
    """
    before: list[list[Token]] = []
    for position, line in enumerate(lines):
        tokens = tokenize(line)
        if is_heading(tokens) or is_quotation(tokens):
            before.append(tokens)
            continue
        whole = is_verdict(tokens)
        if not whole:
            tokens = tokenize(_OPENING_END.split(line)[0])
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


def _turned(pair: Pair | None, before: Sequence[Sequence[Token]]) -> Pair | None:
    """Mind a heading over the pair that names the second assistant first."""
    if pair is not None and before and is_reversed_heading(before[-1]):
        return pair[1], pair[0]
    return pair


def _stated_pair(text: str, lines: Sequence[str]) -> Pair | None:
    """The pair on which all statements of scores in the prose agree."""
    pairs: set[Pair] = set()
    given: dict[str, set[float]] = {"1": set(), "2": set()}
    section: str | None = None
    before: list[Token] = []
    for position, line in enumerate(lines):
        whole = tokenize(line)
        if is_heading(whole) and len(labels(whole)) == 1:
            section = labels(whole)[0]
        last = position == len(lines) - 1
        closes = last and bare_pair(whole) is not None and _introduces(lines, position)
        for sentence in map(tokenize, sentences(line)):
            pair = _sentence_pair(sentence, before, closes=closes)
            if pair is not None:
                pairs.add(pair)
            elif section and is_verdict(sentence) and is_cued(sentence) and not labels(sentence):
                score = _only_score(sentence)
                given[section] |= set() if score is None else {score}
            else:
                for label, score in label_scores(sentence):
                    given[label].add(score)
        before = whole
    pairs |= _fenced_pair(text)
    if given["1"] and given["2"]:
        pairs |= {(first, second) for first in given["1"] for second in given["2"]}
    if len(pairs) != 1:
        return None
    first, second = pairs.pop()
    return (first, second) if given["1"] <= {first} and given["2"] <= {second} else None


def _sentence_pair(
    tokens: Sequence[Token], before: Sequence[Token], *, closes: bool
) -> Pair | None:
    """Both scores, where one sentence states them: with labels, called scores, or as last line."""
    if not is_verdict(tokens):
        return None
    pair = labelled_pair(tokens)
    if pair is None and (is_cued(tokens) or closes):
        pair = _turned(bare_pair(tokens), [before])
    return pair


def _introduces(lines: Sequence[str], position: int) -> bool:
    """Whether bare numbers on a line can be the judge's: nothing else is announced before them."""
    lead = lines[position - 1] if position else ""
    return not lead.endswith((":", QUOTATION)) or is_heading(tokenize(lead))


def _fenced_pair(text: str) -> set[Pair]:
    """The pair in fenced code that ends the reply, if the words before it announce scores."""
    fence = closing_fence(text)
    if fence is None:
        return set()
    lead, content = tokenize(fence[0]), tokenize(fence[1])
    if not (is_verdict(content) and is_heading(lead) and (is_cued(lead) or is_cued(content))):
        return set()
    pair = labelled_pair(content) or bare_pair(content)
    return set() if pair is None else {pair}
