# SPDX-License-Identifier: Apache-2.0
"""Data of a figure before drawing: points, lines, panels and their looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmkick_plugin.recipe.methods import METHODS
from lmkick_plugin.report.curves import Curve

__all__ = ["SPARE", "Bar", "Figure", "Line", "Look", "Panel", "Part", "Point", "looks_of"]


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of a line, as matplotlib names them."""

    color: str
    marker: str
    dash: Any


# Of methods that have no row, of further curves of one method, and of tasks in one panel: other
# marks than those of methods.
SPARE = (
    Look("#0072b2", "8", "-"),
    Look("#c24e00", "X", "--"),
    Look("#00795a", "h", ":"),
    Look("#a8447f", "d", "-."),
    Look("#7a4a2b", "<", (0, (8, 3))),
    Look("#5f6774", ">", (0, (3, 2, 1, 2, 1, 2))),
    Look("#7d6200", "p", (0, (4, 1.5))),
)


@dataclass(frozen=True)
class Point:
    """One mark.

    Attributes:
        x, y: Its place.
        low, high: Ends of its interval; None where there is none.
        label: The run, its numbers and the results file.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Line:
    """Connected marks.

    Attributes:
        name: In the legend.
        look: How it is drawn.
        points: From left to right.
        joined: Whether a line joins them; N:M patterns are single points.
        hollow: Whether marks are outlines, as those of N:M patterns are.
    """

    name: str
    look: Look
    points: tuple[Point, ...]
    joined: bool = True
    hollow: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a bar: its name in the legend, colour, share of the bar, and words."""

    name: str
    color: str
    share: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar of height 1, in parts.

    Attributes:
        name: Below it.
        parts: From below.
        whiskers: Lower and upper ends of intervals of where parts meet.
    """

    name: str
    parts: tuple[Part, ...]
    whiskers: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it.
        x_label, y_label: Along the axes, with units.
        lines: What is drawn.
        bars: What is drawn instead, side by side.
        star: The dense model.
        edge: Where matching begins; what lies on its better side is shaded.
        chance: The score of a guesser.
        lower_is_better: Whether the better side is below.
        percent_x, percent_y: Whether an axis counts in percent.
        log_y: Whether the y axis is logarithmic.
        y_range: What the y axis shows at least: the same for panels to be compared.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    star: Point | None = None
    edge: float | None = None
    chance: float | None = None
    lower_is_better: bool = False
    percent_x: bool = False
    percent_y: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Figure:
    """Panels under one heading.

    Attributes:
        name: Safe as the name of a file and an anchor.
        title: The heading.
        text: What there is to see, in words.
        panels: In order.
        section: ``overview``, or ``task`` and others that a page folds.
    """

    name: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    section: str = "task"


def looks_of(curves: Sequence[Curve]) -> dict[str, Look]:
    """Looks per curve: the method's, then unused ones for its other settings.

    N:M patterns are drawn hollow, so they share the look of their method's curve.
    """
    rows = {name: Look(row.color, row.marker, row.dash) for name, row in METHODS.items()}
    taken = {rows[curve.method].color for curve in curves if curve.method in rows}
    spare = sorted(SPARE, key=lambda look: look.color in taken)
    own: dict[tuple[str, bool], str] = {}  # of a method that prunes and quantizes, the pruning
    for curve in sorted(curves, key=lambda one: one.kind != "sparsity"):
        own.setdefault((curve.method, curve.kind == "N:M"), curve.name)
    looks: dict[str, Look] = {}
    for curve in curves:
        if curve.method in rows and own[curve.method, curve.kind == "N:M"] == curve.name:
            looks[curve.name] = rows[curve.method]
        else:
            looks[curve.name] = spare[0]
            spare = [*spare[1:], spare[0]]
    return looks
