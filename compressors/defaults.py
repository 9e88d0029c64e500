# SPDX-License-Identifier: Apache-2.0
"""Default settings shared with the command line; imports nothing."""

from __future__ import annotations

__all__ = ["CACHE_GB", "OWL_LAMBDA", "OWL_THRESHOLD"]

CACHE_GB = 100.0
"""Largest size of ``compress_cache``."""
OWL_LAMBDA = 0.08
OWL_THRESHOLD = 5.0
