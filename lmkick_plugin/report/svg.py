# SPDX-License-Identifier: Apache-2.0
"""Figures as SVG inside a page: no colours of their own, markers defined once for all of them.

Colours come from the page's style sheet (classes ``s0``, ``s1``, ...), so that light and dark need
no second picture. Every text passes through ``markupsafe``; every mark carries what it is as a
``title``. Styles differ in marker and dash as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from lmkick_plugin.report.figure_model import STYLES, Line, Panel, Point
from lmkick_plugin.terminal import plain

__all__ = ["MARKERS", "marker_symbols", "nice_ticks", "panel_svg"]

_WIDTH, _HEIGHT = 380.0, 268.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 12.0, 26.0, 42.0

MARKERS = (
    '<circle r="3.6"/>',
    '<rect x="-3.3" y="-3.3" width="6.6" height="6.6"/>',
    '<path d="M0-4.4L4.1 3.2H-4.1Z"/>',
    '<path d="M0-4.7L4.7 0L0 4.7L-4.7 0Z"/>',
    '<path d="M0 4.4L4.1-3.2H-4.1Z"/>',
    '<path class="stroke" d="M-3.4-3.4L3.4 3.4M3.4-3.4L-3.4 3.4"/>',
    '<path class="stroke" d="M-4.2 0H4.2M0-4.2V4.2"/>',
    '<circle class="ring" r="4"/>',
)
"""A shape a style; the last is the dense model's. Each is there filled and hollow."""


def marker_symbols() -> str:
    """Definitions of the markers, to stand once in a page."""
    symbols = "".join(
        f'<g id="m{i}" class="s{i}">{shape}</g><g id="o{i}" class="s{i} open">{shape}</g>'
        for i, shape in enumerate(MARKERS)
    )
    return f'<svg class="defs" aria-hidden="true" width="0" height="0"><defs>{symbols}</defs></svg>'


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers that cover a range.

    Args:
        low: Its lower end.
        high: Its upper end.
        count: About how many.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten, from at most ``low`` to at least ``high``.

    >>> nice_ticks(0.03, 0.97)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        spread = abs(low) or 1.0
        low, high = low - 0.1 * spread, low + 0.1 * spread
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(exponents) < 4 else (1,)
    every = [step * 10.0**e for e in exponents for step in steps]
    below = [t for t in every if t <= low] or every[:1]
    above = [t for t in every if t >= high] or every[-1:]
    return [t for t in every if below[-1] <= t <= above[0]]


class _Axes:
    """From numbers to places."""

    def __init__(self, panel: Panel) -> None:
        points = [point for line in panel.lines for point in line.points]
        xs = [point.x for point in points]
        ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
        ys += [
            y
            for y in (panel.reference, *(panel.band or ()), *(panel.y_range or ()))
            if y is not None
        ]
        self.log = panel.log_y and min(ys) > 0
        self.x_ticks = nice_ticks(0.0 if panel.percent_x else min(xs), max(xs), count=5)
        if panel.percent_x:
            self.x_ticks = [t for t in self.x_ticks if t <= 1.0001]
        if self.log:
            self.y_ticks = _log_ticks(min(ys), max(ys))
        else:
            low, high = min(ys), max(ys)
            if low >= 0 and (low < 0.5 * high or high == 0):
                low, high = 0.0, high or 1.0
            self.y_ticks = nice_ticks(low, high, count=4)

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        share = (value - low) / ((high - low) or 1.0)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share


def panel_svg(panel: Panel, *, name: str, text: str) -> str:
    """Draw a panel.

    Args:
        panel: What to draw.
        name: Unique in the page; safe as an id.
        text: What there is to see, for those who cannot.

    Returns:
        An ``svg`` element whose texts are escaped.
    """
    axes = _Axes(panel)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img"'
        f' aria-labelledby="{name}-t {name}-d">',
        f'<title id="{name}-t">{_text(panel.title)}: {_text(panel.y_label)}</title>',
        f'<desc id="{name}-d">{_text(text)}</desc>',
        *_frame(panel, axes),
    ]
    for line in panel.lines:
        parts += _line(line, axes)
    for line in panel.lines:
        parts += _marks(line, axes)
    return "".join([*parts, "</svg>"])


