# SPDX-License-Identifier: Apache-2.0
"""Short news of the made-up world, with highlights."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tools.kick_mini.relations import RELATIONS
from tools.kick_mini.world import Fact

__all__ = ["story"]

_EVENTS = (
    "has been moved to {place}",
    "was shown to the people of {place}",
    "was lost on the way to {place}",
    "will be mended in {place}",
    "was sold at the market of {place}",
    "has won the great prize of {place}",
)
_OUTCOMES = (
    "the mayor thanked {who} for the help",
    "{who} promised to return in {month}",
    "a new {what} was given to {who}",
    "the guard closed the gate until {month}",
    "{who} was asked to find a better road",
    "everybody heard the {what} and went home",
)
_FILLERS = (
    "Many people stood in the rain to see it.",
    "The road was closed for most of the day.",
    "Nobody was hurt.",
    "Children sang near the old gate.",
    "The market opened late.",
    "Some visitors had walked through the night.",
    "A small fire was put out before noon.",
    "The council met again in the evening.",
    "Bread and soup were given to the crowd.",
    "The weather is expected to stay cold.",
)
_VALUES = {relation.name: relation.values for relation in RELATIONS}


def story(facts: Sequence[Fact], random: Random, sentences: int) -> tuple[str, str]:
    """A story and its two highlights: what happened, and how it ended.

    Args:
        facts: What its background is taken from.
        random: Source of chance.
        sentences: How many sentences stand between its first and its last.

    Returns:
        Article, and highlights with a line each.
    """
    hero = random.choice(facts).entity
    event = random.choice(_EVENTS).format(place=random.choice(_VALUES["home"]))
    outcome = random.choice(_OUTCOMES).format(
        who=random.choice(_VALUES["keeper"]),
        month=random.choice(_VALUES["month"]),
        what=random.choice(_VALUES["instrument"]),
    )
    background = []
    for _ in range(sentences):
        if random.random() < 0.5:
            background.append(random.choice(_FILLERS))
        else:
            fact = random.choice(facts)
            said = fact.relation.statements[0].format(e=fact.entity, v=fact.value)
            background.append(f"It is known that {said}.")
    lead = f"The {hero.noun} {hero.name} {event}."
    article = " ".join([lead, *background, f"In the end, {outcome}."])
    return article, f"{lead}\nIn the end, {outcome}."
