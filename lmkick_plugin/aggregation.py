# SPDX-License-Identifier: Apache-2.0
"""A mean that leaves items without a score out, with the standard error that lm-eval gives a mean.

An answer that the judge gave no readable score has no score: counting it as -1 or 0 would move the
mean. lm-eval 0.4.12 and 0.4.13 know two ways to leave an item out, and neither will do: a metric
that is missing from some documents' results breaks data-parallel runs in which a whole process has
none of it, and ``nanmean`` gets its standard error from a bootstrap of 100,000 resamples in child
processes of a program that holds a GPU.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from lm_eval.api.metrics import mean

__all__ = ["mean_of_scored"]


class _MeanOfScored:
    """The mean of what is not None.

    lm-eval calls the aggregation with the list of values, then looks up the aggregation's standard
    error, then calls that with the same list. So this takes the Nones out of that very list, and
    counts as equal to lm-eval's own ``mean``, whose closed-form standard error it thereby gets.
    """

    __name__ = "mean_of_scored"

    def __call__(self, values: list[Any]) -> float:
        """Take the Nones out of ``values``, in place, and return the mean; NaN where none is left.

        Args:
            values: One value a document.
        """
        values[:] = [value for value in values if value is not None]
        return float(mean(values)) if values else math.nan

    def __eq__(self, other: object) -> bool:
        return other is mean or isinstance(other, _MeanOfScored)

    def __hash__(self) -> int:
        return hash(mean)

    def __repr__(self) -> str:
        return "mean_of_scored"


mean_of_scored = _MeanOfScored()
"""The aggregation, for ``metric_list`` and for ``Task.aggregation``."""


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    ours = message.startswith(("[kick", "[llmkick"))
    return not (ours and "Metrics were not scored on the same number" in message)


# lm-eval warns that such metrics would be weighted wrongly in the score of a group; no group with
# these tasks has one. What was left out, and why, is said where it happens.
logging.getLogger("lm_eval.evaluator_utils").addFilter(_is_news)
