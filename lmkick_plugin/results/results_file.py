# SPDX-License-Identifier: Apache-2.0
"""Reader of one evaluation by lm-eval: ``results_<time>.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from compressors.errors import LmkickError
from lmkick_plugin.files import parse_json
from lmkick_plugin.record.fields import RECIPE
from lmkick_plugin.results.judged_scores import (
    JudgedTask,
    merged,
    read_judged,
    with_judged,
)
from lmkick_plugin.results.samples import Sample, read_samples
from lmkick_plugin.terminal import plain

__all__ = [
    "NAME",
    "NULLS",
    "ResultsError",
    "ResultsFile",
    "fallbacks",
    "model_key",
    "recipe_label",
    "short_model",
]

NAME = re.compile(r"^.+_(?P<stamp>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
"""Name of a results file, for any ``--output_path``."""

# How a model's key names what is not its plain checkpoint.
_VARIANTS = {"revision": " @ ", "subfolder": " / ", "adapter": " + "}

NULLS = frozenset({"", "none", "null"})
"""Ways to write that a field has no value."""

# Arguments of other models that change speed, not answers.
_SPEED_ARGUMENTS = frozenset({"batch_size", "max_batch_size", "device", "device_map", "num_gpus"})


class ResultsError(LmkickError, ValueError):
    """Results that are missing, broken or ambiguous; the message names files and a way out."""


@dataclass(frozen=True, slots=True)
class ResultsFile:
    """One evaluation of any model, as lm-eval wrote it.

    Attributes:
        path: The ``results_<time>.json`` file.
        stamp: The time in its name, which its samples files share and which sorts by age.
        data: Its contents, with the scores of ``lmkick judge`` where there are any.
        judged: Where those scores come from, by task.
        notes: What was left out.
    """

    path: Path
    stamp: str
    data: Mapping[str, Any]
    judged: Mapping[str, JudgedTask] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> ResultsFile:
        """Read one results file.

        Args:
            path: The file.

        Returns:
            Its contents.

        Raises:
            ResultsError: If it cannot be read, is not complete JSON, or is something else.
        """
        if path.exists() and not path.is_file():  # a device has no end
            raise ResultsError(
                f"{path}: not a file. Give a folder of results, or a file of one run"
            )
        try:
            data = parse_json(path.read_bytes())
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            if path.suffix != ".json":
                raise ResultsError(
                    f"{path}: not a results file. Give the results_*.json file of a run, or its "
                    "folder"
                ) from error
            raise ResultsError(
                f"{path}: not a whole JSON file ({plain(error, limit=80)}); run the evaluation "
                "again"
            ) from error
        if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
            raise ResultsError(f"{path}: not lm-eval's results (no mapping called 'results')")
        problem = _record_problem(data) or _group_problem(data)
        if problem is not None:
            raise ResultsError(f"{path}: {plain(problem)}; run the evaluation again")
        name = NAME.match(path.name)
        stamp = name["stamp"] if name else ""
        judged, notes = read_judged(path, stamp)
        return cls(path, stamp, merged(data, judged), judged, tuple(notes))

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A mapping of the file; empty where it is missing.

        Args:
            key: Its name at the top level.

        Returns:
            The mapping; an empty one where it is missing or something else.
        """
        part = self.data.get(key)
        return part if isinstance(part, dict) else {}

    @property
    def record(self) -> Mapping[str, Any]:
        """The ``kick`` record; empty for other models."""
        record = self.mapping("config").get("kick")
        return record if isinstance(record, dict) else {}

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that a selector can name: record, model, model arguments, time."""
        config = self.mapping("config")
        return {
            **_arguments(config.get("model_args")),
            "model": config.get("model"),
            "limit": config.get("limit"),
            "model_name": self.data.get("model_name"),
            "date": self.stamp,
            **self.record,
        }

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """Equal for evaluations of the same model and recipe."""
        config = self.mapping("config")
        if self.record:
            parts = {key: self.record.get(key) for key in RECIPE}
            # Older records do not say it, and it decides few scores where it is the default.
            parts["bos"] = None if self.record.get("bos") == "auto" else self.record.get("bos")
        else:
            arguments = _arguments(config.get("model_args"))
            parts = {k: v for k, v in arguments.items() if k not in _SPEED_ARGUMENTS}
            parts["model_name"] = self.data.get("model_name")
        parts["model"] = config.get("model")
        return tuple(sorted((key, json.dumps(value)) for key, value in parts.items()))

    @property
    def label(self) -> str:
        """Short label of model and recipe."""
        model = self.record.get("base_model") or self.data.get("model_name")
        name = short_model(str(model))
        if self.record:
            name = short_model(model_key(self.record) or str(model))
        config = self.mapping("config")
        return plain(f"{name} {recipe_label(self.record) or config.get('model', '')}".strip())

    @property
    def tasks(self) -> list[str]:
        """Names of evaluated tasks, without groups."""
        configs = self.mapping("configs")
        return [task for task in self.mapping("results") if task in configs]

    def children(self, group: str) -> list[str]:
        """Tasks and groups directly under a group.

        Args:
            group: Name of the group.

        Returns:
            Their names; none for a task.
        """
        names = self.mapping("group_subtasks").get(group)
        return [str(name) for name in names] if isinstance(names, list) else []

    def score(self, task: str, metric: str, filter_name: str) -> float | None:
        """A score as lm-eval computed it.

        Args:
            task: Task or group.
            metric: Metric name.
            filter_name: Filter name, ``none`` where the task has no filter.

        Returns:
            The score, or None where there is none.
        """
        scores = self.mapping("results").get(task)
        value = scores.get(f"{metric},{filter_name}") if isinstance(scores, dict) else None
        return float(value) if isinstance(value, int | float) else None

    def higher_is_better(self, task: str, metric: str) -> bool | None:
        """Whether higher is better for a metric, if the file states it.

        Args:
            task: Task or group.
            metric: Metric name.

        Returns:
            True, False, or None where it is not said.
        """
        directions = self.mapping("higher_is_better").get(task)
        value = directions.get(metric) if isinstance(directions, dict) else None
        return value if isinstance(value, bool) else None

    def target_delimiter(self, task: str) -> str:
        """What a task puts between prompt and choice; a space, lm-eval's own, where not known."""
        config = self.mapping("configs").get(task)
        delimiter = config.get("target_delimiter") if isinstance(config, dict) else None
        return delimiter if isinstance(delimiter, str) else " "

    def samples_path(self, task: str) -> Path:
        """Path of a task's samples file beside this file.

        Args:
            task: Name of the task.

        Returns:
            The path, whether or not the file is there.
        """
        return self.path.parent / f"samples_{task}_{self.stamp}.jsonl"

    def has_samples(self, task: str) -> bool:
        """Whether a task's items can be looked for, and their file is there."""
        return not self.stamp or self.samples_path(task).is_file()

    def samples(self, task: str) -> dict[str, list[Sample]]:
        """Read a task's items.

        Args:
            task: Name of the task.

        Returns:
            Items by filter name.

        Raises:
            ResultsError: Where they were not logged.
            SamplesError: Where their file is broken.
        """
        if not self.stamp:
            raise ResultsError(
                f"{self.path}: its name holds no time, by which its samples are found. Rename it "
                "to results_<time>.json, with the time of its samples_ files"
            )
        path = self.samples_path(task)
        if not path.is_file():
            raise ResultsError(
                f"{task}: {path.name} is not beside {self.path}: run the evaluation with "
                "--log_samples, which saves the items' answers"
            )
        stat = path.stat()
        by_filter = _samples(path, stat.st_mtime_ns, stat.st_size)
        if task in self.judged:
            found = self.judged[task]
            return {name: with_judged(items, found) for name, items in by_filter.items()}
        return by_filter


