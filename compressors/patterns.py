# SPDX-License-Identifier: Apache-2.0
"""Sparsity patterns: unstructured and N:M, with exact counts.

Thresholding with ``score <= k-th score`` prunes every tie, which in bfloat16 is a lot (70.19 % when
70 % was asked for). Here a comparison group of ``count`` scores loses exactly
``floor(sparsity * count)`` of them; among equal scores the one with the lower index goes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from compressors.base import is_integer, is_number
from compressors.errors import SettingsError, UnsupportedModelError

__all__ = ["NM", "Pattern", "Unstructured", "keep_largest", "kth_smallest"]

# Above this M, counting pairs of a group costs more than selecting its M - N smallest scores.
_LARGEST_PAIRWISE_M = 16
# Groups processed at once: what a CPU's cache holds, what fits a GPU easily.
_CACHED_GROUPS = 1 << 13
_LAUNCHED_GROUPS = 1 << 22
# A single group larger than this is narrowed down before the selection on a GPU.
_NARROW_FROM = 1 << 20


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Prune a share of the weights, anywhere.

    Args:
        sparsity: Share to prune, ``0 <= sparsity < 1``.

    Raises:
        SettingsError: If ``sparsity`` is out of range.

    >>> Unstructured(0.5).dropped(7)
    3
    """

    sparsity: float

    def __post_init__(self) -> None:
        if not is_number(self.sparsity) or not 0 <= self.sparsity < 1:
            raise SettingsError(
                f"sparsity={self.sparsity!r}: expected the share to prune, at least 0 and below 1 "
                "(0.5 prunes half)"
            )

    def __str__(self) -> str:
        return "unstructured"

    def dropped(self, count: int) -> int:
        """Number of pruned weights in a comparison group of ``count``."""
        return math.floor(self.sparsity * count)

    def check(self, name: str, in_features: int) -> None:
        """Accept every width (the counterpart of :meth:`NM.check`)."""

    def keep(self, scores: Tensor, *, per_row: bool) -> Tensor:
        """Select the weights to keep: the highest scores of each comparison group.

        Args:
            scores: ``[rows, columns]``, any real dtype, finite.
            per_row: Compare within each row if True, within the whole matrix if False.

        Returns:
            Bool ``[rows, columns]``, True where the weight stays.
        """
        if per_row:
            return keep_largest(scores, self.dropped(scores.shape[1]))
        flat = scores.reshape(1, -1)
        return keep_largest(flat, self.dropped(flat.shape[1])).view(scores.shape)


@dataclass(frozen=True, slots=True)
class NM:
    """Keep N weights of every M consecutive ones of a row (2:4 is what sparse tensor cores read).

    The paper and hardware count the weights *kept*; the code released with LLM-KICK counts the
    zeroed ones. The two agree for 1:2, 2:4 and 4:8.

    Args:
        n: Weights kept, ``1 <= n < m``.
        m: Length of a group; has to divide ``in_features``.

    Raises:
        SettingsError: If the two numbers are not such a pattern.

    >>> str(NM(2, 4)), NM(2, 4).sparsity
    ('2:4', 0.5)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not (is_integer(self.n) and is_integer(self.m)):
            raise SettingsError(
                f"NM({self.n!r}, {self.m!r}): expected two integers, as in NM(2, 4)"
            )
        if not 1 <= self.n < self.m:
            raise SettingsError(
                f"pattern {self.n}:{self.m}: expected N:M with 1 <= N < M, N weights kept of every "
                "M (2:4 keeps two of four)"
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def sparsity(self) -> float:
        """Share of the weights that are pruned."""
        return 1 - self.n / self.m

    def check(self, name: str, in_features: int) -> None:
        """Raise :class:`UnsupportedModelError` unless M divides ``in_features``."""
        if in_features % self.m:
            fitting = [m for m in range(2, 65) if in_features % m == 0]
            raise UnsupportedModelError(
                f"{name}: in_features {in_features} is not divisible by M={self.m} of pattern "
                f"{self}; M could be one of {fitting}, or use an unstructured sparsity"
            )

    def require_width(self, in_features: int) -> None:
        """Raise :class:`SettingsError` unless M divides ``in_features``."""
        if in_features % self.m:
            raise SettingsError(
                f"the weight has in_features {in_features}, not divisible by M={self.m} of pattern "
                f"{self}: choose an M that divides it, or an unstructured sparsity"
            )

    def keep(self, scores: Tensor, *, per_row: bool = True) -> Tensor:
        """Select the N highest scores of every M consecutive columns of a row.

        Args:
            scores: ``[rows, columns]``, columns divisible by M, any real dtype, finite.
            per_row: Makes no difference: a group never reaches past its row.

        Returns:
            Bool ``[rows, columns]``, True where the weight stays.

        Raises:
            SettingsError: If M does not divide the columns.
        """
        self.require_width(scores.shape[1])
        groups = scores.reshape(-1, self.m)
        keep = torch.empty(groups.shape, dtype=torch.bool, device=scores.device)
        at_once = _CACHED_GROUPS if scores.device.type == "cpu" else _LAUNCHED_GROUPS
        for some, kept in zip(
            torch.split(groups, at_once), torch.split(keep, at_once), strict=True
        ):
            kept.copy_(self.keep_of_groups(some.t().contiguous()).t())
        return keep.view(scores.shape)

    def keep_of_groups(self, members: Tensor) -> Tensor:
        """Select N of M for many groups at once, given by position in the group.

        A weight goes if fewer than M - N of its group come before it in ascending order (equal
        scores in order of index). Each of the M (M - 1) / 2 comparisons is one long vector.

        Args:
            members: Scores, ``[m, groups]``, contiguous.

        Returns:
            ``[m, groups]``, nonzero where the weight stays.
        """
        if self.m > _LARGEST_PAIRWISE_M:
            return keep_largest(members.t().contiguous(), self.m - self.n).t()
        earlier, later, signs, needed = _pairs(self.n, self.m, members.device)
        in_order = members.index_select(0, earlier) <= members.index_select(0, later)
        # Small whole numbers: exact in every arithmetic.
        return signs @ in_order.float() >= needed


@cache
def _pairs(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All pairs of a group's members, to count how many come before each.

    Returns:
        First and second index of each pair; float32 ``[m, pairs]``, 1 where a pair's order puts
        another before one, -1 where it puts one before another; and ``[m, 1]``: what the sum of
        these has to reach for one of M - N or more to come before.
    """
    earlier, later = torch.triu_indices(m, m, offset=1, device=device)
    index = torch.arange(m, device=device)[:, None]
    signs = (index == later).float() - (index == earlier).float()
    return earlier, later, signs, (index + 1.0 - n)


