# SPDX-License-Identifier: Apache-2.0
"""The judge's settings as options of a command."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from lmkick_plugin.judge.settings import JudgeSettings

__all__ = ["add_judge_options", "given_settings"]


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--judge_model`` and the others.

    Args:
        parser: Of the command.
    """
    group = parser.add_argument_group(
        "settings of the judge",
        "the same as in a run's --metadata; each can stand in the environment instead "
        "(LMKICK_JUDGE_MODEL and so on), the key only there (LMKICK_JUDGE_API_KEY)",
    )
    for field in fields(JudgeSettings):
        group.add_argument(f"--judge_{field.name}", metavar="VALUE", default=None)


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
