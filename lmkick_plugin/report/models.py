# SPDX-License-Identifier: Apache-2.0
"""Runs below some folders, grouped into models: the dense one and its compressions.

A *cell* is a run (:mod:`lmkick_plugin.results.runs`) with a name and a place: its model and
the recipe that was used on it. Both come from the ``kick`` record. Runs of other model types have
none: they are placed by their model's name, or by a label that the user gives to their folder.
Whether such a run is dense is not known, unless a label or the record of another run says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmkick_plugin.recipe.methods import COMPRESSORS
from lmkick_plugin.record.fields import RECIPE, RECORD_FIELDS
from lmkick_plugin.report.failed_cells import failed_cells
from lmkick_plugin.report.labels import LABEL_FIELDS, read_labels
from lmkick_plugin.results.results_file import (
    NULLS,
    ResultsError,
    ResultsFile,
    fallbacks,
    model_key,
    recipe_label,
    short_model,
)
from lmkick_plugin.results.runs import Run, find_results, group_runs
from lmkick_plugin.terminal import plain

__all__ = ["Cell", "Collection", "Model", "collect", "is_nm"]

_MADE = frozenset({"compressor", "num_bits", "pattern", "requested_sparsity"})  # one tells
_KNOWN_FIELDS = LABEL_FIELDS | {*RECORD_FIELDS, "layers"}


def is_nm(pattern: object) -> bool:
    """Whether a pattern of a record is N:M."""
    return isinstance(pattern, str) and ":" in pattern


@dataclass(frozen=True, eq=False)
class Cell:
    """One model with one recipe, and all its evaluations.

    Attributes:
        name: Identifier, unique in a collection; safe as an HTML id.
        run: Its results files.
        label: What people call it.
        record: Its ``kick`` record, with what a label says of it.
        model: What it was made of: the family it is compared in.
        labelled: Whether the user named it.
        named_as_dense: Whether a recorded run names its model as the dense one.
    """

    name: str
    run: Run
    label: str
    record: Mapping[str, Any]
    model: str
    labelled: bool = False
    named_as_dense: bool = False

    def number(self, field: str) -> float | None:
        """A field of the record, where it is a finite number."""
        value = self.record.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if math.isfinite(value) else None

    @cached_property
    def compressor(self) -> str:
        """The method, ``none`` for an uncompressed model."""
        value = self.record.get("compressor")
        return "none" if value is None or str(value).casefold() in NULLS else plain(value, limit=40)

    @property
    def short(self) -> str:
        """Label without the model's name."""
        return self.label.removeprefix(short_model(self.model)).strip() or self.label

    @property
    def dense(self) -> bool | None:
        """Whether the weights are uncompressed, as far as recorded; None where nothing says."""
        if not self.named_as_dense and _MADE.isdisjoint(self.record):
            return None
        pruned = self.number("requested_sparsity")
        quantized_or_pruned = self.bits is not None or self.pattern is not None or pruned
        return self.compressor == "none" and not quantized_or_pruned

    @property
    def bits(self) -> float | None:
        """Bits per weight; None unless quantized."""
        return self.number("num_bits")

    @property
    def pattern(self) -> str | None:
        """``N:M``; None for unstructured sparsity or none."""
        value = self.record.get("pattern")
        return plain(value, limit=12) if is_nm(value) else None

    @property
    def sparsity(self) -> float | None:
        """Requested share of zeros; 0 for the dense model, None unless pruned.

        Of a checkpoint that somebody else pruned, the share that is zero.
        """
        asked = self.number("requested_sparsity")
        if self.dense:
            return 0.0
        if asked is None and self.bits is None:
            found = self.number("achieved_sparsity")
            return None if found is None else round(found, 3)
        return asked

    @property
    def pruned(self) -> bool:
        """Whether weights were pruned and kept their precision."""
        return bool(self.sparsity) and self.bits is None and not self.record.get("earlier")

    @property
    def quantized(self) -> bool:
        """Whether weights were quantized and none zeroed."""
        return self.bits is not None and not self.sparsity and not self.record.get("earlier")

    @property
    def bytes(self) -> float | None:
        """Size in the best known format."""
        return self.number("bytes_best_format")

    @property
    def bits_per_weight(self) -> float | None:
        """Bits per parameter in the best known format."""
        total = self.number("total_parameters")
        return None if not total or self.bytes is None else 8 * self.bytes / total

    def truncated(self, task: str) -> int | None:
        """Cut prompts of a task; None where not recorded."""
        file = self.run.tasks.get(task)
        counts = None if file is None else file.record.get("truncated_prompts")
        count = counts.get(task, 0) if isinstance(counts, dict) else None
        return count if isinstance(count, int) else None


