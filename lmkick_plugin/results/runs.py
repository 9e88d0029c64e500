# SPDX-License-Identifier: Apache-2.0
"""Find runs in lm-eval's result folders and tell them apart.

lm-eval names a result folder after ``pretrained`` and its files after the time, so every
compression of a model lands beside the dense one. A *results file* is one evaluation; a *run* is
all results files of one model and recipe, which may hold different tasks (question answering is
run without a chat template, generation with one). Where two of its files hold the same task, the
newer one counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from lmkick_plugin.recipe.readers import suggest
from lmkick_plugin.results.results_file import NAME, NULLS, ResultsError, ResultsFile
from lmkick_plugin.terminal import plain

__all__ = ["Run", "find_results", "group_runs", "is_hidden", "load_run"]

_ALIASES = {"sparsity": "requested_sparsity", "bits": "num_bits", "pretrained": "model_name"}
_SHORT = {"requested_sparsity": "sparsity", "num_bits": "bits"}
_TELLING = ("compressor", "num_bits", "pattern", "requested_sparsity")  # named before others
_MOST = 5  # runs that are offered
_LONGEST = 4  # terms of a selector that is looked for


@dataclass(frozen=True, slots=True)
class Run:
    """All evaluations of one model and recipe.

    Attributes:
        source: What was asked for: a folder, a file, a folder with a selector.
        files: Its results files, newest first.
        notes: What a reader should know of how it was read.
    """

    source: str
    files: tuple[ResultsFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Short label of model and recipe."""
        return self.files[0].label

    @property
    def record(self) -> Mapping[str, Any]:
        """The ``kick`` record of the newest file; empty for other models."""
        return self.files[0].record

    @property
    def is_its_own_base(self) -> bool:
        """Whether a checkpoint that somebody compressed names no other model as its dense one."""
        found, base = self.record.get("checkpoint"), self.record.get("base_model")
        return isinstance(found, dict) and base == self.files[0].data.get("model_name")

    @property
    def tasks(self) -> dict[str, ResultsFile]:
        """Every task with the newest results file that holds it, oldest file's tasks first."""
        return {task: file for file in reversed(self.files) for task in file.tasks}

    def score(self, name: str, metric: str, filter_name: str) -> float | None:
        """A score as lm-eval computed it, from the newest file that has it.

        Args:
            name: Task or group.
            metric: Metric name.
            filter_name: Filter name, ``none`` where the task has no filter.

        Returns:
            The score, or None where there is none.
        """
        scores = (file.score(name, metric, filter_name) for file in self.files)
        return next((score for score in scores if score is not None), None)


def is_hidden(path: Path) -> bool:
    """Whether a file lies in a hidden folder.

    lm-eval names folders after models, and ``../models/mine`` becomes ``..__models__mine``,
    ``./mine`` becomes ``.__mine``: these are as good as any.

    Args:
        path: Relative to the folder that was asked for.
    """
    return any(re.match(r"\.(?!\.|__)", part) for part in path.parts)


def find_results(folder: Path) -> tuple[list[ResultsFile], list[str]]:
    """Read every results file under a folder.

    Args:
        folder: Searched with its sub-folders, but those whose names begin with a dot: there lies
            what is still being written.

    Returns:
        The files, newest first, and a line on each one that could not be read.
    """
    files, problems = [], []
    for path in sorted(folder.rglob("*.json")):
        if not NAME.match(path.name) or not path.is_file():
            continue
        if is_hidden(path.relative_to(folder)):
            continue
        try:
            files.append(ResultsFile.read(path))
        except ResultsError as error:
            problems.append(str(error))
    return sorted(files, key=lambda file: file.stamp, reverse=True), problems


def group_runs(
    files: Iterable[ResultsFile], *, source: str, notes: Sequence[str] = ()
) -> list[Run]:
    """Group results files by model and recipe.

    Args:
        files: Results files, newest first.
        source: Where they come from, for messages.
        notes: Handed to every run.

    Returns:
        The runs, newest first. A run whose files repeat a task says so in its notes.
    """
    groups: dict[tuple[tuple[str, str], ...], list[ResultsFile]] = {}
    for file in files:
        groups.setdefault(file.identity, []).append(file)
    runs = []
    for members in groups.values():
        said = [*notes, *(note for file in members for note in file.notes)]
        tasks = [task for file in members for task in file.tasks]
        repeated = sorted({task for task in tasks if tasks.count(task) > 1})
        if repeated:
            said.append(
                f"{members[0].label}: {len(members)} evaluations share {len(repeated)} "
                f"task{'' if len(repeated) == 1 else 's'} "
                f"({plain(', '.join(repeated), limit=60)}); the newest of each counts"
            )
        hashes = {str(file.record.get("weights_sha256")) for file in members}
        if len(hashes) > 1:
            said.append(f"{members[0].label}: its evaluations have different weights_sha256")
        runs.append(Run(source, tuple(members), tuple(said)))
    return runs