def _frame(panel: Panel, axes: _Axes) -> Iterable[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    yield f'<text class="panel-title" x="{_LEFT:g}" y="14">{_text(panel.title)}</text>'
    if panel.band is not None:
        top, low = sorted(axes.y(value) for value in panel.band)
        yield (
            f'<rect class="tolerance" x="{_LEFT:g}" y="{top:.1f}" width="{right - _LEFT:g}"'
            f' height="{max(low - top, 1):.1f}"/>'
        )
    grid = "".join(f"M{_LEFT:g} {axes.y(t):.1f}H{right:g}" for t in axes.y_ticks)
    yield f'<path class="grid" d="{grid}"/>'
    yield f'<path class="axis" d="M{_LEFT:g} {bottom:g}H{right:g}"/>'
    for tick in axes.y_ticks:
        shown = _tick(tick, axes.y_ticks, percent=panel.percent_y)
        y = axes.y(tick) + 3.6
        yield f'<text class="tick end" x="{_LEFT - 7:g}" y="{y:.1f}">{shown}</text>'
    for tick in axes.x_ticks:
        shown = _tick(tick, axes.x_ticks, percent=panel.percent_x)
        yield f'<text class="tick mid" x="{axes.x(tick):.1f}" y="{bottom + 16:g}">{shown}</text>'
    middle = (_LEFT + right) / 2
    yield (
        f'<text class="label mid" x="{middle:g}" y="{_HEIGHT - 7:g}">{_text(panel.x_label)}</text>'
    )
    centre = (_TOP + bottom) / 2
    yield (
        f'<text class="label mid" transform="translate(11 {centre:g}) rotate(-90)">'
        f"{_text(panel.y_label)}</text>"
    )
    if panel.reference is not None:
        y = axes.y(panel.reference)
        yield f'<path class="dense-line" d="M{_LEFT:g} {y:.1f}H{right:g}"/>'


def _tick(value: float, ticks: Sequence[float], *, percent: bool) -> str:
    if percent:
        return f"{100 * value:g} %"
    if abs(value) >= 10_000:
        return f"{value:.0e}".replace("e+0", "e")
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:.{min(digits + (1 if round(step * 10**digits, 6) % 1 else 0), 6)}f}"


def _line(line: Line, axes: _Axes) -> Iterable[str]:
    style = _style(line)
    if not line.joined:
        for point in line.points:
            if point.low is not None and point.high is not None:
                x, low, high = axes.x(point.x), axes.y(point.low), axes.y(point.high)
                yield f'<path class="whisker s{style}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        return
    known = [p for p in line.points if p.low is not None and p.high is not None]
    if len(known) > 1:
        upper = [f"{axes.x(p.x):.1f} {axes.y(p.high or 0.0):.1f}" for p in known]
        lower = [f"{axes.x(p.x):.1f} {axes.y(p.low or 0.0):.1f}" for p in reversed(known)]
        yield f'<path class="band s{style}" d="M{"L".join(upper + lower)}Z"/>'
    path = "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in _means(line.points))
    yield f'<path class="line s{style} d{style}" d="M{path}"/>'


def _means(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Where a line goes: through the mean of the marks at one place."""
    places: dict[float, list[float]] = {}
    for point in points:
        places.setdefault(point.x, []).append(point.y)
    return [(x, sum(ys) / len(ys)) for x, ys in places.items()]


def _marks(line: Line, axes: _Axes) -> Iterable[str]:
    for point in line.points:
        place = f'x="{axes.x(point.x):.1f}" y="{axes.y(point.y):.1f}"'
        yield (
            f'<use href="#{"o" if line.hollow else "m"}{_style(line)}" {place}>'
            f"<title>{_text(point.label)}</title></use>"
        )


def _text(text: str) -> str:
    """Text of results as text of a page."""
    from markupsafe import escape

    return str(escape(plain(text)))


def _style(line: Line) -> int:
    return min(line.style, len(STYLES))
