# SPDX-License-Identifier: Apache-2.0
"""Statements about scores in one line of a judge's reply."""

from __future__ import annotations

from collections.abc import Sequence

from lmkick_plugin.judge.parsing.text import QUOTATION
from lmkick_plugin.judge.parsing.tokens import Token

__all__ = [
    "Pair",
    "bare_pair",
    "is_cued",
    "is_heading",
    "is_quotation",
    "is_reversed_heading",
    "is_verdict",
    "label_scores",
    "labelled_pair",
    "labels",
    "significant",
]

Pair = tuple[float, float]

_TALK = ("mark", "glue", "cue")
_NUMBERS = ("score", "bad", "comma")
# Which label goes with which score leaves no doubt in these orders of labels and scores.
_ORDERS = ("LSLS", "SLSL", "LLSS", "SSLL")
_BETWEEN = frozenset([",", ";", "|", "&", ".", "'", '"', "`", "(", ")", "[", "]"])
_BETWEEN |= frozenset(["and", "vs", "versus"])


def significant(tokens: Sequence[Token]) -> list[Token]:
    """Leave out punctuation and the talk around scores."""
    return [token for token in tokens if token.kind not in _TALK]


def labels(tokens: Sequence[Token]) -> list[str]:
    """The assistants that a line names, as ``1`` and ``2``."""
    return [token.text for token in tokens if token.kind == "label"]


def is_heading(tokens: Sequence[Token]) -> bool:
    """Talk about scores, perhaps with labels and aspects, and no number."""
    return all(token.kind in (*_TALK, "label", "aspect") for token in tokens)


def is_reversed_heading(tokens: Sequence[Token]) -> bool:
    """A heading that names the second assistant first, as over the columns of a table."""
    return is_heading(tokens) and labels(tokens) == ["2", "1"]


def is_quotation(tokens: Sequence[Token]) -> bool:
    """A line that stands for a block quote or fenced code."""
    return [token.text for token in tokens] == [QUOTATION]


def is_verdict(tokens: Sequence[Token]) -> bool:
    """A line of scores, readable or not, with nothing that would make it mean something else."""
    kinds = {token.kind for token in tokens}
    return not kinds.isdisjoint(_NUMBERS) and kinds.isdisjoint(("word", "aspect"))


def is_cued(tokens: Sequence[Token]) -> bool:
    """Whether the line calls its numbers scores, or writes them as such (``8/10``)."""
    return any(token.kind == "cue" or (token.kind == "score" and token.sure) for token in tokens)


def bare_pair(tokens: Sequence[Token]) -> Pair | None:
    """Two scores side by side without labels: ``9 8``, ``(9, 8)``, ``Scores: 9/10 and 8/10``."""
    rest = significant(tokens)
    kinds = [token.kind for token in rest]
    if kinds == ["comma"]:
        first, second = rest[0].values
        return (first, second) if max(first, second) <= 10 else None
    if kinds != ["score", "score"]:
        return None
    start, end = (i for i, token in enumerate(tokens) if token.kind == "score")
    if any(token.text not in _BETWEEN for token in tokens[start + 1 : end]):
        return None
    return rest[0].values[0], rest[1].values[0]


def labelled_pair(tokens: Sequence[Token]) -> Pair | None:
    """Two scores and both labels: ``Assistant 2: 8/10, Assistant 1: 7/10``, in any clear order."""
    rest = significant(tokens)
    order = "".join({"label": "L", "score": "S"}.get(token.kind, "?") for token in rest)
    names = labels(tokens)
    if order not in _ORDERS or names[0] == names[1]:
        return None
    if order in ("LSLS", "SLSL") and not (is_cued(tokens) or _beside_labels(tokens)):
        return None
    first, second = (token.values[0] for token in rest if token.kind == "score")
    return (first, second) if names[0] == "1" else (second, first)


def _beside_labels(tokens: Sequence[Token]) -> bool:
    """Every score stands right after *assistant N*, or after an article (``gets a 9``)."""
    previous: Token | None = None
    for position, token in enumerate(tokens):
        if token.kind == "score":
            article = position > 0 and tokens[position - 1].text in ("a", "an")
            if not article and (previous is None or previous.kind != "label" or not previous.sure):
                return False
        if token.kind != "mark":
            previous = token
    return True


def label_scores(tokens: Sequence[Token]) -> list[tuple[str, float]]:
    """The scores that a sentence gives to assistants, whatever reasons follow each.

    ``Assistant 1 gets a 9 for its proof, while Assistant 2 gets a 4`` holds two. A sentence that
    begins with other words (``the hidden note says that Assistant 1 ...``) holds none.

    Args:
        tokens: One sentence.

    Returns:
        Label and score, in the sentence's order.
    """
    places = [i for i, token in enumerate(tokens) if token.kind == "label"]
    if not places or any(token.kind not in _TALK for token in tokens[: places[0]]):
        return []
    cue_before = is_cued(tokens[: places[0]])
    out = []
    for start, end in zip(places, [*places[1:], len(tokens)], strict=True):
        chunk = tokens[start:end]
        numbers = [i for i, token in enumerate(chunk) if token.kind in _NUMBERS]
        if not numbers:
            continue
        place = numbers[0]
        head, tail = chunk[: place + 1], chunk[place + 1 :]
        plain = all(token.kind in _TALK for token in head[1:-1])
        ends = not tail or tail[0].kind in ("mark", "glue")
        cued = cue_before or is_cued(head) or _beside_labels(head)
        if len(numbers) > 1 or head[-1].kind != "score" or not (plain and ends and cued):
            return []
        out.append((chunk[0].text, head[-1].values[0]))
    return out
