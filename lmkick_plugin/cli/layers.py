# SPDX-License-Identifier: Apache-2.0
"""``lmkick layers``: per-matrix results of a compression, as a CSV file and a short table.

lm-eval does not tell a model where its results go, so the table travels inside the results file.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from compressors.files import csv_text, write_atomically
from lmkick_plugin.results.results_file import ResultsError, ResultsFile, fallbacks
from lmkick_plugin.results.runs import find_results
from lmkick_plugin.terminal import CommandError, emit, plain, read_path, render_table

__all__ = ["add_arguments", "main", "write_layer_table"]

_SHOWN = ("name", "shape", "sparsity", "num_bits", "error", "dampening", "tokens", "note")


def write_layer_table(results: ResultsFile) -> Path:
    """Unpack the table of layers of a results file into a CSV file beside it.

    Args:
        results: What ``lm_eval --model kick`` wrote.

    Returns:
        The file written: ``layers_<time>.csv``, one row per weight matrix, with the attributes of
        :class:`compressors.LayerReport` as columns.

    Raises:
        ResultsError: The results hold no table (dense, or another ``--model``).
    """
    target = results.path.with_name(f"layers_{results.stamp or results.path.stem}.csv")
    write_atomically(target, csv_text(_table(results)))
    return target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``lmkick layers`` takes."""
    parser.description = (
        "Write each matrix's error and size as CSV beside the results, and print the matrices "
        "whose output changed most."
    )
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=read_path,
        help="results file, or a folder with several: one table for each model's weights",
    )
    parser.add_argument(
        "--worst", type=int, default=10, metavar="N", help="matrices to print (10); 0 prints none"
    )


def main(args: argparse.Namespace) -> int:
    """Write the CSV files, and print the matrices whose output changed most.

    Args:
        args: As declared by :func:`add_arguments`.

    Returns:
        Exit status 0.

    Raises:
        LmkickError: Nothing could be unpacked.
    """
    if args.worst < 0:
        raise CommandError(f"--worst {args.worst}: expected 0 or more.")
    files = _files(args.results)
    for file in files:
        emit(f"{file.label}: {write_layer_table(file)}")
        fell_back = fallbacks(file.record)
        if fell_back is not None:
            emit(fell_back)
        if args.worst > 0:
            emit(_worst(file, args.worst) + "\n")
    return 0


def _files(path: Path) -> list[ResultsFile]:
    if not path.is_dir():
        return [ResultsFile.read(path)]
    found, problems = find_results(path)
    for problem in problems:
        print(f"lmkick layers: skipped {problem}", file=sys.stderr)
    if not found:
        raise ResultsError(problems[0] if problems else f"{path}: no lm-eval results in it")
    files: dict[str, ResultsFile] = {}
    for file in found:
        if file.record.get("layers"):
            # Evaluations of the same weights hold the same table: the newest stands for them.
            files.setdefault(str(file.record.get("weights_sha256") or file.path), file)
    if not files:
        raise ResultsError(
            f"{path}: none of its {len(found)} results files holds a table of layers. Give the"
            " results of a run of --model kick with a compressor."
        )
    return list(files.values())


def _lines(file: ResultsFile) -> list[str]:
    lines = file.record.get("layers")
    if not isinstance(lines, list) or not lines:
        raise ResultsError(
            f"{file.path} holds no table of layers. Give the results of a run of --model kick"
            " with a compressor."
        )
    return [str(line) for line in lines]


def _table(file: ResultsFile) -> list[list[str]]:
    try:
        return list(csv.reader(_lines(file)))
    except csv.Error as error:
        raise _damaged(file, error) from error


def _damaged(file: ResultsFile, error: Exception) -> ResultsError:
    reason = plain(error, limit=80)
    return ResultsError(f"{file.path}: its table of layers is damaged ({reason}); run it again")


def _worst(file: ResultsFile, count: int) -> str:
    """The matrices with the largest relative output error; the first ones where none is known."""
    header, *cells = _table(file)
    rows = [dict(zip(header, row, strict=False)) for row in cells]
    try:
        rows.sort(key=lambda row: -float(row.get("error") or 0))
    except ValueError as error:
        raise _damaged(file, error) from error
    columns = [name for name in _SHOWN if any(row.get(name) for row in rows)]
    return render_table(
        columns, [[row.get(name) or "" for name in columns] for row in rows[:count]]
    )
