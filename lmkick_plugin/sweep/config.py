# SPDX-License-Identifier: Apache-2.0
"""Configuration of a sweep: its keys, read and checked.

The schema is :class:`SweepConfig`; ``docs/sweep.md`` has it as a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.judge.settings import JudgeSettings
from lmkick_plugin.loading.checks import plain_path
from lmkick_plugin.recipe.readers import (
    check_path,
    is_unset,
    read_amount,
    read_batch_size,
    read_bool,
    read_choice,
    read_device,
    read_float,
    read_generation,
    read_int,
    read_seeds,
    read_text,
    suggest,
)
from lmkick_plugin.recipe.yaml_file import read_yaml

__all__ = ["EXECUTORS", "SweepConfig", "read_config"]

EXECUTORS = ("process", "gpus", "ray")
_DTYPES = ("auto", "float32", "float16", "bfloat16", "float64", "float", "half", "double")

Limits = float | int | Mapping[str, float | int] | None


# --- readers: (name, value) -> value --------------------------------------------------------------


def _models(name: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    found = []
    for number, model in enumerate(_list(value)):
        place = f"{name}[{number}]"
        if isinstance(model, str):
            model = {"pretrained": model}
        arguments = _named(place, model)
        pretrained = arguments.get("pretrained")
        if not isinstance(pretrained, str) or not pretrained.strip():
            raise SettingsError(
                f"{place}: expected a name, a folder, or a mapping with pretrained; received "
                f"{model!r}."
            )
        found.append({**arguments, "pretrained": plain_path(check_path(place, pretrained))})
    return tuple(found)


def _recipes(name: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    found = []
    for number, recipe in enumerate(_list(value)):
        place = f"{name}[{number}]"
        if isinstance(recipe, str):
            recipe = {"compressor": recipe}
        arguments = _named(place, recipe)
        for key, values in arguments.items():
            if isinstance(values, list) and not values:
                raise SettingsError(
                    f"{place}.{key} is an empty list, so the grid has no cell. Give values, or "
                    "leave it out."
                )
        found.append(arguments)
    return tuple(found)


def _tasks(name: str, value: Any) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else _list(value)
    for number, task in enumerate(given):
        if not isinstance(task, str) or not task.strip():
            raise SettingsError(f"{name}[{number}]={task!r}: expected the name of a task.")
    return tuple(dict.fromkeys(task.strip() for task in given))


def _seeds(name: str, value: Any) -> tuple[int, ...]:
    joined = "+".join(map(str, value)) if isinstance(value, Sequence) else str(value)
    return read_seeds(name, joined)


def _by_task(name: str, value: Any) -> Limits:
    if isinstance(value, Mapping):
        return {
            str(key): read_amount(f"{name}.{key}", part)
            for key, part in value.items()
            if not is_unset(part)
        }
    return read_amount(name, value)


def _tokens(name: str, value: Any) -> Limits:
    found = _by_task(name, value)
    for amount in found.values() if isinstance(found, Mapping) else [found]:
        if not isinstance(amount, int):
            raise SettingsError(f"{name}={value!r}: expected whole numbers of tokens.")
    return found


def _chat(name: str, value: Any) -> str:
    text = str(value).strip().lower()
    return text if text == "auto" else ("true" if read_bool(name, value) else "false")


def _dtype(name: str, value: Any) -> str:
    return read_choice(name, read_text(name, value).removeprefix("torch."), _DTYPES)


def _folder(name: str, value: Any) -> str:
    found = Path(check_path(name, value)).expanduser()
    if not found.is_dir():
        raise SettingsError(f"{name}={value!r}: no such folder.")
    return str(found)


def _gpus(name: str, value: Any) -> float:
    number = read_float(name, value)
    if number < 0:
        raise SettingsError(f"{name}={value!r}: expected a number of GPUs, 0 or more.")
    return number


def _named(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SettingsError(f"{name}: expected a mapping of names and values; received {value!r}.")
    return dict(value)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _generation(name: str, value: Any) -> dict[str, Any]:
    return read_generation(name, _named(name, value))


def _output(name: str, value: Any) -> str:
    return str(Path(check_path(name, value)).expanduser())


def _read_by(read: Callable[[str, Any], Any], default: Any = MISSING) -> Any:
    """Field whose values ``read(name, value)`` checks."""
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"read": read})
    return field(default=default, metadata={"read": read})


# --- the configuration ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep's configuration; every field is a key.

    Attributes:
        models: Arguments of ``--model kick`` for each model, ``pretrained`` among them.
        tasks: Tasks, groups, tags or globs.
        output: The folder of the results.
        recipes: Arguments of compression; a list of values spans a grid.
        seeds: Calibration seeds for every recipe that takes one and does not give its own.
        dense: Whether the dense baseline is added.
        data_dir: Read tasks and calibration text from local files.
        model_args: Arguments of ``--model kick`` for all models.
        dtype: Of the weights, for all models.
        device: Where to compress and evaluate.
        batch_size: As for ``lm_eval``.
        max_batch_size: Likewise.
        limit: Documents of each task; a number, or one by task (``default`` for the others).
        num_fewshot: As for ``lm_eval``.
        apply_chat_template: ``auto`` (generation tasks of models that have one), true or false.
        system_instruction: As for ``lm_eval``.
        gen_kwargs: As for ``lm_eval``.
        max_gen_toks: Longest answers; a number, or one by task (``default`` for the others).
        bootstrap_iters: As for ``lm_eval``.
        metadata: For the tasks, as for ``lm_eval``; ``judge_*`` may be given beside it instead.
        include_path: Folder of more tasks.
        executor: One of :data:`EXECUTORS`.
        workers: How many processes (gpus) or actors (ray).
        gpus_per_cell: GPUs of each.
        ray_address: Of a running cluster; ``RAY_ADDRESS`` otherwise, else one is started here.
        retries: How often a cell whose worker died is tried again.
        profile: Whether each cell's speed and memory are measured (``lmkick profile``).
    """

    models: tuple[Mapping[str, Any], ...] = _read_by(_models)
    tasks: tuple[str, ...] = _read_by(_tasks)
    output: str = _read_by(_output)
    recipes: tuple[Mapping[str, Any], ...] = _read_by(_recipes, ())
    seeds: tuple[int, ...] = _read_by(_seeds, ())
    dense: bool = _read_by(read_bool, True)
    data_dir: str | None = _read_by(check_path, None)
    model_args: Mapping[str, Any] = _read_by(_named, {})
    dtype: str | None = _read_by(_dtype, None)
    device: str | None = _read_by(read_device, None)
    batch_size: int | str | None = _read_by(read_batch_size, None)
    max_batch_size: int | None = _read_by(partial(read_int, low=1), None)
    limit: Limits = _read_by(_by_task, None)  # noqa: RUF009 - a field
    num_fewshot: int | None = _read_by(partial(read_int, low=0), None)
    apply_chat_template: str = _read_by(_chat, "auto")
    system_instruction: str | None = _read_by(read_text, None)
    gen_kwargs: Mapping[str, Any] = _read_by(_generation, {})
    max_gen_toks: Limits = _read_by(_tokens, None)  # noqa: RUF009 - a field
    bootstrap_iters: int = _read_by(partial(read_int, low=0), 100_000)
    metadata: Mapping[str, Any] = _read_by(_named, {})
    include_path: str | None = _read_by(_folder, None)
    executor: str = _read_by(partial(read_choice, choices=EXECUTORS), "process")
    workers: int | None = _read_by(partial(read_int, low=1), None)
    gpus_per_cell: float | None = _read_by(_gpus, None)
    ray_address: str | None = _read_by(read_text, None)
    retries: int = _read_by(partial(read_int, low=0), 2)
    profile: bool = _read_by(read_bool, False)

    @property
    def output_path(self) -> Path:
        """The folder of the results."""
        return Path(self.output)

    def absolute(self) -> SweepConfig:
        """The same configuration with an absolute output folder."""
        return replace(self, output=str(self.output_path.resolve()))

    def to_json(self) -> str:
        """JSON for a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SweepConfig:
        """Parse what :meth:`to_json` wrote."""
        data = json.loads(text)
        lists = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists})


def read_config(config: Mapping[str, Any] | str | Path, **changes: Any) -> SweepConfig:
    """Read a configuration and check it by its form: names, types, ranges.

    Args:
        config: Its file, or a mapping of the same keys.
        **changes: Keys that were given elsewhere, as on the command line, and win; None: not given.

    Returns:
        The configuration.

    Raises:
        SettingsError: What is wrong, with its place: ``sweep.yaml: recipes[1].sparsty: ...``.
    """
    if isinstance(config, Mapping):
        name, given = "", dict(config)
    else:
        name, given = f"{config}: ", read_yaml(Path(config))
    given |= {key: value for key, value in changes.items() if value is not None}
    try:
        return _read(given)
    except ValueError as error:
        raise SettingsError(f"{name}{error}") from error


def _read(given: Mapping[str, Any]) -> SweepConfig:
    judging = {f"judge_{setting.name}" for setting in fields(JudgeSettings)}
    known = {setting.name: setting.metadata["read"] for setting in fields(SweepConfig)}
    _check_names("", given, judging | set(known))
    _check_plain("", given)
    settings = {
        name: known[name](name, value)
        for name, value in given.items()
        if name in known and not is_unset(value)
    }
    for name in ("models", "tasks", "output"):
        if not settings.get(name):
            raise SettingsError(f"{name} is missing or empty. {_WANTED[name]}")
    metadata = dict(settings.get("metadata", {}))
    twice = [name for name in judging if name in given and name in metadata]
    if twice:
        raise SettingsError(f"{twice[0]} is also in metadata. Leave one of the two out.")
    metadata |= {name: given[name] for name in sorted(judging) if not is_unset(given.get(name))}
    _check_names("metadata.", [name for name in metadata if name.startswith("judge_")], judging)
    settings["metadata"] = metadata
    found = SweepConfig(**settings)
    if not found.recipes and not found.dense:
        raise SettingsError(
            "recipes is empty and dense is false: nothing to evaluate. Add a recipe, such as "
            "{compressor: magnitude, sparsity: 0.5}."
        )
    if found.executor == "gpus" and found.device is not None:
        raise SettingsError(
            f"device={found.device} does not go with executor=gpus, which gives each process its "
            "own GPU. Leave device out."
        )
    return found


_WANTED = {
    "models": "Give names of the Hub or folders: models: [Qwen/Qwen3-0.6B].",
    "tasks": "Name tasks or groups: tasks: [kick_mmlu, kick_wikitext].",
    "output": "Name the folder of the results: output: results/qwen3.",
}


def _check_names(place: str, given: Iterable[Any], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in given:
        if name not in known:
            hint = suggest(str(name), known)
            raise SettingsError(
                f"{place}{name}: no such key. {hint or 'Known: ' + ', '.join(known) + '.'}"
            )


def _check_plain(place: str, value: Any) -> None:
    """Refuse values that JSON cannot hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        if isinstance(value, Mapping):
            for name, part in value.items():
                _check_plain(f"{place}.{name}" if place else str(name), part)
        raise SettingsError(f"{place}: expected text, numbers, lists or mappings: {error}.") from (
            error
        )
