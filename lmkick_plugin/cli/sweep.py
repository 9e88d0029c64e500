# SPDX-License-Identifier: Apache-2.0
"""``lmkick sweep``: models x recipes x tasks from one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmkick_plugin.terminal import CommandError, emit, plain

if TYPE_CHECKING:
    from lmkick_plugin.sweep.config import SweepConfig
    from lmkick_plugin.sweep.runner import SweepResult

__all__ = ["add_arguments", "main", "run_config"]

_DESCRIPTION = """\
Evaluate models x recipes x tasks from one YAML file. Each cell is a result folder of lm-eval's own
below the sweep's output, so `lmkick compare` and every other tool read it. What is finished is not
run again: start the same command again after an interruption, or with more recipes or tasks.

Exit status: 0 all done, 1 some cells failed, 2 the configuration is wrong, 130 interrupted.
"""
_EXAMPLES = """\
examples:
  lmkick sweep sweep.yaml --dry_run     # check the configuration, print the plan, run nothing
  lmkick sweep sweep.yaml               # run what is missing
  lmkick sweep sweep.yaml --executor gpus
  lmkick sweep sweep.yaml --executor ray --ray_address auto

sweep.yaml:
  models: [Qwen/Qwen3-0.6B]
  tasks: [kick_mmlu, kick_freebaseqa, kick_wikitext]
  recipes:                              # a list of values spans a grid; the dense model comes along
    - {compressor: wanda, sparsity: [0.2, 0.4, 0.6]}
    - {compressor: gptq, bits: [8, 4, 3]}
  output: results/qwen3
"""
_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Args:
        parser: The parser.
    """
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", metavar="CONFIG.yaml", help="see docs/sweep.md")
    parser.add_argument("--dry_run", action="store_true", help="print the plan and stop")
    parser.add_argument("--retry_failed", action="store_true", help="run what failed again")
    group = parser.add_argument_group("keys of the configuration that may be given here instead")
    group.add_argument("--output", metavar="DIR", help="folder of the results")
    group.add_argument("--data_dir", metavar="DIR", help="read data from local files")
    group.add_argument("--device")
    group.add_argument("--batch_size")
    group.add_argument("--limit", help="documents of each task")
    group.add_argument("--executor", choices=["process", "gpus", "ray"])
    group.add_argument("--workers", metavar="N", help="processes or actors")
    group.add_argument("--gpus_per_cell", metavar="N")
    group.add_argument("--ray_address", metavar="ADDRESS", help="of a running cluster")
    group.add_argument("--retries", metavar="N", help="for a cell whose worker died")


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: What the parser returned.

    Returns:
        The exit status.

    Raises:
        CommandError: The configuration is wrong; nothing was run.
    """
    from lmkick_plugin.sweep.config import read_config

    names = (
        "output", "data_dir", "device", "batch_size", "limit", "executor", "workers",
        "gpus_per_cell", "ray_address", "retries",
    )  # fmt: skip
    config = read_config(args.config, **{name: getattr(args, name) for name in names})
    status, found = run_config(
        config, dry_run=args.dry_run, retry_failed=args.retry_failed, place=f"{args.config}: "
    )
    if found is not None and any(cell.state == "done" for cell in found.cells):
        emit(_answer(found))
    return status


def run_config(
    config: SweepConfig, *, dry_run: bool, retry_failed: bool, place: str = ""
) -> tuple[int, SweepResult | None]:
    """Plan and run a sweep; print how it ended.

    Args:
        config: The configuration.
        dry_run: Print the plan and stop.
        retry_failed: Run what failed again.
        place: Place of the configuration, for messages.

    Returns:
        The exit status, and what became of the sweep; None where it did not end.

    Raises:
        CommandError: The configuration is wrong; nothing was run.
    """
    from lmkick_plugin.sweep.runner import open_plan, run_plan

    try:
        try:
            plan, tasks = open_plan(config, retry_failed=retry_failed)
        except ValueError as error:  # recipes and models, which only the plan looks into
            raise CommandError(f"{place}{error}") from error
        emit(plan.text())
        if dry_run:
            return 0, None
        found = run_plan(plan, tasks)
    except KeyboardInterrupt:
        emit("\ninterrupted; what is finished is kept: the same command goes on")
        return _INTERRUPTED, None
    emit("\n".join(_ending(found)))
    return found.status, found


def _ending(found: SweepResult) -> Sequence[str]:
    lines = [""]
    for cell in found.failures:
        for task, message in cell.errors.items():
            lines.append(plain(f"failed: {cell.name} {task or '(model)'}: {message}", limit=300))
    done = sum(cell.state == "done" for cell in found.cells)
    lines.append(f"{done} of {len(found.cells)} cells are done ({found.seconds:.0f} s)")
    if found.failures:
        lines.append("--retry_failed runs again what failed")
    lines.append(f"results: {found.output}")
    return lines


def _answer(found: SweepResult) -> str:
    """Sentence and table of the report: which run to ship."""
    from lmkick_plugin.report.evidence import gather
    from lmkick_plugin.report.models import collect
    from lmkick_plugin.report.summary import summaries_text, summarise

    evidence = gather(collect([found.output]), progress=True)
    summaries = [summarise(evidence, model) for model in evidence.collection.models]
    return f"\n{summaries_text(summaries)}\n\nas a page: lmkick report {found.output} -o report"
