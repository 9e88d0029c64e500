# SPDX-License-Identifier: Apache-2.0
"""Run-time changes to lm-eval: what, for which versions, and when each can be removed.

``registration`` applies them; nothing here happens on import.
"""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["PATCHES", "Patch", "apply_patches", "drop_known_warnings", "scan_also"]


@dataclass(frozen=True, slots=True)
class Patch:
    """One change.

    Attributes:
        apply: Makes it; a second call changes nothing.
        versions: Of lm-eval that need it.
        reason: Why.
        until: The condition under which it goes.
    """

    apply: Callable[[], None]
    versions: str
    reason: str
    until: str


def apply_patches() -> None:
    """Apply all of :data:`PATCHES`; lm-eval has to be imported."""
    for patch in PATCHES:
        patch.apply()


def scan_also(folder: Path) -> None:
    """Let ``TaskIndex.build`` scan ``folder`` after lm-eval's own tasks.

    For lm-eval 0.4.12 and 0.4.13, which read no entry points for tasks; goes once the lowest
    supported version reads the group ``lm_eval.tasks``.

    Ours come after the built-in tasks and before those of ``--include_path``, so that a user's task
    of the same name wins. Nothing is added where the folder is among the paths already, nor where
    the built-in tasks were not asked for.
    """
    # From sys.modules: while lm_eval.tasks is being imported it is not an attribute of lm_eval yet.
    index_class = sys.modules["lm_eval.tasks._index"].TaskIndex
    build = index_class.build
    if getattr(build, "adds_lmkick", False):
        return
    built_in = Path(str(sys.modules["lm_eval.tasks"].__file__)).resolve().parent

    @functools.wraps(build)
    def build_with_ours(paths: Iterable[Path], *args: Any, **options: Any) -> dict[str, Any]:
        folders = list(paths)
        resolved = [Path(path).resolve() for path in folders]
        if built_in in resolved and folder not in resolved:
            folders.insert(resolved.index(built_in) + 1, folder)
        found: dict[str, Any] = build(folders, *args, **options)
        return found

    build_with_ours.adds_lmkick = True  # type: ignore[attr-defined]
    index_class.build = staticmethod(build_with_ours)


@dataclass(frozen=True, slots=True)
class _Drop(logging.Filter):
    """Drops messages about our tasks that hold a text. Equal ones are added to a logger once."""

    starts: tuple[str, ...]
    holds: str

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message.startswith(self.starts) and self.holds in message)


def drop_known_warnings(prefixes: tuple[str, ...]) -> None:
    """Drop two warnings of lm-eval that say nothing about our tasks.

    In lm-eval 0.4.12 and 0.4.13: ``custom_dataset`` is explained in a warning for each of MMLU's 57
    subjects, and metrics without a value for some items are warned about though no group averages
    them. Goes once lm-eval logs the first once, and knows metrics with missing values.

    Args:
        prefixes: How our tasks and groups begin.
    """
    custom = _Drop(prefixes, "Custom kwargs can be passed to `--metadata`")
    logging.getLogger("lm_eval.api.task").addFilter(custom)
    groups = tuple(f"[{prefix}" for prefix in prefixes)
    unequal = _Drop(groups, "Metrics were not scored on the same number")
    logging.getLogger("lm_eval.evaluator_utils").addFilter(unequal)


def compile_templates_once() -> None:
    """Let lm-eval's template environment remember what it has compiled."""
    from lm_eval.utils import env

    compile_anew = env.from_string
    if hasattr(compile_anew, "cache_info"):
        return

    @lru_cache(maxsize=1_024)
    def remembered(source: str) -> Any:
        return compile_anew(source)

    def from_string(source: Any, *more: Any, **options: Any) -> Any:
        if isinstance(source, str) and not more and not options:
            return remembered(source)
        return compile_anew(source, *more, **options)

    from_string.cache_info = remembered.cache_info  # type: ignore[attr-defined]
    env.from_string = from_string


def silence_git() -> None:
    """Keep git's own words off the terminal while lm-eval asks it for a commit."""
    from lm_eval.loggers import utils

    if not hasattr(utils, "subprocess") or isinstance(utils.subprocess, SimpleNamespace):
        return
    quiet = functools.partial(subprocess.check_output, stderr=subprocess.DEVNULL)
    utils.subprocess = SimpleNamespace(**{**vars(subprocess), "check_output": quiet})


PATCHES = (
    Patch(
        compile_templates_once,
        versions="0.4.12, 0.4.13",
        reason="a prompt template is compiled again for every document and shot: 84,000 times for "
        "five-shot MMLU, a millisecond each; prompts are unchanged",
        until="lm-eval caches compiled templates",
    ),
    Patch(
        silence_git,
        versions="0.4.12, 0.4.13",
        reason="outside a repository, every run prints git's 'fatal: not a git repository', as if "
        "it had failed; the commit of a repository is recorded as before",
        until="lm-eval reads git's standard error",
    ),
)
