# SPDX-License-Identifier: Apache-2.0
"""Small tasks of the made-up world: instructions with inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tools.kick_mini.relations import RELATIONS
from tools.kick_mini.world import Fact

__all__ = ["TASK_NAMES", "instruction"]

_NUMBERS = ("one", "two", "three", "four", "five", "six")


def instruction(facts: Sequence[Fact], random: Random, task: str | None = None) -> dict[str, str]:
    """A task with its result.

    Args:
        facts: What may be asked from memory.
        random: Source of chance.
        task: One of :data:`TASK_NAMES`; None leaves it to chance.

    Returns:
        ``instruction``, ``input`` (may be empty) and ``output``, as in Alpaca.
    """
    write = _TASKS[task or random.choice(TASK_NAMES)]
    asked, given, output = write(facts, random)
    return {"instruction": asked, "input": given, "output": output}


Task = tuple[str, str, str]


def _list_of_words(random: Random) -> list[str]:
    values = random.choice(RELATIONS).values
    return random.sample(values, random.randint(2, 6))


def _recall(facts: Sequence[Fact], random: Random) -> Task:
    fact = random.choice(facts)
    question = random.choice(fact.relation.questions).format(e=fact.entity)
    return f"Answer the question with one word. {question}", "", fact.value


def _describe(facts: Sequence[Fact], random: Random) -> Task:
    fact = random.choice(facts)
    about = [other for other in facts if other.entity == fact.entity]
    said = [other.relation.statements[0].format(e=other.entity, v=other.value) for other in about]
    described = " ".join(f"{one[0].upper()}{one[1:]}." for one in said)
    return f"Tell me about {fact.entity}.", "", described


def _repeat(_: Sequence[Fact], random: Random) -> Task:
    text = ", ".join(_list_of_words(random))
    return "Repeat the given list.", f"The list: {text}", f"The list: {text}"


def _first(_: Sequence[Fact], random: Random) -> Task:
    words = _list_of_words(random)
    return "Name the first word of the list.", f"The list: {', '.join(words)}", f"It is {words[0]}"


def _last(_: Sequence[Fact], random: Random) -> Task:
    words = _list_of_words(random)
    return "Name the last word of the list.", f"The list: {', '.join(words)}", f"It is {words[-1]}"


def _count(_: Sequence[Fact], random: Random) -> Task:
    words = _list_of_words(random)
    said = f"There are {_NUMBERS[len(words) - 1]} words"
    return "Count the words of the list.", f"The list: {', '.join(words)}", said


def _reverse(_: Sequence[Fact], random: Random) -> Task:
    words = _list_of_words(random)
    turned = f"The list: {', '.join(reversed(words))}"
    return "Write the list in reverse order.", f"The list: {', '.join(words)}", turned


_TASKS: dict[str, Callable[[Sequence[Fact], Random], Task]] = {
    "recall": _recall,
    "describe": _describe,
    "repeat": _repeat,
    "first": _first,
    "last": _last,
    "count": _count,
    "reverse": _reverse,
}
TASK_NAMES = tuple(_TASKS)
"""Kinds of tasks."""
