# SPDX-License-Identifier: Apache-2.0
"""Which ``kick`` models live in this process, so that tasks that need one can say so early.

An lm-eval task never sees the model. A ``kickonly_*`` task asks here, before the first forward
pass, whether any model could serve its requests.
"""

from __future__ import annotations

import weakref
from typing import Any

from lmkick_plugin.values import settings_error

__all__ = ["announce", "require_kick_model"]

# Weak: a model that its user has dropped must not be kept alive, nor count as alive.
_models: weakref.WeakSet[Any] = weakref.WeakSet()


def announce(model: Any) -> None:
    """Note that this ``KickLM`` is ready to serve requests."""
    _models.add(model)


def require_kick_model(task_name: str) -> None:
    """Raise unless a ``KickLM`` is alive in this process.

    Raises:
        SettingsError: None is: the task was started with another ``--model``.
    """
    if not _models:
        raise settings_error(
            f"{task_name} asks the model for more than lm-eval's own three requests, so it runs "
            "with --model kick only, and no such model is loaded. Use --model kick (without a "
            "compressor it evaluates the dense model), or choose one of the kick_* tasks."
        )
