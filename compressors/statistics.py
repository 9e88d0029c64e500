# SPDX-License-Identifier: Apache-2.0
"""Streaming statistics of a layer's inputs.

A statistic is made with ``S(in_features, device)``, fed with ``update``, and may be ``merge``d with
one gathered elsewhere. It counts tokens, not calls, accumulates plain sums in float32 and scales
once, at the end, so neither batch size nor order matters beyond rounding.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from compressors.base import all_finite
from compressors.errors import NumericalError, SettingsError
from compressors.matmul import add_gram

__all__ = [
    "CACHED_ELEMENTS",
    "ColumnNorm",
    "Hessian",
    "HessianAndMagnitude",
    "NoStatistic",
    "Statistic",
]

_Self = TypeVar("_Self", bound="Statistic")

#: Elements worked on at once: what a CPU's cache holds.
CACHED_ELEMENTS = 1 << 17
# And what keeps a GPU busy.
_LAUNCHED_ELEMENTS = 1 << 26
# Columns mirrored at once.
_MIRRORED = 256


class Statistic:
    """Running summary of the inputs of one linear layer.

    Args:
        in_features: Width of the inputs.
        device: Where the sums live.

    Attributes:
        in_features: Width of the inputs.
        tokens: Input vectors seen so far.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.in_features = in_features
        self.device = torch.device(device)
        self.tokens = 0

    def update(self, x: Tensor) -> None:
        """Add inputs.

        Args:
            x: ``[..., in_features]``, any floating dtype; a leading extent of 0 is fine.

        Raises:
            SettingsError: If the last dimension is not ``in_features``.
        """
        if x.shape[-1] != self.in_features:
            raise SettingsError(
                f"inputs have {x.shape[-1]} features, the layer has in_features={self.in_features}"
            )
        rows = x.detach().reshape(-1, self.in_features)
        if rows.shape[0]:
            self.tokens += rows.shape[0]
            self._add(rows.to(self.device))

    def merge(self: _Self, other: _Self) -> None:
        """Add the sums of ``other``, as if this one had seen its inputs.

        Args:
            other: A statistic of the same kind and width; it is not changed.

        Raises:
            SettingsError: If kind or width differ.
        """
        if type(other) is not type(self) or other.in_features != self.in_features:
            raise SettingsError(
                f"cannot merge {type(other).__name__}({other.in_features}) into "
                f"{type(self).__name__}({self.in_features})"
            )
        self.tokens += other.tokens
        self._absorb(other)

    def require_tokens(self) -> None:
        """Raise :class:`SettingsError` if no tokens were seen."""
        if not self.tokens:
            raise SettingsError(
                "no calibration tokens were seen: raise nsamples to at least 1, or use the method "
                "that fallback() returns"
            )

    def _add(self, rows: Tensor) -> None:
        """Accumulate ``[tokens, in_features]``, at least one token."""

    def _absorb(self, other: Statistic) -> None:
        """Add the sums of ``other``, of the same class and width."""


class NoStatistic(Statistic):
    """Count of tokens, for methods that read the weights alone."""


