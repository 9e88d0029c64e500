# SPDX-License-Identifier: Apache-2.0
"""Scores of generated texts without a judge.

The functions ``score_*`` have the shape ``process_results(doc, results)`` that lm-eval calls, with
one result a turn. A value that a text does not have (the share of different words of a text without
words) is None, and left out by :data:`lmkick_plugin.metrics.aggregation.mean_of_scored`.

References:
    Lin, "ROUGE", ACL 2004, as ``rouge-score`` computes it.
    Jaiswal et al., arXiv:2310.01382, section 3: content analysis.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmkick_plugin.metrics import text_statistics

__all__ = ["EQUAL_LENGTH", "MOST_WORDS", "rouge", "score_summary", "score_turns"]

MOST_WORDS = 149
"""Words of the longest summary of "less than 150 words"."""

EQUAL_LENGTH = 100
"""Words that ``unique_ratio_100`` looks at."""


# rouge-score takes lines for sentences; only rougeLsum looks at them.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@functools.lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """F1 of shared unigrams, bigrams and longest common subsequences, after stemming.

    ``rougeL`` takes each text as one sequence; ``rougeLsum``, which tables of CNN/DailyMail print,
    joins the subsequences found sentence by sentence.

    >>> rouge("Two cats sat.", "the cat sat")["rouge2"]
    0.5
    >>> scores = rouge("It was hot. Two cats sat.", "Two cats sat. It was hot.")
    >>> scores["rougeL"], scores["rougeLsum"]
    (0.5, 1.0)
    """
    scores = _scorer().score(_a_sentence_a_line(reference), _a_sentence_a_line(prediction))
    return {name: float(score.fmeasure) for name, score in scores.items()}


def _a_sentence_a_line(text: str) -> str:
    return _SENTENCE_END.sub("\n", text)


def score_summary(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float | None]:
    """Score a summary against the highlights, with length and variety.

    Args:
        doc: ``article`` and ``highlights``.
        results: The summary.
    """
    summary = results[0]
    return {
        **rouge(summary, doc["highlights"]),
        "words": float(text_statistics.words(summary)),
        "empty": float(text_statistics.is_empty(summary)),
        "overlong": float(text_statistics.is_overlong(summary, MOST_WORDS)),
        "novel_bigrams": _known(text_statistics.novel_bigrams(summary, doc["article"])),
    }


def score_turns(
    doc: Mapping[str, Any],  # noqa: ARG001 - lm-eval hands it over
    results: Sequence[str],
) -> dict[str, float | None]:
    """Length, variety and repetition of answers.

    Args:
        doc: Not looked at: there is no right answer to these questions.
        results: One answer a turn; each value is the mean over the turns that have it.
    """

    def mean(value: Callable[[str], float]) -> float | None:
        found = [number for number in map(value, results) if not math.isnan(number)]
        return sum(found) / len(found) if found else None

    return {
        "words": mean(text_statistics.words),
        "unique_words": mean(text_statistics.unique_words),
        "unique_ratio": mean(text_statistics.unique_ratio),
        "unique_ratio_100": mean(lambda text: text_statistics.unique_ratio(text, EQUAL_LENGTH)),
        "repeated_ngrams": mean(text_statistics.repeated_ngrams),
        "empty": mean(text_statistics.is_empty),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
