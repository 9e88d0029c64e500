# SPDX-License-Identifier: Apache-2.0
"""The verdict on a run over all its tasks, and the sentence that states it.

*keeps* where the run matches on every task; *loses* where it fails on one after Holm's correction
over its tasks; else *cannot tell*. Headline metrics only. Tasks without a verdict (dense at chance,
a metric that only describes) do not count; tasks with too few items leave the run open.

References:
    Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Literal, TypeAlias

from lmkick_plugin.report.bootstrap import Interval
from lmkick_plugin.report.formatting import recovery_of
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.verdict import DEFAULT_TOLERANCE

__all__ = ["COUNTED", "RunVerdict", "Word", "holm", "run_verdict", "why_open"]

Word: TypeAlias = Literal["keeps", "loses", "cannot tell"]
COUNTED = ("match", "inconclusive", "fail", "too few")
_LEVEL = 0.025  # one-sided, as of the upper end of a 95 % interval
_MOST = 3  # tasks named in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class RunVerdict:
    """The verdict on a run.

    Attributes:
        word: *keeps*, *loses* or *cannot tell*.
        counts: Tasks by verdict, each of `COUNTED`.
        lost: Tasks that fail after Holm's correction, worst first.
        kept: Tasks that match, lowest recovery first.
        unsettled: Tasks that are inconclusive, or fail by themselves only.
        too_few: Tasks with too few independent items.
        without: Tasks without a verdict though their metric has a matching rule.
        mean_recovery: Over the knowledge tasks where dense is above its floor; None where there is
            none.
        mean_interval: The means of the ends of the tasks' 95 % intervals, as if the tasks moved
            together (they may share questions): at least 95 % where estimates are about normal,
            and too wide where they do not. None where a task has too few items.
        over: Number of those.
        worst: The task that decides: of lowest recovery among those lost; where none is, among
            those not settled, then those with too few items, then those kept. None without any.
        sentence: All of that in one sentence.
    """

    word: Word
    counts: Mapping[str, int]
    lost: tuple[str, ...]
    kept: tuple[str, ...]
    unsettled: tuple[str, ...]
    too_few: tuple[str, ...]
    without: tuple[str, ...]
    mean_recovery: float | None
    mean_interval: Interval | None
    over: int
    worst: str | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """A record for JSON."""
        return asdict(self)


def holm(p: Mapping[str, float], level: float = _LEVEL) -> set[str]:
    """Names whose hypothesis is rejected by Holm's step-down procedure.

    >>> sorted(holm({"a": 0.001, "b": 0.02, "c": 0.6}))
    ['a']
    """
    rejected: set[str] = set()
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        if p[name] >= level / (len(p) - rank):
            break
        rejected.add(name)
    return rejected


def run_verdict(
    tasks: Mapping[str, PairedStatistics],
    *,
    name: str,
    knowledge: Collection[str] = (),
    tolerance: float = DEFAULT_TOLERANCE,
    reference: str = "the dense score",
) -> RunVerdict:
    """The verdict on a run from its tasks' headline metrics.

    Args:
        tasks: Statistics of each task or group shown.
        name: The run, as the sentence calls it.
        knowledge: The knowledge tasks among them.
        tolerance: e0, for the sentence.
        reference: What is kept, for the sentence.

    Returns:
        The verdict.
    """
    with_rule = {task: one for task, one in tasks.items() if one.can_have_verdict}
    judged = {task: one for task, one in with_rule.items() if one.verdict is not None}
    lost = holm({task: one.p for task, one in judged.items() if one.p is not None})
    broken = any(math.isnan(one.compressed) or math.isnan(one.dense) for one in with_rule.values())
    by_recovery = sorted(judged, key=lambda task: _kept(judged[task]))
    word: Word = "cannot tell"
    if lost:
        word = "loses"
    elif judged and not broken and all(one.verdict == "match" for one in judged.values()):
        word = "keeps"
    means = [
        (one.recovery, one.recovery_interval if one.verdict != "too few" else None)
        for task, one in with_rule.items()
        if task in knowledge and one.recovery_above_chance is not None and one.recovery is not None
    ]
    ends = [interval for _, interval in means if interval is not None]

    def those(*verdicts: str) -> tuple[str, ...]:
        return tuple(t for t in by_recovery if t not in lost and judged[t].verdict in verdicts)

    fails = tuple(task for task in by_recovery if task in lost)
    kept, unsettled, too_few = those("match"), those("inconclusive", "fail"), those("too few")
    found = RunVerdict(
        word=word,
        counts={kind: sum(o.verdict == kind for o in judged.values()) for kind in COUNTED},
        lost=fails,
        kept=kept,
        unsettled=unsettled,
        too_few=too_few,
        without=tuple(task for task, one in with_rule.items() if one.verdict is None),
        mean_recovery=fmean(kept for kept, _ in means) if means else None,
        mean_interval=_mean_ends(ends) if ends and len(ends) == len(means) else None,
        over=len(means),
        worst=next(iter((*fails, *unsettled, *too_few, *kept)), None),
        sentence="",
    )
    bound = f"at least {100 * (1 - tolerance):g} % of {reference}"
    return replace(found, sentence=_sentence(found, tasks, name, bound))


def _mean_ends(intervals: Sequence[Interval]) -> Interval:
    lows, highs = zip(*intervals, strict=True)
    return fmean(lows), fmean(highs)


def _kept(one: PairedStatistics) -> tuple[float, float, float]:
    """What is kept, at the least and at the most."""
    low, high = one.recovery_interval or (-math.inf, math.inf)
    return (-math.inf if one.recovery is None else one.recovery, low, high)


def _sentence(
    found: RunVerdict, tasks: Mapping[str, PairedStatistics], name: str, bound: str
) -> str:
    if found.worst is None and not found.without:
        return "No metric compared here has a verdict."
    lost = [f"{task} ({recovery_of(tasks[task])})" for task in found.lost]
    if found.word == "keeps":
        count = len(found.kept)
        where = f"all {count} tasks" if count > 1 else found.kept[0]
        parts = [f"{name} keeps {bound} on {where}"]
    elif lost:
        parts = [f"{name} loses on {_listed(lost)}"]
    else:
        parts = [f"Cannot tell whether {name} keeps {bound}"]
    if found.kept and found.word != "keeps":
        parts.append(f"it keeps {_listed(found.kept)}")
    if found.unsettled:
        unsettled = [f"{task} ({_open(tasks[task])})" for task in found.unsettled]
        parts.append(f"not settled: {_listed(unsettled)}")
    if found.too_few:
        counts = [f"{task} ({tasks[task].clusters})" for task in found.too_few]
        parts.append(f"too few items on {_listed(counts)}")
    if found.without:
        reasons = [f"{task} ({tasks[task].reason})" for task in found.without]
        parts.append(f"no verdict on {_listed(reasons)}")
    return "; ".join(parts) + "."


def _listed(names: Sequence[str]) -> str:
    """Some names as a list in a sentence, and how many more there are."""
    shown = list(names[:_MOST])
    if len(names) > _MOST:
        shown.append(f"{len(names) - _MOST} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def why_open(one: PairedStatistics) -> str:
    """Why a task is open, and what would settle it; empty where that is not known."""
    if one.verdict == "fail":
        return "fails by itself, not after Holm's correction"
    return one.settling or one.reason


def _open(one: PairedStatistics) -> str:
    return why_open(one) or recovery_of(one)
