# SPDX-License-Identifier: Apache-2.0
"""``lmkick export RESULTS... -o DIR``: rows for leaderboards, a table for a model card."""

from __future__ import annotations

import argparse
import sys

from lmkick_plugin.cli.report import labels_of, metrics_of
from lmkick_plugin.files import check_folder
from lmkick_plugin.report.evidence import Settings, gather
from lmkick_plugin.report.export import write_leaderboard
from lmkick_plugin.report.models import collect
from lmkick_plugin.terminal import emit, plain, read_path

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments.

    Args:
        parser: The parser of ``lmkick export``.
    """
    parser.description = (
        "Write one row per model and recipe as JSON Lines and CSV (scores, standard errors, n,"
        " versions, recipe, hash of the weights), and a table in Markdown for a model card."
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=read_path,
        metavar="RESULTS",
        help="result folders or results files",
    )
    parser.add_argument(
        "-o", "--output", type=read_path, required=True, metavar="DIR", help="folder to write to"
    )
    parser.add_argument(
        "--format", choices=["leaderboard"], default="leaderboard", help="what to write"
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="FOLDER=LABEL", help="as in lmkick report"
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="TASK=METRIC", help="as in lmkick report"
    )


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by `add_arguments`.

    Returns:
        Exit status 0.

    Raises:
        LmkickError: There is nothing to export, or it cannot be written.
    """
    check_folder("--output", args.output)
    collection = collect(args.results, labels=labels_of(args.label))
    evidence = gather(collection, Settings(metrics=metrics_of(args.metric)), progress=True)
    for line in [*(f"skipped {s}" for s in collection.skipped), *evidence.notes]:
        print(f"lmkick export: {plain(line)}", file=sys.stderr)
    for path in write_leaderboard(evidence, args.output):
        emit(str(path))
    return 0
