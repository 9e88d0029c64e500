# SPDX-License-Identifier: Apache-2.0
"""Findings of a claim: parts decided by intervals, and their combination.

A claim that says k things fails where one of them fails at 1 - .05/k: one of many fails by chance.
One that needs any of k levels to hold takes that level's interval at 1 - .05/k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from lmkick_plugin.report.bootstrap import FloatArray, Interval, percentile_interval
from lmkick_plugin.report.formatting import interval as shown_interval
from lmkick_plugin.report.formatting import number, percent
from lmkick_plugin.report.models import Cell
from lmkick_plugin.report.verdict import FEWEST

__all__ = [
    "Finding",
    "Outcome",
    "Part",
    "Quantity",
    "all_of",
    "any_of",
    "at_least",
    "decided",
    "finding",
    "missing",
    "not_tested",
    "within",
]

Outcome: TypeAlias = Literal["confirmed", "refuted", "open", "not tested"]
LEVEL = 0.95


@dataclass(frozen=True)
class Quantity:
    """A number with its draws.

    Attributes:
        value: The number.
        draws: float64 [draws].
        clusters: Independent items it rests on: the fewest of its parts; None for a constant.
    """

    value: float
    draws: FloatArray
    clusters: int | None = None

    def __sub__(self, other: Quantity) -> Quantity:
        counts = [c for c in (self.clusters, other.clusters) if c is not None]
        return Quantity(
            self.value - other.value, self.draws - other.draws, min(counts, default=None)
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """One statement of a claim, on one or several runs.

    Attributes:
        what: The quantity, in words.
        outcome: What its 95 % interval says.
        value: The quantity; None where it was not measured.
        interval: 95 % interval of it.
        percent: Whether value and interval are shares.
        cells: The runs it was computed from.
        at: What its interval of another level says.
    """

    what: str
    outcome: Outcome
    value: float | None = None
    interval: Interval | None = None
    percent: bool = True
    cells: tuple[Cell, ...] = ()
    at: Callable[[float], Outcome] | None = field(default=None, repr=False, compare=False)

    def among(self, count: int, outcome: Outcome) -> Outcome:
        """The outcome as one of several parts.

        Args:
            count: k.
            outcome: The one that needs the level 1 - .05/k.
        """
        if self.outcome != outcome or count < 2 or self.at is None:
            return self.outcome
        strict = self.at(1 - (1 - LEVEL) / count)
        return outcome if strict == outcome else "open"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The finding on a claim.

    Attributes:
        outcome: The verdict.
        reason: Why, in a sentence.
        parts: What it rests on.
        deciding: The part that decided; None where nothing was measured.
    """

    outcome: Outcome
    reason: str
    parts: tuple[Part, ...] = ()
    deciding: Part | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All runs used, each once."""
        return tuple(dict.fromkeys(cell for part in self.parts for cell in part.cells))


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Outcome of "all of these": one failure refutes it, one open part leaves it open."""
    return _first(outcomes, ("refuted", "open", "not tested", "confirmed"))


