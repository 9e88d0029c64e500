# SPDX-License-Identifier: Apache-2.0
"""Scores of the recall tasks: answers said, chosen, sampled, read and ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmkick_plugin.metrics.answers import contains, first_line

__all__ = ["score_choice", "score_rank", "score_said", "score_tries"]


def score_said(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the first line of the answer holds a name of ``doc["aliases"]``."""
    return {"contains": contains(first_line(results[0]), doc["aliases"])}


def score_tries(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score several samples of one answer.

    Args:
        doc: ``aliases`` are the names of the answer.
        results: The samples.

    Returns:
        ``reached``: some sample's first line holds a name; ``rate``: the share of them.
    """
    found = [contains(first_line(sample), doc["aliases"]) for sample in results[0]]
    return {"reached": max(found), "rate": sum(found) / len(found)}


def score_choice(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Whether the answer is the likeliest of the choices.

    Args:
        doc: ``choices``, and ``answer``, the index of the right one.
        results: One (log-likelihood, greedy) per choice after the question, then one per choice
            without the question.

    Returns:
        ``acc_norm``: by log-likelihood per byte of the choice; ``acc_pmi``: by log-likelihood less
        that without the question. 0 where a log-likelihood is not a number.
    """
    count = len(doc["choices"])
    values = [value for value, _ in results]
    sizes = [len(choice.encode()) for choice in doc["choices"]]
    per_byte = [value / size for value, size in zip(values[:count], sizes, strict=True)]
    gained = [given - alone for given, alone in zip(values[:count], values[count:], strict=True)]
    return {
        "acc_norm": _is_highest(per_byte, doc["answer"]),
        "acc_pmi": _is_highest(gained, doc["answer"]),
    }


def _is_highest(scores: Sequence[float], gold: int) -> float:
    if any(math.isnan(score) for score in scores):
        return 0.0
    return float(scores.index(max(scores)) == gold)


def score_rank(doc: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:  # noqa: ARG001
    """Rank, probability and bits of the answer's likeliest name."""
    return {name: float(results[0][name]) for name in ("rank", "probability", "bits")}
