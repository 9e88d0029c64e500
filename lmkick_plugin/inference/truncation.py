# SPDX-License-Identifier: Apache-2.0
"""Truncation: cut prompts, shorten answers, count and log what was cut."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

__all__ = [
    "TruncatedPrompts",
    "cut_left",
    "fit_generation",
    "log_truncated",
    "suppress_truncation_warnings",
]

_LOGGER = logging.getLogger(__name__)

#: How lm-eval's ``hf`` begins the warnings that it gives for every single prompt it cuts.
_CUT = ("Combined length of context", "Left truncation applied")


def cut_left(tokens: Sequence[int], room: int) -> tuple[list[int], bool]:
    """Keep the last tokens of a prompt.

    Args:
        tokens: The whole prompt.
        room: Tokens that fit, at least 1.

    Returns:
        The tokens that are kept, and whether any were cut.
    """
    return list(tokens[-room:]), len(tokens) > room


def fit_generation(requests: Sequence[Any], context: int) -> list[Any]:
    """Shorten the answers of requests to fit the context.

    Args:
        requests: ``generate_until`` instances.
        context: The model's, in tokens.

    Returns:
        The requests, with ``max_gen_toks`` set to half the context in those, whichever name the
        limit had, or none: the other half is for the prompt. The given instances are not changed.
    """
    fitted = []
    for instance in requests:
        text, settings = instance.args
        normal = normalize_gen_kwargs(settings)  # as hf does; its default is that of HFLM
        wanted = normal["max_gen_toks"]
        if wanted >= context > 1:
            _log_shortened(str(instance.task_name), wanted, context)
            shorter = (text, {**normal, "max_gen_toks": context // 2})
            instance = replace(instance, arguments=shorter)
        fitted.append(instance)
    return fitted


@functools.lru_cache(maxsize=64)
def _log_shortened(task: str, wanted: int, context: int) -> None:
    _LOGGER.warning(
        "%s: answers of up to %d tokens do not fit a context of %d; limited to %d.",
        task,
        wanted,
        context,
        context // 2,
    )


class TruncatedPrompts:
    """Documents whose prompt was cut, by task; each counts once.

    The four choices of a question share a prompt, requests may be repeated, and data-parallel runs
    pad with copies: so documents are remembered, not occurrences counted.
    """

    def __init__(self) -> None:
        self._documents: set[tuple[str, Any]] = set()

    def add(self, instance: Any) -> None:
        """Note that the prompt of this lm-eval ``Instance`` was cut."""
        self._documents.add((str(instance.task_name), instance.doc_id))

    def merge(self, documents: Iterable[tuple[str, Any]]) -> None:
        """Add the counts of another process."""
        self._documents.update(documents)

    def documents(self) -> list[tuple[str, Any]]:
        """All counted documents, as ``(task, document)``."""
        return list(self._documents)

    def by_task(self) -> dict[str, int]:
        """Number of cut prompts by task."""
        counts: dict[str, int] = {}
        for task, _ in sorted(self._documents, key=str):
            counts[task] = counts.get(task, 0) + 1
        return counts

    def clear(self) -> None:
        """Reset the counts."""
        self._documents.clear()


@contextmanager
def suppress_truncation_warnings() -> Iterator[None]:
    """Suppress lm-eval's warning per cut prompt; :func:`log_truncated` gives the count."""
    logger = logging.getLogger("lm_eval.models.huggingface")

    def passes(entry: logging.LogRecord) -> bool:
        return not str(entry.msg).startswith(_CUT)

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def log_truncated(cut: Mapping[str, int], context: int) -> None:
    """Log in one line how many prompts were cut.

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
        "%d prompts exceeded the context of %d tokens and were cut from the left: %s%s. Counts by "
        "task: truncated_prompts in the results.",
        sum(cut.values()), context, examples, others,
    )  # fmt: skip
