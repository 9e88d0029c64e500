# SPDX-License-Identifier: Apache-2.0
"""Findings of a claim: parts decided by intervals, and their combination."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from lmkick_plugin.report.bootstrap import FloatArray, Interval, percentile_interval
from lmkick_plugin.report.models import Cell
from lmkick_plugin.report.verdict import Verdict

__all__ = [
    "Finding",
    "Outcome",
    "Part",
    "all_of",
    "any_of",
    "by_sign",
    "finding",
    "is_verdict",
    "not_measured",
    "within",
]

Outcome: TypeAlias = Literal["holds", "fails", "inconclusive", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a claim says, of one or several runs.

    Attributes:
        what: The quantity, in words.
        outcome: What its interval says.
        value: The quantity; None where it was not measured.
        interval: 95 % interval of it.
        percent: Whether value and interval are shares.
        cells: The runs it was computed from.
    """

    what: str
    outcome: Outcome
    value: float | None = None
    interval: Interval | None = None
    percent: bool = True
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of a claim.

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
        """All runs it was evaluated from, each once."""
        return tuple(dict.fromkeys(cell for part in self.parts for cell in part.cells))


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """What "all of these" comes to: one that fails refutes it, one that is open leaves it open."""
    return _first(outcomes, ("fails", "inconclusive", "not measured", "holds"))


def any_of(outcomes: Iterable[Outcome]) -> Outcome:
    """What "one of these" comes to."""
    return _first(outcomes, ("holds", "inconclusive", "not measured", "fails"))


def _first(outcomes: Iterable[Outcome], order: Sequence[Outcome]) -> Outcome:
    found = set(outcomes)
    return next((outcome for outcome in order if outcome in found), "not measured")


def by_sign(
    what: str,
    value: float,
    draws: FloatArray,
    *,
    cells: Sequence[Cell],
    percent: bool = True,
    or_zero: bool = False,
) -> Part:
    """Decide whether a quantity is above zero.

    Args:
        what: The quantity, in words.
        value: The quantity.
        draws: float64 [draws], it over resamples.
        cells: The runs it was computed from.
        percent: Whether it is a share.
        or_zero: Whether zero itself counts as above.

    Returns:
        *holds* where the whole interval lies above zero, *fails* where it lies below, otherwise
        *inconclusive*; *not measured* where a number is not finite.
    """
    low, high = percentile_interval(draws)
    if not (np.isfinite(value) and np.isfinite(low) and np.isfinite(high)):
        return Part(what=f"{what}: not a finite number", outcome="not measured", cells=tuple(cells))
    if low > 0 or (or_zero and low >= 0):
        outcome: Outcome = "holds"
    else:
        outcome = "fails" if high < 0 else "inconclusive"
    return Part(
        what=what,
        outcome=outcome,
        value=value,
        interval=(low, high),
        percent=percent,
        cells=tuple(cells),
    )


def within(
    what: str, value: float, draws: FloatArray, bound: float, *, cells: Sequence[Cell]
) -> Part:
    """Decide whether a quantity stays within a bound either way.

    Args:
        what: The quantity, in words.
        value: The quantity.
        draws: float64 [draws], it over resamples.
        bound: How far from zero it may be.
        cells: The runs it was computed from.

    Returns:
        *holds* where the whole interval lies within, *fails* where it lies outside.
    """
    part = by_sign(what, value, draws, cells=cells)
    if part.interval is None:
        return part
    low, high = part.interval
    outcome: Outcome = "inconclusive"
    if -bound <= low and high <= bound:
        outcome = "holds"
    elif low > bound or high < -bound:
        outcome = "fails"
    return Part(what=what, outcome=outcome, value=value, interval=part.interval, cells=part.cells)


def is_verdict(
    what: str, verdict: Verdict | None, wanted: Verdict, margin: Part, *, cells: Sequence[Cell]
) -> Part:
    """Decide whether a matching verdict is the wanted one.

    Args:
        what: The quantity, in words.
        verdict: *match*, *fail* or *inconclusive*; None where there is none.
        wanted: What the claim says it is.
        margin: Value and interval to show.
        cells: The runs.

    Returns:
        *inconclusive* where the verdict is.
    """
    if verdict is None:
        return Part(what=f"{what}: no verdict", outcome="not measured", cells=tuple(cells))
    outcome: Outcome = "holds" if verdict == wanted else "fails"
    if verdict == "inconclusive":
        outcome = "inconclusive"
    return Part(
        what=what,
        outcome=outcome,
        value=margin.value,
        interval=margin.interval,
        percent=margin.percent,
        cells=tuple(cells),
    )


def not_measured(reason: str, parts: Sequence[Part] = ()) -> Finding:
    """A claim for which runs are missing; the reason says which."""
    return Finding(outcome="not measured", reason=reason, parts=tuple(parts))


def finding(parts: Sequence[Part], *, needs: str, reason: str = "") -> Finding:
    """A claim that says that all of its parts hold.

    Args:
        parts: What was measured; parts not measured count.
        needs: Which runs would measure it, for where they are missing.
        reason: What to say; by default the deciding part says it.

    Returns:
        The finding.
    """
    measured = [part for part in parts if part.outcome != "not measured"]
    if not measured:
        return not_measured(needs, parts)
    outcome = all_of(part.outcome for part in parts)
    candidates = [part for part in parts if part.outcome == outcome]
    deciding = min(candidates, key=lambda part: (part.interval or (float("-inf"),))[0])
    if outcome == "not measured":
        said = f"{len(measured)} of {len(parts)} parts measured. {deciding.what}"
    else:
        count = sum(part.outcome == "holds" for part in parts)
        said = f"{count} of {len(parts)} parts hold. {reason or deciding.what}"
    return Finding(outcome=outcome, reason=said, parts=tuple(parts), deciding=deciding)
