# SPDX-License-Identifier: Apache-2.0
"""Published numbers, shown beside a user's own.

They were taken on other models, with other data, prompts or decoding than a user's run, so they are
shown with their source and never compared by a statistic.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.scores import Score

__all__ = ["Beside", "Published", "beside", "published_numbers"]


@dataclass(frozen=True, slots=True)
class Published:
    """One published number.

    Attributes:
        model: The model it was taken on.
        task, metric: Ours that measure the same.
        method: The compressor; ``none`` for the dense model.
        pattern: ``N:M``, or empty.
        sparsity: Share of zeros; None unless pruned without a pattern.
        bits: Bits of a weight; None unless quantized.
        value: As published; shares in 0..1, as ours are.
        source: Where it stands.
    """

    model: str
    task: str
    metric: str
    method: str
    pattern: str
    sparsity: float | None
    bits: int | None
    value: float
    source: str

    @property
    def level(self) -> tuple[str, str, float | None, int | None]:
        """Compression level of the number, for look-up."""
        return self.method, self.pattern, None if self.pattern else self.sparsity, self.bits


@dataclass(frozen=True)
class Beside:
    """A published number and the user's own.

    Attributes:
        published: The number.
        dense: The published dense one of the same table; None where there is none.
        cell: The user's run.
        score: Its score.
        own_dense: The user's dense score.
        same_model: Whether the user's model goes by the same name.
    """

    published: Published
    dense: Published | None
    cell: Cell
    score: Score
    own_dense: Score | None
    same_model: bool


@functools.cache
def published_numbers() -> tuple[Published, ...]:
    """All published numbers, from the data file beside this module."""
    path = Path(__file__).with_name("published.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Published(
                model=row["model"],
                task=row["task"],
                metric=row["metric"],
                method=row["method"],
                pattern=row["pattern"],
                sparsity=float(row["sparsity"]) if row["sparsity"] else None,
                bits=int(row["bits"]) if row["bits"] else None,
                value=round(float(row["value"]) / (100 if row["unit"] == "%" else 1), 6),
                source=row["source"],
            )
            for row in csv.DictReader(file)
        )


def beside(evidence: Evidence, model: Model) -> list[Beside]:
    """Published numbers for a model's tasks, methods and levels.

    Args:
        evidence: What is known.
        model: The model.

    Returns:
        In the order of the data file; several runs of one level each get a row.
    """
    rows = published_numbers()
    # A model's dense score depends on its authors' protocol.
    dense: dict[tuple[str, ...], Published] = {}
    for row in rows:
        if row.method == "none":
            dense.setdefault((row.model, row.task, row.metric), row)
            dense[row.model, row.task, row.metric, row.source] = row
    found = []
    for row in rows:
        for cell in _cells_at(row, model.all):
            score = evidence.score(cell, row.task, row.metric)
            if score is not None:
                whole = model.dense
                own = None if whole is None else evidence.score(whole, row.task, row.metric)
                found.append(
                    Beside(
                        published=row,
                        dense=dense.get((row.model, row.task, row.metric, row.source))
                        or dense.get((row.model, row.task, row.metric)),
                        cell=cell,
                        score=score,
                        own_dense=own,
                        same_model=_plain_name(row.model) in _plain_name(model.name),
                    )
                )
    return found


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _cells_at(row: Published, cells: Sequence[Cell]) -> list[Cell]:
    if row.method == "none":
        return [cell for cell in cells if cell.dense]
    return [
        cell
        for cell in cells
        if cell.compressor == row.method
        and (cell.pattern or "") == row.pattern
        and (None if cell.pattern else _rounded(cell.sparsity)) == row.level[2]
        and cell.bits == row.bits
        and cell.record.get("number_format") in (None, "int")
    ]


def _rounded(sparsity: float | None) -> float | None:
    return round(sparsity, 4) if sparsity else None
