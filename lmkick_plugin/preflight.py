# SPDX-License-Identifier: Apache-2.0
"""What ``lmkick run`` checks before lm-eval starts, so that nothing is found wrong an hour later.

Under plain ``lm_eval`` the same checks happen, but those of the tasks' data after the model is
loaded and compressed: lm-eval builds the model first.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from lmkick_plugin.data.sources import data_directory
from lmkick_plugin.terminal import CommandError

__all__ = [
    "check_data_dir",
    "check_model_arguments",
    "check_run",
    "check_tasks",
]

# No task of lm-eval's starts like this.
_OUR_PREFIXES = ("kick", "llmkick", "mmlu_kick", "mmlu_llmkick")


def check_run(options: argparse.Namespace) -> None:
    """Raise :class:`CommandError` for what lm-eval would only find after loading the model.

    That is: the arguments of ``--model kick``, the data directory, and the data of each kick task
    that is asked for. All else (names of tasks, options that exclude each other) lm-eval itself
    checks first.

    Args:
        options: what lm-eval's parser returned for ``run``.

    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    settings: dict[str, Any] = {}
    if options.config is not None:
        try:
            settings.update(EvaluatorConfig.load_yaml_config(options.config))
        except (OSError, ValueError, TypeError) as error:
            raise CommandError(f"--config: {error}") from error
    settings.update({name: value for name, value in vars(options).items() if value})
    model_arguments = _mapping(settings.get("model_args"))
    task_metadata = model_arguments | _mapping(settings.get("metadata"))
    if settings.get("model") == "kick":
        check_model_arguments(model_arguments)
    check_data_dir(task_metadata.get("data_dir"))
    tasks = settings.get("tasks") or []
    check_tasks(
        tasks.split(",") if isinstance(tasks, str) else tasks,
        include_path=settings.get("include_path"),
        task_metadata=task_metadata,
        judged=not settings.get("predict_only"),
    )


def _mapping(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Read arguments as lm-eval does: a mapping, or ``name=value,name=value``."""
    from lm_eval.utils import simple_parse_args_string

    return dict(simple_parse_args_string(value) if isinstance(value, str) else value or {})


def check_model_arguments(arguments: Mapping[str, Any]) -> None:
    """Parse the arguments of ``--model kick`` and build its compressor, without loading weights."""
    from lmkick_plugin.loading.checks import check_adapter, check_placement, check_pretrained
    from lmkick_plugin.loading.precompressed import check_gguf
    from lmkick_plugin.loading.quantize_on_load import check_quantize
    from lmkick_plugin.recipe.arguments import parse_arguments

    try:
        recipe, passed = parse_arguments(dict(arguments))
        check_gguf(arguments.get("pretrained"), passed)
        check_pretrained(arguments.get("pretrained"))
        check_placement(passed)
        check_adapter(passed)
        recipe.build_compressor()
        if recipe.quantize is not None:
            check_quantize(recipe.quantize, None, passed, prebuilt=False)
        _ = recipe.seed  # several seeds are for a sweep
    except (ValueError, TypeError) as error:
        raise CommandError(f"--model_args: {error}") from error


def check_data_dir(folder: str | None) -> None:
    """Check that a data directory, where one is given, is a directory."""
    found = data_directory(folder)
    if found is not None and not found.is_dir():
        raise CommandError(
            f"data_dir={folder or found}: no such directory; leave it out to read from the "
            "Hugging Face Hub"
        )


def check_tasks(
    names: Sequence[str],
    *,
    include_path: str | None = None,
    task_metadata: Mapping[str, Any] | None = None,
    judged: bool = True,
) -> None:
    """Load our own tasks among ``names``, which checks their data; others are left to lm-eval.

    Where a judge is configured, its key, endpoint and reference are looked at too.

    Args:
        names: task, group and tag names or globs, as after ``--tasks``.
        include_path: as after ``--include_path``; a task there replaces ours of the same name.
        task_metadata: what lm-eval will hand to the tasks, ``data_dir`` among it.
        judged: whether answers will be judged, if a judge is configured.

    """
    from lm_eval.tasks import TaskManager

    from lmkick_plugin.registration import TASK_FOLDER

    # Without lm-eval's own 14,000 files the index takes a fraction of a second instead of four.
    manager = TaskManager(
        include_path=[TASK_FOLDER, *([include_path] if include_path else [])],
        include_defaults=False,
        metadata=dict(task_metadata or {}),
    )
    ours = []
    for name in names:
        matches = manager.match_tasks([name])
        if not matches and name.startswith(_OUR_PREFIXES):
            raise CommandError(f"no task {name!r}{_nearest(name, manager.all_tasks)}")
        for match in matches:
            path = manager.task_index[match].yaml_path
            if path is not None and path.is_relative_to(TASK_FOLDER) and match not in ours:
                ours.append(match)
    try:
        for task in manager.load(ours)["tasks"].values():
            check_judge = getattr(task, "check_judge", None)
            if judged and check_judge is not None:
                check_judge()
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise CommandError(f"--tasks: {error}") from error


def _nearest(name: str, known: Sequence[str]) -> str:
    """Return ``"; did you mean ...?"``, or where to look when nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; `lmkick ls tasks` lists them"
