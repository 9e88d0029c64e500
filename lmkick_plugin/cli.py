# SPDX-License-Identifier: Apache-2.0
"""The ``lmkick`` command: lm-eval's own commands with lmkick loaded and everything checked first.

A sub-command is a function from its arguments to an exit status, listed in :data:`COMMANDS`. It
parses its own arguments and does its heavy imports itself, so that ``lmkick --help`` answers at
once.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

from lmkick_plugin import __version__
from lmkick_plugin.preflight import CommandError, check_run

__all__ = ["COMMANDS", "CommandError", "main"]

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

    from compressors.base import NumericalError, SettingsError, UnsupportedModelError
    from lmkick_plugin.data import DataError
    from lmkick_plugin.registration import register

    setup_logging()
    register()
    with _process_arguments(["lmkick", command, *arguments]):  # lm-eval parses sys.argv
        harness = HarnessCLI()
        options = harness.parse_args()
        if before is not None:
            before(options)
        try:
            harness.execute(options)
        except (SettingsError, UnsupportedModelError, NumericalError, DataError) as error:
            raise CommandError(str(error)) from error  # says all there is to say by itself
    return 0


def _compress(arguments: Sequence[str]) -> int:
    """Compress a model and save it."""
    from lmkick_plugin.checkpoints import command

    parser = argparse.ArgumentParser(prog="lmkick compress")
    command.add_arguments(parser)
    return command.main(parser.parse_args(arguments))


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


def _report(arguments: Sequence[str]) -> int:
    """Write a page about every run in some folders."""
    from lmkick_plugin.report import command

    parser = argparse.ArgumentParser(prog="lmkick report")
    command.add_arguments(parser)
    return command.main(parser.parse_args(arguments))


def _export(arguments: Sequence[str]) -> int:
    """Write one row a model and recipe."""
    from lmkick_plugin.report import export

    parser = argparse.ArgumentParser(prog="lmkick export")
    export.add_arguments(parser)
    return export.main(parser.parse_args(arguments))


def _judge(arguments: Sequence[str]) -> int:
    """Judge answers that were logged."""
    from lmkick_plugin.judge import later

    parser = argparse.ArgumentParser(prog="lmkick judge")
    later.add_arguments(parser)
    return later.main(parser.parse_args(arguments))


def _doctor(arguments: Sequence[str]) -> int:
    """Look at everything a run needs."""
    from lmkick_plugin import doctor

    parser = argparse.ArgumentParser(prog="lmkick doctor")
    doctor.add_arguments(parser)
    return doctor.main(parser.parse_args(arguments))


def _layers(arguments: Sequence[str]) -> int:
    """Unpack the per-layer table of results."""
    from lmkick_plugin.report import layers

    parser = argparse.ArgumentParser(prog="lmkick layers")
    layers.add_arguments(parser)
    return layers.main(parser.parse_args(arguments))


def _sweep(arguments: Sequence[str]) -> int:
    """Evaluate models under recipes, from one configuration."""
    from lmkick_plugin.sweep import command

    parser = argparse.ArgumentParser(prog="lmkick sweep")
    command.add_arguments(parser)
    return command.main(parser.parse_args(arguments))


def _study(arguments: Sequence[str]) -> int:
    """Evaluate one compression under several calibrations."""
    from lmkick_plugin.study import command

    return command.main(arguments)


# Name -> (function, help); a plain dict, in the order of the help text.
def _demo(arguments: Sequence[str]) -> int:
    """Show everything on the embedded model."""
    from lmkick_plugin.mini import demo

    return demo.main(arguments)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "demo": (_demo, "everything at once on an embedded small model, offline, in minutes"),
    "run": (_run, "compress (model kick) and evaluate: lm_eval run, checked first"),
    "compress": (_compress, "compress a model and save it: dense, GPTQ or compressed-tensors"),
    "ls": (_ls, "list tasks, groups or tags: lm_eval ls"),
    "validate": (_validate, "check that tasks exist: lm_eval validate"),
    "sweep": (_sweep, "models x recipes x tasks from one YAML file, resumable"),
    "study": (_study, "what calibration text, its size and its seed do to the scores"),
    "compare": (_compare, "two runs item by item: flips, intervals, match or fail"),
    "report": (_report, "one page about every run: curves, matching, published findings"),
    "export": (_export, "one row a model and recipe, for leaderboards and model cards"),
    "judge": (_judge, "let a strong model judge answers that runs logged, later and again"),
    "doctor": (_doctor, "versions, device, data, and the judge's key and endpoint"),
    "layers": (_layers, "what compression did to each weight matrix, as CSV"),
}
