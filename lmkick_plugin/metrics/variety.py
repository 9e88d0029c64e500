# SPDX-License-Identifier: Apache-2.0
"""Variety of a model's answers, and its comparison with the dense model's.

References:
    Jaiswal et al., arXiv:2310.01382, section 3: unique words of dense and compressed models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmkick_plugin.metrics import text_statistics

__all__ = ["Content", "describe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Means over one model's answers to one task.

    Attributes:
        answers: How many there are; one a turn.
        words: Words between white space.
        unique_words: Different words.
        unique_ratio: Different words over all words, of answers that have any.
        repeated_ngrams: Share of 4-grams that occurred earlier in the answer.
        empty: Share of empty answers.
        pairs: Answers that both models gave words to; 0 without another model.
        equal_ratio: ``unique_ratio`` with each pair of answers cut to the shorter's length.
        dense_equal_ratio: The dense model's.
    """

    answers: int
    words: float
    unique_words: float
    unique_ratio: float
    repeated_ngrams: float
    empty: float
    pairs: int = 0
    equal_ratio: float | None = None
    dense_equal_ratio: float | None = None


def describe(answers: Sequence[str], dense: Sequence[str] | None = None) -> Content:
    """Describe one model's answers.

    Args:
        answers: At least one.
        dense: The dense model's answers to the same questions, in the same order.

    Returns:
        Their description.

    Raises:
        ValueError: The numbers of answers differ.
    """

    def mean(value: Callable[[str], float]) -> float:
        found = [number for number in map(value, answers) if not math.isnan(number)]
        return sum(found) / len(found) if found else math.nan

    own, other, pairs = math.nan, math.nan, 0
    if dense is not None:
        own, other, pairs = text_statistics.compare_at_equal_length(answers, dense)
    return Content(
        answers=len(answers),
        words=mean(text_statistics.words),
        unique_words=mean(text_statistics.unique_words),
        unique_ratio=mean(text_statistics.unique_ratio),
        repeated_ngrams=mean(text_statistics.repeated_ngrams),
        empty=mean(text_statistics.is_empty),
        pairs=pairs,
        equal_ratio=own if pairs else None,
        dense_equal_ratio=other if pairs else None,
    )
