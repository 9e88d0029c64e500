# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them."""

from __future__ import annotations

import math

__all__ = ["NOTHING", "SYMBOLS", "interval", "number", "percent", "size"]

NOTHING = "\N{EN DASH}"
"""Where there is no number."""

_MINUS = "\N{MINUS SIGN}"

SYMBOLS = {
    "match": "✓", "holds": "✓", "fail": "✗", "fails": "✗", "inconclusive": "~",
    "not measured": NOTHING,
}  # fmt: skip
"""Beside the colour and the word of a verdict."""


def number(value: float | None, *, sign: bool = False) -> str:
    """A number as short as it can be read off by."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: f"{_MINUS}∞"}.get(value, "NaN")
    magnitude = abs(value)
    digits = 3 if magnitude < 10 else 2 if magnitude < 100 else 1
    text = f"{value:.3g}" if magnitude >= 1e5 else f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", _MINUS) if "e" not in text else text


def percent(value: float | None, *, sign: bool = False) -> str:
    """A share in percent."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "NaN"
    return f"{100 * value:{'+' if sign else ''}.1f} %".replace("-", _MINUS)


def interval(ends: tuple[float, float] | None, *, shares: bool = False, sign: bool = False) -> str:
    """An interval in square brackets."""
    if ends is None:
        return ""
    show = percent if shares else number
    return f"[{show(ends[0], sign=sign)}, {show(ends[1], sign=sign)}]".replace(" %,", ",")


def size(count: float | None) -> str:
    """A number of bytes."""
    if count is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
