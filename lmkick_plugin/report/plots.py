# SPDX-License-Identifier: Apache-2.0
"""Draw figures with matplotlib (extra ``report``): once for page, PNG and SVG.

Neutral parts are black, panels transparent: the page turns black into its text colour and cuts the
panels apart by `Drawing.boxes` (:mod:`lmkick_plugin.report.page.inline_svg`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressors.files import write_atomically
from lmkick_plugin.report.figure_model import Bar, Figure, Line, Panel

__all__ = ["Box", "Drawing", "draw_all"]

Box = tuple[float, float, float, float]
"""x, y, width, height in points from the upper left, as in an SVG's ``viewBox``."""

_INCH = 72.0
_PANEL = (3.4, 2.75)  # inches, with labels
_SMALL = (2.6, 2.15)  # of an overview
_MARGIN = (0.62, 0.12, 0.5, 0.3)  # left, right, bottom, top of the axes in a panel
_ROOM_FOR_NUMBER = 0.08  # share of a bar that is high enough for a number
_HEAD, _KEY_ROW = 0.36, 0.2
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "lmkick", "svg.fonttype": "none", "font.size": 8, "font.family": "DejaVu Sans",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
    # Names in results are data: a dollar sign in one must not be read as mathematics.
    "text.parse_math": False, "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A drawn figure.

    Attributes:
        figure: What was drawn.
        svg: The whole picture.
        boxes: Of the panels.
        keys: Of the marks in the legend, with their names.
    """

    figure: Figure
    svg: str
    boxes: tuple[Box, ...]
    keys: tuple[tuple[Box, str], ...]


def draw_all(figures: Sequence[Figure], folder: Path, *, progress: bool = False) -> list[Drawing]:
    """Draw every figure, into a PNG and an SVG file each.

    Args:
        figures: What to draw.
        folder: Where to; made where it is missing.
        progress: Whether to show a bar.

    Returns:
        The drawings.

    Raises:
        ImportError: matplotlib is missing.
        OSError: A file cannot be written.
    """
    import matplotlib
    from tqdm import tqdm

    drawings = []
    with matplotlib.rc_context(_STYLE):
        for figure in tqdm(figures, desc="Drawing", unit="plot", disable=not progress, leave=False):
            drawing, png = _draw(figure)
            write_atomically(folder / f"{figure.name}.png", png)
            write_atomically(folder / f"{figure.name}.svg", drawing.svg)
            drawings.append(drawing)
    return drawings


def _draw(figure: Figure) -> tuple[Drawing, bytes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    wide, high = _SMALL if figure.section == "overview" else _PANEL
    columns = min(len(figure.panels), 4 if figure.section == "overview" else 3)
    rows = -(-len(figure.panels) // columns)
    handles = _handles(figure)
    key_columns = min(len(handles), columns + 1)
    foot = _KEY_ROW * -(-len(handles) // key_columns) + 0.15
    width, height = wide * columns, _HEAD + high * rows + foot
    canvas = Canvas(figsize=(width, height), dpi=_INCH, facecolor="white")
    FigureCanvasAgg(canvas)
    left, right, bottom, top = _MARGIN
    boxes = []
    for index, panel in enumerate(figure.panels):
        row, column = divmod(index, columns)
        x, y = column * wide, foot + (rows - 1 - row) * high
        # Fixed margins: a layout engine would take most of the time here.
        axes = canvas.add_axes(
            (
                (x + left) / width,
                (y + bottom) / height,
                (wide - left - right) / width,
                (high - bottom - top) / height,
            ),
            facecolor="none",
        )
        axes.set_gid(f"panel-{index}")
        _draw_panel(axes, panel, index)
        boxes.append(
            (x * _INCH, (height - y - high) * _INCH, wide * _INCH, high * _INCH),
        )
    canvas.suptitle(_printable(figure.title), fontsize=10, y=1 - 0.1 / height, va="top")
    legend = canvas.legend(
        handles=list(handles.values()),
        labels=[_printable(name) for name in handles],
        loc="lower center",
        ncols=key_columns,
        fontsize=7,
        frameon=False,
        handlelength=3,
    )
    for index, handle in enumerate(legend.legend_handles):
        if handle is not None:
            handle.set_gid(f"key-{index}")
    png, svg = io.BytesIO(), io.StringIO()
    title = _printable(figure.title)
    canvas.savefig(png, format="png", dpi=150, metadata={"Title": title})
    # No date: the same figure gives the same file.
    canvas.savefig(svg, format="svg", metadata={"Title": title, "Date": None})
    keys = tuple(
        (_box(handle.get_window_extent(), height * _INCH), name)
        for handle, name in zip(legend.legend_handles, handles, strict=True)
        if handle is not None
    )
    return Drawing(figure, svg.getvalue(), tuple(boxes), keys), png.getvalue()


def _box(extent: Any, height: float) -> Box:
    """A handle's place with room for its marker."""
    return extent.x0 - 2, height - (extent.y0 + extent.y1) / 2 - 6, extent.width + 4, 12.0


