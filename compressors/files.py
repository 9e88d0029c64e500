# SPDX-License-Identifier: Apache-2.0
"""Atomic file writes, cleanup after killed writers, CSV without formulas."""

from __future__ import annotations

import csv
import functools
import io
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "csv_text", "home_expanded", "is_running", "remove_leftovers", "unfinished", "write_atomically",
]  # fmt: skip

_PREFIX = ".lmkick-"


def home_expanded(path: str | Path) -> Path:
    """A path with ``~`` expanded; as it stands where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111, a Path would raise RuntimeError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically; an interrupted write leaves the old one.

    Args:
        path: Where to; missing folders are made.
        content: Text is written as UTF-8.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean_once(path.parent)
    part = unfinished(path)
    try:
        with part.open("xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        # The rename itself is on disk only once the directory is.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def unfinished(path: Path) -> Path:
    """Temporary name beside ``path``.

    Nobody can predict it, so no link planted there is followed; it names the writer's host and
    process, so that :func:`remove_leftovers` knows that the writer is gone.
    """
    return path.with_name(f"{_PREFIX}{_host()}-{os.getpid()}-{secrets.token_hex(8)}.partial")


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files of killed processes of this machine.

    Args:
        folder: Looked into without its subfolders.

    Returns:
        What was removed.
    """
    pattern = re.compile(re.escape(f"{_PREFIX}{_host()}-") + r"(\d+)-[0-9a-f]{16}\.partial")
    removed = []
    with os.scandir(folder) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match is None or is_running(int(match[1])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)
            removed.append(Path(entry.path))
    return removed


@functools.lru_cache(maxsize=256)
def _clean_once(folder: Path) -> None:
    remove_leftovers(folder)


def is_running(process: int) -> bool:
    """Whether a process of this machine exists, under any user."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _host() -> str:
    # On a shared disk, a process of that number on another machine says nothing about ours.
    return re.sub(r"[^\w.]", "_", platform.node())[:64] or "host"


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """CSV lines in which spreadsheets read no text as a formula.

    Args:
        rows: Cells; None becomes nothing, a float its shortest exact form.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(_cell, row) for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    line = "".join(" " if c.isspace() else c if c.isprintable() else "?" for c in value)
    try:
        float(line)
    except ValueError:
        return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line
    return line
