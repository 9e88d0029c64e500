# SPDX-License-Identifier: Apache-2.0
"""Check a run of lm-eval: its options, its config file, what it evaluates."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lmkick_plugin import bundled
from lmkick_plugin.files import check_folder, parse_json, read_settings
from lmkick_plugin.preflight.models import check_model, check_model_arguments
from lmkick_plugin.preflight.tasks import check_data_dir, check_metadata_names, check_tasks
from lmkick_plugin.recipe.methods import COMPRESSORS
from lmkick_plugin.recipe.readers import (
    check_path,
    read_amount,
    read_batch_size,
    read_bool,
    read_device,
    read_generation,
    read_int,
    suggest,
)
from lmkick_plugin.registration import OUR_PREFIXES
from lmkick_plugin.terminal import CommandError

__all__ = ["check_output", "check_repeated", "check_run", "takes_part"]

# Options of lm-eval that hold name=value pairs.
_PAIRS = ("--model_args", "-a", "--metadata", "--gen_kwargs")


def takes_part(options: argparse.Namespace) -> bool:
    """Whether a run is of our model or of a task of ours, or has settings of our judge.

    Args:
        options: As lm-eval's parser returned them for ``run``.
    """
    settings = _settings(options)
    return (
        settings.get("model") == "kick"
        or any(name.lower().lstrip("*?[").startswith(OUR_PREFIXES) for name in _names(settings))
        or "judge_" in str(settings.get("metadata"))
        or _is_ours_misspelt(settings)
    )


def _is_ours_misspelt(settings: Mapping[str, Any]) -> bool:
    """Whether the model is nearly ours, or another one with our first argument."""
    model, given = str(settings.get("model")), settings.get("model_args")
    return (
        bool(suggest(model, ("kick",)))
        or "compressor=" in str(given)
        or (isinstance(given, Mapping) and "compressor" in given)
    )


def check_run(options: argparse.Namespace, arguments: Sequence[str] = ()) -> None:
    """Check what lm-eval would find only after loading the model, or never.

    Args:
        options: As lm-eval's parser returned them for ``run``.
        arguments: The command line, in which an argument may stand twice.

    Raises:
        LmkickError: What is wrong.
    """
    from lmkick_plugin.judge.plan import check_metadata

    check_repeated(arguments)
    settings = _settings(options)
    model_arguments = _mapping(settings.get("model_args"))
    task_metadata = model_arguments | _mapping(settings.get("metadata"))
    _check_values(settings)
    check_metadata(task_metadata)
    check_metadata_names(_mapping(settings.get("metadata")))
    model = settings.get("model")
    if hint := suggest(str(model), ("kick",)) if model != "kick" else "":
        raise CommandError(f"--model {model}: no such model. {hint}".rstrip())
    if model == "kick":
        placed = {
            name: settings[name]
            for name in ("batch_size", "max_batch_size", "device")
            if settings.get(name) is not None
        }
        given = {**placed, **model_arguments}
        check_model_arguments(given)
        if Path(bundled.model_folder(str(given["pretrained"]))).is_dir():
            check_model(given, chat=bool(settings.get("apply_chat_template")))
        if device := model_arguments.get("device", placed.get("device")):
            from lmkick_plugin.loading.checks import check_device

            check_device(read_device("device", device))
    elif model_arguments.get("compressor") in COMPRESSORS:
        raise CommandError(
            f"--model_args: compressor={model_arguments['compressor']} goes with --model kick; "
            f"received --model {model}. Use --model kick"
        )
    elif isinstance(trusted := model_arguments.get("trust_remote_code"), str):
        raise CommandError(
            f"--model_args: trust_remote_code={trusted}: --model {model} takes any text for true "
            "and would run the checkpoint's code. Write true or false."
        )
    if settings.get("output_path"):
        check_output(settings["output_path"], model_arguments)
    check_data_dir(task_metadata.get("data_dir"))
    names, shots = _names(settings), settings.get("num_fewshot")
    if not names:
        raise CommandError("--tasks: none given. Name some, as in --tasks kick (`lmkick ls tasks`)")
    check_tasks(
        names,
        include_path=settings.get("include_path"),
        task_metadata=task_metadata,
        judged=not settings.get("predict_only"),
        samples=_samples(settings.get("samples")),
        num_fewshot=None if shots is None else read_int("--num_fewshot", shots, low=0),
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Options over the file of ``--config``, as lm-eval merges them."""
    from lmkick_plugin.recipe.yaml_file import read_yaml

    settings: dict[str, Any] = {}
    for name in ("output_path", "batch_size", "device", "tasks", "use_cache", "samples"):
        if getattr(options, name, None) == "":
            raise CommandError(f"--{name}: the value is empty. Give one, or leave --{name} out")
    config = getattr(options, "config", None)
    if config is not None:
        path = Path(check_path("--config", config))
        if not path.is_file():
            raise CommandError(f"--config: no such file: {path}")
        settings.update(read_yaml(path, "lm-eval's options"))
    given = {name: value for name, value in vars(options).items() if value or value == 0}
    return {**settings, **given}


