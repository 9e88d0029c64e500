# SPDX-License-Identifier: Apache-2.0
"""``lmkick study``: a sweep over one compression's calibration, with a table of mean and spread."""

from __future__ import annotations

import argparse
from typing import Any

from compressors.files import write_atomically
from lmkick_plugin.cli.sweep import run_config
from lmkick_plugin.terminal import CommandError, emit

__all__ = ["add_arguments", "main"]

_DESCRIPTION = """\
Evaluate one compression again and again while its calibration changes, and show mean and spread.

  calibration   C4 against other text: the training text of each task, or --values
  nsamples      how many calibration samples: 8 16 32 64 128, or --values
  seeds         nothing but the seed: 0 1 2, or --seeds

A study is a sweep below --output (see `lmkick sweep --help`): `lmkick compare` reads any two of its
folders, and what is finished is not run again when the same command is started again. The table is
printed and written to study.csv.
"""
_EXAMPLES = """\
examples:
  # does text of the task beat C4 on that task?
  lmkick study calibration --model_args pretrained=NAME,compressor=sparsegpt,sparsity=0.5 \\
      --tasks kick_alpaca kick_mmlu --output study/calibration
  # how many samples are needed, over three seeds
  lmkick study nsamples --model_args pretrained=NAME,compressor=sparsegpt,sparsity=0.5 \\
      --tasks kick_freebaseqa kick_wikitext --seeds 0 1 2 --output study/nsamples
  # how much of a score is the luck of the calibration sample?
  lmkick study seeds --model_args pretrained=NAME,compressor=wanda,sparsity=0.5,seed=0+1+2 \\
      --tasks kick_wikitext kickonly_divergence --output study/seeds
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=["calibration", "nsamples", "seeds"])
    parser.add_argument("--model_args", required=True, help="of --model kick: name=value,...")
    parser.add_argument("--tasks", required=True, nargs="+", help="tasks or groups")
    parser.add_argument(
        "--output", "--output_path", required=True, metavar="DIR", help="the study's folder"
    )
    parser.add_argument("--values", nargs="+", default=[], help="instead of the usual ones")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="calibration seeds")
    parser.add_argument("--no_dense", action="store_true", help="leave the dense model out")
    parser.add_argument("--dry_run", "--plan", action="store_true", help="print the plan and stop")
    parser.add_argument("--retry_failed", action="store_true", help="run what failed again")
    parser.add_argument("--limit", help="documents of each task")
    parser.add_argument("--max_gen_toks", metavar="N", help="tokens of an answer, at most")
    parser.add_argument("--num_fewshot")
    parser.add_argument("--apply_chat_template", action="store_true")
    parser.add_argument("--metadata", default="", help="for the tasks: name=value,...")
    parser.add_argument("--batch_size")
    parser.add_argument("--device")


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by :func:`add_arguments`.

    Returns:
        The exit status, as of ``lmkick sweep``.

    Raises:
        LmkickError: What was asked for cannot be done; nothing was evaluated then.
    """
    from lmkick_plugin.preflight.lm_eval_run import check_repeated
    from lmkick_plugin.sweep.study import study_config
    from lmkick_plugin.sweep.study_table import as_csv, as_text, collect

    for option in ("--model_args", "--metadata"):
        check_repeated([option, getattr(args, option[2:])], [option])
    config = study_config(
        args.kind,
        _mapping(args.model_args),
        values=args.values,
        seeds=args.seeds,
        tasks=[name for given in args.tasks for name in given.split(",") if name],
        output=args.output,
        dense=not args.no_dense,
        limit=args.limit,
        max_gen_toks=args.max_gen_toks,
        num_fewshot=args.num_fewshot,
        apply_chat_template=args.apply_chat_template,
        metadata=_mapping(args.metadata),
        batch_size=args.batch_size,
        device=args.device,
    )
    status, found = run_config(config, dry_run=args.dry_run, retry_failed=args.retry_failed)
    if found is not None:
        rows = collect(found.cells, args.kind)
        path = config.output_path / "study.csv"
        write_atomically(path, as_csv(rows))
        emit("\n" + as_text(rows, "value" if args.kind == "seeds" else args.kind))
        emit(f"\nspread: standard deviation over seeds. Written to {path}")
    return status


def _mapping(text: str) -> dict[str, Any]:
    from lm_eval.utils import simple_parse_args_string

    if bare := [pair for pair in text.split(",") if pair.strip() and "=" not in pair]:
        raise CommandError(f"expected name=value,name=value; received {bare[0]!r:.60}")
    return dict(simple_parse_args_string(text))
