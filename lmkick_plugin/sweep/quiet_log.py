# SPDX-License-Identifier: Apache-2.0
"""Lets a long evaluation talk to a file, so that the terminal shows one bar."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

__all__ = ["talking_to"]


_UP = "\x1b[A"


class _Log(io.TextIOBase):
    """A text file that keeps of each line what stood there last, as a terminal does."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", errors="replace")
        self._line = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        # A bar below another one goes a line down, draws itself, and a line up again.
        *lower, rest = text.split(_UP)
        for part in lower:
            self._take(part)
            self._line = ""
        self._take(rest)
        return len(text)

    def _take(self, text: str) -> None:
        *lines, self._line = (self._line + text).split("\n")
        for line in filter(None, map(_last, lines)):
            self._file.write(line + "\n")
        self._line = _last(self._line, keep=True)
        if lines:
            self._file.flush()

    def close(self) -> None:
        if not self.closed:
            if self._line:
                self._file.write(_last(self._line) + "\n")
            self._file.close()
        super().close()


def _last(line: str, *, keep: bool = False) -> str:
    """What is left after all carriage returns; one at the end has overwritten nothing yet."""
    head = line.rstrip("\r")
    shown = head.rpartition("\r")[2]
    return shown + ("\r" if keep and head != line else "")


def _point(handler: logging.StreamHandler[Any], stream: Any) -> None:
    """Like ``setStream``, which fails where the stream so far has been closed by its owner."""
    handler.acquire()
    try:
        with suppress(ValueError):
            handler.flush()
        handler.stream = stream
    finally:
        handler.release()


@contextmanager
def talking_to(path: Path) -> Iterator[None]:
    """Send what is printed, logged and drawn to a file for a while.

    Args:
        path: The file; it is added to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    log = _Log(path)
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    streams = [
        one
        for name in [None, *logging.root.manager.loggerDict]
        for one in logging.getLogger(name).handlers
        if type(one) is logging.StreamHandler
    ]
    before = [one.stream for one in streams]
    silent = not any(one in streams for one in root.handlers)
    try:
        for one in streams:
            _point(one, log)
        if silent:
            root.addHandler(handler)
        with redirect_stdout(log), redirect_stderr(log):
            yield
    finally:
        root.removeHandler(handler)
        for one, stream in zip(streams, before, strict=True):
            _point(one, stream)
        log.close()
