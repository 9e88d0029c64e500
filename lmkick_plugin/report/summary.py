# SPDX-License-Identifier: Apache-2.0
"""Which run to ship and what it loses: a sentence and a table.

Page, ``report.md``, ``cells.csv`` and what `lmkick sweep` prints all take it from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmkick_plugin.report.banner import not_compared
from lmkick_plugin.report.dense_command import dense_commands
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.formatting import (
    NOTHING,
    listed,
    percent,
    plural,
    recovery_of,
    size,
    speed,
    task_name,
)
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.paired_statistics import PairedStatistics
from lmkick_plugin.report.run_verdict import RunVerdict, why_open
from lmkick_plugin.report.verdict import FEWEST
from lmkick_plugin.report.why_not import ASKED
from lmkick_plugin.terminal import plain, render_table

__all__ = ["COLUMNS", "RunLine", "Summary", "summaries_text", "summarise"]

COLUMNS = (
    "run", "size", "of dense", "knowledge kept", "worst task", "to settle", "match", "open", "fail",
    "verdict",
)  # fmt: skip
"""Of the table. *Worst task*: the one that decides the verdict. *To settle*: items that would
settle it, where it is open. *Open* counts tasks that are inconclusive or have too few items.
Where a sweep measured speed (``profile: true``), *decode* follows *of dense*."""


@dataclass(frozen=True, eq=False)
class RunLine:
    """A run in the table.

    Attributes:
        cell: The run.
        word: *keeps*, *loses*, *cannot tell*; *dense*; *not compared*.
        share: Size as a share of the dense model's; None where one is not known.
        tasks: Statistics of the headline metrics, by task.
        verdict: All tasks together; None for the dense run and where nothing was compared.
    """

    cell: Cell
    word: str
    share: float | None
    tasks: dict[str, PairedStatistics]
    verdict: RunVerdict | None

    @property
    def worst(self) -> tuple[str, PairedStatistics] | None:
        """The task that decides the verdict: the worst of those lost, else of those open."""
        name = None if self.verdict is None else self.verdict.worst
        return None if name is None else (name, self.tasks[name])

    @property
    def worst_shown(self) -> tuple[str, str]:
        """That task as people call it, and what is kept of it."""
        return ("", "") if self.worst is None else (task_name(self.worst[0]), _kept(self.worst[1]))

    @property
    def to_settle(self) -> str:
        """Items that would settle that task; empty where it is settled."""
        return "" if self.worst is None else self.worst[1].settling_briefly

    @property
    def decode(self) -> str:
        """New tokens per second; empty where they were not measured."""
        return speed(self.cell.record.get("profile"), "decode")

    @property
    def knowledge(self) -> tuple[str, str]:
        """Mean recovery of the knowledge tasks, and of how many."""
        found = self.verdict
        if found is None or found.mean_recovery is None:
            return NOTHING, ""
        return percent(found.mean_recovery), f"({plural(found.over, 'task')})"

    def tasks_with(self, *verdicts: str) -> list[str]:
        """Tasks that have one of the verdicts."""
        return [task for task, one in self.tasks.items() if one.verdict in verdicts]

    @property
    def open(self) -> int:
        """Number of tasks with a verdict that is neither match nor fail."""
        return len(self.tasks_with("inconclusive", "too few"))

    def shown(self) -> list[str]:
        """The line as text, by `COLUMNS`."""
        return [
            self.cell.short,
            size(self.cell.bytes),
            percent(self.share, digits=0),
            " ".join(self.knowledge).strip(),
            " ".join(self.worst_shown).strip() or NOTHING,
            self.to_settle or NOTHING,
            *(
                NOTHING if self.verdict is None else str(len(self.tasks_with(*verdicts)))
                for verdicts in (("match",), ("inconclusive", "too few"), ("fail",))
            ),
            self.word,
        ]


@dataclass(frozen=True, eq=False)
class Summary:
    """The first screen of a model.

    Attributes:
        model: The model.
        sentence: The answer.
        chosen: The run that it names; None where there is none to name.
        lines: The dense run, then the others by size, the smallest first.
        knowledge: Tasks whose mean is *knowledge kept*.
        command: What makes a missing dense run; empty where there is one.
        not_compared: Which runs were not compared on a task, and why.
    """

    model: Model
    sentence: str
    chosen: RunLine | None
    lines: tuple[RunLine, ...]
    knowledge: tuple[str, ...]
    command: str
    not_compared: tuple[str, ...]

    @property
    def measured(self) -> bool:
        """Whether the speed of any run is known."""
        return any(line.decode for line in self.lines)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and lines as text."""
        header, rows = list(COLUMNS), [line.shown() for line in self.lines]
        if self.measured:
            place = COLUMNS.index("of dense") + 1
            header.insert(place, "decode")
            for row, line in zip(rows, self.lines, strict=True):
                row.insert(place, line.decode or NOTHING)
        return header, rows

    def text(self) -> str:
        """Sentence, table and what was not compared, in plain text."""
        table = render_table(*self.table())
        command = f"\n{self.command}" if self.command else ""
        below = "".join(f"\n{plain(line, limit=400)}" for line in self.not_compared)
        return f"{plain(self.sentence)}{command}\n\n{table}" + (f"\n{below}" if below else "")


