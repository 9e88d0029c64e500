# SPDX-License-Identifier: Apache-2.0
"""Checks of settings and weights that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from compressors.base import NumericalError, SettingsError

__all__ = ["all_finite", "is_integer", "is_number", "require_dampening", "require_finite_weight"]


def is_integer(value: object) -> bool:
    """Whether ``value`` is an int, and not one of the two that are called True and False."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or float, and not a bool."""
    return is_integer(value) or isinstance(value, float)


def require_dampening(dampening_frac: object, block_size: object) -> None:
    """Raise :class:`SettingsError` unless these are settings of the Hessian methods."""
    if not (
        is_number(dampening_frac)
        and isinstance(dampening_frac, (int, float))
        and 0 <= dampening_frac <= 1
    ):
        raise SettingsError(
            f"dampening_frac={dampening_frac!r} has to be a number from 0 to 1: the share of the "
            "Hessian's mean diagonal that is added to it (0.01 as published)"
        )
    if not (is_integer(block_size) and isinstance(block_size, int) and block_size >= 1):
        raise SettingsError(
            f"block_size={block_size!r} has to be an integer from 1 on: the number of columns "
            "worked on at a time (128 as published)"
        )


def all_finite(values: Tensor) -> bool:
    """Whether no element is an infinity or NaN."""
    # One pass without temporaries; finite values whose sum overflows are looked at again.
    total = values.detach().sum(dtype=torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def require_finite_weight(weight: Tensor) -> None:
    """Raise :class:`NumericalError` if ``weight`` holds an infinity or NaN."""
    if not all_finite(weight):
        raise NumericalError(
            "the weight is not finite (it holds NaN or infinity) before any compression: check the "
            "checkpoint, and load it in the dtype it was saved in"
        )
