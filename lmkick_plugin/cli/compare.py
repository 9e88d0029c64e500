# SPDX-License-Identifier: Apache-2.0
"""``lmkick compare A B``: what changed from one run to another, item by item."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from compressors.files import write_atomically
from lmkick_plugin.files import check_file
from lmkick_plugin.report.compare import compare_runs
from lmkick_plugin.report.comparison_table import Comparison
from lmkick_plugin.report.verdict import DEFAULT_RESAMPLES, DEFAULT_TOLERANCE, Rule
from lmkick_plugin.results.runs import load_run
from lmkick_plugin.terminal import CommandError, emit, read_path

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments.

    Args:
        parser: The parser of ``lmkick compare``.
    """
    parser.description = (
        "Compare two runs item by item: flips, McNemar's exact test, an interval over clusters of"
        " items, and a verdict: match, fail, inconclusive or too few. One sentence at the end says"
        " what B lost and kept. Works on results of any lm-eval model that were saved with"
        " --output_path and --log_samples."
    )
    run = (
        "a results folder, a results_*.json file, or FOLDER@key=value,key=value to choose one of"
        " several runs, for example results/model@compressor=wanda,sparsity=0.5"
    )
    parser.add_argument("dense", metavar="A", help=f"the reference: {run}")
    parser.add_argument("compressed", metavar="B", help="what is compared with it, likewise")
    parser.add_argument("--metric", type=_names, default=[], help="only these (a,b)")
    parser.add_argument(
        "--tasks",
        type=_names,
        default=[],
        help="only these tasks or groups (a,b); globs. Members of a group are shown by name only",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        help="share of the reference's score that may be lost (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=_natural, default=0, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument(
        "--resamples",
        type=_natural,
        default=DEFAULT_RESAMPLES,
        help="of the bootstrap (default: %(default)s)",
    )
    parser.add_argument("--json", type=read_path, metavar="FILE", help="write everything there")
    parser.add_argument("--csv", type=read_path, metavar="FILE", help="write the table there")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by `add_arguments`.

    Returns:
        Exit status 0.

    Raises:
        LmkickError: The runs cannot be compared, or a file cannot be written.
    """
    outputs: list[tuple[Path | None, Callable[[Comparison], str]]] = [
        (args.json, Comparison.to_json),
        (args.csv, Comparison.to_csv),
    ]
    if args.json is not None and args.json == args.csv:
        raise CommandError(f"--json and --csv name one file, {args.json}. Give two")
    for name, path in (("--json", args.json), ("--csv", args.csv)):
        if path is not None:
            check_file(name, path)
    comparison = compare_runs(
        load_run(args.dense),
        load_run(args.compressed),
        metrics=args.metric,
        tasks=args.tasks,
        rule=Rule(tolerance=args.tolerance, resamples=args.resamples, seed=args.seed),
    )
    for path, render in outputs:
        if path is not None:
            write_atomically(path, render(comparison))
    emit(comparison.to_text())
    return 0
