# SPDX-License-Identifier: Apache-2.0
"""Commands that evaluate a missing dense model with the options of its compressed runs.

Where nothing says what the runs are, the command that says it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lmkick_plugin.report.models import Model
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.terminal import plain

__all__ = ["dense_commands"]

_KEPT = ("dtype", "data_dir", "revision", "tokenizer")  # model arguments that compress nothing


def dense_commands(model: Model) -> str:
    """Command lines, safe to paste: one per set of options that tasks were evaluated with.

    Args:
        model: A model without a dense run.

    Returns:
        Lines for a shell.
    """
    if all(cell.dense is None for cell in model.all):  # the same command would make the same run
        folders = sorted({str(file.path.parent) for cell in model.all for file in cell.run.files})
        labels = " ".join(f"--label {_quoted(f'{folder}=compressor=none')}" for folder in folders)
        where = " ".join(map(_quoted, folders))
        return (
            f"lmkick report {where} -o report {labels}"
            "  # if it is dense, else base_model=NAME,compressor=NAME"
        )
    tasks: dict[tuple[str, ...], list[str]] = {}
    for cell in model.all:
        for task, file in cell.run.tasks.items():
            members = tasks.setdefault(tuple(_options(file, task, model)), [])
            name = _asked_as(file, task)
            if name not in members:
                members.append(name)
    seen: set[str] = set()
    lines = []
    for options, names in tasks.items():
        new = [name for name in names if name not in seen]
        seen.update(new)
        if new:
            lines.append(f"lmkick run {' '.join(options)} --tasks {_quoted(','.join(new))}")
    return "\n".join(lines)


def _options(file: ResultsFile, task: str, model: Model) -> list[str]:
    config = file.mapping("config")
    arguments = config.get("model_args")
    given = arguments if isinstance(arguments, dict) else {}
    kept = {"pretrained": model.key, **{name: given[name] for name in _KEPT if name in given}}
    kind = "kick" if file.record else config.get("model")
    options = [f"--model {_quoted(kind)}", f"--model_args {_pairs(kept)}"]
    if config.get("limit") is not None:
        options.append(f"--limit {_quoted(config['limit'])}")
    if file.mapping("n-shot").get(task):
        options.append(f"--num_fewshot {_quoted(file.mapping('n-shot')[task])}")
    if file.data.get("chat_template_sha"):
        options.append("--apply_chat_template")
    if isinstance(config.get("gen_kwargs"), dict) and config["gen_kwargs"]:
        options.append(f"--gen_kwargs {_pairs(config['gen_kwargs'])}")
    return [*options, "--output_path results --log_samples"]


def _asked_as(file: ResultsFile, task: str) -> str:
    """Topmost group that a task was evaluated for."""
    for group in file.mapping("group_subtasks"):
        if task in file.children(group):
            return _asked_as(file, str(group))
    return task


def _pairs(values: Mapping[str, Any]) -> str:
    return _quoted(",".join(f"{name}={value}" for name, value in values.items()))


def _quoted(value: object) -> str:
    return shlex.quote(plain(value))
