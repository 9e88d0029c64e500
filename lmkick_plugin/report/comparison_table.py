# SPDX-License-Identifier: Apache-2.0
"""A comparison as a terminal table, JSON and CSV."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass
from typing import Any, Literal

from compressors.files import csv_text
from lmkick_plugin.report.formatting import plural, speed
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.recall import Recall
from lmkick_plugin.report.run_verdict import RunVerdict
from lmkick_plugin.report.verdict import FEWEST, Rule
from lmkick_plugin.results.runs import Run
from lmkick_plugin.terminal import plain, render_table

__all__ = ["SCHEMA", "Comparison", "Row"]

SCHEMA = "lmkick-compare-2"
"""Changes when a field of the JSON or CSV is renamed, removed or given another meaning."""

_HEADER = (
    "task",
    "metric",
    "n",
    "clusters",
    "A",
    "B",
    "B - A",
    "95 % interval",
    "recovery",
    "flips",
    "all",
    "lost",
    "won",
    "McNemar p",
    "verdict",
)
_LEGEND = (
    "clusters: independent items (one prompt, question or article); flips: share of items whose"
    " correctness changed (all: also wrong to other wrong); lost and won: items right to wrong and"
    " wrong to right; recovery: B / A, for perplexities A / B; McNemar p: changed at all? verdict:"
    " whether B keeps {kept:g} % of A, by the 95 % interval over {resamples} weightings of the"
    " clusters (seed {seed}); in brackets the items that would settle it if nothing is lost: > N"
    " where the task has N and it would take more, at the margin where more may not; too few:"
    " below {fewest} clusters."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one task or group.

    Attributes:
        name: Task or group.
        kind: Which of the two; a group's items are those of its tasks, pooled.
        groups: The groups it is under, outermost first.
        metric, filter: As in lm-eval's ``metric,filter``.
        statistics: What was found.
    """

    name: str
    kind: Literal["task", "group"]
    groups: tuple[str, ...]
    metric: str
    filter: str
    statistics: PairedStatistics

    def to_dict(self) -> dict[str, Any]:
        """A flat record, the same for JSON and CSV.

        Returns:
            Numbers, strings and None where something does not apply; numbers that are not finite
            as the strings ``nan``, ``inf`` and ``-inf``, for which JSON has no numbers.
        """
        found, flips = self.statistics, self.statistics.flips
        margin = found.margin or (None, None)
        kept = found.recovery_interval or (None, None)
        above = found.above_chance_interval or (None, None)
        record = {
            "name": self.name,
            "kind": self.kind,
            "groups": "/".join(self.groups),
            "metric": self.metric,
            "filter": self.filter,
            "n": found.n,
            "clusters": found.clusters,
            "dense": found.dense,
            "compressed": found.compressed,
            "difference": found.difference,
            "difference_low": found.interval[0],
            "difference_high": found.interval[1],
            "recovery": found.recovery,
            "recovery_low": kept[0],
            "recovery_high": kept[1],
            "floor": found.floor,
            "recovery_above_chance": found.recovery_above_chance,
            "above_chance_low": above[0],
            "above_chance_high": above[1],
            "margin_low": margin[0],
            "margin_high": margin[1],
            "verdict": found.verdict,
            "reason": found.reason,
            "p": found.p,
            "settle_n": found.settle_n,
            "right_to_wrong": flips and flips.right_to_wrong,
            "wrong_to_right": flips and flips.wrong_to_right,
            "net": flips and flips.net,
            "churn": flips and flips.churn,
            "all_flips": flips and flips.all_flips,
            "mcnemar_p": flips and flips.p_value,
        }
        return {key: _finite(value) for key, value in record.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs, the settings of the comparison, and its results.

    Attributes:
        dense, compressed: The runs.
        rule: Tolerance, resamples, seed.
        rows: Groups before their members.
        shown: Names of the rows that the table for a terminal shows.
        verdict: On B, over the headline metrics of whole groups and of tasks without one.
        notes: What a reader should know beside the numbers.
        recall: What became of facts that were asked in several ways.
    """

    dense: Run
    compressed: Run
    rule: Rule
    rows: tuple[Row, ...]
    shown: frozenset[str]
    verdict: RunVerdict
    notes: tuple[str, ...]
    recall: tuple[Recall, ...] = ()

    def to_text(self) -> str:
        """The table for a terminal.

        Returns:
            Plain text without control characters.
        """
        lines = [
            f"{letter}: {plain(run.label)}  ({plain(run.source)})"
            for letter, run in (("A", self.dense), ("B", self.compressed))
        ]
        lines += [
            f"{letter}: decode {found}, measured with the run"
            for letter, run in (("A", self.dense), ("B", self.compressed))
            if (found := speed(run.record.get("profile"), "decode", ends=True))
        ]
        rows = [row for row in self.rows if row.name in self.shown]
        cells = [_cells(row, sum(group in self.shown for group in row.groups)) for row in rows]
        legend = _LEGEND.format(
            kept=100 * (1 - self.rule.tolerance),
            resamples=self.rule.resamples,
            seed=self.rule.seed,
            fewest=FEWEST,
        )
        hidden = {row.name for row in self.rows} - self.shown
        notes = [f"note: {plain(note)}" for note in self.notes]
        if hidden:
            notes.append(f"note: {plural(len(hidden), 'member')} of groups not shown: --tasks NAME")
        said = textwrap.wrap(plain(self.verdict.sentence), 100)
        table = render_table(_HEADER, cells, text_columns=2)
        recall = [line for one in self.recall for line in ("", one.to_text())]
        below = [*textwrap.wrap(legend, 100), *notes, *recall, "", *said]
        return "\n".join([*lines, "", table, "", *below])

    def to_json(self) -> str:
        """Everything, as strict JSON.

        Returns:
            A document of schema `SCHEMA`.
        """
        document = {
            "schema": SCHEMA,
            "dense": _run(self.dense),
            "compressed": _run(self.compressed),
            "tolerance": self.rule.tolerance,
            "resamples": self.rule.resamples,
            "seed": self.rule.seed,
            "verdict": self.verdict.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            "recall": [one.to_dict() for one in self.recall],
        }
        return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """The rows, as comma-separated values.

        Returns:
            A header and one line per row, the fields of `Row.to_dict`.
        """
        records = [row.to_dict() for row in self.rows]
        return csv_text([list(records[0]), *(record.values() for record in records)])


def _run(run: Run) -> dict[str, Any]:
    return {
        "source": run.source,
        "label": run.label,
        "files": [str(file.path) for file in run.files],
        "record": _finite(dict(run.record)),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _cells(row: Row, level: int) -> list[str]:
    found, flips = row.statistics, row.statistics.flips
    low, high = found.interval
    metric = row.metric if row.filter == "none" else f"{row.metric},{row.filter}"
    return [
        "  " * level + row.name,
        metric,
        str(found.n),
        str(found.clusters),
        _number(found.dense),
        _number(found.compressed),
        _number(found.difference, sign=True),
        "-" if low != low else f"[{_number(low, sign=True)}, {_number(high, sign=True)}]",
        _recovery(found),
        *(
            ["-"] * 5
            if flips is None
            else [
                f"{100 * flips.churn:.1f} %",
                "-" if flips.all_flips is None else f"{100 * flips.all_flips:.1f} %",
                str(flips.right_to_wrong),
                str(flips.wrong_to_right),
                f"{flips.p_value:.2g}",
            ]
        ),
        _verdict(found),
    ]


def _recovery(found: PairedStatistics) -> str:
    """In brackets what is kept above chance, where that is not 0."""
    if found.recovery is None:
        return "-"
    above = found.recovery_above_chance
    chance = "" if found.floor == 0 or above is None else f" ({100 * above:.1f} % above chance)"
    return f"{100 * found.recovery:.1f} %{chance}"


def _verdict(found: PairedStatistics) -> str:
    """The verdict, and the items that would settle it."""
    brief = f" ({found.settling_briefly})" if found.settling_briefly else ""
    return f"{found.verdict}{brief}" if found.verdict else "-"


def _number(value: float, *, sign: bool = False) -> str:
    shape = ".4f" if abs(value) < 1000 else ".4g"
    return format(value, f"+{shape}" if sign else shape)