# Types of the record's fields that are looked into.
_TYPES = {
    "base_model": str, "compressor": str, "pattern": str, "earlier": list, "layers": list,
    "layer_summary": dict,
}  # fmt: skip


def _record_problem(data: Mapping[str, Any]) -> str | None:
    """What no record of lmkick's holds; None where nothing is wrong."""
    config = data.get("config")
    record = config.get("kick") if isinstance(config, dict) else None
    steps = [] if record is None else [record]
    if isinstance(record, dict) and isinstance(record.get("earlier"), list):
        steps += record["earlier"]
    for step in steps:
        if not isinstance(step, dict):
            return f"expected a mapping as its record of the model, found {step!r:.40}"
        for name, kind in _TYPES.items():
            if not isinstance(step.get(name), kind | None):
                return f"{name} of the model's record is {step[name]!r:.40}"
    return None


def _group_problem(data: Mapping[str, Any]) -> str | None:
    """A group that holds itself; None where there is none."""
    stated = data.get("group_subtasks")
    groups = stated if isinstance(stated, dict) else {}
    for group in groups:
        waiting, seen = [group], set[str]()
        while waiting:
            names = groups.get(waiting.pop())
            for name in map(str, names if isinstance(names, list) else ()):
                if name == group:
                    return f"its group {group!r:.60} holds itself"
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
    return None


