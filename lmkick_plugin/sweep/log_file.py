# SPDX-License-Identifier: Apache-2.0
"""Log file of a cell: output and log of its evaluations."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

__all__ = ["redirect_output"]


@contextmanager
def redirect_output(path: Path) -> Iterator[None]:
    """Redirect standard output and logging to a file, without progress bars.

    Args:
        path: The file; it is added to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context(path.open("a", encoding="utf-8", errors="replace", buffering=1))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        stack.enter_context(_no_bars())
        handlers = _terminal_handlers()
        for handler in handlers:
            stack.callback(_point, handler, handler.stream)
            _point(handler, log)
        root = logging.getLogger()
        if not any(handler in handlers for handler in root.handlers):
            own = logging.StreamHandler(log)
            own.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            root.addHandler(own)
            stack.callback(root.removeHandler, own)
        yield


def _terminal_handlers() -> list[logging.StreamHandler[Any]]:
    """Handlers of all loggers that write to a terminal stream."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    return [handler for handler in handlers if type(handler) is logging.StreamHandler]


def _point(handler: logging.StreamHandler[Any], stream: Any) -> None:
    """Set a handler's stream, also where the previous one is closed."""
    handler.acquire()
    try:
        with suppress(ValueError):
            handler.flush()
        handler.stream = stream
    finally:
        handler.release()


@contextmanager
def _no_bars() -> Iterator[None]:
    """Disable progress bars, also those created with ``disable=False``."""
    init = tqdm.__init__

    @functools.wraps(init)
    def disabled(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **{**options, "disable": True})

    tqdm.__init__ = disabled  # type: ignore[method-assign]
    try:
        yield
    finally:
        tqdm.__init__ = init  # type: ignore[method-assign]
