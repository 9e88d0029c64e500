# SPDX-License-Identifier: Apache-2.0
"""Parser of the commands: an error is one line with a suggestion, and says where the help is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from lmkick_plugin.recipe.readers import suggest
from lmkick_plugin.terminal import plain

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """Parser of argparse without its usage of thirty lines before each error."""

    def check_options(self, arguments: Sequence[str]) -> None:
        """Refuse an unknown option; argparse would first miss what it was meant to be.

        Args:
            arguments: Of the command.
        """
        known = self._option_string_actions
        for argument in arguments:
            name = argument.partition("=")[0]
            if name == "--":
                return
            shortened = self.allow_abbrev and any(each.startswith(name) for each in known)
            if name.startswith("--") and name not in known and " " not in name and not shortened:
                self.error(f"unknown option {name}. {suggest(name, known)}".rstrip(". "))

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        stop = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: {plain(message)}{stop} See `{self.prog} --help`\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is not None and value not in choices:
            names = [str(choice) for choice in choices]
            raise argparse.ArgumentError(
                action,
                f"{str(value)!r:.60} is unknown. {suggest(str(value), names)}Choose one of: "
                f"{', '.join(names)}",
            )