def any_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Outcome of "one of these"."""
    return _first(outcomes, ("confirmed", "open", "not tested", "refuted"))


def _first(outcomes: Iterable[Outcome], order: Sequence[Outcome]) -> Outcome:
    found = set(outcomes)
    return next((outcome for outcome in order if outcome in found), "not tested")


def decided(
    what: str,
    quantity: Quantity,
    rule: Callable[[float, float], Outcome],
    *,
    cells: Sequence[Cell],
    percent: bool = True,
) -> Part:
    """Decide a part by a rule on the ends of an interval.

    Args:
        what: The quantity, in words.
        quantity: It and its draws.
        rule: From lower and upper end to the outcome.
        cells: The runs it was computed from.
        percent: Whether it is a share.

    Returns:
        The part; *open* below `FEWEST` independent items, *not tested* where a number is
        not finite.
    """
    ends = percentile_interval(quantity.draws)
    if not np.isfinite([quantity.value, *ends]).all():
        return Part(what=f"{what}: not a finite number", outcome="not tested", cells=tuple(cells))
    few = quantity.clusters is not None and quantity.clusters < FEWEST

    def at(level: float) -> Outcome:
        if few:
            return "open"
        return rule(*percentile_interval(quantity.draws, level=level))

    return Part(
        what=f"{what} ({quantity.clusters} items, too few)" if few else what,
        outcome=at(LEVEL),
        value=quantity.value,
        interval=ends,
        percent=percent,
        cells=tuple(cells),
        at=at,
    )


def at_least(
    what: str,
    quantity: Quantity,
    *,
    cells: Sequence[Cell],
    percent: bool = True,
    bound: float = 0.0,
    or_equal: bool = False,
) -> Part:
    """Decide whether a quantity lies above a bound, the same for *confirmed* and *refuted*.

    Args:
        what: The quantity, in words.
        quantity: It and its draws.
        cells: The runs it was computed from.
        percent: Whether it is a share.
        bound: The bound.
        or_equal: Whether the bound itself counts as above.

    Returns:
        *confirmed* where the whole interval lies above, *refuted* where it lies below, otherwise
        *open*; *not tested* where a number is not finite.
    """

    def rule(low: float, high: float) -> Outcome:
        if low > bound or (or_equal and low >= bound):
            return "confirmed"
        return "refuted" if high < bound else "open"

    return decided(what, quantity, rule, cells=cells, percent=percent)


def within(what: str, quantity: Quantity, bound: float, *, cells: Sequence[Cell]) -> Part:
    """Decide whether a quantity stays within a bound either way.

    Args:
        what: The quantity, in words.
        quantity: It and its draws.
        bound: How far from zero it may be.
        cells: The runs it was computed from.

    Returns:
        *confirmed* where the whole interval lies within, *refuted* where it lies outside.
    """

    def rule(low: float, high: float) -> Outcome:
        if -bound <= low and high <= bound:
            return "confirmed"
        return "refuted" if low > bound or high < -bound else "open"

    return decided(what, quantity, rule, cells=cells)


def missing(what: str, cells: Sequence[Cell] = ()) -> Part:
    """A part without a measurement."""
    return Part(what=what, outcome="not tested", cells=tuple(cells))


def not_tested(reason: str, parts: Sequence[Part] = ()) -> Finding:
    """A claim without the runs it needs."""
    return Finding(outcome="not tested", reason=reason, parts=tuple(parts))


def finding(parts: Sequence[Part], *, needs: str) -> Finding:
    """A claim whose parts must all hold.

    Args:
        parts: What was measured; parts not measured count.
        needs: Which runs would measure it, for where they are missing.

    Returns:
        The finding.
    """
    measured = [part for part in parts if part.outcome != "not tested"]
    if not measured:
        return not_tested(needs, parts)
    k = len(measured)
    parts = tuple(replace(part, outcome=part.among(k, "refuted")) for part in parts)
    outcome = all_of(part.outcome for part in parts)
    candidates = [part for part in parts if part.outcome == outcome]
    deciding = min(candidates, key=lambda part: (part.interval or (-math.inf,))[0])
    return Finding(
        outcome=outcome, reason=_sentence(outcome, parts, deciding), parts=parts, deciding=deciding
    )


def _sentence(outcome: Outcome, parts: Sequence[Part], deciding: Part) -> str:
    """Reason for a claim's outcome, in words and numbers."""
    count, held = len(parts), sum(part.outcome == "confirmed" for part in parts)
    shown = f"{deciding.what}{_value(deciding)}"
    if outcome == "confirmed":
        return f"{shown}." if count == 1 else f"All {count} comparisons say so; closest: {shown}."
    if outcome == "not tested":
        return f"{held} of {count} comparisons say so, and others are missing: {deciding.what}."
    what = "against" if outcome == "refuted" else "not settled"
    against = sum(part.outcome == outcome for part in parts)
    if count == 1:
        return f"{shown}{'' if outcome == 'refuted' else ', which settles nothing'}."
    return f"{held} of {count} comparisons say so, {against} {what}: {shown}."


def _value(part: Part) -> str:
    if part.value is None:
        return ""
    show = percent if part.percent else number
    return f": {show(part.value)} {shown_interval(part.interval, shares=part.percent)}"
