# SPDX-License-Identifier: Apache-2.0
"""``lmkick report RESULTS... -o DIR``: one page on all runs in some folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmkick_plugin.files import check_folder
from lmkick_plugin.report.summary import summaries_text
from lmkick_plugin.report.task_pairings import Settings
from lmkick_plugin.report.verdict import DEFAULT_RESAMPLES, DEFAULT_TOLERANCE
from lmkick_plugin.report.writing import write
from lmkick_plugin.results.results_file import ResultsError
from lmkick_plugin.terminal import emit, plain, read_path

__all__ = ["add_arguments", "labels_of", "main", "metrics_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments.

    Args:
        parser: The parser of ``lmkick report``.
    """
    parser.description = (
        "Write a page that opens offline, with Markdown, CSV and plots beside it, and print its"
        " first screen: which run to ship, and what each costs. Works on results of any lm-eval"
        " model."
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=read_path,
        metavar="RESULTS",
        help="result folders or results files",
    )
    parser.add_argument(
        "-o", "--output", type=read_path, required=True, metavar="DIR", help="folder of the report"
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="FOLDER=LABEL",
        help="call the runs in a folder so; or FOLDER=field=value,field=value with fields of the"
        " record, for example runs/awq=base_model=NAME,compressor=awq,bits=4",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="TASK=METRIC",
        help="a task's headline metric",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        help="share of the dense score that may be lost (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=DEFAULT_RESAMPLES,
        help="of the paired bootstrap (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the resamples (default: %(default)s)"
    )


def labels_of(given: list[str]) -> dict[Path, str]:
    """Read ``FOLDER=LABEL`` arguments.

    Args:
        given: The arguments.

    Returns:
        Labels by folder. A folder's name may hold equals signs: the longest beginning that is a
        folder counts.

    Raises:
        ResultsError: For one without a label.
    """
    labels: dict[Path, str] = {}
    for text in given:
        places = [i for i, c in enumerate(text) if c == "="]
        if not places or not text[: places[0]].strip():
            raise ResultsError(f"--label {plain(text)}: write FOLDER=LABEL")
        there = [i for i in places if Path(text[:i]).exists()]
        cut = there[-1] if there else places[0]
        labels[Path(text[:cut])] = text[cut + 1 :]
    return labels


def metrics_of(given: list[str]) -> dict[str, str]:
    """Read ``TASK=METRIC`` arguments.

    Args:
        given: The arguments.

    Returns:
        Metrics by task.

    Raises:
        ResultsError: For one without a metric.
    """
    metrics: dict[str, str] = {}
    for text in given:
        task, equals, metric = text.partition("=")
        if not equals or not task or not metric:
            raise ResultsError(f"--metric {plain(text)}: write TASK=METRIC")
        metrics[task] = metric
    return metrics


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by `add_arguments`.

    Returns:
        Exit status 0.

    Raises:
        LmkickError: There is nothing to report, or it cannot be written.
    """
    settings = Settings(
        tolerance=args.tolerance,
        resamples=args.resamples,
        seed=args.seed,
        metrics=metrics_of(args.metric),
    )
    check_folder("--output", args.output)
    page, summaries = write(
        args.results, args.output, labels=labels_of(args.label), settings=settings, progress=True
    )
    emit(f"{summaries_text(summaries)}\n\nreport: {page}")
    return 0
