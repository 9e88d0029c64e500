# SPDX-License-Identifier: Apache-2.0
"""The ``lmkick`` command: lm-eval's own commands with lmkick loaded and everything checked first.

A sub-command is a function from its arguments to an exit status, listed in :data:`COMMANDS`. It
parses its own arguments and does its heavy imports itself, so that ``lmkick --help`` answers at
once.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from lmkick_plugin import __version__

__all__ = ["COMMANDS", "CommandError", "main"]

# No task of lm-eval's starts like this.
_OUR_PREFIXES = ("kick", "llmkick", "mmlu_kick", "mmlu_llmkick")

_DESCRIPTION = """\
What a compressed language model lost: prune or quantize it, then evaluate it with lm-eval."""

_EXAMPLES = """\
`lmkick COMMAND --help` describes a command.

examples:
  # prune to 2:4 with Wanda, then evaluate
  lmkick run --model kick --model_args pretrained=NAME,compressor=wanda,pattern=2:4 --tasks kick
  # the dense model, for comparison
  lmkick run --model kick --model_args pretrained=NAME --tasks kick
  # everything lm_eval has, and our tasks
  lmkick ls tasks

Plain `lm_eval` knows the model `kick` and the kick tasks too; `lmkick run` is the same program and
checks arguments, data and tasks before it loads a model.
"""


class CommandError(Exception):
    """What the user asked for cannot be done: shown without a traceback, exit status 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lmkick ARGUMENTS`` (default: those of the process) and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    function, _ = COMMANDS[options.command]
    try:
        return function(options.arguments)
    except CommandError as error:
        print(f"lmkick {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    """Parse global options and the command's name; the rest is the command's own."""
    commands = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="lmkick",
        usage="lmkick [-h] [--version] COMMAND ...",
        description=f"{_DESCRIPTION}\n\ncommands:\n{commands}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_versions())
    parser.add_argument(
        "command", nargs="?", choices=list(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _versions() -> str:
    """Return one line with what decides about results, without importing any of it."""
    found = [f"Python {platform.python_version()}"]
    for name in ("lm_eval", "transformers", "torch"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} missing")
    return f"lmkick {__version__} ({', '.join(found)})"


# --- lm-eval's commands ---------------------------------------------------------------------------


def _run(arguments: Sequence[str]) -> int:
    """Check everything that can be checked without a model, then do what ``lm_eval run`` does."""
    return _lm_eval("run", arguments, before=check_run)


def _ls(arguments: Sequence[str]) -> int:
    """Do what ``lm_eval ls`` does, with our tasks."""
    return _lm_eval("ls", arguments)


def _validate(arguments: Sequence[str]) -> int:
    """Do what ``lm_eval validate`` does, with our tasks."""
    return _lm_eval("validate", arguments)


def _lm_eval(
    command: str,
    arguments: Sequence[str],
    before: Callable[[argparse.Namespace], None] | None = None,
) -> int:
    """Run a command of lm-eval's through its own parser, after ``before(parsed options)``."""
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from lmkick_plugin.registration import register

    setup_logging()
    register()
    with _process_arguments(["lmkick", command, *arguments]):  # lm-eval parses sys.argv
        harness = HarnessCLI()
        options = harness.parse_args()
        if before is not None:
            before(options)
        harness.execute(options)
    return 0


@contextmanager
def _process_arguments(arguments: list[str]) -> Iterator[None]:
    """Let ``sys.argv`` be ``arguments`` for a while."""
    saved, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = saved


# --- what results say -----------------------------------------------------------------------------


def _compare(arguments: Sequence[str]) -> int:
    """Compare two runs item by item."""
    from lmkick_plugin.report import compare

    parser = argparse.ArgumentParser(prog="lmkick compare")
    compare.add_arguments(parser)
    return compare.main(parser.parse_args(arguments))


# --- checks before a run --------------------------------------------------------------------------


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
    check_data_dir(task_metadata.get("data_dir") or os.environ.get("LMKICK_DATA_DIR"))
    tasks = settings.get("tasks") or []
    check_tasks(
        tasks.split(",") if isinstance(tasks, str) else tasks,
        include_path=settings.get("include_path"),
        task_metadata=task_metadata,
    )


def _mapping(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Read arguments as lm-eval does: a mapping, or ``name=value,name=value``."""
    from lm_eval.utils import simple_parse_args_string

    return dict(simple_parse_args_string(value) if isinstance(value, str) else value or {})


def check_model_arguments(arguments: Mapping[str, Any]) -> None:
    """Parse the arguments of ``--model kick`` and build its compressor, without loading weights."""
    from lmkick_plugin.arguments import parse_arguments
    from lmkick_plugin.checks import check_pretrained

    try:
        check_pretrained(arguments.get("pretrained"))
        recipe, _ = parse_arguments(dict(arguments))
        recipe.build_compressor()
    except (ValueError, TypeError) as error:
        raise CommandError(f"--model_args: {error}") from error


def check_data_dir(folder: str | None) -> None:
    """Check that a data directory, where one is given, is a directory."""
    if folder and not Path(folder).is_dir():
        raise CommandError(
            f"data_dir={folder}: no such directory; leave it out to read from the Hugging Face Hub"
        )


def check_tasks(
    names: Sequence[str],
    *,
    include_path: str | None = None,
    task_metadata: Mapping[str, Any] | None = None,
) -> None:
    """Load our own tasks among ``names``, which checks their data; others are left to lm-eval.

    Args:
        names: task, group and tag names or globs, as after ``--tasks``.
        include_path: as after ``--include_path``; a task there replaces ours of the same name.
        task_metadata: what lm-eval will hand to the tasks, ``data_dir`` among it.

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
        manager.load(ours)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise CommandError(f"--tasks: {error}") from error


def _nearest(name: str, known: Sequence[str]) -> str:
    """Return ``"; did you mean ...?"``, or where to look when nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; `lmkick ls tasks` lists them"


# Name -> (function, help); a plain dict, in the order of the help text.
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "run": (_run, "compress (model kick) and evaluate: lm_eval run, checked first"),
    "ls": (_ls, "list tasks, groups or tags: lm_eval ls"),
    "validate": (_validate, "check that tasks exist: lm_eval validate"),
    "compare": (_compare, "two runs item by item: flips, intervals, match or fail"),
}
