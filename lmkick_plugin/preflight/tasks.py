# SPDX-License-Identifier: Apache-2.0
"""Check the tasks of a run, their data and their judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmkick_plugin.data.sources import data_directory
from lmkick_plugin.recipe.readers import check_path, suggest
from lmkick_plugin.registration import OUR_PREFIXES, TASK_FOLDER
from lmkick_plugin.terminal import CommandError

__all__ = ["check_data_dir", "check_metadata_names", "check_shots", "check_tasks"]

#: Settings of our tasks in ``--metadata`` that are long enough to be recognised when misspelt.
_METADATA = (
    "data_dir", "divergence_count", "divergence_prompts", "divergence_text", "evidence_chars",
    "max_window", "new_tokens", "prompt_tokens",
)  # fmt: skip


def check_data_dir(folder: str | None) -> None:
    """Check that a data directory, where one is given, is a directory."""
    found = data_directory(folder)
    if found is not None and not Path(check_path("data_dir", found)).is_dir():
        raise CommandError(
            f"data_dir={folder or found}: no such directory; leave it out to read from the "
            "Hugging Face Hub"
        )


def check_metadata_names(metadata: Mapping[str, Any]) -> None:
    """Refuse a name that is nearly one of ours; others may be of tasks that are not ours."""
    for name in metadata:
        hint = suggest(name, _METADATA) if name not in _METADATA else ""
        if hint and not name.startswith("judge_"):
            raise CommandError(f"metadata: {name} is not a setting of a task. {hint}".rstrip())


def check_shots(name: str, task: Any, count: int | None) -> None:
    """Build one prompt with its solved examples, which fails where there are too few.

    Args:
        name: Of the task.
        task: The task, loaded.
        count: As after ``--num_fewshot``; None: as the task says.

    Raises:
        CommandError: There are fewer.
    """
    if not count or task.get_config("num_fewshot") == 0:  # lm-eval leaves these at 0
        return
    try:
        task.set_fewshot_seed(0)
        task.fewshot_context(task.eval_docs[0], count)
    except (AssertionError, ValueError) as error:
        cause = str(error).removeprefix("Error: ").rstrip(".")
        raise CommandError(f"num_fewshot={count}: {name}: {cause}. Ask for fewer") from error


def check_tasks(
    names: Sequence[str],
    *,
    include_path: str | None = None,
    task_metadata: Mapping[str, Any] | None = None,
    judged: bool = True,
    samples: Mapping[str, Sequence[int]] | None = None,
    num_fewshot: int | None = None,
) -> None:
    """Load our own tasks among ``names``, which checks their data; others are left to lm-eval.

    Where a judge is configured, its key, endpoint and reference are looked at too.

    Args:
        names: task, group and tag names or globs, as after ``--tasks``.
        include_path: as after ``--include_path``; a task there replaces ours of the same name.
        task_metadata: what lm-eval will hand to the tasks, ``data_dir`` among it.
        judged: whether answers will be judged, if a judge is configured.
        samples: the documents to evaluate, by task, as after ``--samples``.
        num_fewshot: as after ``--num_fewshot``.

    Raises:
        CommandError: what is missing or wrong.
    """
    from lm_eval.tasks import TaskManager

    # Without lm-eval's own 14,000 files the index takes a fraction of a second instead of four.
    manager = TaskManager(
        include_path=[TASK_FOLDER, *([include_path] if include_path else [])],
        include_defaults=False,
        metadata=dict(task_metadata or {}),
    )
    ours, others = [], False
    for name in names:
        if not name:
            raise CommandError(
                f"--tasks {','.join(names)}: a name is empty. Remove the extra comma"
            )
        matches = manager.match_tasks([name])
        if not matches and name.lower().startswith(OUR_PREFIXES):
            hint = suggest(name, manager.all_tasks)
            raise CommandError(f"no task {name!r}. {hint}`lmkick ls tasks` lists them")
        for match in matches:
            path = manager.task_index[match].yaml_path
            if path is not None and path.is_relative_to(TASK_FOLDER) and match not in ours:
                ours.append(match)
        others = others or not matches or not set(matches) <= set(ours)
    _refuse_doubled(ours, manager)
    try:
        tasks = manager.load(ours)["tasks"]
        if samples and not others:
            _check_samples(samples, tasks)
        for name, task in tasks.items():
            check_shots(name, task, num_fewshot)
            check_judge = getattr(task, "check_judge", None)
            if judged and check_judge is not None:
                check_judge()
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise CommandError(f"--tasks: {error}") from error


def _refuse_doubled(names: Sequence[str], manager: Any) -> None:
    """Refuse a group beside one of its own tasks, which lm-eval refuses without a remedy."""
    for group in names:
        for task in _members(group, manager):
            if task in names:
                raise CommandError(
                    f"--tasks: {task} is named twice, by itself and in group {group}. Name tasks "
                    "alone, as in 'kick_*', or groups alone"
                )


def _members(group: str, manager: Any) -> list[str]:
    """Names in a group, and in the groups in it."""
    entry = manager.task_index.get(group)
    members = (entry.cfg or {}).get("task") if entry and entry.kind.name == "GROUP" else None
    named = [member for member in members if isinstance(member, str)] if members else []
    return named + [inner for name in named for inner in _members(name, manager)]


def _check_samples(samples: Mapping[str, Sequence[int]], tasks: Mapping[str, Any]) -> None:
    """Refuse documents that a task of ours does not have."""
    for name, numbers in samples.items():
        if name not in tasks:
            hint = suggest(name, tasks)
            raise CommandError(f"--samples: {name!r:.60} is not among --tasks. {hint}".rstrip())
        count = len(tasks[name].eval_docs)
        if numbers and max(numbers) >= count:
            raise CommandError(
                f"--samples: {name} has {count} documents, 0 to {count - 1}; {max(numbers)} was "
                "asked for"
            )
