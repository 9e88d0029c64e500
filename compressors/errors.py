# SPDX-License-Identifier: Apache-2.0
"""Errors with a remedy; ``lmkick`` shows them without a traceback."""

from __future__ import annotations

__all__ = ["LmkickError", "NumericalError", "SettingsError", "UnsupportedModelError"]


class LmkickError(Exception):
    """Base of errors whose message is complete."""


class SettingsError(LmkickError, ValueError):
    """A wrong or contradictory setting or calibration input; raised before any work."""


class UnsupportedModelError(LmkickError, ValueError):
    """A model that does not go with the request: no blocks, indivisible widths."""


class NumericalError(LmkickError, RuntimeError):
    """Non-finite values, or a Hessian that no damping makes positive definite."""
