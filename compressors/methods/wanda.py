# SPDX-License-Identifier: Apache-2.0
"""Wanda: pruning by weight times activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import CompressedWeight, apply_mask, require_finite_weight
from compressors.errors import SettingsError
from compressors.methods.magnitude import Pruner
from compressors.patterns import NM
from compressors.statistics import CACHED_ELEMENTS, ColumnNorm

__all__ = ["Wanda", "wanda_scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanda(Pruner):
    """Prune by ``|weight|`` times the input feature's norm, within each output row.

    Args:
        pattern: ``Unstructured(sparsity)`` or ``NM(n, m)``.
        variant: Instead of the same sparsity in every row, prune in each row the lowest scores as
            long as their sum stays within one share of the row's total; that share is the same for
            all rows, and such that the whole matrix gets the sparsity asked for. Unstructured only.

    Raises:
        SettingsError: If the pattern is none, or ``variant`` is asked for with an N:M pattern.

    References:
        Sun et al., arXiv:2306.11695, eq. 1; the variant is in its appendix.

    Differences from the released code:
        1. Exact counts, ties by index; the variant finds its share exactly instead of by a
           bisection that stops at 0.001, so it prunes ``floor(sparsity * count)`` of the matrix.
    """

    statistic: ClassVar[type[ColumnNorm]] = ColumnNorm
    variant: bool = False

    def __post_init__(self) -> None:
        Pruner.__post_init__(self)
        if self.variant and isinstance(self.pattern, NM):
            raise SettingsError(
                f"variant=True shifts sparsity between rows, which pattern {self.pattern} does not "
                "allow: use an unstructured sparsity, or variant=False"
            )

    def compress(self, weight: Tensor, stats: ColumnNorm) -> CompressedWeight:
        """Prune one matrix.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
            stats: Norms of its inputs.

        Returns:
            The pruned weight and its mask.

        Raises:
            NumericalError: If a weight, or the statistics, are not finite.
            SettingsError: If the statistics are empty, or M does not divide the columns.
        """
        return self.compress_together([weight], stats)[0]

    def compress_together(
        self, weights: Sequence[Tensor], stats: ColumnNorm, feeds_scores: Sequence[bool] = ()
    ) -> list[CompressedWeight]:
        """Prune each matrix; the norms are computed once."""
        stats.require_tokens()
        norm = stats.norm
        return [self._prune(weight, norm) for weight in weights]

    def _prune(self, weight: Tensor, norm: Tensor) -> CompressedWeight:
        require_finite_weight(weight)
        if self.variant:
            scores = wanda_scores(weight, norm)
            return apply_mask(weight, self.pattern.keep(_cumulative_share(scores), per_row=False))
        # Rows are independent: on a CPU take as many at once as its cache holds.
        at_once = len(weight)
        if weight.device.type == "cpu":
            at_once = max(1, CACHED_ELEMENTS // weight.shape[1])
        keep = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
        for rows, kept in zip(
            torch.split(weight, at_once), torch.split(keep, at_once), strict=True
        ):
            kept.copy_(self.pattern.keep(wanda_scores(rows, norm), per_row=True))
        return apply_mask(weight, keep)


def wanda_scores(weight: Tensor, norm: Tensor) -> Tensor:
    """``|weight| * norm``, float32, a new tensor on the weight's device."""
    return weight.detach().to(torch.float32, copy=True).abs_().mul_(norm.to(weight.device))


def _cumulative_share(scores: Tensor) -> Tensor:
    """For each score, the share of its row's total in all scores up to and including it.

    Args:
        scores: float32 ``[rows, columns]``, not negative.

    Returns:
        float32, same shape, 0..1; 0 throughout a row of zeros.
    """
    ordered, order = scores.sort(dim=1, stable=True)
    reached = ordered.cumsum(dim=1)
    reached /= reached[:, -1:].clamp_min(torch.finfo(torch.float32).tiny)
    return torch.empty_like(scores).scatter_(1, order, reached)
