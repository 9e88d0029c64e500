# SPDX-License-Identifier: Apache-2.0
"""Labels, scores and words of a judge's sentence, as typed tokens.

Numbers in a reply are not only scores: they are years, results of sums, fractions, ranges, the ids
of the assistants. A sentence is read as scores only where it consists of labels, scores and the
talk around scores (*glue*); any other word makes it mean something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

__all__ = ["ASPECTS", "ASPECT_WORDS", "Kind", "Token", "may_hold_scores", "tokenize"]

ASPECTS = ("coherence", "consistency", "fluency", "relevance")
"""The four aspects of a summary, in the order in which the judge is asked for them."""

ASPECT_WORDS = {
    "coherence": "coherence",
    "coherent": "coherence",
    "consistency": "consistency",
    "consistent": "consistency",
    "fluency": "fluency",
    "fluent": "fluency",
    "relevance": "relevance",
    "relevancy": "relevance",
    "relevant": "relevance",
}
"""Names that judges use for the aspects."""

Kind = Literal["score", "bad", "comma", "label", "aspect", "cue", "glue", "mark", "word"]


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of a sentence.

    Attributes:
        kind: ``score`` (0 to 10), ``bad`` (a number that is not a score), ``comma`` (``8,5``,
            two scores or one), ``label`` (which assistant), ``aspect``, ``cue`` (a word for
            score), ``glue``, ``mark`` (punctuation) or ``word`` (anything else).
        text: What stands there in lower case; an aspect's name; ``1`` or ``2`` for a label.
        values: The score, or both numbers of a ``comma``.
        sure: A score written with its scale (``8/10``); a label that says *assistant*.
    """

    kind: Kind
    text: str
    values: tuple[float, ...] = ()
    sure: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CUES = _words(
    "score scores scored scoring rating ratings rate rates rated grade grades graded mark marks "
    "tuple"
)
_GLUE = _words(
    "a an the and or of to for from in on at as by with is are was were be would will should can "
    "do have has i i'd we you it its my our their this that these those here there below above "
    "following follows both each two single so therefore thus hence consequently accordingly "
    "finally then now let's while whereas respective respectively based upon final overall total "
    "average give gives given giving gave assign assigned assigning award awarded awarding get "
    "gets got receive receives received earn earns earned deserve deserves merits evaluation "
    "evaluations assessment judgment judgement verdict result results conclusion output python "
    "numerical numeric value values point points scale out order quality performance line vs "
    "versus containing sure okay ok certainly ai assistant assistants assistant's assistants' "
    "answer answers response responses summary summaries aspect aspects criterion criteria metric "
    "metrics dimension category"
)
_MARKS = frozenset(",;:.!?()[]{}|&\"'`#=*_/-\u2013\u2014\u2192\u201c\u201d\u2018\u2019\u2022")
_FIRST = ("1", "a", "one", "first")

