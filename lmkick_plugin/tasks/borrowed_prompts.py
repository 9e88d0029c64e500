# SPDX-License-Identifier: Apache-2.0
"""Prompts of other tasks, as texts for divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.registration import OUR_PREFIXES, TASK_FOLDER

__all__ = ["Prompt", "load_tasks", "prompts"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its task, document number and text."""

    task: str
    number: int
    text: str


def load_tasks(names: Sequence[str], metadata: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Load tasks and the leaves of groups, which checks their data.

    Args:
        names: Tasks, groups or tags: ours first, then lm-eval's own.
        metadata: What the tasks are to be given (``data_dir`` and the like).

    Returns:
        The leaf tasks of each name.

    Raises:
        SettingsError: A name is unknown, or a task has no prompt.
    """
    from lm_eval.tasks import TaskManager

    # lm-eval's own folder of 14,000 files is only read where a name asks for it.
    manager = TaskManager(
        include_path=[TASK_FOLDER], include_defaults=False, metadata=dict(metadata)
    )
    found: dict[str, list[Any]] = {}
    for name in names:
        if name not in manager.all_tasks and not name.startswith(OUR_PREFIXES):
            manager = TaskManager(include_path=[TASK_FOLDER], metadata=dict(metadata))
        if name not in manager.all_tasks:
            raise SettingsError(
                f"divergence_prompts: no task {name!r}. Give names of tasks or groups, joined by a "
                "plus sign: kick_mmlu+kick_freebaseqa."
            )
        leaves = list(manager.load([name])["tasks"].values())
        for leaf in leaves:
            if leaf.OUTPUT_TYPE not in ("generate_until", "loglikelihood", "multiple_choice"):
                raise SettingsError(
                    f"divergence_prompts: {leaf.config.task} uses {leaf.OUTPUT_TYPE} requests, so "
                    "it has no prompts. Name tasks that generate or choose."
                )
        found[name] = leaves
    return found


def prompts(tasks: Mapping[str, Sequence[Any]], count: int, **options: Any) -> list[Prompt]:
    """Build prompts as lm-eval builds them, few-shot examples included.

    Args:
        tasks: As :func:`load_tasks` returns them.
        count: At most so many of each name, spread evenly over its leaves and their documents.
        **options: Of ``Task.build_all_requests``: chat template and system instruction.

    Returns:
        One prompt a document.
    """
    found = []
    for leaves in tasks.values():
        for place, leaf in enumerate(leaves):
            share = count * (place + 1) // len(leaves) - count * place // len(leaves)
            if share == 0:
                continue
            total = len(leaf.eval_docs)
            chosen = [at * total // min(share, total) for at in range(min(share, total))]
            if leaf.config.num_fewshot is None:
                leaf.set_config(key="num_fewshot", value=0)
            leaf.set_fewshot_seed(seed=1234)  # lm-eval's default
            leaf.override_metric("bypass")  # as --predict_only: no judge is looked at for a prompt
            leaf.build_all_requests(samples=chosen, rank=0, world_size=1, **options)
            texts = {instance.doc_id: instance.args[0] for instance in leaf.instances}
            found += [
                Prompt(str(leaf.config.task), chosen[number], text)
                for number, text in sorted(texts.items())
                if text
            ]
    return found
