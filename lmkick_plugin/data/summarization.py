# SPDX-License-Identifier: Apache-2.0
"""Stories to summarize: the test split of CNN/DailyMail, in three lengths.

References:
    See et al., "Get To The Point", arXiv:1704.04368 (the data set's version 3.0.0).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lmkick_plugin.data.columns import TEXT, table
from lmkick_plugin.data.order import by_hash
from lmkick_plugin.data.sources import DataError, HubFiles, Origin, Source, locate

__all__ = ["SIZES", "STORIES", "TEST", "load", "load_released", "released_prompt"]

_LOG = logging.getLogger(__name__)

TEST = Source(
    "cnn_dailymail/test.jsonl",
    ("article", "highlights", "id"),
    HubFiles("abisee/cnn_dailymail", "3.0.0/test-*"),
)
SIZES: dict[str, tuple[int, float]] = {
    "small": (0, 470),
    "medium": (471, 789),
    "large": (790, math.inf),
}
"""Words between white space that a story of each size has, at least and at most."""

STORIES, _RELEASED_STORIES = 100, 30
_WHAT = {"small": "story", "medium": "news", "large": "news"}


def load(*, story_size: str, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """The first 100 stories of a size, sorted by the SHA-256 of their id.

    Args:
        story_size: One of :data:`SIZES`.
        data_dir: The data directory; None: as :func:`lmkick_plugin.data.sources.locate` says.
        **_: Other metadata.
    """
    return {"test": _chosen(locate(TEST, data_dir), story_size)}


@lru_cache(maxsize=6)
def _chosen(origin: Origin, size: str) -> Any:
    rows = ({**row, "cluster": row["id"]} for row in _first(origin, size, STORIES))
    return table(rows, id=TEXT, article=TEXT, highlights=TEXT, cluster=TEXT)


def load_released(*, story_size: str, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """First 30 stories, in prompts that end with the reference summary, as in the released code."""
    return {"test": _released(locate(TEST, data_dir), story_size)}


@lru_cache(maxsize=6)
def _released(origin: Origin, size: str) -> Any:
    rows = [
        {**row, "prompt": released_prompt(row, size)}
        for row in _first(origin, size, _RELEASED_STORIES)
    ]
    return table(rows, id=TEXT, article=TEXT, highlights=TEXT, prompt=TEXT)


def released_prompt(row: Mapping[str, str], size: str) -> str:
    """Released prompt: the story's file with its lines joined, highlights included.

    The lines of the article cannot be told apart in version 3.0.0 and keep a space between them.

    Args:
        row: A story with ``article`` and ``highlights``.
        size: Whether it is called a story or news.
    """
    # The full stop was added by version 3.0.0, to lines without one.
    leaked = (line.strip().removesuffix(" .") for line in row["highlights"].split("\n"))
    return (
        f"Summarize the given {_WHAT[size]} in less than 150 words while preserving high "
        f"coherence, consistency, fluency, and relevance.\n\n{row['article']}"
        + "".join(f"@highlight{line}" for line in leaked)
    )


def _first(origin: Origin, size: str, wanted: int) -> list[dict[str, str]]:
    """First stories of a size; logs where there are fewer than wanted."""
    rows = _by_size(origin)[size][:wanted]
    low, high = SIZES[size]
    span = f"{low} to {high}" if math.isfinite(high) else f"{low} or more"
    if not rows:
        raise DataError(f"{origin}: no story of {span} words, so none of size {size}")
    if len(rows) < wanted:
        _LOG.warning(
            "%s: %d stories of size %s (%s words) instead of %d",
            origin,
            len(rows),
            size,
            span,
            wanted,
        )
    return rows


@lru_cache(maxsize=2)
def _by_size(origin: Origin) -> dict[str, list[dict[str, str]]]:
    """All stories by size, sorted by the SHA-256 of their id."""
    found: dict[str, list[dict[str, str]]] = {size: [] for size in SIZES}
    for where, row in origin.rows():
        story = {name: row[name] for name in TEST.fields}
        for name, text in story.items():
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{where}: field {name!r} must be text, not {text!r:.60}")
        count = len(story["article"].split())
        size = next(size for size, (_, high) in SIZES.items() if count <= high)
        found[size].append(story)
    for rows in found.values():
        rows.sort(key=lambda story: by_hash(story["id"]))
    return found