@dataclass(frozen=True, eq=False)
class Model:
    """A model and its compressions.

    Attributes:
        name: For people.
        key: The record's ``base_model``, or the name of a model without record.
        dense: Its dense run; None where there is none.
        cells: Everything else.
    """

    name: str
    key: str
    dense: Cell | None
    cells: tuple[Cell, ...]

    @property
    def all(self) -> tuple[Cell, ...]:
        """The dense run first."""
        return (() if self.dense is None else (self.dense,)) + self.cells

    @property
    def dense_dtype(self) -> str:
        """What the dense run was evaluated in; empty where that is not known."""
        return "" if self.dense is None else str(self.dense.record.get("dtype") or "")


@dataclass(frozen=True, eq=False)
class Collection:
    """Runs found below some folders.

    Attributes:
        models: By name.
        notes: What a reader should know.
        skipped: A line on each file that could not be read.
    """

    models: tuple[Model, ...]
    notes: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All of them."""
        return tuple(cell for model in self.models for cell in model.all)


def collect(paths: Sequence[Path], *, labels: Mapping[Path, str] | None = None) -> Collection:
    """Read every run under some folders.

    Args:
        paths: Folders, searched with all below them, or single results files.
        labels: As of :func:`read_labels`.

    Returns:
        The runs by model. Files that cannot be read are named and skipped; what a sweep recorded
        as failed is named too.

    Raises:
        ResultsError: A path does not exist, nothing can be read in all of them, or a label is
            wrong.
    """
    named = read_labels(labels)
    files, skipped = _files(paths)
    failed = [line for path in paths if path.is_dir() for line in failed_cells(path)]
    if not files:
        where = ", ".join(map(str, paths)) or "no folder"
        broken = "".join(f"\n  {line}" for line in [*skipped, *failed])
        raise ResultsError(
            f"{where}: no lm-eval results in it (results_<time>.json, written by lm_eval with"
            f" --output_path){broken}"
        )
    cells: list[Cell] = []
    notes = list(failed)
    for folder, members in _by_label(files, named).items():
        fields = {} if folder is None else named[folder]
        for run in group_runs(members, source=", ".join(map(str, paths))):
            notes += run.notes
            cells.append(_cell(run, fields, len(cells) + 1))
            fell_back = fallbacks(run.record)
            if fell_back is not None:
                notes.append(f"{cells[-1].label}: {fell_back}")
    notes += _newer_format(files)
    return Collection(_models(cells, notes), tuple(dict.fromkeys(notes)), tuple(skipped))


def _files(paths: Sequence[Path]) -> tuple[list[ResultsFile], list[str]]:
    found: dict[Path, ResultsFile] = {}
    skipped: list[str] = []
    for path in paths:
        if not path.exists():
            raise ResultsError(f"{path}: no such file or folder")
        if path.is_dir():
            files, problems = find_results(path)
        else:
            files, problems = [ResultsFile.read(path)], []
        skipped += [problem for problem in problems if problem not in skipped]
        for file in files:
            found.setdefault(file.path.resolve(), file)
    files = sorted(found.values(), key=lambda file: file.stamp, reverse=True)
    with_scores = [file for file in files if _has_scores(file)]
    skipped += [
        f"{file.path}: no task with scores in it" for file in files if file not in with_scores
    ]
    return with_scores, skipped


def _has_scores(file: ResultsFile) -> bool:
    return any(isinstance(scores, dict) and scores for scores in file.mapping("results").values())


def _by_label(
    files: Sequence[ResultsFile], labels: Mapping[Path, Mapping[str, Any]]
) -> dict[Path | None, list[ResultsFile]]:
    """Files under each labelled folder (the deepest that holds them), and all others."""
    groups: dict[Path | None, list[ResultsFile]] = {}
    for file in files:
        path = file.path.resolve()
        above = [folder for folder in labels if folder == path or folder in path.parents]
        groups.setdefault(max(above, key=lambda f: len(f.parts), default=None), []).append(file)
    return groups


def _cell(run: Run, fields: Mapping[str, Any], number: int) -> Cell:
    own = run.record
    record = {**own, **{key: value for key, value in fields.items() if key != "label"}}
    model = str(model_key(record) or run.files[0].data.get("model_name") or run.label)
    label = fields.get("label") or run.label
    if "label" not in fields and fields and "compressor" in record:
        label = f"{short_model(model)} {recipe_label(record)}"
    return Cell(
        name=f"run-{number}",
        run=run,
        label=plain(label, limit=100),
        record=record,
        model=model,
        labelled=bool(fields),
    )


def _models(cells: Sequence[Cell], notes: list[str]) -> tuple[Model, ...]:
    families: dict[str, list[Cell]] = {}
    recorded = {
        model_key(cell.record)
        for cell in cells
        if not _MADE.isdisjoint(cell.record) and not cell.run.is_its_own_base
    }
    for cell in cells:
        named = cell.model == cell.run.files[0].data.get("model_name") and cell.model in recorded
        families.setdefault(cell.model, []).append(replace(cell, named_as_dense=named))
    names = _short_names(list(families))
    models = []
    for key, members in sorted(families.items(), key=lambda item: names[item[0]]):
        dense = [cell for cell in members if cell.dense]
        dense.sort(key=lambda cell: not cell.record)  # with a record first, then newest first
        first = dense[0] if dense else None
        if first is None:
            if any(cell.dense is not None for cell in members):
                notes.append(
                    f"{names[key]}: no dense run among these results, so nothing can be compared"
                    " with it; evaluate compressor=none on the same tasks"
                )
        elif len(dense) > 1:
            kinds = ", ".join(sorted({_kind(cell) for cell in dense}))
            notes.append(
                f"{names[key]}: {len(dense)} dense runs ({plain(kinds, limit=120)});"
                f" {_kind(first)} is what the others are compared with"
            )
        others = sorted((c for c in members if c is not first), key=_order)
        models.append(Model(names[key], key, first, tuple(_distinct(others))))
    unknown = [cell.label for model in models for cell in model.cells if cell.dense is None]
    if unknown:
        notes.append(
            f"{plain(', '.join(unknown), limit=200)}: not recorded whether compressed; say it with"
            " --label FOLDER=compressor=none or FOLDER=base_model=NAME,compressor=NAME, or evaluate"
            " with --model kick, which records it"
        )
    return tuple(models)


def _kind(cell: Cell) -> str:
    file = cell.run.files[0]
    dtype = cell.record.get("dtype")
    return plain(f"--model {file.mapping('config').get('model')}" + (f" {dtype}" if dtype else ""))


def _order(cell: Cell) -> tuple[Any, ...]:
    methods = COMPRESSORS
    known = methods.index(cell.compressor) if cell.compressor in methods else len(methods)
    return (
        known,
        cell.compressor,
        cell.pattern is not None,
        cell.sparsity or 0,
        cell.pattern or "",
        -(cell.bits or 0),
        cell.label,
    )


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of a name or path, where that tells the models apart."""
    short = {key: plain(short_model(key), limit=80) for key in keys}
    return {
        key: name if list(short.values()).count(name) == 1 else plain(key, limit=200)
        for key, name in short.items()
    }


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    """Cells with distinct labels; equal ones get the settings in which they differ."""
    by_label: dict[str, list[Cell]] = {}
    for cell in cells:
        by_label.setdefault(cell.label, []).append(cell)
    renamed = []
    for cell in cells:
        twins = by_label[cell.label]
        label = cell.label
        if len(twins) > 1:
            differing = [f for f in RECIPE if len({str(t.record.get(f)) for t in twins}) > 1] or [
                "weights_sha256"
            ]
            added = (f"{f.removeprefix('num_')} {_shown(cell.record.get(f))}" for f in differing)
            label = plain(f"{label} ({', '.join(added)})", limit=140)
        renamed.append(replace(cell, label=label))
    return renamed


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return Path(text).name if "/" in text else text[:16]


def _newer_format(files: Sequence[ResultsFile]) -> list[str]:
    """Name the record fields that a newer version wrote."""
    unknown = sorted({str(key) for file in files for key in file.record} - _KNOWN_FIELDS)
    if not unknown:
        return []
    return [
        "records hold fields that this version does not know"
        f" ({plain(', '.join(unknown), limit=120)}): written by a newer lmkick? They are in"
        " cells.csv and nowhere else"
    ]
