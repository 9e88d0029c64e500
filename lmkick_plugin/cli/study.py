# SPDX-License-Identifier: Apache-2.0
"""The command ``lmkick study``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressors.files import write_atomically
from lmkick_plugin.preflight import check_data_dir, check_model_arguments, check_tasks
from lmkick_plugin.sweep.study_cells import Bench, Evaluation, finished, run_cell
from lmkick_plugin.sweep.study_plan import KINDS, Cell, plan
from lmkick_plugin.sweep.study_table import as_csv, as_text, collect
from lmkick_plugin.terminal import CommandError, emit, render_table

__all__ = ["add_arguments", "main"]

_DESCRIPTION = """\
Evaluate one compression again and again while its calibration changes, and show mean and spread.

  calibration   C4 against other text: the training text of each task, or --values
  nsamples      how many calibration samples: 8 16 32 64 128, or --values
  seeds         nothing but the seed: 0 1 2, or --seeds

Every cell is an evaluation of lm-eval's own in a folder of its own below --output_path, so `lmkick
compare` reads any two of them. Cells that are finished are not run again: start the same command
again after an interruption. The table is printed and written to study.csv.
"""
_EXAMPLES = """\
examples:
  # does text of the task beat C4 on that task?
  lmkick study calibration --model_args pretrained=NAME,compressor=sparsegpt,sparsity=0.5 \\
      --tasks kick_alpaca kick_mmlu --output_path study/calibration
  # how many samples are needed, over three seeds
  lmkick study nsamples --model_args pretrained=NAME,compressor=sparsegpt,sparsity=0.5 \\
      --tasks kick_freebaseqa kick_wikitext --seeds 0 1 2 --output_path study/nsamples
  # how much of a score is the luck of the calibration sample?
  lmkick study seeds --model_args pretrained=NAME,compressor=wanda,sparsity=0.5,seed=0+1+2 \\
      --tasks kick_wikitext kickonly_divergence --output_path study/seeds
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=list(KINDS), metavar="{calibration,nsamples,seeds}")
    parser.add_argument("--model_args", required=True, help="of --model kick: name=value,...")
    parser.add_argument("--tasks", required=True, nargs="+", help="tasks or groups")
    parser.add_argument("--output_path", required=True, type=Path, help="the study's folder")
    parser.add_argument("--values", nargs="+", default=[], help="instead of the usual ones")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="calibration seeds")
    parser.add_argument("--no_dense", action="store_true", help="leave the dense model out")
    parser.add_argument("--plan", action="store_true", help="print the cells and stop")
    parser.add_argument("--limit", type=float, help="documents of each task")
    parser.add_argument("--num_fewshot", type=int)
    parser.add_argument("--apply_chat_template", action="store_true")
    parser.add_argument("--metadata", default="", help="for the tasks: name=value,...")
    parser.add_argument("--batch_size")
    # lm_eval's own default, which means a GPU where there is one.
    parser.add_argument("--device", default="cuda:0")


def main(options: argparse.Namespace) -> int:
    """Run the command and return the exit status.

    Raises:
        CommandError: What was asked for cannot be done; nothing was evaluated then.
    """
    tasks = tuple(name for given in options.tasks for name in given.split(",") if name)
    model_args, metadata = _mapping(options.model_args), _mapping(options.metadata)
    for name in ("batch_size", "device"):
        if getattr(options, name) is not None:
            model_args.setdefault(name, getattr(options, name))
    try:
        cells = plan(
            options.kind,
            model_args,
            tasks,
            values=options.values,
            seeds=options.seeds,
            dense=not options.no_dense,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    evaluation = Evaluation(
        tasks,
        {
            "limit": options.limit,
            "num_fewshot": options.num_fewshot,
            "apply_chat_template": options.apply_chat_template,
        },
        metadata,
    )
    results = _state(cells, evaluation, options.output_path)
    _print_plan(cells, results, options)
    if options.plan:
        return 0
    _check(cells, tasks, model_args | metadata)
    bench = _task_manager(tasks, model_args | metadata)
    for number, cell in enumerate(cells, start=1):
        if results[cell.folder] is None:
            emit(f"\n== cell {number} of {len(cells)}: {cell.folder}")
            folder = options.output_path / cell.folder
            results[cell.folder] = run_cell(cell, evaluation, folder, bench)
    found = [(cell, path) for cell in cells if (path := results[cell.folder]) is not None]
    rows = collect(found, tasks)
    write_atomically(options.output_path / "study.csv", as_csv(rows))
    emit("\n" + as_text(rows, "value" if options.kind == "seeds" else options.kind))
    emit(f"\nspread: standard deviation over seeds. Written to {options.output_path / 'study.csv'}")
    return 0


def _mapping(text: str) -> dict[str, Any]:
    from lm_eval.utils import simple_parse_args_string

    return dict(simple_parse_args_string(text))


def _state(cells: Sequence[Cell], evaluation: Evaluation, folder: Path) -> dict[str, Path | None]:
    return {
        cell.folder: finished(folder / cell.folder, evaluation.identity(cell)) for cell in cells
    }


def _print_plan(
    cells: Sequence[Cell], results: Mapping[str, Path | None], options: argparse.Namespace
) -> None:
    shown = [
        [cell.folder, "finished" if results[cell.folder] else "to run", _arguments(cell)]
        for cell in cells
    ]
    emit(f"{len(cells)} cells below {options.output_path}; tasks: {' '.join(options.tasks)}\n")
    emit(render_table(["cell", "state", "model arguments"], shown, text_columns=3))


def _arguments(cell: Cell) -> str:
    return ",".join(f"{name}={value}" for name, value in cell.arguments.items())


def _check(cells: Sequence[Cell], tasks: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """Find out now what the last cell would stumble over."""
    check_data_dir(metadata.get("data_dir"))
    for cell in cells:
        check_model_arguments(cell.arguments)
    check_tasks(tasks, task_metadata=metadata)


def _task_manager(tasks: Sequence[str], metadata: Mapping[str, Any]) -> Bench:
    """One task manager and one dense model for all cells."""
    from lmkick_plugin.sweep.task_cache import DenseModel
    from lmkick_plugin.sweep.tasks import task_manager

    return Bench(task_manager(tasks, dict(metadata)), DenseModel())
