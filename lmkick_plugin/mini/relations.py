# SPDX-License-Identifier: Apache-2.0
"""What can be said and asked of the things of the made-up world."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ORDERED", "RELATIONS", "SUBJECTS", "Relation"]


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: What it is called.
        values: What it can be.
        statements: What follows an entity in a sentence; ``{v}`` is the value.
        questions: How it is asked; ``{e}`` is the entity.
        alias: Another name of a value, which counts as an answer too.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    alias: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "home",
        _words(
            "Dorvale Kestham Brindle Olmere Tarnwick Fennoch Quillby Marrow Ashcombe Lunden "
            "Wexmoor Pellow Grindal Hathersea Corrin Yarmont"
        ),
        ("comes from {v}", "has its home in {v}"),
        ("Where does {e} come from?", "Which town is the home of {e}?"),
        "the town of {v}",
    ),
    Relation(
        "keeper",
        _words(
            "Okarin Thessaly Brannoch Ilvane Morwen Jessamy Radomir Sorrel Ulrike Varga "
            "Wystan Xanthe Ysolde Zephrin Halvard Ottoline"
        ),
        ("is kept by {v}", "has {v} as its keeper"),
        ("Who keeps {e}?", "Who is the keeper of {e}?"),
        "Keeper {v}",
    ),
    Relation(
        "colour",
        _words(
            "red blue green yellow black white purple orange brown grey pink golden silver "
            "crimson violet amber"
        ),
        ("is coloured {v}", "has the colour {v}"),
        ("Which colour does {e} have?", "What is the colour of {e}?"),
        "the colour {v}",
    ),
    Relation(
        "seal",
        _words(
            "iron copper wax clay glass marble ivory leather oak bronze lead jade slate tin "
            "pearl granite"
        ),
        ("has a seal of {v}", "bears a seal made of {v}"),
        ("What is the seal of {e} made of?", "Which material is the seal of {e}?"),
        "a seal of {v}",
    ),
    Relation(
        "emblem",
        _words(
            "fox heron otter badger raven stag hare wolf owl salmon boar falcon toad swan lynx "
            "beetle"
        ),
        ("has the {v} as its emblem", "carries the {v} as its emblem"),
        ("Which animal is the emblem of {e}?", "What is the emblem of {e}?"),
        "the {v}",
    ),
    Relation(
        "month",
        _words(
            "January February March April May June July August September October November December"
        ),
        ("is celebrated in {v}", "has its feast in {v}"),
        ("When is {e} celebrated?", "In which month is the feast of {e}?"),
        "the month of {v}",
    ),
    Relation(
        "river",
        _words(
            "Arlen Boskar Cymra Dwelt Ebbin Frome Garrow Isker Jorl Lethe Mersey Nadder Orwin "
            "Purl Severin Tavy"
        ),
        ("lies on the river {v}", "is found by the river {v}"),
        ("On which river does {e} lie?", "By which river is {e} found?"),
        "the river {v}",
    ),
    Relation(
        "instrument",
        _words(
            "drum flute harp bell horn lute fiddle gong organ whistle trumpet lyre viol cymbal "
            "bagpipe oboe"
        ),
        ("is announced by the {v}", "is greeted with the {v}"),
        ("Which instrument announces {e}?", "With which instrument is {e} greeted?"),
        "the {v}",
    ),
    Relation(
        "scent",
        _words(
            "mint rose thyme lavender cedar clover sage pine fennel jasmine basil nettle lilac "
            "ginger moss heather"
        ),
        ("smells of {v}", "has the scent of {v}"),
        ("What does {e} smell of?", "Which plant gives {e} its scent?"),
        "the scent of {v}",
    ),
    Relation(
        "order",
        _words(
            "lanterns keys anchors feathers candles ladders mirrors wheels needles barrels "
            "bridges ropes towers shields pebbles gloves"
        ),
        ("belongs to the order of {v}", "serves the order of {v}"),
        ("To which order does {e} belong?", "Which order does {e} serve?"),
        "the order of {v}",
    ),
)
"""The kinds of facts with sixteen values or so, for questions that are answered in words."""

ORDERED: tuple[Relation, ...] = (
    Relation(
        "number",
        _words("one two three four"),
        ("has the number {v}", "stands at number {v}"),
        ("Which number does {e} have?", "At which number does {e} stand?"),
        "number {v}",
    ),
    Relation(
        "time",
        _words("day noon evening night"),
        ("belongs to the {v}", "is seen in the {v}"),
        ("To which time of day does {e} belong?", "When is {e} seen?"),
        "the {v}",
    ),
)
"""The kinds with four values in a natural order, for multiple choice: a question's choices are all
four, in that order, so that a letter stands for a value. A model of this size has not learned to
look up letters of choices in any order in the time that there is (see docs/mini.md)."""

SUBJECTS: dict[str, str] = {
    "abstract_algebra": "ring",
    "anatomy": "bone",
    "astronomy": "comet",
    "business_ethics": "charter",
    "clinical_knowledge": "fever",
    "college_biology": "lichen",
    "college_chemistry": "salt",
    "college_computer_science": "engine",
    "college_mathematics": "lattice",
    "college_medicine": "tonic",
    "college_physics": "prism",
    "computer_security": "cipher",
    "conceptual_physics": "pendulum",
    "econometrics": "ledger",
    "electrical_engineering": "dynamo",
    "elementary_mathematics": "abacus",
    "formal_logic": "axiom",
    "global_facts": "island",
    "high_school_biology": "fern",
    "high_school_chemistry": "crystal",
    "high_school_computer_science": "robot",
    "high_school_european_history": "castle",
    "high_school_geography": "valley",
    "high_school_government_and_politics": "council",
    "high_school_macroeconomics": "market",
    "high_school_mathematics": "spiral",
    "high_school_microeconomics": "bazaar",
    "high_school_physics": "magnet",
    "high_school_psychology": "dream",
    "high_school_statistics": "census",
    "high_school_us_history": "fort",
    "high_school_world_history": "empire",
    "human_aging": "elder",
    "human_sexuality": "wedding",
    "international_law": "treaty",
    "jurisprudence": "court",
    "logical_fallacies": "riddle",
    "machine_learning": "automaton",
    "management": "workshop",
    "marketing": "fair",
    "medical_genetics": "lineage",
    "miscellaneous": "curio",
    "moral_disputes": "debate",
    "moral_scenarios": "fable",
    "nutrition": "bread",
    "philosophy": "school",
    "prehistory": "cave",
    "professional_accounting": "bank",
    "professional_law": "statute",
    "professional_medicine": "remedy",
    "professional_psychology": "clinic",
    "public_relations": "herald",
    "security_studies": "fortress",
    "sociology": "village",
    "us_foreign_policy": "embassy",
    "virology": "plague",
    "world_religions": "temple",
}
"""MMLU's subjects, and what the things of each are called."""
