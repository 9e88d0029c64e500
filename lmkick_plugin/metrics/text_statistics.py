# SPDX-License-Identifier: Apache-2.0
"""Length, variety, repetition and novelty of generated text.

LLM-KICK finds that compressed models keep writing but with fewer different words. The share of
different words falls with length for any model, so models are compared at equal length too.

References: Jaiswal et al., arXiv:2310.01382, section 3 (content analysis: unique words of the
answers); See et al., arXiv:1704.04368 (novel n-grams of a summary).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

__all__ = [
    "compare_at_equal_length",
    "is_empty",
    "is_overlong",
    "novel_bigrams",
    "repeated_ngrams",
    "tokens",
    "unique_ratio",
    "unique_words",
    "words",
]

_TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*")


def words(text: str) -> int:
    """Count the words of a text.

    Args:
        text: Any text.

    Returns:
        Pieces between white space, as an instruction's "150 words" means them.
    """
    return len(text.split())


def tokens(text: str) -> list[str]:
    """Comparable words of a text: lower case, without punctuation.

    Args:
        text: Any text.

    Returns:
        The words in order; an apostrophe inside a word stays.
    """
    return [token.replace("\u2019", "'") for token in _TOKEN.findall(text.lower())]


def is_empty(text: str) -> bool:
    """Whether an answer is empty or white space."""
    return not text.strip()


def is_overlong(text: str, limit: int) -> bool:
    """Whether an answer exceeds a number of words.

    Args:
        text: The answer.
        limit: The most words that are allowed.
    """
    return words(text) > limit


def unique_words(text: str) -> int:
    """Number of different words.

    Args:
        text: Any text.

    Returns:
        How many different tokens it has.
    """
    return len(set(tokens(text)))


def unique_ratio(text: str, length: int | None = None) -> float:
    """Share of different words.

    Args:
        text: Any text.
        length: Only the first so many tokens count, so that long and short texts compare.

    Returns:
        From 0 to 1; NaN for a text without words, or with fewer than ``length``.
    """
    found = tokens(text)
    if not found or (length is not None and (length < 1 or len(found) < length)):
        return math.nan
    found = found[:length]
    return len(set(found)) / len(found)


def compare_at_equal_length(
    answers: Sequence[str], others: Sequence[str]
) -> tuple[float, float, int]:
    """Variety of two models' words, each pair of answers cut to the shorter one's length.

    Args:
        answers: One model's answers.
        others: Another's to the same questions, in the same order.

    Returns:
        The mean :func:`unique_ratio` of both, and over how many pairs: those in which both hold
        words. NaN for no pairs.

    Raises:
        ValueError: The numbers of answers differ.
    """
    if len(answers) != len(others):
        raise ValueError(
            f"{len(answers)} answers against {len(others)}: both models must answer the same "
            "questions"
        )
    lengths = [min(len(tokens(a)), len(tokens(b))) for a, b in zip(answers, others, strict=True)]
    kept = [i for i, length in enumerate(lengths) if length]
    if not kept:
        return math.nan, math.nan, 0
    first = sum(unique_ratio(answers[i], lengths[i]) for i in kept) / len(kept)
    second = sum(unique_ratio(others[i], lengths[i]) for i in kept) / len(kept)
    return first, second, len(kept)


def repeated_ngrams(text: str, size: int = 4) -> float:
    """Share of n-grams that occurred earlier in the text.

    Args:
        text: Any text.
        size: Words in an n-gram.

    Returns:
        From 0 (nothing is repeated) towards 1 (a loop); 0 for a text shorter than one n-gram.
    """
    grams = _ngrams(tokens(text), size)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def novel_bigrams(summary: str, source: str) -> float:
    """Share of a summary's different bigrams that its source does not hold.

    Args:
        summary: The summary.
        source: What it summarizes.

    Returns:
        From 0 (copied) to 1; NaN for a summary without a bigram.
    """
    own = set(_ngrams(tokens(summary), 2))
    return len(own - set(_ngrams(tokens(source), 2))) / len(own) if own else math.nan


def _ngrams(found: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(found[i : i + size]) for i in range(len(found) - size + 1)]
