# SPDX-License-Identifier: Apache-2.0
"""Curves: cells of a model that differ only in the amount of compression.

A curve is a method with its settings. Along it lie levels, mild to severe: shares of zeros, N:M
patterns, or bits. Runs that differ in nothing but a seed are one level.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lmkick_plugin.record.fields import RECIPE
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.verdict import Verdict, matches
from lmkick_plugin.terminal import plain

__all__ = ["Curve", "Kind", "Level", "Matching", "curves_of", "level_name", "matching"]

Kind: TypeAlias = Literal["sparsity", "N:M", "bits", "other"]

# What a curve varies, and what does not make another curve of it.
_ALONG = {"pattern", "requested_sparsity", "num_bits", "seed", "dtype", "base_revision"}
_SETTINGS = tuple(f for f in RECIPE if f not in _ALONG and f not in ("compressor", "base_model"))
_NAMES = {
    "group_size": "group", "act_order": "act-order", "act_group_aware": "group-aware",
    "static_groups": "static groups",
    "wanda_variant": "variant", "dampening_frac": "damping", "block_size": "block",
    "true_sequential": "true sequential", "calibration": "", "nsamples": "samples",
    "seqlen": "length", "symmetric": "symmetric", "allocation": "", "owl_lambda": "lambda",
    "owl_threshold": "threshold",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Level:
    """One amount of compression.

    Attributes:
        name: ``40 %``, ``2:4``, ``4 bits``.
        cells: The runs of it: one a seed.
    """

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, eq=False)
class Curve:
    """A method with its settings.

    Attributes:
        name: For people: unique in its model.
        method: The compressor.
        kind: What varies along it.
        levels: Mild to severe.
    """

    name: str
    method: str
    kind: Kind
    levels: tuple[Level, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All runs of the curve."""
        return tuple(cell for level in self.levels for cell in level.cells)


@dataclass(frozen=True, eq=False)
class Matching:
    """Levels at which a curve matches the dense model on a task.

    Attributes:
        curve: The curve.
        task: The task.
        verdicts: Of each level, None where it was not compared.
        largest: The most severe level that matches (*match*).
        first_failing: The mildest level that fails (*fail*).
        point_largest: The most severe level that matches by its score alone.
    """

    curve: Curve
    task: str
    verdicts: tuple[Verdict | None, ...]
    largest: Level | None
    first_failing: Level | None
    point_largest: Level | None


def level_name(cell: Cell) -> str:
    """Name of an amount of compression."""
    parts = []
    if cell.pattern:
        parts.append(cell.pattern)
    elif cell.sparsity:
        parts.append(f"{100 * cell.sparsity:g} %")
    if cell.bits is not None:
        parts.append(f"{cell.bits:g} bits")
    return " + ".join(parts) or ("uncompressed" if cell.dense else "unknown")


def _kind(cell: Cell) -> Kind:
    if cell.pruned:
        return "N:M" if cell.pattern else "sparsity"
    return "bits" if cell.quantized else "other"


def _severity(cell: Cell) -> tuple[float, float, int]:
    every = int(cell.pattern.split(":")[1]) if cell.pattern and ":" in cell.pattern else 0
    # At one share of zeros a longer window is the milder pattern: 4:8 before 2:4 before 1:2.
    return (cell.sparsity or 0.0, -(cell.bits or 99), -every)


def curves_of(model: Model) -> list[Curve]:
    """Group a model's cells into curves.

    Args:
        model: The model.

    Returns:
        Curves as methods come in the model's cells.
    """
    groups: dict[tuple[str, Kind, str], list[Cell]] = {}
    for cell in model.cells:
        settings = json.dumps([cell.record.get(field) for field in _SETTINGS], default=str)
        alone = cell.label if _kind(cell) == "other" else ""
        groups.setdefault((cell.compressor, _kind(cell), settings + alone), []).append(cell)
    curves = []
    for (method, kind, _), cells in groups.items():
        twins = [members[0] for key, members in groups.items() if key[:2] == (method, kind)]
        levels: dict[str, list[Cell]] = {}
        for cell in sorted(cells, key=_severity):
            levels.setdefault(level_name(cell), []).append(cell)
        curves.append(
            Curve(
                name=_name(cells[0], kind, twins),
                method=method,
                kind=kind,
                levels=tuple(Level(name, tuple(found)) for name, found in levels.items()),
            )
        )
    return curves


def _name(cell: Cell, kind: Kind, twins: Sequence[Cell]) -> str:
    if kind == "other":
        return cell.label
    base = cell.compressor + (" N:M" if kind == "N:M" else "")
    if cell.compressor == "none":
        base = "quantized"
    if len(twins) < 2:
        return base
    differing = [f for f in _SETTINGS if len({str(t.record.get(f)) for t in twins}) > 1]
    parts = []
    for field in differing:
        value = cell.record.get(field)
        shown = "none" if value is None else str(value).rsplit("/", 1)[-1]
        parts.append(f"{_NAMES.get(field, field)} {shown}".strip())
    return plain(f"{base} ({', '.join(parts)})", limit=80)


def matching(evidence: Evidence, curve: Curve, task: str) -> Matching | None:
    """Levels at which a curve matches on a task.

    Args:
        evidence: What is known.
        curve: The curve.
        task: The task.

    Returns:
        The levels' verdicts; None where no level has one. A level of several seeds matches where
        each of them does, fails where each of them does, and is inconclusive otherwise. A curve
        need not be monotonic, so the largest matching level may lie beyond the first failing one.
    """
    verdicts = [_together(evidence, level, task) for level in curve.levels]
    if not any(verdicts):
        return None
    by_point = [_by_point(evidence, level, task) for level in curve.levels]
    matching_levels = [x for x, v in zip(curve.levels, verdicts, strict=True) if v == "match"]
    failing = [x for x, v in zip(curve.levels, verdicts, strict=True) if v == "fail"]
    points = [x for x, matched in zip(curve.levels, by_point, strict=True) if matched]
    return Matching(
        curve=curve,
        task=task,
        verdicts=tuple(verdicts),
        largest=matching_levels[-1] if matching_levels else None,
        first_failing=failing[0] if failing else None,
        point_largest=points[-1] if points else None,
    )


def _together(evidence: Evidence, level: Level, task: str) -> Verdict | None:
    found = set()
    for cell in level.cells:
        pairing = evidence.pairing(cell, task)
        if pairing is not None and pairing.statistics.verdict is not None:
            found.add(pairing.statistics.verdict)
    if not found:
        return None
    return found.pop() if len(found) == 1 else "inconclusive"


def _by_point(evidence: Evidence, level: Level, task: str) -> bool:
    pairings = [evidence.pairing(cell, task) for cell in level.cells]
    known = [p for p in pairings if p is not None and p.statistics.verdict is not None]
    return bool(known) and all(
        matches(
            p.statistics.dense,
            p.statistics.compressed,
            tolerance=evidence.settings.tolerance,
            direction=p.statistics.direction or "at_least",
        )
        for p in known
    )
