# SPDX-License-Identifier: Apache-2.0
"""``lmkick run``, ``ls`` and ``validate``: lm-eval's own commands with lmkick loaded."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressors.errors import LmkickError
from lmkick_plugin.cli.parser import Parser
from lmkick_plugin.terminal import CommandError, plain

__all__ = ["check_lm_eval_runs", "main"]


def main(command: str, arguments: Sequence[str]) -> int:
    """Run a command of lm-eval through its own parser; ``run`` is checked before it starts.

    Args:
        command: ``run``, ``ls`` or ``validate``.
        arguments: Of the command.

    Returns:
        Exit status.

    Raises:
        LmkickError: Arguments, data or tasks are wrong, or results could not be saved.
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from lmkick_plugin.registration import register

    setup_logging()
    register()
    with _process_arguments(["lmkick", command, *arguments]):  # lm-eval parses sys.argv
        harness = HarnessCLI()
        _use_our_parser(harness, command, arguments)
        try:
            options = harness.parse_args()
        except ValueError as error:  # JSON among the options
            raise CommandError(f"an option cannot be read: {error}") from error
        if command == "run":
            options.func = getattr(options.func, "__wrapped__", options.func)  # checked here
            _checked(harness.execute, options)
        else:
            harness.execute(options)
    return 0


def _use_our_parser(harness: Any, command: str, arguments: Sequence[str]) -> None:
    """End mistakes in lm-eval's options in one line, under our name."""
    own = harness._subparsers.choices[command]
    for parser, name in ((harness._parser, "lmkick"), (own, f"lmkick {command}")):
        parser.__class__, parser.prog = Parser, name
    own.check_options(arguments)


def check_lm_eval_runs() -> None:
    """Check plain ``lm_eval run`` of our model and tasks, and end errors in one line.

    For lm-eval 0.4.12 and 0.4.13; goes once lm-eval shows errors of a model's arguments.
    Only to be called after ``lm_eval._cli.run`` ran. Runs that we take no part in are as before.
    """
    run = sys.modules["lm_eval._cli.run"].Run
    execute = run._execute
    if hasattr(execute, "__wrapped__"):
        return

    @functools.wraps(execute)
    def checked(options: Any) -> None:
        try:
            _checked(execute, options)
        except LmkickError as error:
            if os.environ.get("LMKICK_TRACEBACK", "0") not in ("", "0"):
                raise
            name = Path(sys.argv[0]).name
            print(
                f"{'lm_eval' if name == '__main__.py' else name}: {plain(error)}", file=sys.stderr
            )
            sys.exit(2)

    run._execute = staticmethod(checked)


def _checked(execute: Callable[[Any], None], options: Any) -> None:
    from lmkick_plugin.preflight.lm_eval_run import check_run, takes_part

    if not takes_part(options):
        execute(options)
        return
    check_run(options, sys.argv)
    with _failures_to_save() as causes:
        try:
            execute(options)
        except ValueError as error:
            if str(error).startswith("Tasks not found"):
                raise CommandError(f"--tasks: {error}. `lmkick ls tasks` lists them") from error
            raise
    if causes:
        raise CommandError(f"results could not be saved in {options.output_path}: {causes[0]}")


@contextmanager
def _failures_to_save() -> Iterator[list[BaseException | None]]:
    """Collect errors that lm-eval's tracker turns into warnings."""
    causes: list[BaseException | None] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Could not save"):
                causes.append(sys.exc_info()[1])

    logger = logging.getLogger("lm_eval.loggers.evaluation_tracker")
    level, collector = logger.level, Collector(logging.WARNING)
    logger.addHandler(collector)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
    try:
        yield causes
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)


@contextmanager
def _process_arguments(arguments: list[str]) -> Iterator[None]:
    saved, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = saved
