# SPDX-License-Identifier: Apache-2.0
"""``lmkick judge RESULTS``: judge answers that runs logged."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import MISSING, fields
from inspect import getdoc
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.judge.check import CheckSettings, load_experts
from lmkick_plugin.judge.logged_answers import find_logged, find_runs
from lmkick_plugin.judge.plan import JudgePlan
from lmkick_plugin.judge.prompts import Prompts
from lmkick_plugin.judge.rejudge import content_table, judge_jobs, prepare
from lmkick_plugin.judge.settings import JudgeSettings
from lmkick_plugin.recipe.readers import read_int
from lmkick_plugin.terminal import CommandError, emit, plain

__all__ = ["add_arguments", "add_judge_options", "given_settings", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments.

    Args:
        parser: The parser of ``lmkick judge``.
    """
    parser.description = (
        "Judge answers that runs with --output_path and --log_samples logged, with any "
        "OpenAI-compatible endpoint; replies that are there already are not asked for again."
    )
    parser.add_argument(
        "results",
        metavar="RESULTS",
        help="a results folder (all runs in it), a results_*.json file, or FOLDER@key=value,...",
    )
    parser.add_argument("--tasks", default="", help="only these tasks (a,b); globs")
    parser.add_argument(
        "--content",
        action="store_true",
        help="report how varied the answers are; no judge is called",
    )
    checks = parser.add_argument_group(
        "check of the judge", "what the report says under every judged score"
    )
    checks.add_argument(
        "--check", action="store_true", help="judge some answers again, and report the agreement"
    )
    checks.add_argument("--items", default="20", help="answers that are judged again (20)")
    checks.add_argument("--repeats", default="2", help="times that they are judged in all (2)")
    checks.add_argument("--second_judge", metavar="MODEL", help="another judge to agree with")
    checks.add_argument("--second_base_url", metavar="URL", help="its endpoint")
    checks.add_argument("--experts", metavar="FILE", help="JSON Lines of scores by experts")
    add_judge_options(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by :func:`add_arguments`.

    Returns:
        Exit status: 0; 1 where answers are left unjudged; 2 where none could be judged.
    """
    given = given_settings(args)
    patterns = [name.strip() for name in args.tasks.split(",") if name.strip()]
    try:
        plan = JudgePlan.read(given)
        if plan is not None:
            Prompts.load(plan.settings.prompt)
        check = _check_settings(args, given)
        runs = find_runs(args.results)
        jobs = prepare(find_logged(runs, patterns), runs, given, judging=not args.content)
    except ValueError as error:
        raise CommandError(str(error)) from error
    for note in dict.fromkeys(note for run in runs for note in run.notes):
        print(f"note: {plain(note)}", file=sys.stderr)
    status = 0
    if not args.content:
        status = judge_jobs(jobs, check)
    emit("\n" + content_table(jobs))
    return status


def _check_settings(args: argparse.Namespace, given: dict[str, Any]) -> CheckSettings | None:
    """Settings of the check; None without ``--check``."""
    if not args.check:
        others = ("second_judge", "second_base_url", "experts")
        alone = [f"--{name}" for name in others if getattr(args, name) is not None]
        if alone:
            raise SettingsError(f"{alone[0]} goes with --check; add it.")
        return None
    if args.second_judge is not None:
        address = args.second_base_url or given.get("judge_base_url")
        second = {**given, "judge_model": args.second_judge, "judge_base_url": address}
        plan = JudgePlan.read(second)
        if plan is not None:
            plan.check("--second_judge")
    return CheckSettings(
        items=read_int("--items", args.items, low=2),
        repeats=read_int("--repeats", args.repeats, low=1),
        second=args.second_judge,
        second_base_url=args.second_base_url,
        experts=load_experts(args.experts) if args.experts is not None else (),
    )


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--judge_model`` and the others.

    Args:
        parser: Of the command.
    """
    group = parser.add_argument_group(
        "settings of the judge",
        "the same as in a run's --metadata; each can be set in the environment instead "
        "(LMKICK_JUDGE_MODEL and so on), the key only there (LMKICK_JUDGE_API_KEY)",
    )
    documented = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", getdoc(JudgeSettings) or "", re.M)
    meaning = {name: " ".join(text.replace("``", "").split()) for name, text in documented}
    for field in fields(JudgeSettings):
        default = "" if field.default in (MISSING, None) else f" (default: {field.default})"
        text = meaning.get(field.name, "").rstrip(".")
        group.add_argument(f"--judge_{field.name}", metavar="VALUE", help=f"{text}{default}")


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, by name.

    Args:
        args: What the parser returned.
    """
    return {
        name: value
        for name, value in vars(args).items()
        if name.startswith("judge_") and value is not None
    }