class ColumnNorm(Statistic):
    """The l2 norm of each input feature over all tokens (Wanda's ``||X_j||_2``).

    References:
        Sun et al., arXiv:2306.11695, eq. 1.

    >>> stats = ColumnNorm(2)
    >>> stats.update(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
    >>> stats.norm
    tensor([5., 1.])
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        super().__init__(in_features, device)
        self.sum_of_squares = torch.zeros(in_features, dtype=torch.float32, device=self.device)

    def _add(self, rows: Tensor) -> None:
        for piece in _pieces(rows):
            self.sum_of_squares += piece.float().square().sum(dim=0)

    def _absorb(self, other: Statistic) -> None:
        if isinstance(other, ColumnNorm):
            self.sum_of_squares += other.sum_of_squares.to(self.device)

    @property
    def norm(self) -> Tensor:
        """float32 ``[in_features]``.

        Raises:
            NumericalError: If an input was, or a sum became, non-finite.
        """
        _require_finite(self.sum_of_squares)
        return self.sum_of_squares.sqrt()


class Hessian(Statistic):
    r"""The mean of :math:`x x^\top` over all tokens: the layer-wise objective's second derivative.

    The factor 2 of :math:`H = 2 X X^\top` is left out: whatever reads this is unchanged when H is
    scaled. Only the lower triangle is accumulated, by block rows; :attr:`matrix` mirrors it.

    References:
        Frantar et al., arXiv:2210.17323, section 3 (GPTQ); Frantar and Alistarh,
        arXiv:2301.00774, section 3 (SparseGPT).

    >>> stats = Hessian(2)
    >>> stats.update(torch.tensor([[[2.0, 0.0]], [[2.0, 2.0]]]))
    >>> stats.tokens, stats.matrix.tolist()
    (2, [[4.0, 2.0], [2.0, 2.0]])
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        super().__init__(in_features, device)
        self.lower_sum = torch.zeros(
            in_features, in_features, dtype=torch.float32, device=self.device
        )

    def _add(self, rows: Tensor) -> None:
        add_gram(self.lower_sum, rows)

    def _absorb(self, other: Statistic) -> None:
        if isinstance(other, Hessian):
            self.lower_sum += other.lower_sum.to(self.device)

    @property
    def diagonal(self) -> Tensor:
        """float32 ``[in_features]``: the mean square of each input feature; 0 for a dead one."""
        return self.lower_sum.diagonal() / max(self.tokens, 1)

    @property
    def lower(self) -> Tensor:
        """float32 ``[in_features, in_features]``: :attr:`matrix` on and below its diagonal.

        A new tensor each time; what lies above the diagonal is finite, and meaningless.

        Raises:
            NumericalError: If an input was, or a sum became, non-finite.
        """
        _require_finite(self.lower_sum)
        return self.lower_sum / max(self.tokens, 1)

    @property
    def matrix(self) -> Tensor:
        """float32 ``[in_features, in_features]``, symmetric, a new tensor each time.

        Raises:
            NumericalError: If an input was, or a sum became, non-finite.
        """
        full = self.lower
        for start in range(0, self.in_features, _MIRRORED):
            stop = min(start + _MIRRORED, self.in_features)
            full[:start, start:stop] = full[start:stop, :start].t()
            block = full[start:stop, start:stop]
            block.copy_(block.tril() + block.tril(-1).t())
        return full


class HessianAndMagnitude(Hessian):
    r"""Hessian, and the mean of :math:`|x_j|` of each input feature over all tokens.

    References:
        Lin et al., arXiv:2306.00978, section 3.2 (AWQ's :math:`s_X`).

    >>> stats = HessianAndMagnitude(2)
    >>> stats.update(torch.tensor([[-3.0, 0.0], [1.0, 4.0]]))
    >>> stats.magnitude
    tensor([2., 2.])
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        super().__init__(in_features, device)
        self.absolute_sum = torch.zeros(in_features, dtype=torch.float32, device=self.device)

    def _add(self, rows: Tensor) -> None:
        super()._add(rows)
        for piece in _pieces(rows):
            self.absolute_sum += piece.float().abs().sum(dim=0)

    def _absorb(self, other: Statistic) -> None:
        super()._absorb(other)
        if isinstance(other, HessianAndMagnitude):
            self.absolute_sum += other.absolute_sum.to(self.device)

    @property
    def magnitude(self) -> Tensor:
        """float32 ``[in_features]``.

        Raises:
            NumericalError: If an input was, or a sum became, non-finite.
        """
        _require_finite(self.absolute_sum)
        return self.absolute_sum / max(self.tokens, 1)


def _pieces(rows: Tensor) -> tuple[Tensor, ...]:
    """Pieces of rows that fit a CPU's cache."""
    elements = CACHED_ELEMENTS if rows.device.type == "cpu" else _LAUNCHED_ELEMENTS
    return torch.split(rows, max(1, elements // rows.shape[1]))


def _require_finite(sums: Tensor) -> None:
    if not all_finite(sums):
        raise NumericalError(
            "the input statistics are not finite: an activation overflowed or is NaN; load the "
            "model in bfloat16 or float32, and check the calibration text"
        )
