# SPDX-License-Identifier: Apache-2.0
"""Facts about a task from its YAML's ``metadata``: headline metric, chat template, rubric.

They are read from a results file, which holds the metadata of each task, and by name from the YAML
files of this package where there is no results file, or one of an earlier version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lmkick_plugin.registration import TASK_FOLDER
from lmkick_plugin.results.results_file import ResultsFile

__all__ = ["TaskFacts", "facts_in", "facts_of", "task_order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """Facts of a task; tasks of others have the defaults.

    Attributes:
        headline: The metric shown where there is room for one.
        knowledge: Whether it is one of the knowledge tasks.
        floors: A metric's score by chance; 0 for those that are not named.
        chat_template: Whether chat models are meant to be asked through their template.
        rubric: How a judge scores the answers: ``summary``, ``answer`` or ``conversation``.
        rubric_prompts: ``llmkick`` for the prompts of the released code.
    """

    headline: str | None = None
    knowledge: bool = False
    floors: Mapping[str, float] = field(default_factory=dict)
    chat_template: bool = False
    rubric: str | None = None
    rubric_prompts: str | None = None


_FIELDS = tuple(TaskFacts.__dataclass_fields__)


def facts_in(file: ResultsFile, task: str) -> TaskFacts:
    """Facts about a task or group from a results file, else from the package.

    Args:
        file: What lm-eval wrote.
        task: A task or group of it.
    """
    leaves, subtasks = [task], file.mapping("group_subtasks")
    while leaves and isinstance(subtasks.get(leaves[0]), list) and subtasks[leaves[0]]:
        leaves = subtasks[leaves[0]]
    config = file.mapping("configs").get(leaves[0])
    metadata = config.get("metadata") if isinstance(config, dict) else None
    if isinstance(metadata, dict) and not metadata.keys().isdisjoint(_FIELDS):
        return _facts(metadata)
    return facts_of(task)


def facts_of(task: str) -> TaskFacts:
    """Facts about a task or group of this package; defaults for others.

    >>> facts_of("kick_mmlu").headline, facts_of("hellaswag").headline
    ('acc', None)
    """
    known = _files()
    while task in known and "group" in known[task]:
        members = [name for name in known[task].get("task", []) if isinstance(name, str)]
        if not members:
            break
        task = members[0]
    return _facts(known.get(task, {}).get("metadata") or {})


@cache
def task_order() -> tuple[str, ...]:
    """Names of this package's tasks in the order of its groups."""
    known = _files()
    groups = ("kick", "kickonly", "recall_kick", "recall_kick_freebase")
    return tuple(name for group in groups for name in known[group]["task"])


def _facts(metadata: Mapping[str, Any]) -> TaskFacts:
    return TaskFacts(**{name: metadata[name] for name in _FIELDS if name in metadata})


@cache
def _files() -> dict[str, dict[str, Any]]:
    """Task and group files of the package by name, with their includes."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML loader that reads ``!function`` as text."""

    Loader.add_constructor("!function", lambda _, node: str(node.value))
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(TASK_FOLDER.rglob("*.yaml")):
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        if "include" in content:
            base = (path.parent / content["include"]).read_text(encoding="utf-8")
            content = {**yaml.load(base, Loader), **content}
        name = content.get("group") or content.get("task")
        if isinstance(name, str):
            found[name] = content
    return found