def _handles(figure: Figure) -> dict[str, Any]:
    """A mark of the legend for each name."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: dict[str, Any] = {}
    for panel in figure.panels:
        for line in panel.lines:
            joined = line.joined or (line.name in handles and handles[line.name].get_ls() != "None")
            handles[line.name] = Line2D([], [], **_look(line, joined=joined))
        for part in (part for bar in panel.bars for part in bar.parts):
            handles.setdefault(part.name, Patch(facecolor=part.color))
    if any(panel.star for panel in figure.panels):
        handles["dense"] = Line2D([], [], **_STAR)
    if any(panel.edge is not None for panel in figure.panels):
        handles["matches dense"] = Patch(**_ZONE)
    if any(panel.chance is not None for panel in figure.panels):
        handles["chance"] = Line2D([], [], **_CHANCE)
    return handles


_STAR: dict[str, Any] = {
    "color": "#000000", "marker": "*", "markersize": 8, "linestyle": "none", "clip_on": False,
}  # fmt: skip
_ZONE: dict[str, Any] = {"facecolor": "#00795a", "alpha": 0.12, "linewidth": 0}
_CHANCE: dict[str, Any] = {"color": "#000000", "linewidth": 0.9, "linestyle": (0, (1, 2))}


def _look(line: Line, *, joined: bool) -> dict[str, Any]:
    look: dict[str, Any] = {
        "color": line.look.color, "marker": line.look.marker, "markersize": 4.5, "linewidth": 1.3,
        "linestyle": line.look.dash if joined else "none",
    }  # fmt: skip
    return look | ({"markerfacecolor": "none"} if line.hollow else {})


def _draw_panel(axes: Any, panel: Panel, number: int) -> None:
    for index, line in enumerate(panel.lines):
        _draw_line(axes, line, f"marks-{number}-{index}")
    for index, bar in enumerate(panel.bars):
        _draw_bar(axes, bar, index, f"bar-{number}-{index}")
    if panel.star is not None:
        axes.plot([panel.star.x], [panel.star.y], zorder=5, gid=f"star-{number}", **_STAR)
    axes.set_title(_printable(panel.title), fontsize=8, loc="left", fontweight="bold")
    axes.set_xlabel(_printable(panel.x_label), labelpad=2)
    axes.set_ylabel(_printable(panel.y_label), labelpad=3)
    axes.tick_params(length=2.5, width=0.7, pad=2)
    axes.grid(axis="y", color="#000000", alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    _set_ticks(axes, panel)
    if panel.y_range is not None:
        low, high = panel.y_range
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if panel.chance is not None:
        axes.axhline(panel.chance, **_CHANCE)
    low, high = axes.get_ylim()
    if panel.edge is not None:
        ends = (low, panel.edge) if panel.lower_is_better else (panel.edge, high)
        if ends[0] < ends[1]:
            axes.axhspan(*ends, **_ZONE, zorder=0)
    axes.set_ylim(low, high)


def _set_ticks(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    if panel.log_y:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if panel.bars:
        axes.set_xticks(range(len(panel.bars)), [_printable(bar.name) for bar in panel.bars])
        axes.set_xlim(-0.5, max(3, len(panel.bars)) - 0.5)
    if panel.percent_x:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        axes.set_xlim(left=-0.02)
    if panel.percent_y:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def _draw_line(axes: Any, line: Line, gid: str) -> None:
    color = line.look.color
    means: dict[float, list[float]] = {}
    for point in line.points:
        means.setdefault(point.x, []).append(point.y)
    if line.joined:  # through the mean of runs that differ in a seed
        ys = [sum(values) / len(values) for values in means.values()]
        axes.plot(list(means), ys, color=color, linestyle=line.look.dash, linewidth=1.3)
    look = _look(line, joined=False)
    axes.plot([p.x for p in line.points], [p.y for p in line.points], gid=gid, **look)
    known = [p for p in line.points if p.low is not None and p.high is not None]
    if known:
        axes.vlines(
            [p.x for p in known], [p.low for p in known], [p.high for p in known],
            color=color, linewidth=0.9, alpha=0.7,
        )  # fmt: skip


def _draw_bar(axes: Any, bar: Bar, place: int, gid: str) -> None:
    bottom = 0.0
    for index, part in enumerate(bar.parts):
        (patch,) = axes.bar(place, part.share, bottom=bottom, width=0.72, color=part.color)
        patch.set_gid(f"{gid}-{index}")
        if part.share >= _ROOM_FOR_NUMBER:
            red, green, blue = (int(part.color[at : at + 2], 16) for at in (1, 3, 5))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 128
            axes.text(
                place, bottom + part.share / 2, f"{100 * part.share:.0f}",
                ha="center", va="center", fontsize=7, color="#ffffff" if dark else "#111111",
            )  # fmt: skip
        bottom += part.share
    for low, high in bar.whiskers:
        axes.vlines(place + 0.42, low, high, color="#000000", linewidth=0.9)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
