# SPDX-License-Identifier: Apache-2.0
"""Damped Hessian, factorized so that the column pass begins at its first column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.errors import NumericalError

__all__ = ["Factor", "factorize"]

# Damping is doubled from here, up to 1, where the Hessian is not positive definite.
_FIRST_RAISE = 0.01


@dataclass(frozen=True, slots=True)
class Factor:
    """A damped Hessian, factorized.

    Attributes:
        lower: float32 ``[n, n]``, lower triangular; its transpose times itself is the Hessian. What
            lies above its diagonal blocks is meaningless.
        inverses: The inverses of its diagonal blocks.
        dampening: The damping fraction used.
    """

    lower: Tensor
    inverses: list[Tensor]
    dampening: float


def factorize(
    hessian: Callable[[], Tensor], dampening_frac: float, block_size: int = 128
) -> Factor:
    r"""Factorize a damped Hessian as :math:`X^\top X`, X lower triangular.

    From the last block of rows to the first, each allowing for those below it. Where the Hessian
    is not positive definite in float32, damping is raised: doubled, at least to 0.01, up to 1.

    Args:
        hessian: Makes the Hessian, anew for each attempt, since the factor takes its place: float32
            ``[n, n]``, of which only the diagonal and what is below are read.
        dampening_frac: Share of the mean diagonal added to the diagonal.
        block_size: Rows of a block.

    Raises:
        NumericalError: If no damping helps.

    >>> factorize(lambda: torch.tensor([[5.0, 0.0], [4.0, 4.0]]), 0.0).lower
    tensor([[1., 0.],
            [2., 2.]])
    """
    used = float(dampening_frac)
    while True:
        lower = hessian()
        diagonal = lower.diagonal()
        diagonal.add_(used * diagonal.mean())
        inverses, definite = _factorize_in_place(lower, block_size)
        if definite:
            return Factor(lower=lower, inverses=inverses, dampening=used)
        if used >= 1:
            raise NumericalError(
                "the Hessian is not positive definite, not even at dampening_frac 1 "
                f"({dampening_frac} given); add calibration samples, or load the model in bfloat16 "
                "or float32"
            )
        used = min(1.0, max(2 * used, _FIRST_RAISE))


def _factorize_in_place(lower: Tensor, block_size: int) -> tuple[list[Tensor], bool]:
    """Factorize a lower triangle in place; whether it exists, and the blocks' inverses."""
    columns, inverses = len(lower), []
    failures = lower.new_zeros((), dtype=torch.int32)
    for start in reversed(range(0, columns, block_size)):
        stop = min(start + block_size, columns)
        rows = lower[start:stop, :stop]
        if stop < columns:
            rows.addmm_(lower[stop:, start:stop].t(), lower[stop:, :stop], alpha=-1)
        # With the order reversed, H = X^T X is the usual Cholesky factorization.
        square = rows[:, start:]
        reversed_factor, info = torch.linalg.cholesky_ex(square.flip(0, 1), upper=True)
        failures += info
        square.copy_(reversed_factor.flip(0, 1))
        identity = torch.eye(stop - start, device=lower.device)
        inverse = torch.linalg.solve_triangular(square, identity, upper=False)
        inverses.append(inverse)
        if start:
            rows[:, :start] = inverse.t() @ rows[:, :start]
    definite = int(failures) == 0 and bool(torch.isfinite(lower.diagonal()).all())
    return inverses[::-1], definite
