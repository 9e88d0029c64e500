# SPDX-License-Identifier: Apache-2.0
"""A mean over positions of what is given as sums over documents, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lm_eval.api.metrics import mean

__all__ = ["mean_over_positions"]


class _MeanOverPositions:
    """Sum of sums over sum of positions.

    lm-eval 0.4.12 and 0.4.13 know the standard error of their own ``mean`` alone. They call the
    aggregation with the list of values, then look up the aggregation's standard error, then call
    that with the same list. So this counts as equal to ``mean``, and leaves in that very list the
    linearised values ``ratio + n (sum_i - ratio positions_i) / positions``: their mean is the
    ratio, and their standard error is the delta method's for a ratio, with documents as the units.
    """

    __name__ = "mean_over_positions"

    def __call__(self, values: list[Any]) -> float:
        """Take the mean over positions, and linearise ``values`` in place.

        Args:
            values: One (sum, positions) a document.

        Returns:
            The mean; NaN where there is not a single position.
        """
        pairs: list[Sequence[float]] = list(values)
        positions = sum(count for _, count in pairs)
        if not positions:
            return math.nan
        ratio = math.fsum(total for total, _ in pairs) / positions
        share = len(pairs) / positions
        values[:] = [ratio + share * (total - ratio * count) for total, count in pairs]
        return ratio

    def __eq__(self, other: object) -> bool:
        return other is mean or isinstance(other, _MeanOverPositions)

    def __hash__(self) -> int:
        return hash(mean)

    def __repr__(self) -> str:
        return "mean_over_positions"


mean_over_positions = _MeanOverPositions()
"""The aggregation, for ``Task.aggregation``."""
