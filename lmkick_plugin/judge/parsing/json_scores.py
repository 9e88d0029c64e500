# SPDX-License-Identifier: Apache-2.0
"""Scores in replies that are JSON: structured output, and what judges of other schemas write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lmkick_plugin.judge.parsing.text import fences
from lmkick_plugin.judge.parsing.tokens import ASPECT_WORDS, ASPECTS

__all__ = ["find_json", "json_aspect_rows", "json_pair", "json_single"]

_FIRST = {"1", "one", "first", "a"}
_SECOND = {"2", "two", "second", "b"}
_BESIDE_IDENTITY = {"assistant", "answer", "response", "summary", "model", "candidate", "the", "ai"}
_BESIDE_IDENTITY |= {"score", "rating", "grade", "for", "of", "overall", "final"}
_CONTAINERS = {"scores", "score", "ratings", "rating", "grades", "result", "evaluation", "verdict"}
_CONTAINERS |= {"final", "overall"}
_SINGLE = {"score", "rating", "grade", "value", "overall", "overallscore", "overallrating"}
_SINGLE |= {"finalscore"}
_NUMBER = re.compile(r"(?:0|[1-9]\d?)(?:\.\d+)?(?:\s*/\s*10)?")


class _AmbiguousError(ValueError):
    """A key that occurs twice in one object: it is not known which value counts."""


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(items)
    if len(out) != len(items):
        raise _AmbiguousError
    return out


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def find_json(text: str) -> tuple[bool, Any]:
    """Find the JSON that a reply consists of, or begins with, or holds between words only.

    Args:
        text: The reply.

    Returns:
        Whether the reply is JSON, and its value. The value is None where it cannot be trusted (a
        key twice in one object, an object that breaks off): no score is read out of the text in it.
    """
    text = text.strip()
    if not text.startswith(("{", "[")):
        text = _only_fence(text)
        if not text.startswith("{"):
            return False, None
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        return re.match(r'\{\s*"', text) is not None, None
    except (ValueError, RecursionError):  # a key twice, too many digits, too deep
        return True, None
    return end == len(text) or isinstance(value, dict), value


def _only_fence(text: str) -> str:
    """The content of the one fence of a reply that has no number outside it; else nothing."""
    if "```" not in text:
        return ""
    lines = text.split("\n")
    blocks = fences(lines)
    if len(blocks) != 1 or blocks[0][1] == len(lines):
        return ""
    start, end = blocks[0]
    outside = "\n".join([*lines[:start], *lines[end + 1 :]])
    named = lines[start].strip(" \t`").lower()
    if named not in ("", "json") or re.search(r"\d", outside):
        return ""
    return "\n".join(lines[start + 1 : end]).strip()


def _score(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value.split("/")[0])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        return None
    return float(value)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _who(name: str) -> int | None:
    """Which assistant a key names: 1, 2 or None."""
    parts = re.findall(r"[a-z]+|\d+", name.lower())
    identities = [part for part in parts if part in _FIRST | _SECOND]
    if len(identities) != 1 or not set(parts) <= _BESIDE_IDENTITY | set(identities):
        return None
    return 1 if identities[0] in _FIRST else 2


def _inner(value: Any) -> Any:
    """The score inside an object such as ``{"score": 8, "explanation": "..."}``."""
    if not isinstance(value, dict):
        return value
    found = [item for name, item in value.items() if _key(name) in _SINGLE]
    return found[0] if len(found) == 1 else None


def _contained(value: dict[str, Any]) -> Iterator[Any]:
    """Values of the object under a name for scores."""
    for name, item in value.items():
        if _key(name) in _CONTAINERS and isinstance(item, dict | list):
            yield item


def _unnested(value: Any) -> Any:
    """The content of doubled brackets, as in ``[[8]]``."""
    nested = isinstance(value, list) and len(value) == 1 and isinstance(value[0], list)
    return value[0] if nested else value


def _couple(first: Any, second: Any) -> tuple[float, float] | None:
    one, two = _score(first), _score(second)
    return None if one is None or two is None else (one, two)


def _pairs(value: Any, depth: int = 0) -> Iterator[tuple[float, float] | None]:
    """Every pair of scores that an object states; None for one that is not a pair of scores."""
    if isinstance(value, list):
        if len(value) == 2:
            yield _couple(value[0], value[1])
    elif isinstance(value, dict):
        sides = [(who, _inner(item)) for name, item in value.items() if (who := _who(name))]
        if sides:
            order = sorted(sides, key=lambda side: side[0])
            both = [who for who, _ in order] == [1, 2]
            yield _couple(order[0][1], order[1][1]) if both else None
        for item in _contained(value) if depth < 2 else ():
            yield from _pairs(item, depth + 1)


def json_pair(value: Any) -> tuple[float, float] | None:
    """Read two scores: ``{"assistant_1": 8, "assistant_2": 7}``, ``{"scores": [8, 7]}`` and so on.

    Args:
        value: A decoded reply.

    Returns:
        The pair; None where there is none, or two that differ.
    """
    found = set(_pairs(_unnested(value)))
    return found.pop() if len(found) == 1 else None


def json_single(value: Any) -> float | None:
    """Read one score: ``{"score": 8}``.

    Args:
        value: A decoded reply.

    Returns:
        The score; None where there is none, or several.
    """
    value = _unnested(value)
    return _score(_inner(value[0] if isinstance(value, list) and len(value) == 1 else value))


def json_aspect_rows(value: Any, width: int) -> dict[str, list[float]] | None:
    """Read the four aspects' scores, kept by aspect or by assistant.

    Args:
        value: A decoded reply.
        width: Scores for each aspect: 1, or 2 for a pair of assistants.

    Returns:
        A row of ``width`` scores for each aspect, in their order, or None.
    """
    if not isinstance(value, dict):
        return None
    named = _by_aspect(value)
    if named is not None:
        return _rows(named, width)
    sides = [(who, item) for name, item in value.items() if (who := _who(name))]
    if width == 2 and sorted(who for who, _ in sides) == [1, 2]:
        first, second = (item for _, item in sorted(sides, key=lambda side: side[0]))
        one, two = json_aspect_rows(first, 1), json_aspect_rows(second, 1)
        return None if one is None or two is None else {key: one[key] + two[key] for key in ASPECTS}
    inner = list(_contained(value))
    return json_aspect_rows(inner[0], width) if len(inner) == 1 else None


def _by_aspect(value: dict[str, Any]) -> dict[str, Any] | None:
    """The items that belong to the aspects; None unless each aspect stands exactly once."""
    found = []
    for name, item in value.items():
        aspect = ASPECT_WORDS.get(_key(name).removesuffix("score").removesuffix("rating"))
        if aspect is not None:
            found.append((aspect, item))
    return dict(found) if sorted(name for name, _ in found) == sorted(ASPECTS) else None


def _rows(named: dict[str, Any], width: int) -> dict[str, list[float]] | None:
    rows = {}
    for aspect in ASPECTS:
        item = named[aspect]
        row = (_score(_inner(item)),) if width == 1 else json_pair(item) or ()
        scores = [score for score in row if score is not None]
        if len(scores) != width:
            return None
        rows[aspect] = scores
    return rows
