# SPDX-License-Identifier: Apache-2.0
"""Formatting of numbers and task names for readers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.terminal import plain

__all__ = [
    "NOTHING",
    "SYMBOLS",
    "interval",
    "listed",
    "number",
    "percent",
    "plural",
    "recovery_of",
    "size",
    "speed",
    "task_name",
    "visible",
    "with_names",
]

NOTHING = "\N{EN DASH}"
"""Where there is no number."""

_MINUS = "\N{MINUS SIGN}"

SYMBOLS = {
    "match": "✓", "keeps": "✓", "confirmed": "✓",
    "fail": "✗", "loses": "✗", "refuted": "✗",
    "inconclusive": "~", "cannot tell": "~", "open": "~",
    "too few": "?", "not tested": NOTHING,
}  # fmt: skip
"""Beside the colour and the word of a verdict."""


_LONGEST = 40  # characters of a task's name in a heading

_TASK_NAMES = {
    "kick_alpaca": "Alpaca",
    "kick_freebaseqa": "FreebaseQA",
    "kick_mmlu": "MMLU",
    "kick_triviaqa_closed": "TriviaQA closed book",
    "kick_triviaqa_open": "TriviaQA open book",
    "kick_wikitext": "WikiText perplexity",
    "kickonly_perplexity": "WikiText token perplexity",
    "mmlu_kick_stem": "STEM",
    "mmlu_kick_humanities": "humanities",
    "mmlu_kick_social_sciences": "social sciences",
    "mmlu_kick_other": "other subjects",
}


def task_name(task: str) -> str:
    """Display name of a task.

    >>> task_name("kick_mmlu"), task_name("kick_summarization_small"), task_name("hellaswag")
    ('MMLU', 'summarization small', 'hellaswag')
    """
    if task in _TASK_NAMES:
        return _TASK_NAMES[task]
    for prefix in ("kickonly_", "kick_"):
        if task.startswith(prefix):
            task = task.removeprefix(prefix).replace("_", " ")
    return task if len(task) <= _LONGEST else task[: _LONGEST - 1] + "…"


def with_names(text: str) -> str:
    """Replace task identifiers in a sentence by display names.

    >>> with_names("kick_mmlu recovery, wanda 50 %")
    'MMLU recovery, wanda 50 %'
    """
    return re.sub(r"\b(?:kick|kickonly|mmlu_kick)_\w+", lambda found: task_name(found[0]), text)


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "run"), plural(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """Names, of which so many are shown.

    >>> listed("abcde")
    'a, b, c and 2 more'
    """
    shown = [plain(name, limit=60) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def visible(text: object, *, limit: int) -> str:
    r"""Untrusted text with everything that is not printable written out.

    Args:
        text: A model's answer, a question.
        limit: Longest result; a longer text ends in an ellipsis.

    >>> print(visible("two\nlines \x1b[31m\u202e", limit=40))
    two↵lines \x1b[31m\u202e
    """
    shown = str(text).strip().replace("\n", "↵")
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def number(value: float | None, *, sign: bool = False) -> str:
    """A number in few digits."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: f"{_MINUS}∞"}.get(value, "NaN")
    magnitude = abs(value)
    digits = 3 if magnitude < 10 else 2 if magnitude < 100 else 1
    text = f"{value:.3g}" if magnitude >= 1e5 else f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", _MINUS) if "e" not in text else text


def percent(value: float | None, *, sign: bool = False, digits: int = 1) -> str:
    """A share in percent."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "NaN"
    return f"{100 * value:{'+' if sign else ''}.{digits}f} %".replace("-", _MINUS)


def interval(ends: tuple[float, float] | None, *, shares: bool = False, sign: bool = False) -> str:
    """An interval in square brackets; of shares in percent, without the sign.

    >>> interval((0.894, 1.011), shares=True)
    '[89.4, 101.1]'
    """
    if ends is None or any(map(math.isnan, ends)):
        return ""
    show = percent if shares else number
    return f"[{', '.join(show(end, sign=sign).removesuffix(' %') for end in ends)}]"


def recovery_of(one: PairedStatistics, of: str = "") -> str:
    """A recovery with its interval (of what), and that above chance where chance is not 0."""
    shown = f"{percent(one.recovery)} {interval(one.recovery_interval, shares=True)}".strip()
    shown += f" of {of}" if of else ""
    if one.floor == 0 or one.recovery_above_chance is None:
        return shown
    above = (
        f"{percent(one.recovery_above_chance)} {interval(one.above_chance_interval, shares=True)}"
    )
    return f"{shown}, {above.strip()} above chance"


def size(count: float | None) -> str:
    """A number of bytes."""
    if count is None or not math.isfinite(count):
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            shown = count / factor
            return f"{shown:.{2 if shown < 9.995 else 1 if shown < 99.95 else 0}f} {unit}"
    return f"{count:.0f} B"


def speed(profile: object, name: Literal["decode", "prefill"], *, ends: bool = False) -> str:
    """Measured tokens per second of a record's ``profile``; empty where there are none.

    >>> speed({"decode": {"median": 41.6, "low": 40, "high": 43.2}}, "decode", ends=True)
    '42 tokens/s [40, 43]'
    """
    spread = profile.get(name) if isinstance(profile, dict) else None
    if not isinstance(spread, dict):
        return ""
    found = [spread.get(end) for end in ("median", "low", "high")]
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in found):
        return ""
    median, low, high = (f"{end:,.0f}" for end in found)
    return f"{median} tokens/s" + (f" [{low}, {high}]" if ends else "")
