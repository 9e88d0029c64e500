# SPDX-License-Identifier: Apache-2.0
"""Counts, by task, the prompts that did not fit and were cut from the left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["TruncatedPrompts"]


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
