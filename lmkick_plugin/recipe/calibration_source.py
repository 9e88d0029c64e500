# SPDX-License-Identifier: Apache-2.0
"""Calibration sources: ``c4``, ``wikitext``, ``self``, ``task:NAME``, ``mix:a+b``, a file."""

from __future__ import annotations

import os

from compressors.errors import SettingsError
from lmkick_plugin.recipe.readers import suggest

__all__ = ["NAMED", "TRAINING_TEXT", "check_source", "parts_of", "text_files"]

#: Tasks that have training text, by the name after ``task:``.
TRAINING_TEXT = (
    "alpaca",
    "freebaseqa",
    "mmlu",
    "summarization",
    "triviaqa_closed",
    "triviaqa_open",
    "unnatural",
)
#: Sources that are neither a file nor the text of a task.
NAMED = ("c4", "wikitext", "self")
_PREFIXES = ("kickonly_", "llmkick_", "kick_")


def check_source(source: str) -> str:
    """Check a source's form; return it with short task names.

    >>> check_source("mix:c4+task:kick_alpaca")
    'mix:c4+task:alpaca'

    Raises:
        SettingsError: A task without training text, or a mixture of fewer than two sources.
    """
    if not source.startswith("mix:"):
        return _check_part(source)
    parts = parts_of(source)
    if len(parts) < 2 or not all(parts) or any(part.startswith("mix:") for part in parts):
        raise SettingsError(
            f"calibration={source}: a mixture needs two sources or more, joined by plus signs: "
            "mix:c4+task:alpaca."
        )
    if len(set(parts)) < len(parts):
        raise SettingsError(f"calibration={source} names a source twice. Name each once.")
    return "mix:" + "+".join(map(_check_part, parts))


def parts_of(source: str) -> list[str]:
    """Sources of a mixture; any other source alone."""
    mixed = source.startswith("mix:")
    return source.removeprefix("mix:").split("+") if mixed else [source]


def text_files(source: str) -> list[str]:
    """Paths that a source names.

    >>> text_files("mix:c4+notes.txt")
    ['notes.txt']
    """
    return [part for part in parts_of(source) if part not in NAMED and not part.startswith("task:")]


def _check_part(source: str) -> str:
    if not source.startswith("task:"):
        return os.path.expanduser(source)  # noqa: PTH111, names pass too
    name = source.removeprefix("task:")
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name.startswith("summarization_"):
        name = "summarization"
    if name not in TRAINING_TEXT:
        wikitext = name in ("wikitext", "perplexity", "divergence")
        remedy = "Use calibration=wikitext: its training split. " if wikitext else ""
        raise SettingsError(
            f"calibration={source}: this task has no training text. {remedy}"
            f"{suggest(name, TRAINING_TEXT)}Tasks that have some: {', '.join(TRAINING_TEXT)}."
        )
    return f"task:{name}"
