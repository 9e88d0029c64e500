# SPDX-License-Identifier: Apache-2.0
"""Figures as files, for papers and slides: PNG and SVG by matplotlib (extra ``report``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmkick_plugin.report.figure_model import Figure, Line, Panel

__all__ = ["COLOURS", "write_plots"]

COLOURS = (
    "#0072b2", "#c24e00", "#00795a", "#a8447f", "#7d6200", "#5f6774", "#7a4a2b", "#1a1d21",
)  # fmt: skip
"""By style, after Okabe and Ito: told apart without red against green, and dark enough on white."""

_MARKERS = ("o", "s", "^", "D", "v", "x", "+", "o")
_DASHES = ("-", "--", ":", "-.", (0, (4, 1.5)), (0, (1, 2)), (0, (8, 3)), "-")


def write_plots(figures: Sequence[Figure], folder: Path, *, progress: bool = False) -> list[Path]:
    """Draw every figure into a PNG and an SVG file.

    Args:
        figures: What to draw.
        folder: Where to; made where it is missing.
        progress: Whether to show a bar.

    Returns:
        The PNG files.

    Raises:
        ImportError: matplotlib is missing.
        OSError: A file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    look: dict[Any, Any] = {"svg.hashsalt": "lmkick", "font.size": 9, "axes.spines.top": False}
    # Names in results are data: a dollar sign in one must not be read as mathematics.
    look |= {"axes.spines.right": False, "text.parse_math": False, "svg.fonttype": "none"}
    with matplotlib.rc_context(look):
        for figure in tqdm(figures, desc="Drawing", unit="plot", disable=not progress, leave=False):
            columns = min(len(figure.panels), 3)
            rows = -(-len(figure.panels) // columns)
            width, height = 4.4 * columns, 3.5 * rows + 0.9
            canvas = Canvas(figsize=(width, height))
            # Fixed margins, in inches: a layout engine would take most of the time here.
            canvas.subplots_adjust(
                left=0.75 / width,
                right=1 - 0.2 / width,
                bottom=1.1 / height,
                top=1 - 0.65 / height,
                wspace=0.28,
                hspace=0.42,
            )
            FigureCanvasAgg(canvas)
            axes = canvas.subplots(rows, columns, squeeze=False)
            for place in axes.flat[len(figure.panels) :]:
                place.set_axis_off()
            for place, panel in zip(axes.flat, figure.panels, strict=False):
                _draw(place, panel)
            _legend(canvas, axes.flat)
            canvas.suptitle(_printable(figure.title), fontsize=11, y=1 - 0.16 / height)
            for suffix in ("png", "svg"):
                path = folder / f"{figure.name}.{suffix}"
                part = path.with_name(f".{path.name}.part")
                metadata: dict[str, Any] = {"Title": _printable(figure.title)}
                if suffix == "svg":
                    metadata["Date"] = None  # the same figure gives the same file
                canvas.savefig(part, format=suffix, dpi=120, metadata=metadata)
                part.replace(path)
            written.append(folder / f"{figure.name}.png")
    return written


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _draw(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import PercentFormatter

    if panel.band is not None:
        axes.axhspan(*sorted(panel.band), color="#00795a", alpha=0.12, linewidth=0)
    if panel.reference is not None:
        axes.axhline(panel.reference, color=COLOURS[-1], linewidth=0.9, linestyle=(0, (5, 3)))
    for line in panel.lines:
        _draw_line(axes, line)
    axes.set_title(_printable(panel.title), fontsize=9, loc="left")
    axes.set_xlabel(_printable(panel.x_label))
    axes.set_ylabel(_printable(panel.y_label))
    axes.grid(axis="y", color="#d7dbe0", linewidth=0.6)
    axes.set_axisbelow(True)
    if panel.percent_x:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(left=-0.015)
    if panel.percent_y:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.y_range is not None:
        low, high = panel.y_range
        axes.set_ylim(low - 0.04 * (high - low), high + 0.06 * (high - low))
    if panel.log_y:
        axes.set_yscale("log")


def _legend(canvas: Any, panels: Iterable[Any]) -> None:
    """One legend below all panels: each line once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    canvas.legend(
        list(entries.values()),
        list(entries),
        loc="lower center",
        ncols=min(4, len(entries)),
        fontsize=7,
        frameon=False,
    )


def _draw_line(axes: Any, line: Line) -> None:
    style = min(line.style, len(COLOURS) - 1)
    look = {"color": COLOURS[style], "marker": _MARKERS[style], "markersize": 4.5, "linewidth": 1.4}
    if style == len(COLOURS) - 1:
        look |= {"markerfacecolor": "none", "markersize": 6}
    elif line.hollow:
        look |= {"markerfacecolor": "white"}
    x = [point.x for point in line.points]
    y = [point.y for point in line.points]
    dashes = _DASHES[style] if line.joined else "none"
    axes.plot(x, y, label=_printable(line.name), linestyle=dashes, **look)
    known = [p for p in line.points if p.low is not None and p.high is not None]
    if line.joined and len(known) > 1:
        axes.fill_between(
            [p.x for p in known],
            [p.low for p in known],
            [p.high for p in known],
            color=COLOURS[style],
            alpha=0.12,
            linewidth=0,
        )
    elif known:
        axes.vlines(
            [p.x for p in known],
            [p.low for p in known],
            [p.high for p in known],
            color=COLOURS[style],
            linewidth=1,
        )
