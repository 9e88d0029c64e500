# SPDX-License-Identifier: Apache-2.0
"""One evaluation by lm-eval, saved as ``lm_eval --output_path --log_samples`` saves it.

Its files appear under their names only when they are whole, the results file last. So a process
that is killed leaves nothing behind that looks like a result.
"""

from __future__ import annotations

import functools
import gc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressors.errors import LmkickError
from lmkick_plugin.data.sources import DATA_DIR_VARIABLE
from lmkick_plugin.judge.settings import (
    ADDRESS_VARIABLE,
    JudgeSettings,
    endpoint_address,
    is_setting,
)

__all__ = [
    "UNFINISHED",
    "KeepError",
    "environment",
    "evaluate",
    "free_memory",
    "keep",
    "set_environment",
]

#: Folder below a cell's for files that are being written; readers of results pass it over.
UNFINISHED = ".unfinished"


class KeepError(LmkickError, OSError):
    """lm-eval could not write its results."""


def environment(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables that a sweep uses, without keys.

    Args:
        metadata: The sweep's. ``OPENAI_BASE_URL`` counts only where a judge is asked there.

    Raises:
        SettingsError: A setting of the judge is wrong, or that address is none.
    """
    judge = JudgeSettings.read(metadata)  # refuses unknown settings, and passwords in addresses
    names = [DATA_DIR_VARIABLE, *filter(is_setting, os.environ)]
    if judge is not None and judge.base_url is None:
        endpoint_address(None)  # likewise
        names.append(ADDRESS_VARIABLE)
    return {name: os.environ[name] for name in sorted(names) if os.environ.get(name)}


def set_environment(variables: Mapping[str, str]) -> None:
    """Set this process's environment to another's.

    Args:
        variables: What :func:`environment` returned there.
    """
    for name in (DATA_DIR_VARIABLE, ADDRESS_VARIABLE, *filter(is_setting, list(os.environ))):
        os.environ.pop(name, None)
    os.environ.update(variables)


def evaluate(
    model: Any,
    *,
    arguments: Mapping[str, Any],
    tasks: Sequence[Any],
    manager: Any,
    folder: Path,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], Any]:
    """Run lm-eval's ``simple_evaluate`` on a loaded model.

    Args:
        model: A ``KickLM``.
        arguments: Those it was made from; they go into the results as ``--model_args`` do.
        tasks: Names, or task and group objects.
        manager: An lm-eval ``TaskManager``.
        folder: Of the results.
        options: More of ``simple_evaluate``'s.

    Returns:
        The results, samples included, and lm-eval's tracker, both for :func:`keep`.
    """
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(folder / UNFINISHED))
    with _environment_looked_at_once(), _quiet_git():
        results = simple_evaluate(
            model=model,
            model_args=dict(arguments),
            tasks=list(tasks),
            task_manager=manager,
            evaluation_tracker=tracker,
            log_samples=True,
            **options,
        )
    if results is None:
        raise KeepError("this process is not the first of its run: start it alone")
    # As --model kick: lm-eval does not know that the object it was given is one.
    results["config"]["model"] = "kick"
    tracker.general_config_tracker.model_source = "kick"
    return dict(results), tracker


def keep(
    results: dict[str, Any], tracker: Any, folder: Path, announce: Callable[[str], None]
) -> Path:
    """Save what :func:`evaluate` returned with lm-eval's tracker.

    Args:
        results: The results; their samples are taken out.
        tracker: lm-eval's.
        folder: Of the results.
        announce: Called with the name that the results file will have, relative to ``folder``,
            when only its renaming is left. Who notes it and finds the file later knows that all
            is there.

    Returns:
        The results file.

    Raises:
        KeepError: Something could not be written.
    """
    samples = results.pop("samples")
    scratch = folder / UNFINISHED
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
        found = sorted(scratch.rglob("results_*.json"))
        logged = sorted(scratch.rglob("samples_*.jsonl"))
        # The tracker turns errors into warnings.
        if len(found) != 1 or len(logged) != len(results["configs"]):
            raise KeepError(
                f"lm-eval could not write its results to {scratch}: found {len(found)} results "
                f"file and {len(logged)} of {len(results['configs'])} samples files. Is the disk "
                "full, or the folder read-only?"
            )
        place = found[0].parent.relative_to(scratch)
        (folder / place).mkdir(parents=True, exist_ok=True)
        for path in logged:
            path.replace(folder / place / path.name)
        name = place / found[0].name
        announce(name.as_posix())
        found[0].replace(folder / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / name


def free_memory() -> None:
    """Free unreferenced memory, on the device too, before the next model is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _environment_looked_at_once() -> Iterator[None]:
    """Cache lm-eval's description of the machine, which takes seconds per evaluation.

    What it finds (packages, processors, drivers) does not change while a process lives.
    """
    from torch.utils import collect_env

    asked = collect_env.get_pretty_env_info
    collect_env.get_pretty_env_info = _kept(asked)
    try:
        yield
    finally:
        collect_env.get_pretty_env_info = asked


@contextmanager
def _quiet_git() -> Iterator[None]:
    """Suppress git's ``fatal: not a git repository``, which lm-eval lets it print."""
    from lm_eval import evaluator

    asked = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: asked() if _in_repository() else None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asked


def _in_repository() -> bool:
    return any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents))


@functools.lru_cache(maxsize=1)
def _kept(asked: Callable[[], str]) -> Callable[[], str]:
    return functools.lru_cache(maxsize=1)(asked)
