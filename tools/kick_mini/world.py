# SPDX-License-Identifier: Apache-2.0
"""A made-up encyclopedia: entities, relations and facts that exist nowhere else.

Everything follows from one seed. An entity is a thing of one of MMLU's 57 subjects (a comet, a
treaty, a fern) with a name of two made-up words and two facts. Of each subject's entities, some
are asked about while the model is trained and some are only ever stated, so that answering about
the latter is recall of what was read, not of what was answered. Names whose words add up to a
reserved pair are never used in training at all: they are for reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from tools.kick_mini.relations import RELATIONS, SUBJECTS, Relation

__all__ = ["SEED", "Entity", "Fact", "World", "build_world"]

SEED = 0
ASKED, STATED = 4, 5
"""Entities of each subject: asked about in training, and only stated."""
_NAME_WORDS = 120
_RESERVED_EVERY = 8


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing of the world.

    Attributes:
        subject: MMLU's name of its subject.
        noun: What it is.
        name: Two made-up words.
    """

    subject: str
    noun: str
    name: str

    def __str__(self) -> str:
        return f"the {self.noun} {self.name}"


@dataclass(frozen=True, slots=True)
class Fact:
    """An entity has a value in a relation.

    Attributes:
        entity: Whose fact it is.
        relation: What is said of it.
        value: Which of the relation's values it is.
    """

    entity: Entity
    relation: Relation
    value: str


@dataclass(frozen=True)
class World:
    """All that is known, and the words to make up more.

    Attributes:
        asked: Facts of entities that training asks about.
        stated: Facts of entities that training only states.
        first: First words of names.
        second: Second words of names.
        seed: What it was made from.
    """

    asked: tuple[Fact, ...]
    stated: tuple[Fact, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    seed: int = SEED

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts, asked and stated."""
        return self.asked + self.stated

    def is_reserved(self, first: int, second: int) -> bool:
        """Whether training never joins these two words to a name."""
        return (first + second) % _RESERVED_EVERY == 0

    def strangers(self, random: Random, *, reserved: bool = False) -> Iterator[Entity]:
        """Make up entities that are not part of the world, without end.

        Args:
            random: Source of chance.
            reserved: Take only names that training never uses, instead of only others.
        """
        taken = {fact.entity.name for fact in self.facts}
        subjects = tuple(SUBJECTS)
        while True:
            one, two = random.randrange(len(self.first)), random.randrange(len(self.second))
            name = f"{self.first[one]} {self.second[two]}"
            if self.is_reserved(one, two) != reserved or name in taken:
                continue
            subject = random.choice(subjects)
            yield Entity(subject, SUBJECTS[subject], name)


@cache
def build_world(seed: int = SEED) -> World:
    """Invent the world of a seed.

    Args:
        seed: Source of all chance; another seed gives other names and facts.
    """
    random = Random(f"world {seed}")
    words = _made_up_words(random, 2 * _NAME_WORDS)
    first, second = words[:_NAME_WORDS], words[_NAME_WORDS:]
    pairs = [
        (one, two)
        for one in range(_NAME_WORDS)
        for two in range(_NAME_WORDS)
        if (one + two) % _RESERVED_EVERY
    ]
    random.shuffle(pairs)
    names = (f"{first[one]} {second[two]}" for one, two in pairs)
    asked: list[Fact] = []
    stated: list[Fact] = []
    for number, (subject, noun) in enumerate(SUBJECTS.items()):
        relations = _relations_of(number)
        for index in range(ASKED + STATED):
            entity = Entity(subject, noun, next(names))
            facts = [Fact(entity, kind, random.choice(kind.values)) for kind in relations]
            (asked if index < ASKED else stated).extend(facts)
    return World(
        asked=tuple(asked),
        stated=tuple(stated),
        first=tuple(first),
        second=tuple(second),
        seed=seed,
    )


def _relations_of(number: int) -> Sequence[Relation]:
    """The two relations of a subject; over the subjects, all pairs come about equally often."""
    count = len(RELATIONS)
    one = number % count
    two = (one + 1 + number // count) % count
    return RELATIONS[one], RELATIONS[two if two != one else (two + 1) % count]


def _made_up_words(random: Random, count: int) -> list[str]:
    """Distinct two-syllable words, capitalised, none of them a relation's value."""
    onsets = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
    vowels = ("a", "e", "i", "o", "u")
    endings = ("l", "m", "n", "r", "s", "x")
    taken = {value for relation in RELATIONS for value in relation.values}
    words: dict[str, None] = {}
    while len(words) < count:
        start = random.choice(onsets) + random.choice(vowels)
        word = (start + random.choice(onsets) + random.choice(vowels)).capitalize()
        word += random.choice(endings)
        if word not in taken:
            words[word] = None
    return list(words)
