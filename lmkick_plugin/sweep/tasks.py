# SPDX-License-Identifier: Apache-2.0
"""Tasks of a sweep, built once for all cells of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmkick_plugin.preflight.tasks import check_shots
from lmkick_plugin.recipe.readers import suggest
from lmkick_plugin.terminal import CommandError

__all__ = ["TaskCache", "task_manager"]


def task_manager(
    names: Sequence[str], metadata: dict[str, Any], include_path: str | None = None
) -> Any:
    """Task manager for all cells; skips lm-eval's 14,000 files where no task needs them.

    Args:
        names: What was asked for.
        metadata: For the tasks. lm-eval's manager keeps this very mapping and looks into it
            whenever it loads a task.
        include_path: A folder of more tasks.

    Raises:
        CommandError: There is no such task.
    """
    from lm_eval.tasks import TaskManager

    from lmkick_plugin.registration import OUR_PREFIXES, TASK_FOLDER, register

    register()
    folders = [TASK_FOLDER, *([include_path] if include_path else [])]
    ours = TaskManager(include_path=folders, include_defaults=False, metadata=metadata)
    unknown = [name for name in names if not ours.match_tasks([name])]
    if not unknown:
        return ours
    for name in unknown:
        # Spares who mistyped one the reading of lm-eval's files.
        if name.lower().startswith(OUR_PREFIXES):
            raise _no_task(name, ours)
    manager = TaskManager(include_path=include_path, metadata=metadata)
    for name in names:
        if not manager.match_tasks([name]):
            raise _no_task(name, manager)
    return manager


def _no_task(name: str, manager: Any) -> CommandError:
    hint = suggest(name, manager.all_tasks)
    return CommandError(f"no task {name!r}. {hint}`lmkick ls tasks` lists them")


class TaskCache:
    """Tasks by name, built on first use.

    Attributes:
        manager: lm-eval's task manager. Without it, lm-eval would read its 14,000 files again for
            each evaluation, though all tasks are there.
        names: What is evaluated and kept by itself: tasks, and groups that have scores of their
            own. Groups that only gather others are opened.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        metadata: Mapping[str, Any],
        include_path: str | None = None,
    ) -> None:
        """Find the tasks in lm-eval's index.

        Args:
            names: Tasks, groups, tags or globs.
            metadata: For the tasks.
            include_path: A folder of more tasks.

        Raises:
            CommandError: There is no such task.
        """
        self._metadata = dict(metadata)
        self._shown: dict[str, Any] = {"lmkick": "sweep", **metadata}
        self.manager = task_manager(names, self._shown, include_path)
        self._built: dict[str, list[Any]] = {}
        self._for: dict[str, Any] | None = None
        found: dict[str, None] = {}
        for name in names:
            for match in self.manager.match_tasks([name]):
                found.update(dict.fromkeys(self._open(match)))
        self.names = tuple(found)

    def _open(self, name: str) -> list[str]:
        entry = self.manager.task_index[name]
        if entry.kind.name == "TAG":
            return sorted(entry.tags)
        config = entry.cfg or {}
        members = config.get("task") or []
        gathers = not config.get("aggregate_metric_list") and all(
            isinstance(member, str) for member in members
        )
        if entry.kind.name == "GROUP" and isinstance(members, list) and gathers:
            return [leaf for member in members for leaf in self._open(member)]
        return [name]

    def use(self, model: Mapping[str, Any]) -> None:
        """Pass a model's arguments to the tasks, as lm-eval does.

        Args:
            model: Arguments of ``--model kick`` that all its cells share.
        """
        if self._for == dict(model):
            return
        self._for = dict(model)
        self._built.clear()
        self._shown.clear()
        self._shown.update({**model, **self._metadata})

    def objects(self, name: str) -> list[Any]:
        """A task or group for lm-eval's ``simple_evaluate``; the same object each time.

        Args:
            name: One of :attr:`names`.
        """
        if name not in self._built:
            loaded = self.manager.load([name])
            groups = loaded.get("groups", {})
            self._built[name] = [groups[name]] if name in groups else list(loaded["tasks"].values())
        return self._built[name]

    def check(self, *, judged: bool = True, num_fewshot: int | None = None) -> None:
        """Build every task, which checks its data, and check the judge, if any.

        Args:
            judged: Whether to.
            num_fewshot: Solved examples in each prompt; None: as the task says.

        Raises:
            CommandError: What is missing or wrong.
        """
        from lmkick_plugin.registration import OUR_PREFIXES

        for name in self.names:
            try:
                self.objects(name)
                for leaf, task in self.manager.load(self.objects(name))["tasks"].items():
                    if leaf.startswith(OUR_PREFIXES):
                        check_shots(leaf, task, num_fewshot)
                    check_judge = getattr(task, "check_judge", None)
                    if judged and check_judge is not None:
                        check_judge()
            except (ValueError, KeyError, OSError, RuntimeError) as error:
                raise CommandError(f"tasks: {name}: {error}") from error
