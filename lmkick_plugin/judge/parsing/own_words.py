# SPDX-License-Identifier: Apache-2.0
"""The part of a reply that is the judge's verdict: neither its thoughts nor the prompt's texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lmkick_plugin.judge.parsing.json_scores import find_json
from lmkick_plugin.judge.parsing.statements import is_heading, is_quotation, is_verdict
from lmkick_plugin.judge.parsing.text import (
    clean_lines,
    hide_echoes,
    plain_characters,
    sentences,
    unfenced,
)
from lmkick_plugin.judge.parsing.thoughts import count_ends, split_thoughts
from lmkick_plugin.judge.parsing.tokens import tokenize

__all__ = ["holds_end_of_thoughts", "read_cautiously", "read_verdict"]

_Scores = TypeVar("_Scores")


def read_verdict(reply: str, read: Callable[[str], _Scores | None]) -> _Scores | None:
    """Read the scores in a judge's own words.

    Texts that the judge repeats within the prompt's delimiters count for nothing. Thoughts end at
    the first closing tag that is not quoted. Where no opening tag stands before it:

    - a reply that begins with scores has no thoughts: the tag is text;
    - scores that stand in prose before the tag have to agree with those after it;
    - otherwise all before the tag is thoughts.

    Args:
        reply: The reply as it came.
        read: Reads the scores in one format out of a text; None where it holds none.

    Returns:
        The scores; None where there are none, or two readings that differ.
    """
    text = hide_echoes(plain_characters(reply))
    if find_json(unfenced(text))[0]:  # a tag in it is text
        return read(unfenced(text))
    parts = split_thoughts(text)
    if parts.before is None:
        return read(unfenced(parts.after))
    before = read(unfenced(parts.before))
    if before is not None and _begins_with_scores(parts.before):
        return before
    after = read(unfenced(parts.after))
    if before is None or after is None:
        return after if before is None else before
    return before if before == after else None


def read_cautiously(reply: str, read: Callable[[str], _Scores | None]) -> _Scores | None:
    """Read a reply to a prompt whose own texts hold a tag that ends thoughts.

    Any such tag in the reply may be repeated from those texts.

    Args:
        reply: As for :func:`read_verdict`.
        read: As for :func:`read_verdict`.

    Returns:
        The scores; None also where another choice of the tag that counts gives others.
    """
    found = read_verdict(reply, read)
    text = hide_echoes(plain_characters(reply))
    if found is None or not count_ends(text) or find_json(unfenced(text))[0]:
        return found
    parts = split_thoughts(text, last=True)
    readings = [parts.after]
    if parts.before is not None:
        if _begins_with_scores(parts.before):
            return found
        readings.append(text)  # no thoughts at all, and the tag a repeated one
    others = [read(unfenced(reading)) for reading in readings]
    return found if all(other in (None, found) for other in others) else None


def holds_end_of_thoughts(text: str) -> bool:
    """Whether a text holds a tag that ends thoughts, quoted or not."""
    return count_ends(plain_characters(text)) > 0


def _begins_with_scores(text: str) -> bool:
    """Whether the first line that is more than a heading consists of scores, or opens with them."""
    for line in clean_lines(unfenced(text)):
        tokens = tokenize(line)
        if not (is_heading(tokens) or is_quotation(tokens)):
            opening = [tokens, *(tokenize(one) for one in sentences(line)[:1])]
            return any(is_verdict([t for t in one if t.kind != "aspect"]) for one in opening)
    return False