_NOUN = "assistant|answer|response|summary|model|candidate|chatbot"
_IDENTITY = "[12]|(?-i:[AB])|one|two"  # a small "a" is the article
_LABEL = re.compile(
    rf"(?:ai[\s_]+)?(?P<noun>{_NOUN})s?[\s_#]*(?:\(|(?:no\.|number)\s*)?"
    rf"(?P<id>{_IDENTITY})(?![0-9A-Za-z]|[./]\d)\)?(?:['\u2019]s)?",
    re.IGNORECASE,
)
_BOTH_LABELS = re.compile(
    rf"(?P<noun>{_NOUN})s?\s+(?:1|(?-i:A)|one)\s*(?:and|&|/|,)\s*(?:2|(?-i:B)|two)"
    r"(?![0-9A-Za-z]|[./]\d)(?:['\u2019]s?)?",
    re.IGNORECASE,
)
_ORDINAL = re.compile(rf"(?P<id>first|second)\s+(?P<noun>{_NOUN})\b(?:['\u2019]s)?", re.IGNORECASE)
_SCALE = re.compile(
    r"\(?(?:on\s+)?(?:a|the)\s+scale\s+(?:of|from)\s+[01]\s*(?:to|-|\u2013)\s*10\b\s*\)?"
    r"|\(\s*(?:out\s+of\s+10|[01]\s*(?:-|\u2013|to)\s*10|/\s*10)\s*\)",
    re.IGNORECASE,
)
_NO_SCORE = re.compile(
    r"n\s*/\s*a\b|n\.a\.?(?!\w)|(?:none|nan|null|unknown|inf|infinity)\b|not\s+applicable\b",
    re.IGNORECASE,
)
_DIGIT_OR_NONE = re.compile(rf"\d|{_NO_SCORE.pattern}", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*")
_DENOMINATOR = re.compile(r"\s*/\s*(\d+(?:\.\d+)?)|\s+out\s+of\s+(\d+(?:\.\d+)?|ten)\b", re.I)
_TEN = ("10", "10.0", "ten")
_MORE_OF_NUMBER = re.compile(r"[-\u2013\u2014~:/.]\d|[%\u2030^\u00b0*]")
_PLAIN_NUMBER = re.compile(r"(?:0|[1-9]\d*)(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"\d{1,2},\d{1,2}")
_WORD = re.compile(r"[^\W\d_][\w'\u2019]*")
_REST_OF_CHUNK = re.compile(r"[^\s()\[\]|]*")


def _number(text: str, match: re.Match[str]) -> tuple[Token, int]:
    """Read the number at a place, with its scale; its neighbours decide whether it is a score.

    Returns:
        The token and where it ends.
    """
    written, start, end = match.group(), match.start(), match.end()
    before = text[start - 1] if start else " "
    good = not (before.isalnum() or before in "_./$^\u20ac\u00a3\u221a")
    denominator = _DENOMINATOR.match(text, end)
    if denominator:
        end = denominator.end()
        good = good and (denominator[1] or denominator[2]).lower() in _TEN
    after = text[end : end + 1]
    fraction = after.isnumeric() and not after.isdecimal()  # a superscript, or one half
    if fraction or _MORE_OF_NUMBER.match(text, end):
        rest = _REST_OF_CHUNK.match(text, end)
        return Token("bad", written), rest.end() if rest else end
    if after.isalpha() or after == "_":
        word = re.compile(r"\w*").match(text, end)
        return Token("word", written), word.end() if word else end
    if good and not denominator and _DECIMAL_COMMA.fullmatch(written):
        first, second = written.split(",")
        return Token("comma", written, (float(first), float(second))), end
    if not (good and _PLAIN_NUMBER.fullmatch(written) and 0 <= float(written) <= 10):
        return Token("bad", written), end
    return Token("score", written, (float(written),), sure=denominator is not None), end


def _label(match: re.Match[str], identity: str) -> Token:
    which = "1" if identity.lower() in _FIRST else "2"
    return Token("label", which, sure=match["noun"].lower() == "assistant")


def _starting_word(text: str, position: int) -> tuple[list[Token], int] | None:
    """Read a label, or a word for *no score*, where a word begins."""
    if match := _BOTH_LABELS.match(text, position):
        return [_label(match, "1"), _label(match, "2")], match.end()
    if match := _ORDINAL.match(text, position) or _LABEL.match(text, position):
        return [_label(match, match["id"])], match.end()
    if match := _NO_SCORE.match(text, position):
        return [Token("bad", match.group().lower())], match.end()
    return None


def _word(written: str) -> Token:
    word = written.lower().replace("\u2019", "'")
    if word in ASPECT_WORDS:
        return Token("aspect", ASPECT_WORDS[word])
    return Token("cue" if word in _CUES else "glue" if word in _GLUE else "word", word)


def may_hold_scores(text: str) -> bool:
    """Whether a text holds a digit or a word for *no score*: without, no sentence is a verdict."""
    return _DIGIT_OR_NONE.search(text) is not None


LONGEST_SENTENCE = 1000
"""Characters of a sentence that can be scores; the rest of a longer one counts as one word."""


@lru_cache(maxsize=4096)
def tokenize(text: str) -> tuple[Token, ...]:
    """Cut one sentence into tokens.

    Args:
        text: One line or sentence of a reply.

    Returns:
        Its tokens in order; spaces, and words that name the scale, leave none.
    """
    if len(text) > LONGEST_SENTENCE:
        return *tokenize(text[:LONGEST_SENTENCE]), Token("word", "...")
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        begins = position == 0 or not (text[position - 1].isalnum() or text[position - 1] == "_")
        if match := _SCALE.match(text, position):
            position = match.end()
        elif begins and (found := _starting_word(text, position)):
            tokens += found[0]
            position = found[1]
        elif match := _NUMBER.match(text, position):
            token, position = _number(text, match)
            tokens.append(token)
        elif match := _WORD.match(text, position):
            tokens.append(_word(match.group()))
            position = match.end()
        else:
            character = text[position]
            if not character.isspace():
                tokens.append(Token("mark" if character in _MARKS else "word", character))
            position += 1
    return tuple(tokens)