def _names(settings: Mapping[str, Any]) -> list[str]:
    tasks = settings.get("tasks") or []
    given = [tasks] if isinstance(tasks, str) else list(tasks)
    if not all(isinstance(name, str) for name in given):
        raise CommandError(f"--tasks: expected names; received {tasks!r:.100}")
    return [name.strip() for text in given for name in text.split(",")]


def _mapping(value: Any) -> dict[str, Any]:
    """Read arguments as lm-eval does: a mapping, or ``name=value,name=value``."""
    from lm_eval.utils import simple_parse_args_string

    if isinstance(value, Mapping):
        return dict(value)
    try:
        return dict(simple_parse_args_string(value or ""))
    except (ValueError, AttributeError, TypeError) as error:
        raise CommandError(f"expected name=value,name=value; received {value!r:.100}") from error


def _check_values(settings: Mapping[str, Any]) -> None:
    """Options of lm-eval with which an evaluation never ends, or evaluates nothing."""
    readers: dict[str, Any] = {
        "batch_size": read_batch_size,
        "device": read_device,
        "fewshot_as_multiturn": read_bool,
        "hf_hub_log_args": _read_hub_arguments,
        "limit": read_amount,
        "log_samples": read_bool,
        "seed": _read_seeds,
        "use_cache": _read_cache,
    }
    for name, low in {"max_batch_size": 1, "num_fewshot": 0}.items():
        readers[name] = lambda place, value, low=low: read_int(place, value, low=low)
    for name, read in readers.items():
        if settings.get(name) is not None:
            read(f"--{name}", settings[name])
    if "gen_kwargs" in settings:
        read_generation("--gen_kwargs", _mapping(settings["gen_kwargs"]))
    include = settings.get("include_path")
    if include and not Path(check_path("--include_path", include)).is_dir():
        raise CommandError(f"--include_path {include}: no such folder")
    if (settings.get("log_samples") or settings.get("predict_only")) and not settings.get(
        "output_path"
    ):
        raise CommandError("--log_samples and --predict_only need --output_path FOLDER")


def _read_seeds(name: str, value: Any) -> None:
    for seed in value if isinstance(value, list | tuple) else [value]:
        if seed is not None:
            read_int(name, seed, low=0, high=2**32 - 1)


def _read_cache(name: str, value: Any) -> None:
    check_folder(name, Path(check_path(name, value)).parent)


def _read_hub_arguments(name: str, value: Any) -> None:
    from lm_eval.loggers import EvaluationTracker

    known = inspect.signature(EvaluationTracker.__init__).parameters
    for argument in _mapping(value):
        if argument not in known:
            hint = suggest(argument, known)
            raise CommandError(f"{name}: {argument} is not an argument. {hint}".rstrip())


def _samples(value: Any) -> dict[str, list[int]]:
    """Read ``--samples`` as lm-eval does: JSON, or a file of it."""
    if not value:
        return {}
    try:
        if isinstance(value, str) and not value.lstrip().startswith("{"):
            value = read_settings(Path(check_path("--samples", value)))
        found = value if isinstance(value, Mapping) else parse_json(value)
        return {
            str(name): [read_int("--samples", number, low=0) for number in numbers]
            for name, numbers in found.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CommandError(
            "--samples: expected numbers of documents by task, such as "
            f"'{{\"kick_freebaseqa\": [0, 5]}}', or a file of that; received {value!r:.100} "
            f"({error})"
        ) from error


def check_repeated(arguments: Sequence[str], options: Sequence[str] = _PAIRS) -> None:
    """Refuse an argument that stands twice: the first would be dropped without a word.

    Args:
        arguments: A command line.
        options: Those whose values are ``name=value,...``.
    """
    from lm_eval._cli import utils

    # lm-eval 0.4.12 splits at every comma, 0.4.13 outside of brackets and quotes.
    split = getattr(utils, "split_top_level", partial(str.split, sep=","))
    seen: dict[str, set[str]] = {}
    for option, text in _values_of(arguments, options):
        for pair in split(text):
            name, equals, _ = pair.partition("=")
            if equals and name.strip() in seen.setdefault(option, set()):
                raise CommandError(f"{option}: {name.strip()} was given twice. Leave one out")
            seen.setdefault(option, set()).add(name.strip())


def _values_of(arguments: Sequence[str], options: Sequence[str]) -> Iterator[tuple[str, str]]:
    current = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in options:
            current = name
            if equals:
                yield name, value
        elif argument.startswith("--"):
            current = None
        elif current is not None and not argument.lstrip().startswith("{"):  # JSON
            yield current, argument


def check_output(path: str, model_arguments: Mapping[str, Any]) -> None:
    """Check that lm-eval can write its results; when it cannot, it only logs a warning.

    Args:
        path: As after ``--output_path``.
        model_arguments: Of the model, after which lm-eval names a folder.

    Raises:
        SettingsError: It cannot.
    """
    from lm_eval.loggers.evaluation_tracker import GeneralConfigTracker
    from lm_eval.utils import sanitize_model_name

    folder = Path(check_path("--output_path", path))
    if folder.suffix == ".json":
        folder = folder.parent
    else:
        name = GeneralConfigTracker._get_model_name(dict(model_arguments)) or "model"
        folder = folder / sanitize_model_name(str(name))
        check_path("--output_path", folder)
    check_folder("--output_path", folder)
