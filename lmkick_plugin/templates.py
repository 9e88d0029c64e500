# SPDX-License-Identifier: Apache-2.0
"""Prompt templates compiled once, not once a document.

lm-eval compiles a task's Jinja template again for every document and every shot of it, which for
five-shot MMLU is 84,000 times one millisecond: longer than a small model takes to answer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

__all__ = ["compile_once"]

_TEMPLATES = 1_024


def compile_once() -> None:
    """Let lm-eval's template environment remember what it has compiled.

    The same text gives the same compiled template, so prompts do not change. A second call changes
    nothing.
    """
    from lm_eval.utils import env

    compile_anew = env.from_string
    if hasattr(compile_anew, "cache_info"):
        return

    @lru_cache(maxsize=_TEMPLATES)
    def remembered(source: str) -> Any:
        return compile_anew(source)

    def from_string(source: Any, *more: Any, **options: Any) -> Any:
        if isinstance(source, str) and not more and not options:
            return remembered(source)
        return compile_anew(source, *more, **options)

    from_string.cache_info = remembered.cache_info  # type: ignore[attr-defined]
    env.from_string = from_string