Pattern: TypeAlias = Unstructured | NM


def keep_largest(scores: Tensor, drop: int) -> Tensor:
    """Mark all but the ``drop`` smallest scores of each row, ties by index.

    Args:
        scores: ``[groups, count]``, any real dtype, finite.
        drop: How many scores of each row to leave out, ``0 <= drop <= count``.

    Returns:
        Bool ``[groups, count]`` with exactly ``count - drop`` True in each row.

    >>> keep_largest(torch.tensor([[3.0, 1.0, 1.0, 1.0]]), 2)
    tensor([[ True, False, False,  True]])
    """
    if drop == 0:
        return torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    if drop == scores.shape[1]:
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    threshold, ambiguous = kth_smallest(scores, drop)
    keep = scores > threshold
    tied_rows = ambiguous.nonzero().squeeze(1)
    if len(tied_rows):
        # Some of the scores equal to the threshold stay: the last ones, by index.
        tied = scores[tied_rows] == threshold[tied_rows]
        staying = scores.shape[1] - drop - keep[tied_rows].sum(dim=1, keepdim=True)
        keep[tied_rows] |= tied & (tied.flip(1).cumsum(dim=1).flip(1) <= staying)
    return keep


def kth_smallest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-th smallest score of each row, ``1 <= k < count``, found without sorting.

    Returns:
        That score, ``[groups, 1]`` (float32 for 16-bit scores), and whether the next one equals
        it, bool ``[groups]``.
    """
    if scores.dtype in (torch.bfloat16, torch.float16):
        scores = scores.float()
    if scores.device.type != "cpu":
        kth = _kth_of_many(scores, k) if _is_long_row(scores) else scores.kthvalue(k, 1, True)[0]
        return kth, (scores <= kth).sum(dim=1) > k
    ordered = scores.detach().clone(memory_format=torch.contiguous_format)
    try:
        # NumPy's introselect is far faster than torch's sort, topk or kthvalue.
        ordered.numpy().partition(k - 1, axis=1)
    except RuntimeError:  # torch was built, or runs, without NumPy
        ordered = ordered.sort(dim=1).values
    kth = ordered[:, k - 1 : k]
    return kth, ordered[:, k:].amin(dim=1) == kth.squeeze(1)


def _is_long_row(scores: Tensor) -> bool:
    return scores.shape[0] == 1 and scores.shape[1] >= _NARROW_FROM


def _kth_of_many(scores: Tensor, k: int) -> Tensor:
    """K-th smallest of one long row, exact: a sample bounds the candidates.

    ``kthvalue`` gives each row of a matrix one thread block, so one very long row is slow. An
    evenly spaced sample brackets the answer; a count over all scores proves that it is inside.

    Args:
        scores: ``[1, count]``, at least 65,536 of them.
        k: From 1 to ``count``.

    Returns:
        ``[1, 1]``.
    """
    row = scores[0]
    sample = row[:: len(row) >> 16].sort().values
    rank, slack = round(k / len(row) * len(sample)), len(sample) // 64
    low = sample[max(rank - slack, 0)]
    high = sample[min(rank + slack, len(sample) - 1)]
    below = int((row < low).sum())
    inside = row[(row >= low) & (row <= high)]
    if below < k <= below + len(inside):
        return inside.sort().values[k - below - 1].view(1, 1)
    return row.sort().values[k - 1].view(1, 1)
