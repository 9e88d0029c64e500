# SPDX-License-Identifier: Apache-2.0
"""Answers that earlier runs logged: which there are, and what the dense model answered."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmkick_plugin.files import parse_json
from lmkick_plugin.judge.references import Turns
from lmkick_plugin.judge.rubric import Rubric, rubric_of
from lmkick_plugin.results.results_file import NULLS, ResultsError, ResultsFile, model_key
from lmkick_plugin.results.runs import Run, find_results, group_runs, load_run

__all__ = ["Logged", "dense_run", "find_logged", "find_runs"]

_SETTINGS = ("judge_order", "judge_temperature", "judge_structured")


@dataclass(frozen=True, slots=True)
class Logged:
    """The answers to one task in one results file.

    Attributes:
        run: The run they are of.
        file: Its results file with this task.
        task: The task.
        rubric: How its answers are judged.
        rows: doc_id, doc_hash, document and answers of each item, in the order of the items.
    """

    run: Run
    file: ResultsFile
    task: str
    rubric: Rubric
    rows: tuple[tuple[int, str, dict[str, Any], Turns], ...]

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of the judge that are part of the task, not of whoever ran it.

        Nothing else is taken from a results file: an address in it would be sent the key.
        """
        config = self.file.mapping("configs").get(self.task)
        metadata = config.get("metadata") if isinstance(config, Mapping) else None
        given = metadata if isinstance(metadata, Mapping) and self.rubric.released else {}
        found = {name: given[name] for name in _SETTINGS if name in given}
        if given.get("judge_prompt") == "released":
            found["judge_prompt"] = "released"
        return found


def find_runs(spec: str) -> list[Run]:
    """Find the runs that a path means.

    Args:
        spec: A folder (all runs in it), or one run as :func:`load_run` takes it.

    Returns:
        The runs, oldest first.

    Raises:
        ResultsError: There is none.
    """
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        return [load_run(spec)]
    files, problems = find_results(folder)
    if not files:
        return [load_run(spec)]  # which says what is wrong
    return group_runs(files, source=spec, notes=[f"skipped {text}" for text in problems])[::-1]


def find_logged(runs: Sequence[Run], patterns: Sequence[str]) -> list[Logged]:
    """Read the answers of runs to tasks that can be judged.

    Args:
        runs: The runs.
        patterns: Names or globs of the tasks; all by default.

    Returns:
        The answers, run by run.

    Raises:
        ResultsError: There is no such task in any run, or its answers were not logged.
    """
    found = []
    for run in runs:
        for task, file in run.tasks.items():
            rubric = rubric_of(task)
            wanted = not patterns or any(fnmatch.fnmatchcase(task, one) for one in patterns)
            if rubric is not None and wanted:
                rows = tuple(_read(file, task))
                found.append(Logged(run, file, task, rubric, rows))
    if not found:
        held = sorted({task for run in runs for task in run.tasks})
        raise ResultsError(
            "no task with answers to judge"
            f"{' of ' + ', '.join(patterns) if patterns else ''}; the runs hold {', '.join(held)}"
        )
    return found


def dense_run(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run of the dense model that a compressed one came from.

    Args:
        run: The compressed model's run.
        runs: Where to look.

    Returns:
        The newest one of the same revision, subfolder and adapter; None where there is none.
    """
    if run.is_its_own_base:
        return None
    for other in reversed(runs):
        dense = str(other.record.get("compressor", "none")).casefold() in NULLS
        if dense and other is not run and _model(other) == _model(run):
            return other
    return None


def _model(run: Run) -> str:
    return model_key(run.record) or str(run.files[0].data.get("model_name"))


def _read(file: ResultsFile, task: str) -> list[tuple[int, str, dict[str, Any], Turns]]:
    path = file.samples_path(task)
    if not path.is_file():
        raise ResultsError(
            f"{task}: {path} is missing, so its answers are not known: run the evaluation with "
            "--log_samples"
        )
    rows: dict[int, tuple[int, str, dict[str, Any], Turns]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            item = (int(row["doc_id"]), str(row["doc_hash"]), dict(row["doc"]), _said(row))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ResultsError(
                f"{path}, line {number}: not a sample as lm-eval writes them ({error!r}); run the "
                "evaluation again"
            ) from error
        rows.setdefault(item[0], item)  # a second filter repeats the items
    if not rows:
        raise ResultsError(f"{path} is empty; run the evaluation again")
    return [rows[key] for key in sorted(rows)]


def _said(row: Mapping[str, Any]) -> Turns:
    """The first answer of an item; several turns are a list."""
    answer = row["resps"][0][0]
    turns = (answer,) if isinstance(answer, str) else tuple(answer)
    if not turns or not all(isinstance(turn, str) for turn in turns):
        raise TypeError("resps holds no text")
    return turns