def summaries_text(summaries: Sequence[Summary]) -> str:
    """Sentence and table of every model, in plain text."""
    several = len(summaries) > 1
    return "\n\n".join(
        (f"{plain(one.model.name)}\n" if several else "") + one.text() for one in summaries
    )


def summarise(evidence: Evidence, model: Model) -> Summary:
    """Judge every run of a model and say which to ship.

    Args:
        evidence: What is known.
        model: The model.

    Returns:
        Sentence and lines.
    """
    whole = model.dense
    knowledge = tuple(
        task
        for task in evidence.tasks
        if any(evidence.facts(cell, task).knowledge for cell in model.all)
    )
    lines = [_line(evidence, model, cell) for cell in model.all]
    lines.sort(key=lambda line: (line.cell is not whole, line.cell.bytes or math.inf, -_mean(line)))
    sentence, chosen = _answer(evidence, model, lines, knowledge)
    return Summary(
        model=model,
        sentence=sentence,
        chosen=chosen,
        lines=tuple(lines),
        knowledge=knowledge,
        command="" if whole is not None else dense_commands(model),
        not_compared=tuple(not_compared(evidence, [model])),
    )


def _line(evidence: Evidence, model: Model, cell: Cell) -> RunLine:
    whole = model.dense
    share = None
    if whole is not None and whole.bytes and cell.bytes:
        share = cell.bytes / whole.bytes
    tasks = evidence.statistics(cell)
    if not tasks:
        return RunLine(cell, "dense" if cell is whole else "not compared", share, {}, None)
    found = evidence.verdict(cell, cell.short)
    return RunLine(cell, found.word, share, tasks, found)


def _recalled(evidence: Evidence, model: Model) -> str:
    """What became of the facts, where nothing else was asked; of the run that says fewest."""
    found = [
        (cell, one)
        for cell in model.cells
        for one in evidence.recalls.get(cell.name, ())
        if one.said >= FEWEST
    ]
    if not found:
        return ""
    cell, one = min(found, key=lambda pair: float(pair[1].shares[0]))
    return f"Facts alone were asked, for which there is no verdict. {cell.short}: {one.sentence()}"


def _reasons(evidence: Evidence, model: Model) -> dict[str, list[str]]:
    """Why runs have no verdict, each reason with its tasks."""
    whys: dict[str, list[str]] = {}
    for task in evidence.tasks:
        for cell in model.cells:
            one = evidence.pairing(cell, task)
            why = one.statistics.reason if one else evidence.why_not(model, cell, task)
            if why and task_name(task) not in whys.setdefault(why, []):
                whys[why].append(task_name(task))
    return whys


def _by_task(whys: Mapping[str, Sequence[str]]) -> str:
    """Reasons, with their tasks where there are several."""
    if len(whys) < 2:
        return "".join(whys)
    return "; ".join(f"on {listed(tasks)}, {why}" for why, tasks in whys.items())


def _answer(
    evidence: Evidence, model: Model, lines: Sequence[RunLine], knowledge: Sequence[str]
) -> tuple[str, RunLine | None]:
    """The sentence, and the run that it names."""
    bound = f"{100 * (1 - evidence.settings.tolerance):g} % of the dense score"
    judged = [line for line in lines if line.verdict is not None]
    if model.dense is None:
        return _without_dense(model), None
    if not model.cells:
        return "Only the dense model was evaluated: nothing to compare it with.", None
    if not judged:
        whys = _reasons(evidence, model)
        if {*whys} <= {ASKED}:
            return "No run was asked the dense model's questions, so none has a verdict.", None
        return f"No run can be compared with the dense one: {_by_task(whys)}.", None
    if not any(one.verdict for line in judged for one in line.tasks.values()):
        recalled = _recalled(evidence, model)
        if recalled:
            return recalled, None
        said = _by_task(_reasons(evidence, model)) or "no score to judge"
        return f"No run has a verdict on any task: {said}.", None
    unlost = [line for line in judged if line.word != "loses"]
    keeping = [line for line in unlost if line.word == "keeps"]
    knowing = [line for line in unlost if _known(line, knowledge)]
    if not unlost:
        chosen = max(judged, key=_mean)
        said = (
            f"Every run loses more than it may; {_named(chosen)} loses least, at worst"
            f" {_worst(chosen)}"
        )
    elif keeping:
        chosen = keeping[0]
        count = _all(len(chosen.tasks_with("match")), "task")
        said = (
            f"{_named(chosen)} is the smallest run that keeps at least {bound} on {count}, at worst"
            f" {_worst(chosen)}"
        )
    elif knowing:
        chosen = knowing[0]
        known = _known(chosen, knowledge)
        count = _all(len(known), "knowledge task")
        count += "" if len(known) == len(knowledge) else " that can have a verdict"
        said = (
            f"{_named(chosen)} is the smallest run that keeps at least {bound} on {count} and loses"
            f" on no other; {_still_open(chosen)}"
        )
    else:
        chosen = max(unlost, key=lambda line: (len(line.tasks_with("match")), _mean(line)))
        matched = len(chosen.tasks_with("match"))
        how = f"comes closest, it matches on {plural(matched, 'task')} and loses on none"
        said = (
            f"No run is shown to keep {bound} on all tasks: {_named(chosen)}"
            f" {how if matched else 'loses on none, and matches on none'}; {_still_open(chosen)}"
        )
    others = f"; {_others(lines, chosen)}" if unlost else ""
    return f"{said}{others}.{_unknown(judged, knowledge)}", chosen


