# SPDX-License-Identifier: Apache-2.0
"""Answers lost and won against the dense model, from logged samples.

Questions and answers are untrusted: they come out as visible text (`formatting.visible`).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.formatting import visible
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.results.samples import asked_once, chosen, scored_choices
from lmkick_plugin.results.task_groups import leaves_of

__all__ = ["EXAMPLES", "Example", "examples_of"]

EXAMPLES = 3
"""Lost, and won, for each run."""

_QUESTION, _ANSWER = 240, 120  # characters shown
_NONE = "(nothing)"
_LONGEST_LIST = 20_000  # characters of a list of references that is taken apart


@dataclass(frozen=True)
class Example:
    """An answer that changed.

    Attributes:
        task: The task asked.
        question: The question.
        wanted: The reference answer.
        dense, run: What either answered.
        won: Whether the run is right and the dense model wrong; lost otherwise.
    """

    task: str
    question: str
    wanted: str
    dense: str
    run: str
    won: bool


def examples_of(evidence: Evidence, model: Model) -> dict[str, tuple[Example, ...]]:
    """Some lost and won answers of every run.

    Args:
        evidence: What is known; only runs and tasks that were paired item by item are read.
        model: The model.

    Returns:
        By the run's name, lost before won; as many tasks as there are take turns.
    """
    if model.dense is None:
        return {}
    found: dict[str, list[Example]] = {cell.name: [] for cell in model.cells}
    for task in evidence.tasks:
        key = evidence.keys[task]
        for leaf in leaves_of(task, evidence.children):
            waiting = [c for c in model.cells if _wants(evidence, c, task, found[c.name])]
            if not waiting:
                break
            # Of the dense run's items, which may be gigabytes of documents, only what is shown.
            whole = {
                name: (item["value"], visible(item["answer"], limit=_ANSWER))
                for name, item in _items(model.dense, leaf, key)
            }
            for cell in waiting:
                _add(found[cell.name], task, whole, _items(cell, leaf, key))
    return {name: _chosen(examples) for name, examples in found.items()}


def _wants(evidence: Evidence, cell: Cell, task: str, found: Sequence[Example]) -> bool:
    pairing = evidence.pairing(cell, task)
    if pairing is None or not pairing.paired or pairing.statistics.flips is None:
        return False
    mine = [example.won for example in found if example.task == task]
    return mine.count(True) < EXAMPLES or mine.count(False) < EXAMPLES


def _add(
    found: list[Example],
    task: str,
    whole: Mapping[str, tuple[float, str]],
    items: Iterator[tuple[str, dict[str, Any]]],
) -> None:
    """Read a run's items until there are enough of both kinds of this task."""
    counts = {w: sum(e.won is w for e in found if e.task == task) for w in (True, False)}
    for name, item in items:
        value, dense = whole.get(name, (item["value"], ""))
        if value == item["value"]:
            continue
        won = item["value"] > value
        if counts[won] >= EXAMPLES:
            continue
        counts[won] += 1
        found.append(
            Example(
                task,
                visible(_question(item), limit=_QUESTION),
                visible(_wanted(item), limit=_ANSWER),
                dense,
                visible(item["answer"], limit=_ANSWER),
                won,
            )
        )
        if min(counts.values()) >= EXAMPLES:
            return


def _chosen(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Some of each kind, alternating between tasks."""
    chosen: list[Example] = []
    for won in (False, True):
        by_task: dict[str, list[Example]] = {}
        for example in examples:
            if example.won is won:
                by_task.setdefault(example.task, []).append(example)
        turns = [e for i in range(EXAMPLES) for queue in by_task.values() for e in queue[i : i + 1]]
        chosen += turns[:EXAMPLES]
    return tuple(chosen)


def _items(cell: Cell, task: str, key: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A task's samples by document, with the value of a right-or-wrong metric and its answer."""
    file = cell.run.tasks.get(task)
    if file is None or not file.samples_path(task).is_file():
        return
    delimiter = file.target_delimiter(task)
    seen = set()
    with file.samples_path(task).open("rb") as lines:
        for line in filter(None, map(bytes.strip, lines)):
            item = json.loads(line)
            name, value = str(item.get("doc_hash")), item.get(key[0])
            if item.get("filter", "none") != key[1] or value not in (0, 1) or name in seen:
                continue
            seen.add(name)
            yield name, {**item, "value": value, "answer": _answer(item, key[0], delimiter)}


def _question(item: Mapping[str, Any]) -> str:
    doc = item.get("doc")
    for field in ("question", "instruction"):
        if isinstance(doc, dict) and isinstance(doc.get(field), str):
            return str(doc[field])
    prompts = [a for request in item["arguments"].values() for a in request.values()]
    first = next((text for text in prompts if isinstance(text, str)), "")
    return first.strip().split("\n\n")[-1]


def _wanted(item: Mapping[str, Any]) -> str:
    target = str(item.get("target"))
    choices = _choices(item)
    if choices and target.isdigit() and int(target) < len(choices):
        return choices[int(target)]
    if target.startswith("[") and len(target) < _LONGEST_LIST:
        try:
            names = ast.literal_eval(target)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return target
        return " or ".join(dict.fromkeys(map(str, names)))
    return target


def _answer(item: Mapping[str, Any], metric: str, delimiter: str) -> str:
    """The answer given, or the choice that the metric takes for it."""
    responses = item["filtered_resps"]
    scored = scored_choices(item)
    if scored is not None:
        found = chosen(metric, scored, metrics=item["metrics"], target_delimiter=delimiter)
        names = _choices(item)
        if found is None:
            return "(not known)"
        if isinstance(found, int):
            return names[found] if found >= 0 else _NONE
        return " or ".join(compress(names, found)) or _NONE
    first = responses[0] if isinstance(responses, list) and responses else responses
    return str(first).strip() or _NONE


def _choices(item: Mapping[str, Any]) -> list[str]:
    """Choices in the prompt's order, with the document's words for letters."""
    scored = scored_choices(item)
    if scored is None:
        return []
    asked = [choice.text.strip() for choice in asked_once(scored)]
    doc = item.get("doc")
    words = doc.get("choices") if isinstance(doc, dict) else None
    if isinstance(words, list) and len(words) == len(asked) and asked != words:
        return [f"{letter}. {word}" for letter, word in zip(asked, words, strict=True)]
    return asked
