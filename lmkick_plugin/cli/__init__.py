# SPDX-License-Identifier: Apache-2.0
"""The ``lmkick`` command: one module per sub-command.

Each module has ``add_arguments(parser)`` and ``main(args)``, which returns the exit status. Heavy
imports are inside functions, so that ``lmkick --help`` answers quickly.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path

from compressors.errors import LmkickError
from lmkick_plugin import __version__
from lmkick_plugin.cli.parser import Parser
from lmkick_plugin.terminal import plain

__all__ = ["COMMANDS", "main"]

_DESCRIPTION = """\
Measure what compression costs a language model: prune or quantize it, evaluate it with lm-eval."""

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

#: Names and help; a command's module is ``lmkick_plugin.cli.NAME``.
COMMANDS = {
    "demo": "all methods on a bundled small model, offline, in minutes",
    "run": "compress (model kick) and evaluate: lm_eval run, checked first",
    "compress": "compress a model and save it: dense, GPTQ or compressed-tensors",
    "ls": "list tasks, groups or tags: lm_eval ls",
    "validate": "check that tasks exist: lm_eval validate",
    "sweep": "models x recipes x tasks from one YAML file, resumable",
    "study": "how calibration text, its size and its seed change the scores",
    "compare": "two runs item by item: flips, intervals, match or fail",
    "report": "one page about every run: curves, matching, published findings",
    "export": "one row per model and recipe, for leaderboards and model cards",
    "judge": "judge logged answers with a strong model",
    "profile": "tokens per second, memory and bytes of a model on this device",
    "doctor": "versions, device, data, and the judge's key and endpoint",
    "layers": "each weight matrix's error and size, as CSV",
}
#: Commands whose arguments lm-eval parses itself.
_LM_EVAL = ("run", "ls", "validate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lmkick ARGUMENTS`` (default: those of the process) and return the exit status."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser.check_options(arguments[:1])
    options = parser.parse_args(arguments)
    name = options.command
    if name is None:
        parser.print_help()
        return 0
    try:
        if name in _LM_EVAL:
            from lmkick_plugin.cli import run

            return run.main(name, options.arguments)
        command = import_module(f"lmkick_plugin.cli.{name}")
        own = Parser(prog=f"lmkick {name}")
        command.add_arguments(own)
        given = _underscored(options.arguments)
        own.check_options(given)
        return int(command.main(own.parse_args(given)))
    except KeyboardInterrupt:
        print(f"lmkick {name}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("LMKICK_TRACEBACK", "0") not in ("", "0"):
            raise
        print(f"lmkick {name}: {_line(error)}", file=sys.stderr)
        return 2


def _underscored(arguments: Sequence[str]) -> list[str]:
    """Names of options as lm-eval writes its own: ``--data-dir`` becomes ``--data_dir``."""
    return [
        re.sub(r"^--[a-z][a-z-]*", lambda name: "--" + name[0][2:].replace("-", "_"), each)
        for each in arguments
    ]


def _line(error: Exception) -> str:
    """One line for an error; of one that is not ours or the system's, where it was raised."""
    if isinstance(error, LmkickError):
        return plain(_joined(str(error)))
    if isinstance(error, OSError):
        name = error.filename2 or error.filename
        where = f" ({name})" if name and error.strerror else ""
        return plain(f"{error.strerror or error}{where}", limit=500)
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
    return plain(f"{error} ({place}). LMKICK_TRACEBACK=1 shows the traceback", limit=600)


def _joined(message: str) -> str:
    """A message of several lines as one."""
    said = ""
    for line in message.splitlines():
        said += (" " if said.endswith((":", ".", ";", ",")) else "; ") + line.strip()
    return said.removeprefix("; ")


def _parser() -> Parser:
    """Parse global options and the command's name; the rest is the command's own."""
    commands = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    parser = Parser(
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
    """One line with the versions that results depend on, without importing them."""
    found = [f"Python {platform.python_version()}"]
    for name in ("lm_eval", "transformers", "torch"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} missing")
    return f"lmkick {__version__} ({', '.join(found)})"