@lru_cache(maxsize=2)
def _samples(path: Path, changed: int, size: int) -> dict[str, list[Sample]]:  # noqa: ARG001
    """Samples of a file, cached by its state: a dense run is compared several times."""
    return read_samples(path)


def _arguments(raw: object) -> dict[str, Any]:
    """``model_args`` of a results file as a mapping."""
    if isinstance(raw, dict):
        return dict(raw)
    pairs = (pair.split("=", 1) for pair in str(raw or "").split(",") if "=" in pair)
    return {key.strip(): value.strip() for key, value in pairs}


def fallbacks(record: Mapping[str, Any]) -> str | None:
    """Number of matrices that fell back to another method."""
    summary = record.get("layer_summary")
    if not isinstance(summary, dict) or not summary.get("notes"):
        return None
    return plain(
        f"{summary['notes']} of {summary.get('matrices')} matrices of {record.get('compressor')} "
        "fell back to another method: too few calibration tokens (lmkick layers)"
    )


def model_key(record: Mapping[str, Any]) -> str | None:
    """The dense model of a record with its revision, subfolder and adapter; None without one."""
    base = record.get("base_model")
    if base is None:
        return None
    parts = [f"{mark}{record[key]}" for key, mark in _VARIANTS.items() if record.get(key)]
    return "".join([str(base), *parts])


def short_model(key: str) -> str:
    """A model's key with the last part of each name or path."""
    marks = "|".join(map(re.escape, _VARIANTS.values()))
    parts = re.split(f"({marks})", key)
    return "".join(
        part if number % 2 else Path(part).name or part for number, part in enumerate(parts)
    )


def recipe_label(record: Mapping[str, Any]) -> str:
    """Label of the compressions, such as ``wanda 2:4, then gptq 4 bits``; empty without record."""
    if not record:
        return ""
    steps = [*(record.get("earlier") or ()), record]
    return ", then ".join(_step_label(step) for step in steps)


def _step_label(record: Mapping[str, Any]) -> str:
    compressor = record.get("compressor")
    if str(compressor).casefold() in NULLS:
        return "dense"
    parts = [str(compressor)]
    if record.get("pattern") not in (None, "unstructured"):
        parts.append(str(record["pattern"]))
    elif isinstance(record.get("requested_sparsity"), int | float):
        parts.append(f"{100 * record['requested_sparsity']:g} %")
    elif record.get("pattern") and isinstance(record.get("achieved_sparsity"), int | float):
        # Somebody else pruned it, and what was asked for is not known.
        parts.append(f"{100 * record['achieved_sparsity']:.3g} %")
    if record.get("number_format") not in (None, "int"):
        parts.append(str(record["number_format"]))
    elif record.get("num_bits") is not None:
        parts.append(f"{record['num_bits']} bits")
    return " ".join(parts)
