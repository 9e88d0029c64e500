# SPDX-License-Identifier: Apache-2.0
"""Scoring of a metric: from per-item values to its score, and its matching rule.

lm-eval keeps per-item values in its samples files but the aggregation only in code. Here every
aggregation that is a transformed ratio of sums over items is written down; means are the default.
A score made otherwise (corpus BLEU, Matthews correlation) shows when it is recomputed, and is then
left out of paired statistics, with a note.

Likelihood of one text has one verdict: token perplexity's. Word perplexity gets one on request, and
byte perplexity none, which is shown as bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compressors.errors import LmkickError
from lmkick_plugin.report.bootstrap import FloatArray
from lmkick_plugin.report.paired_statistics import Metric, Transform
from lmkick_plugin.report.verdict import MatchRule
from lmkick_plugin.results.samples import Value

__all__ = ["DESCRIPTIVE", "ItemValues", "Scoring", "UnusableValuesError", "scoring_of"]

DESCRIPTIVE = frozenset(
    {
        "answer_in_context",
        "empty",
        "first_divergent_token",
        "jsd",
        "kl",
        "novel_bigrams",
        "overlong",
        "repeated_ngrams",
        "top1_agreement",
        "unique_ratio",
        "unique_ratio_100",
        "unique_words",
        "unjudged",
        "words",
    }
)
"""Metrics that describe output, data or distance to the dense model: no score to match."""

_GRADED = ("bleu", "chrf", "f1", "judge_", "rouge", "ter")
_PAIRED = frozenset(
    {"bits_per_byte", "byte_perplexity", "jsd", "kl", "top1_agreement", "word_perplexity"}
)


class UnusableValuesError(LmkickError, ValueError):
    """Per-item values of a form from which the metric's score cannot be recomputed."""


@dataclass(frozen=True, slots=True)
class ItemValues:
    """Values of one metric over items, ready for `paired_statistics`.

    Attributes:
        values: float64 [n].
        weights: float64 [n], or None for ones.
    """

    values: FloatArray
    weights: FloatArray | None

    def score(self, transform: Transform | None) -> float:
        """The score over all items.

        Args:
            transform: The metric's (`Scoring.transform`).

        Returns:
            The transformed ratio of sums; NaN and infinities are handed through.
        """
        with np.errstate(all="ignore"):
            below = len(self.values) if self.weights is None else self.weights.sum()
            ratio = np.asarray([self.values.sum() / below], dtype=np.float64)
            return float((ratio if transform is None else transform(ratio))[0])


@dataclass(frozen=True, slots=True)
class Scoring:
    """Facts about a metric.

    Attributes:
        name: Its name, without the filter.
        metric: How its values become a score, and what a verdict on it needs. Whether it is binary
            is seen in the values (`of_values`).
    """

    name: str
    metric: Metric

    def of_values(self, *values: FloatArray) -> Scoring:
        """The scoring, refined by the values: whether items are right or wrong."""
        return replace(self, metric=replace(self.metric, binary=self.is_binary(*values)))

    def items(self, values: Sequence[Value]) -> ItemValues:
        """Read per-item values.

        Args:
            values: As `Sample.values` holds them, none of them None.

        Returns:
            Numbers and weights; a list of window losses counts as so many items.

        Raises:
            UnusableValuesError: For values of another form than this metric's.
        """
        numbers = [(v,) if isinstance(v, float) else v for v in values]
        if any(not isinstance(v, tuple) for v in numbers):
            form = next(v for v in numbers if not isinstance(v, tuple))
            raise UnusableValuesError(f"its items hold {form}, not a number")
        rows = [v for v in numbers if isinstance(v, tuple)]
        if self.name == "token_perplexity":
            return ItemValues(np.asarray([x for row in rows for x in row]), None)
        lengths = {len(row) for row in rows}
        if lengths == {1}:
            return ItemValues(np.asarray(rows, dtype=np.float64)[:, 0], None)
        if lengths == {2} and self.name in _PAIRED:
            array = np.asarray(rows, dtype=np.float64)
            return ItemValues(array[:, 0], array[:, 1])
        raise UnusableValuesError("its items hold lists, not one number each")

    def is_binary(self, *values: FloatArray) -> bool:
        """Whether items are right or wrong, so that flips can be counted.

        Args:
            *values: Values of the runs compared.

        Returns:
            True if every value is 0 or 1 and the metric is not a graded one (F1 can be 0 or 1
            by chance).
        """
        if self.metric.transform is not None or self.name.startswith(_GRADED):
            return False
        return all(bool(np.isin(v, (0.0, 1.0)).all()) for v in values)


def _exp_of_negative(x: FloatArray) -> FloatArray:
    return np.exp(-x)


def _exp(x: FloatArray) -> FloatArray:
    return np.exp(x)


def _negative_bits(x: FloatArray) -> FloatArray:
    return -x / math.log(2)


_TRANSFORMS: dict[str, Transform] = {
    "bits_per_byte": _negative_bits,
    "byte_perplexity": _exp_of_negative,
    "perplexity": _exp_of_negative,
    "token_perplexity": _exp,
    "word_perplexity": _exp_of_negative,
}


_UNJUDGED = frozenset({"byte_perplexity", "word_perplexity"})


def scoring_of(
    name: str, *, higher_is_better: bool | None, floor: float = 0.0, requested: bool = False
) -> Scoring:
    """Facts about a metric.

    Args:
        name: Name without the filter.
        higher_is_better: As the results file says; None where it says nothing.
        floor: Score by chance.
        requested: Whether the user asked for this metric by name.

    Returns:
        Matching is "at least" for higher-is-better scores and "at most" for perplexities; bits
        per byte, a logarithm, has none, nor has what only describes.
    """
    direction: MatchRule | None = None
    if name.endswith("perplexity"):
        direction = "at_most"
    elif higher_is_better and name not in DESCRIPTIVE:
        direction = "at_least"
    judged = name not in _UNJUDGED or (requested and name == "word_perplexity")
    return Scoring(
        name,
        Metric(transform=_TRANSFORMS.get(name), direction=direction, judged=judged, floor=floor),
    )
