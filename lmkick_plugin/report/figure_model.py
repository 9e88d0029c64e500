# SPDX-License-Identifier: Apache-2.0
"""What the pictures show, before anything is drawn: points, bands, lines, and words for all of it.

The same figures are drawn twice: into the page as SVG that follows its colours
(:mod:`lmkick_plugin.report.svg`), and into files (:mod:`lmkick_plugin.report.plots`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "STYLES",
    "Figure",
    "Line",
    "Panel",
    "Point",
    "style_of",
]

STYLES = ("magnitude", "wanda", "sparsegpt", "gptq", "rtn", "random", "other")
"""Methods with a colour, marker and dash of their own."""


@dataclass(frozen=True)
class Point:
    """One mark.

    Attributes:
        x, y: Where.
        low, high: Ends of its interval; None where there is none.
        label: What it is, with where it comes from.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Line:
    """Marks that belong together.

    Attributes:
        name: In the legend.
        style: Index into a palette of colours, markers and dashes.
        points: From left to right.
        joined: Whether a line joins them; N:M patterns stand alone.
        hollow: Whether marks are outlines, as those of N:M patterns are.
    """

    name: str
    style: int
    points: tuple[Point, ...]
    joined: bool = True
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it.
        x_label, y_label: Along the axes.
        lines: What is drawn.
        reference: The dense model's value, drawn across.
        band: What counts as matching, shaded.
        percent_x, percent_y: Whether an axis counts in percent.
        log_y: Whether the y axis is logarithmic.
        y_range: What the y axis shows at least: the same for panels to be compared.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    reference: float | None = None
    band: tuple[float, float] | None = None
    percent_x: bool = False
    percent_y: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Figure:
    """Panels under one heading.

    Attributes:
        name: Safe as a file's and an anchor's.
        title: The heading.
        text: What there is to see, in a sentence; also for those who cannot see it.
        panels: Side by side.
        section: Which part of a page it belongs to.
        notes: What to know of it.
    """

    name: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    section: str = "tasks"
    notes: tuple[str, ...] = field(default=())


def style_of(method: str) -> int:
    """The style of a method's line."""
    return STYLES.index(method) if method in STYLES else len(STYLES) - 1
