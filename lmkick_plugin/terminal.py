# SPDX-License-Identifier: Apache-2.0
"""Output for a terminal: safe text, aligned tables, the error a command ends with."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from compressors.errors import LmkickError

__all__ = ["CommandError", "emit", "plain", "quiet_libraries", "read_path", "render_table"]


class CommandError(LmkickError):
    """Error of a command, shown without a traceback; exit status 2."""


def read_path(text: str) -> Path:
    """Path of an option, for argparse; an empty text is not the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty. Give one, or leave the option out")
    return Path(text)


def quiet_libraries() -> None:
    """Leave out lm-eval's notes and transformers' bars; warnings stay.

    ``LMEVAL_LOG_LEVEL=INFO`` brings the notes back.
    """
    from lm_eval.utils import setup_logging
    from transformers.utils.logging import disable_progress_bar

    setup_logging(logging.WARNING)
    disable_progress_bar()  # type: ignore[no-untyped-call]


def plain(text: object, *, limit: int | None = None) -> str:
    """Escape control characters of a text.

    Task names, records and model output come from files that anybody may have written; an escape
    sequence in them must not move a cursor, colour a line or fake one.

    Args:
        text: Anything; its ``str`` is taken.
        limit: Longest result; a longer text ends in ``...``.

    Returns:
        One line: blanks of any kind become spaces; what is not printable (control characters,
        bidirectional overrides, zero widths) becomes ``?``.
    """
    line = "".join(" " if c.isspace() else c if c.isprintable() else "?" for c in str(text))
    if limit is not None and len(line) > limit:
        line = line[: limit - 3] + "..."
    return line


def render_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1
) -> str:
    """Align a table in plain text.

    Args:
        header: Column titles.
        rows: Cells, as many in each row as there are titles.
        text_columns: How many columns, from the left, align left; the others align right.

    Returns:
        Lines without trailing blanks, a rule under the header.
    """
    cells = [[plain(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])


def emit(text: str) -> None:
    """Print to standard output in any encoding.

    Args:
        text: What to print.
    """
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))
