# SPDX-License-Identifier: Apache-2.0
"""Registration of the model type ``kick`` and the task folder with lm-eval.

lm-eval versions that read entry points (groups ``lm_eval.models`` and ``lm_eval.tasks``) need
nothing from here, and both functions then find their work done and do nothing. For the others
``lmkick_autoload`` calls each function right after the lm-eval module of the same name has run, and
``lmkick run`` calls :func:`register`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lmkick_plugin.lm_eval_patches import apply_patches, drop_known_warnings, scan_also

__all__ = [
    "MODEL_NAME",
    "MODEL_TARGET",
    "OUR_PREFIXES",
    "TASK_FOLDER",
    "register",
    "register_model",
    "register_tasks",
]

MODEL_NAME = "kick"
MODEL_TARGET = "lmkick_plugin.model:KickLM"

# Beside this package in a wheel, an editable install and a checkout alike. Not looked up by its
# import name: a folder called task_yaml in the user's working directory would come first.
TASK_FOLDER = Path(__file__).resolve().parent.parent / "task_yaml"

#: How our tasks, groups and tags begin, and none of lm-eval's.
OUR_PREFIXES = ("kick", "llmkick", "mmlu_kick", "mmlu_llmkick", "recall_kick")


def register() -> None:
    """Register with lm-eval's models and tasks; calling it twice does no harm."""
    import lm_eval.models
    import lm_eval.tasks  # noqa: F401

    register_model()
    register_tasks()


def register_model() -> None:
    """Register ``kick`` by name, so that torch is imported only when the model is built.

    Only to be called after ``lm_eval.models`` ran: lm-eval takes a registry that is not empty as a
    sign that its own models are registered.
    """
    registry = sys.modules["lm_eval.api.registry"].model_registry
    if MODEL_NAME not in registry:
        registry.register(MODEL_NAME, target=MODEL_TARGET)


def register_tasks() -> None:
    """Register our tasks and apply our patches of lm-eval; only after ``lm_eval.tasks`` ran."""
    scan_also(TASK_FOLDER)
    drop_known_warnings(OUR_PREFIXES)
    apply_patches()
