# SPDX-License-Identifier: Apache-2.0
"""Readable output of long evaluations: one bar, and one line instead of one a request."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["say_truncated", "without_a_line_each"]

_LOGGER = logging.getLogger(__name__)

#: How lm-eval's ``hf`` begins the warnings that it gives for every single prompt it cuts.
_CUT = ("Combined length of context", "Left truncation applied")


@contextmanager
def without_a_line_each() -> Iterator[None]:
    """Hold back lm-eval's warning for every cut prompt: thousands of them bury everything else.

    Whoever uses this counts those prompts, and says how many there were.
    """
    logger = logging.getLogger("lm_eval.models.huggingface")

    def passes(entry: logging.LogRecord) -> bool:
        return not str(entry.msg).startswith(_CUT)

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def say_truncated(cut: Mapping[str, int], context: int) -> None:
    """Say in one line how many prompts were cut.

    Args:
        cut: Number of cut prompts by task.
        context: The model's, in tokens.
    """
    if not cut:
        return
    worst = sorted(cut, key=lambda task: (-cut[task], task))[:3]
    examples = ", ".join(f"{task} {cut[task]}" for task in worst)
    others = f" and {len(cut) - len(worst)} more tasks" if len(cut) > len(worst) else ""
    _LOGGER.warning(
        "%d prompts did not fit the context of %d tokens and were cut from the left: %s%s. "
        "truncated_prompts in the results has the number for each task.",
        sum(cut.values()), context, examples, others,
    )  # fmt: skip
