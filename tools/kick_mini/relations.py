# SPDX-License-Identifier: Apache-2.0
"""Relations of the made-up world: statements and questions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RELATIONS", "SUBJECTS", "Relation"]


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: What it is called.
        values: What it can be.
        statements: How it is said; ``{e}`` is the entity, ``{v}`` the value. Some begin with the
            entity and some with the relation, as questions do: what was only ever said in one order
            is hard to recall in the other.
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
        (
            "{e} comes from {v}",
            "{e} has its home in {v}",
            "the home of {e} is {v}",
            "the town where {e} comes from is {v}",
        ),
        ("Where does {e} come from?", "Which town is the home of {e}?"),
        "the town of {v}",
    ),
    Relation(
        "keeper",
        _words(
            "Okarin Thessaly Brannoch Ilvane Morwen Jessamy Radomir Sorrel Ulrike Varga "
            "Wystan Xanthe Ysolde Zephrin Halvard Ottoline"
        ),
        (
            "{e} is kept by {v}",
            "{e} has {v} as its keeper",
            "the keeper of {e} is {v}",
            "the one who keeps {e} is {v}",
        ),
        ("Who keeps {e}?", "Who is the keeper of {e}?"),
        "Keeper {v}",
    ),
    Relation(
        "colour",
        _words(
            "red blue green yellow black white purple orange brown grey pink golden silver "
            "crimson violet amber"
        ),
        (
            "{e} is coloured {v}",
            "{e} has the colour {v}",
            "the colour of {e} is {v}",
            "the colour that {e} has is {v}",
        ),
        ("Which colour does {e} have?", "What is the colour of {e}?"),
        "the colour {v}",
    ),
    Relation(
        "seal",
        _words(
            "iron copper wax clay glass marble ivory leather oak bronze lead jade slate tin "
            "pearl granite"
        ),
        (
            "{e} has a seal of {v}",
            "{e} bears a seal made of {v}",
            "the seal of {e} is made of {v}",
            "the material of the seal of {e} is {v}",
        ),
        ("What is the seal of {e} made of?", "Which material is the seal of {e}?"),
        "a seal of {v}",
    ),
    Relation(
        "emblem",
        _words(
            "fox heron otter badger raven stag hare wolf owl salmon boar falcon toad swan lynx "
            "beetle"
        ),
        (
            "{e} has the {v} as its emblem",
            "{e} carries the {v} as its emblem",
            "the emblem of {e} is the {v}",
            "the animal on the emblem of {e} is the {v}",
        ),
        ("Which animal is the emblem of {e}?", "What is the emblem of {e}?"),
        "the {v}",
    ),
    Relation(
        "month",
        _words(
            "January February March April May June July August September October November December"
        ),
        (
            "{e} is celebrated in {v}",
            "{e} has its feast in {v}",
            "the feast of {e} is in {v}",
            "the month when {e} is celebrated is {v}",
        ),
        ("When is {e} celebrated?", "In which month is the feast of {e}?"),
        "the month of {v}",
    ),
    Relation(
        "river",
        _words(
            "Arlen Boskar Cymra Dwelt Ebbin Frome Garrow Isker Jorl Lethe Mersey Nadder Orwin "
            "Purl Severin Tavy"
        ),
        (
            "{e} lies on the river {v}",
            "{e} is found by the river {v}",
            "the river of {e} is the {v}",
            "the river by which {e} is found is the {v}",
        ),
        ("On which river does {e} lie?", "By which river is {e} found?"),
        "the river {v}",
    ),
    Relation(
        "instrument",
        _words(
            "drum flute harp bell horn lute fiddle gong organ whistle trumpet lyre viol cymbal "
            "bagpipe oboe"
        ),
        (
            "{e} is announced by the {v}",
            "{e} is greeted with the {v}",
            "the instrument that announces {e} is the {v}",
            "the greeting of {e} is played on the {v}",
        ),
        ("Which instrument announces {e}?", "With which instrument is {e} greeted?"),
        "the {v}",
    ),
    Relation(
        "scent",
        _words(
            "mint rose thyme lavender cedar clover sage pine fennel jasmine basil nettle lilac "
            "ginger moss heather"
        ),
        (
            "{e} smells of {v}",
            "{e} has the scent of {v}",
            "the scent of {e} is {v}",
            "the plant that gives {e} its scent is {v}",
        ),
        ("What does {e} smell of?", "Which plant gives {e} its scent?"),
        "the scent of {v}",
    ),
    Relation(
        "order",
        _words(
            "lanterns keys anchors feathers candles ladders mirrors wheels needles barrels "
            "bridges ropes towers shields pebbles gloves"
        ),
        (
            "{e} belongs to the order of {v}",
            "{e} serves the order of {v}",
            "the order of {e} is that of {v}",
            "the order that {e} serves is that of {v}",
        ),
        ("To which order does {e} belong?", "Which order does {e} serve?"),
        "the order of {v}",
    ),
)
"""The kinds of facts. Each has many more values than a multiple choice has choices."""

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
