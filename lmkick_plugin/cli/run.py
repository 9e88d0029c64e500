# SPDX-License-Identifier: Apache-2.0
"""``lmkick run``, ``ls`` and ``validate``: lm-eval's own commands with lmkick loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["main"]


def main(command: str, arguments: Sequence[str]) -> int:
    """Run a command of lm-eval through its own parser; ``run`` is checked before it starts.

    Args:
        command: ``run``, ``ls`` or ``validate``.
        arguments: Of the command.

    Returns:
        Exit status.

    Raises:
        LmkickError: Arguments, data or tasks are wrong.
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from lmkick_plugin.preflight import check_run
    from lmkick_plugin.registration import register

    setup_logging()
    register()
    with _process_arguments(["lmkick", command, *arguments]):  # lm-eval parses sys.argv
        harness = HarnessCLI()
        options = harness.parse_args()
        if command == "run":
            check_run(options)
        harness.execute(options)
    return 0


@contextmanager
def _process_arguments(arguments: list[str]) -> Iterator[None]:
    saved, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = saved