def _without_dense(model: Model) -> str:
    """The sentence above the command that makes a dense run, or says which run is one."""
    name = plain(model.name)
    if all(cell.dense is None for cell in model.all):
        return f"It is not recorded whether {name} is compressed. A label says it:"
    return (
        f"Without a dense run of {name} there is nothing to compare with: scores have no verdict. "
        "This makes one:"
    )


def _others(lines: Sequence[RunLine], chosen: RunLine) -> str:
    """What the next smaller run loses; else that it is not settled, and which run loses most."""
    judged = [line for line in lines if line.verdict is not None]
    smaller = judged[: judged.index(chosen)]
    losing = [line for line in judged if line.word == "loses"]
    if smaller and smaller[-1].word == "loses":
        return f"the next smaller, {_named(smaller[-1])}, keeps only {_worst(smaller[-1])}"
    said = [f"the next smaller, {_name(smaller[-1])}, is not settled"] if smaller else []
    if losing:
        most = min(losing, key=_lowest)
        said.append(f"{_named(most)} keeps only {_worst(most)}")
    if said:
        return ", and ".join(said)
    left = any(line.word == "not compared" for line in lines[: lines.index(chosen)])
    return f"no smaller run {'could be compared' if left else 'was evaluated'}"


def _unknown(judged: Sequence[RunLine], knowledge: Sequence[str]) -> str:
    """That nothing is known of knowledge, where the dense model shows none."""
    asked = [line.tasks[task] for line in judged for task in knowledge if task in line.tasks]
    if not asked or not all(one.at_floor for one in asked):
        return ""
    return " What is kept of knowledge is not known: dense is above chance (or 0) on no such task."


def _mean(line: RunLine) -> float:
    found = None if line.verdict is None else line.verdict.mean_recovery
    return _lowest(line) if found is None else found


def _known(line: RunLine, knowledge: Sequence[str]) -> list[str]:
    """The knowledge tasks, where a run matches on all of them; those at dense's floor are left out.

    One that it was not asked, or that has no verdict for another reason, leaves none.
    """
    asked = [task for task in knowledge if task not in line.tasks or not line.tasks[task].at_floor]
    return asked if {*asked} <= {*line.tasks_with("match")} else []


def _lowest(line: RunLine) -> float:
    worst = line.worst
    return -math.inf if worst is None or worst[1].recovery is None else worst[1].recovery


def _name(line: RunLine) -> str:
    return plain(line.cell.short, limit=80)


def _named(line: RunLine) -> str:
    facts = [size(line.cell.bytes)] if line.cell.bytes else []
    facts += [f"{percent(line.share, digits=0)} of dense"] if line.share else []
    return f"{_name(line)} ({', '.join(facts)})" if facts else _name(line)


def _kept(one: PairedStatistics) -> str:
    """A recovery with its interval; of too few items without, which would mean nothing."""
    return percent(one.recovery) if one.verdict == "too few" else recovery_of(one)


def _worst(line: RunLine) -> str:
    """What is kept of the task that decides, and how sure that is."""
    if line.worst is None:
        return "its tasks"
    how = " (dense / compressed)" if line.worst[1].direction == "at_most" else ""
    return f"{line.worst_shown[1]} of {line.worst_shown[0]}{how}"


def _all(count: int, noun: str) -> str:
    return f"the one {noun}" if count == 1 else f"all {plural(count, noun)}"


def _still_open(line: RunLine) -> str:
    """The worst task that is not settled, what would settle it, and how many more there are."""
    found = line.verdict
    others = -1 if found is None else len(found.unsettled) + len(found.too_few) - 1
    if line.worst is None or others < 0:
        return "not all have a verdict"
    said = f"not settled: {_worst(line)}"
    said += f" ({why_open(line.worst[1])})" if why_open(line.worst[1]) else ""
    return f"{said} and {plural(others, 'more task')}" if others else said
