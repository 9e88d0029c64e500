# SPDX-License-Identifier: Apache-2.0
"""What does not fit the context: prompts that were cut from the left, answers made shorter."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

__all__ = ["TruncatedPrompts", "fit_generation"]

_LOGGER = logging.getLogger(__name__)


def fit_generation(requests: Sequence[Any], context: int) -> list[Any]:
    """Shorten answers that would be as long as the whole context, or longer.

    Args:
        requests: ``generate_until`` instances.
        context: The model's, in tokens.

    Returns:
        The requests, with ``max_gen_toks`` set to half the context in those: the other half is for
        the prompt. The instances handed in stay as they are.
    """
    fitted = []
    for instance in requests:
        text, settings = instance.args
        wanted = settings.get("max_gen_toks")
        if isinstance(wanted, int) and wanted >= context > 1:
            _say_shortened(str(instance.task_name), wanted, context)
            shorter = (text, {**settings, "max_gen_toks": context // 2})
            instance = replace(instance, arguments=shorter)
        fitted.append(instance)
    return fitted


@functools.lru_cache(maxsize=64)
def _say_shortened(task: str, wanted: int, context: int) -> None:
    _LOGGER.warning(
        "%s: answers of up to %d tokens do not fit a context of %d: they are limited to %d.",
        task,
        wanted,
        context,
        context // 2,
    )


class TruncatedPrompts:
    """The documents whose prompt was cut, by task; a document counts once.

    The four choices of a question share a prompt, requests may be repeated, and data-parallel runs
    pad with copies: so documents are remembered, not occurrences counted.
    """

    def __init__(self) -> None:
        self._documents: set[tuple[str, Any]] = set()

    def add(self, instance: Any) -> None:
        """Note that the prompt of this lm-eval ``Instance`` was cut."""
        self._documents.add((str(instance.task_name), instance.doc_id))

    def merge(self, documents: Iterable[tuple[str, Any]]) -> None:
        """Add what another process noted."""
        self._documents.update(documents)

    def documents(self) -> list[tuple[str, Any]]:
        """Everything noted so far, as ``(task, document)``."""
        return list(self._documents)

    def by_task(self) -> dict[str, int]:
        """Number of cut prompts of each task that has any."""
        counts: dict[str, int] = {}
        for task, _ in sorted(self._documents, key=str):
            counts[task] = counts.get(task, 0) + 1
        return counts

    def clear(self) -> None:
        """Start counting anew."""
        self._documents.clear()
