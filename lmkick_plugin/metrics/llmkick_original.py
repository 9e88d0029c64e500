# SPDX-License-Identifier: Apache-2.0
"""Scores exactly as in the LLM-KICK authors' code, quirks included, for ``llmkick_*`` tasks.

Worse measures than :mod:`lmkick_plugin.metrics.answers`; they exist so that a score can
be held against a published one. Each function says what it gets wrong.

References:
    Jaiswal et al., "Compressing LLMs: The Truth is Rarely Pure and Never Simple", arXiv:2310.01382,
    and its released code, VITA-Group/llm-kick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmkick_plugin.metrics.answers import normalize_answer, token_f1

__all__ = [
    "contains_either_way",
    "contains_squeezed",
    "mean_over_one_less",
    "score_freebaseqa",
    "score_last_character",
    "score_triviaqa",
]


def contains_squeezed(text: str, aliases: Iterable[str]) -> float:
    """1.0 when an alias is inside the text once both are lower-cased and without spaces.

    Quirk: word boundaries are gone.

    >>> contains_squeezed("The he art of noise", ["Heart"])
    1.0
    """
    squeezed = _squeeze(text)
    return float(any(_squeeze(alias) in squeezed for alias in aliases))


def _squeeze(text: str) -> str:
    return text.strip().replace(" ", "").lower()


def contains_either_way(prediction: str, aliases: Iterable[str]) -> float:
    """1.0 when, normalised, an alias is inside the prediction or the prediction is inside an alias.

    Quirk: an empty prediction is inside everything, so silence scores 1.

    >>> contains_either_way("", ["Paris"]), contains_either_way("is", ["Paris"])
    (1.0, 1.0)
    """
    said = normalize_answer(prediction)
    golds = [normalize_answer(alias) for alias in aliases]
    return float(any(gold in said or said in gold for gold in golds))


def mean_over_one_less(items: Iterable[float]) -> float:
    """Sum of the scores over one less than their number.

    Quirk: the released loop evaluates one question more than it divides by; 1.001 can be reached.

    >>> mean_over_one_less([1.0, 0.0, 1.0])
    1.0
    """
    scores = list(items)
    return sum(scores) / max(len(scores) - 1, 1)


def score_freebaseqa(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether an alias is anywhere in the prompt or the output.

    Quirk: an answer in the question counts as correct. The released limit, three times
    the prompt's tokens in all, is kept in characters: the output counts up to twice the prompt's
    length.
    """
    prompt = doc["prompt"]
    return {"contains": contains_squeezed(prompt + results[0][: 2 * len(prompt)], doc["aliases"])}


def score_triviaqa(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Containment in either direction, called exact match, and token F1, both of the first line.

    The first line is taken after leading white space is dropped, so it is empty only in silence.
    """
    said = results[0].strip().split("\n")[0]
    golds = [gold for gold in map(normalize_answer, doc["aliases"]) if gold]
    return {
        "exact_match": contains_either_way(said, doc["aliases"]),
        "f1": max((token_f1(normalize_answer(said), gold) for gold in golds), default=0.0),
    }


def score_last_character(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the last character of the one generated token is the gold letter.

    Quirk: any token that ends with the letter counts, "NASA" for A.
    """
    return {"acc": float(results[0][-1:] == doc["answer"])}
