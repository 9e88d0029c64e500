# SPDX-License-Identifier: Apache-2.0
"""Count zeros of weight matrices and detect N:M patterns.

A pattern is found from the weights alone: the smallest M for which every group of M neighbouring
input columns keeps at most N < M weights, and nearly that many. "Nearly", because quantization
rounds further weights to zero. Unstructured zeros, however many, are not a pattern.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ZeroCount"]

_LARGEST = 32
#: Share of the N weights of every M that must be there for the zeros to be a pattern's ...
_FILLED = 0.99
#: ... and how few will do, as zeros by rounding come on top, where the pattern is a usual one:
#: M of 2, 4, 8 or 16, and a quarter of the weights pruned at least.
_FILLED_USUAL = 0.75
_USUAL = (2, 4, 8, 16)


@dataclass(slots=True)
class ZeroCount:
    """Running counts over the matrices of a model.

    Attributes:
        matrices: Matrices begun.
        total: Weights.
        zeros: Those that are zero.
    """

    matrices: int = 0
    total: int = 0
    zeros: int = 0
    _worst: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(2, _LARGEST + 1), 0))

    def add_matrix(self, blocks: Iterable[Tensor]) -> None:
        """Count a whole matrix.

        Args:
            blocks: Where its weights are zero: bool ``[rows, in_features]``, block after block.
        """
        self.matrices += 1
        for zero in blocks:
            # A few rows first: they rule out most patterns, and those cost nothing afterwards.
            self.add_rows(zero[:16])
            self.add_rows(zero[16:])

    def add_rows(self, zero: Tensor) -> None:
        """Count some whole rows of a matrix.

        Args:
            zero: ``[rows, in_features]``, bool.
        """
        if not zero.numel():
            return
        self.total += zero.numel()
        self.zeros += int(zero.sum())
        for size in list(self._worst):
            if zero.shape[1] % size:
                del self._worst[size]
                continue
            kept = size - zero.reshape(-1, size).sum(dim=1)
            self._worst[size] = max(self._worst[size], int(kept.max()))
            if not self._possible(size):
                del self._worst[size]

    def _possible(self, size: int) -> bool:
        kept = self._worst[size]
        if kept == 0:
            return True  # nothing but zeros so far
        filled = _FILLED_USUAL if size in _USUAL and 4 * kept <= 3 * size else _FILLED
        return kept < size and self.total - self.zeros >= filled * self.total * kept / size

    @property
    def nonzero(self) -> int:
        """Number of weights that are not zero."""
        return self.total - self.zeros

    @property
    def sparsity(self) -> float:
        """Share of zeros; 0 where nothing was counted."""
        return self.zeros / self.total if self.total else 0.0

    @property
    def pattern(self) -> str | None:
        """``N:M``: N kept of every M; None without such a pattern."""
        for size, kept in self._worst.items():
            if kept and self._possible(size):
                return f"{kept}:{size}"
        return None
