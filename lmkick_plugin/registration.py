# SPDX-License-Identifier: Apache-2.0
"""Make lm-eval know the model type ``kick`` and our task folder.

lm-eval versions that read entry points (groups ``lm_eval.models`` and ``lm_eval.tasks``) need
nothing from here, and both functions then find their work done and do nothing. For the others
``lmkick_autoload`` calls each function right after the lm-eval module of the same name has run, and
``lmkick run`` calls :func:`register`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = [
    "MODEL_NAME",
    "MODEL_TARGET",
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


def register() -> None:
    """Import lm-eval's models and tasks and register with both; calling it twice does no harm."""
    import lm_eval.models
    import lm_eval.tasks  # noqa: F401

    register_model()
    register_tasks()


def register_model() -> None:
    """Register ``kick`` by name, so that torch is imported when somebody asks for the model.

    Only to be called after ``lm_eval.models`` ran: lm-eval takes a registry that is not empty as a
    sign that its own models are registered.
    """
    registry = sys.modules["lm_eval.api.registry"].model_registry
    if MODEL_NAME not in registry:
        registry.register(MODEL_NAME, target=MODEL_TARGET)


def register_tasks() -> None:
    """Let every task index that holds lm-eval's built-in tasks hold ours as well.

    Ours come after the built-in ones and before those of ``--include_path``, so that a user's task
    of the same name wins. Nothing is added where our folder is among the paths already (an entry
    point or ``--include_path`` put it there), nor where the built-in tasks were not asked for.
    """
    # From sys.modules: while lm_eval.tasks is being imported it is not an attribute of lm_eval yet.
    index_class = sys.modules["lm_eval.tasks._index"].TaskIndex
    build = index_class.build
    if getattr(build, "adds_lmkick", False):
        return
    index_class.build = staticmethod(_also_our_folder(build))


def _also_our_folder(build: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap ``TaskIndex.build(paths, **options)``."""
    built_in = Path(str(sys.modules["lm_eval.tasks"].__file__)).resolve().parent

    @functools.wraps(build)
    def build_with_ours(paths: Iterable[Path], *args: Any, **options: Any) -> dict[str, Any]:
        folders = list(paths)
        resolved = [Path(folder).resolve() for folder in folders]
        if built_in in resolved and TASK_FOLDER not in resolved:
            folders.insert(resolved.index(built_in) + 1, TASK_FOLDER)
        return build(folders, *args, **options)

    build_with_ours.adds_lmkick = True  # type: ignore[attr-defined]
    return build_with_ours
