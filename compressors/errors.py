# SPDX-License-Identifier: Apache-2.0
"""Errors that say what was wrong and what to do; shown without a traceback by ``lmkick``."""

from __future__ import annotations

__all__ = ["LmkickError", "NumericalError", "SettingsError", "UnsupportedModelError"]


class LmkickError(Exception):
    """Base of the errors whose message is complete by itself."""


class SettingsError(LmkickError, ValueError):
    """A setting or calibration input is wrong, or contradicts another; raised before any work."""


class UnsupportedModelError(LmkickError, ValueError):
    """The model does not go with the request: no blocks found, widths that do not divide."""


class NumericalError(LmkickError, RuntimeError):
    """Non-finite values, or a Hessian that no damping makes positive definite."""
