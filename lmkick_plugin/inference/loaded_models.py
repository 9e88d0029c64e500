# SPDX-License-Identifier: Apache-2.0
"""Registry of live KickLM instances, for tasks that need one.

An lm-eval task never sees the model. A ``kickonly_*`` task asks here, before the first forward
pass, whether any model could serve its requests.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.data.sources import DATA_DIR_VARIABLE
from lmkick_plugin.recipe.calibration_source import parts_of

__all__ = [
    "announce",
    "calibration_folders",
    "dense_problems",
    "forget",
    "model_of",
    "note_answered",
    "require_kick_model",
    "require_reference",
]

# Weak: a model that its user has dropped must not be kept alive, nor count as alive.
_models: weakref.WeakSet[Any] = weakref.WeakSet()
_answered: dict[str, weakref.ref[Any]] = {}


def announce(model: Any) -> None:
    """Register a ``KickLM`` that can serve requests."""
    _models.add(model)


def require_kick_model(task_name: str) -> None:
    """Raise unless a ``KickLM`` is alive in this process.

    Raises:
        SettingsError: None is: the task was started with another ``--model``.
    """
    if not _models:
        raise SettingsError(
            f"{task_name} needs requests that only --model kick serves. Use --model kick (without "
            "a compressor it evaluates the dense model), or a kick_* task."
        )


def dense_problems() -> list[str | None]:
    """For each live ``KickLM``, why it cannot answer as dense; None where it can."""
    return [getattr(model, "dense_problem", "it serves no dense answers") for model in _models]


def require_reference(task_name: str) -> None:
    """Raise unless some live ``KickLM`` has a dense reference.

    Raises:
        SettingsError: None has, as where a compressed checkpoint was compressed again.
    """
    missing = [model.reference.missing for model in _models if hasattr(model, "reference")]
    if missing and None not in missing:
        raise SettingsError(f"{task_name}: {missing[0]}.")


def calibration_folders(source: str) -> list[str | None]:
    """Data directories from which live models read a source of calibration text.

    Args:
        source: One source, such as ``task:alpaca``; it counts in a mixture too.

    Returns:
        A data directory for each model that was calibrated with it; None: the Hub.
    """
    found = []
    for model in _models:
        recipe = getattr(model, "recipe", None)
        sources = parts_of(getattr(recipe, "calibration", None) or "")
        if recipe is not None and source in sources:
            found.append(recipe.data_dir or os.environ.get(DATA_DIR_VARIABLE) or None)
    return found


def note_answered(model: Any, requests: Sequence[Any]) -> None:
    """Note which model answers a task's requests.

    Args:
        model: A ``KickLM``.
        requests: Instances that it is about to answer.
    """
    for name in {str(request.task_name) for request in requests}:
        _answered[name] = weakref.ref(model)


def forget(task_name: str) -> None:
    """Forget which model answered a task's requests; for the start of a run."""
    _answered.pop(task_name, None)


def model_of(task_name: str) -> Any | None:
    """Model that answered a task's requests in this run.

    Returns:
        A ``KickLM``; None where it was another model, or a cache of answers.
    """
    reference = _answered.get(task_name)
    return None if reference is None else reference()