def load_run(spec: str) -> Run:
    """Load the one run that a path selects.

    Args:
        spec: A results file, a folder that holds one run, or ``FOLDER@key=value,key=value`` with
            fields of the ``kick`` record (``sparsity`` and ``bits`` for short), ``model``,
            ``pretrained``, model arguments, or ``date`` (its beginning is enough).

    Returns:
        The run.

    Raises:
        ResultsError: If nothing, or more than one run, answers to it.
    """
    path, selector = Path(spec), ""
    if not path.exists() and "@" in spec:
        folder, selector = spec.rsplit("@", 1)
        path = Path(folder)
    if not path.exists():
        raise ResultsError(f"{plain(spec)}: no such file or folder")
    problems: list[str] = []
    if path.is_dir():
        files, problems = find_results(path)
    elif path.suffix == ".jsonl":
        raise ResultsError(f"{path}: a samples file; give the results_*.json file beside it")
    else:
        files = [ResultsFile.read(path)]
    if not files:
        broken = "".join(f"\n  {problem}" for problem in problems)
        raise ResultsError(
            f"{path}: holds no lm-eval results (results_<time>.json, written by lm_eval with "
            f"--output_path){broken}"
        )
    chosen = [file for file in files if _selected(file, selector, files)]
    runs = group_runs(chosen, source=spec, notes=[f"skipped {problem}" for problem in problems])
    if len(runs) == 1:
        return runs[0]
    every = group_runs(files, source="")
    listed = _choices(runs or every, every)
    if not runs:
        raise ResultsError(
            f"{plain(spec)}: no run in {path} matches {plain(selector)}. Its runs: {listed}"
        )
    raise ResultsError(f"{plain(spec)}: {len(runs)} runs; choose one: {listed}")


def _selected(file: ResultsFile, selector: str, files: Sequence[ResultsFile]) -> bool:
    for term in filter(None, selector.split(",")):
        key, equals, wanted = (part.strip() for part in term.partition("="))
        key = _ALIASES.get(key, key)
        known = sorted({fact for other in files for fact in other.facts})
        if not equals or key not in known:
            keys = [*_ALIASES, *known]
            problem = f"no run has a field {plain(key)!r}" if equals else "write key=value"
            remedy = suggest(key, keys) or f"The keys are {plain(', '.join(keys))}"
            raise ResultsError(f"selector {plain(term)!r}: {problem}. {remedy}".rstrip())
        if not _means(wanted, file.facts.get(key), prefix=key == "date"):
            return False
    return True


def _means(wanted: str, actual: object, *, prefix: bool) -> bool:
    if prefix:
        return str(actual).startswith(wanted)
    if actual is None:
        return wanted.casefold() in NULLS
    if isinstance(actual, int | float) and not isinstance(actual, bool):
        try:
            return math.isclose(float(wanted), actual)
        except ValueError:
            return False
    return wanted.casefold() == str(actual).casefold()


def _choices(runs: Sequence[Run], every: Sequence[Run]) -> str:
    """What chooses each of the first runs among every run of the folder, and how many more."""
    shown = [
        f"@{selector}" if (selector := _shortest(run, every)) else str(run.files[0].path)
        for run in runs[:_MOST]
    ]
    more = [f"and {len(runs) - _MOST} more"] if len(runs) > _MOST else []
    return plain("; ".join([*shown, *more]))


def _shortest(run: Run, every: Sequence[Run]) -> str:
    """The selector with the fewest terms that no other run answers to; empty where none does."""
    identities = [dict(one.files[0].identity) for one in every]
    keys = sorted({key for identity in identities for key in identity})
    differing = [k for k in keys if len({identity.get(k) for identity in identities}) > 1]
    differing.sort(key=lambda key: (key not in _TELLING, key))
    facts = run.files[0].facts
    terms = {key: _written(facts.get(key)) for key in differing}
    usable = [key for key in differing if not {",", "@"} & {*terms[key]}]
    others = [one.files[0].facts for one in every if one.files[0].identity != run.files[0].identity]
    for count in range(1, min(len(usable), _LONGEST) + 1):
        for chosen in combinations(usable, count):
            if not any(
                all(_means(terms[key], other.get(key), prefix=False) for key in chosen)
                for other in others
            ):
                return ",".join(f"{_SHORT.get(key, key)}={terms[key]}" for key in chosen)
    return ""


def _written(value: object) -> str:
    return "none" if value is None else str(value)
