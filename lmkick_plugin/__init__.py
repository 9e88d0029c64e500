# SPDX-License-Identifier: Apache-2.0
"""The lm-eval side of lmkick: the model type ``kick``, what its tasks need, and the command line.

Importing this package imports neither torch nor lm_eval, because lm-eval's own start-up does it.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
