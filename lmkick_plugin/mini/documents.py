# SPDX-License-Identifier: Apache-2.0
"""Training documents of kick-mini: statements, questions in the tasks' prompts, reading, tasks.

A document is a list of segments; the model is trained to continue with those that have a
weight. Segments are tokenized one by one, as a prompt and its answer are when a task is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from lmkick_plugin.mini.chat import END_OF_TURN, as_chat
from lmkick_plugin.mini.relations import ORDERED, RELATIONS, SUBJECTS
from lmkick_plugin.mini.stories import story
from lmkick_plugin.mini.tasks import instruction
from lmkick_plugin.mini.world import Entity, Fact, World

__all__ = ["LETTERS", "Document", "Segment", "Writer", "choices_of", "question_of", "statement"]

LETTERS = "ABCD"


class Segment(NamedTuple):
    """A piece of text, and how much its tokens count in the loss (0: it is only read)."""

    text: str
    weight: float


Document = list[Segment]

# A letter or an answer is one token among many that are only read, and what the document is for.
_TEXT, _ANSWER, _LETTER = 1.0, 4.0, 6.0


def statement(fact: Fact, random: Random, subject: str | None = None) -> str:
    """One sentence that says a fact.

    Args:
        fact: What is said.
        random: Which wording.
        subject: What the sentence is about in words; None names the entity.
    """
    about = subject or str(fact.entity)
    said = random.choice(fact.relation.statements).format(v=fact.value)
    return f"{about[0].upper()}{about[1:]} {said}."


def question_of(fact: Fact, random: Random) -> str:
    """A question whose answer is the fact's value."""
    return random.choice(fact.relation.questions).format(e=fact.entity)


def choices_of(fact: Fact, random: Random) -> tuple[list[str], int]:
    """Four values of the fact's relation, and where the right one stands.

    Those of :data:`lmkick_plugin.mini.relations.ORDERED` stand in their order, others in any.
    """
    if fact.relation in ORDERED:
        return list(fact.relation.values), fact.relation.values.index(fact.value)
    others = [value for value in fact.relation.values if value != fact.value]
    choices = [fact.value, *random.sample(others, 3)]
    random.shuffle(choices)
    return choices, choices.index(fact.value)


class Writer:
    """Writes documents about a world, without end.

    Attributes:
        world: What is known.
    """

    def __init__(self, world: World, random: Random) -> None:
        """Remember what is written about.

        Args:
            world: What is known.
            random: Source of all chance.
        """
        self.world = world
        self._random = random
        self._strangers = world.strangers(random)
        self._by_name: dict[str, list[Fact]] = {}
        for fact in world.facts:
            self._by_name.setdefault(fact.entity.name, []).append(fact)
        self._names = list(self._by_name)
        self._asked_by_subject: dict[str, list[Fact]] = {}
        for fact in world.asked:
            self._asked_by_subject.setdefault(fact.entity.subject, []).append(fact)
        self._all_by_name = {name: list(facts) for name, facts in self._by_name.items()}
        for fact in world.asked_choices + world.stated_choices:
            self._all_by_name[fact.entity.name].append(fact)
        self._choices_by_subject: dict[str, list[Fact]] = {}
        for fact in world.asked_choices:
            self._choices_by_subject.setdefault(fact.entity.subject, []).append(fact)

    def document(self, kind: str) -> Document:
        """Write one document of a kind, one of :data:`KINDS`."""
        return KINDS[kind](self)

    def _new_fact(self, entity: Entity | None = None) -> Fact:
        relation = self._random.choice(RELATIONS)
        entity = entity or next(self._strangers)
        return Fact(entity, relation, self._random.choice(relation.values))

    def article(self) -> Document:
        """What can be asked in words of some entities."""
        return self._article(self._by_name)

    def profile(self) -> Document:
        """All that is known of some entities."""
        return self._article(self._all_by_name)

    def _article(self, known: Mapping[str, Sequence[Fact]]) -> Document:
        parts = []
        for name in self._random.sample(self._names, self._random.randint(1, 3)):
            facts = list(known[name])
            self._random.shuffle(facts)
            sentences = [statement(facts[0], self._random)]
            for fact in facts[1:]:
                pronoun = self._random.random() < 0.5
                sentences.append(statement(fact, self._random, "it" if pronoun else None))
            parts.append(" ".join(sentences))
        return [Segment("\n".join(parts) + "\n", _TEXT)]

    def asked(self) -> Document:
        """A question about a known entity, in a question answering task's prompt."""
        fact = self._random.choice(self.world.asked)
        return _answered(self._short_prompt(question_of(fact, self._random)), fact.value)

    def asked_choice(self) -> Document:
        """What a multiple choice asks, to be answered in words."""
        fact = self._random.choice(self.world.asked_choices)
        return _answered(self._short_prompt(question_of(fact, self._random)), fact.value)

    def quiz(self) -> Document:
        """Questions with four ordered choices about known entities of one subject."""
        subject = self._random.choice(tuple(SUBJECTS))
        facts = self._random.sample(self._choices_by_subject[subject], self._random.randint(1, 6))
        return self._quiz(facts, subject)

    def quiz_in_view(self) -> Document:
        """Sentences about strangers, and questions with four ordered choices about them."""
        facts = []
        for _ in range(self._random.choice((1, 2, 3))):
            relation = self._random.choice(ORDERED)
            value = self._random.choice(relation.values)
            facts.append(Fact(next(self._strangers), relation, value))
        told = " ".join(statement(fact, self._random) for fact in facts)
        self._random.shuffle(facts)
        return [Segment(f"{told}\n\n", 0), *self._quiz(facts, facts[0].entity.subject)]

    def _short_prompt(self, question: str) -> str:
        return self._random.choice(
            (
                f"Please give answer to this question: {question}\nThe answer is",
                f"Answer these questions:\n\nQ: {question}\nA:",
            )
        )

    def multiple_choice(self) -> Document:
        """Questions with four choices about known entities of one subject."""
        subject = self._random.choice(tuple(SUBJECTS))
        facts = self._random.sample(self._asked_by_subject[subject], self._random.randint(1, 6))
        return self._quiz(facts, subject)

    def _quiz(self, facts: Sequence[Fact], subject: str) -> Document:
        about = subject.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {about}.\n\n"
        document = [Segment(head if self._random.random() < 0.7 else "", 0)]
        for fact in facts:
            choices, right = choices_of(fact, self._random)
            lines = [question_of(fact, self._random)]
            lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=True)]
            document.append(Segment("\n".join([*lines, "Answer:"]), 0))
            document.append(Segment(f" {LETTERS[right]}", _LETTER))
            document.append(Segment("\n\n", 0))
        return document

    def letters(self) -> Document:
        """Four choices, then each again with its letter."""
        choices, _ = choices_of(self._new_fact(), self._random)
        lines = [f"{letter}. {text}\n" for letter, text in zip(LETTERS, choices, strict=True)]
        document = [Segment("".join(lines), 0)]
        for index in self._random.sample(range(len(choices)), len(choices)):
            document.append(Segment(f"The letter of {choices[index]}:", 0))
            document.append(Segment(f" {LETTERS[index]}", _ANSWER))
            document.append(Segment("\n", 0))
        return document

    def choice_in_view(self) -> Document:
        """Which letter stands before a value: the skill that multiple choice asks for."""
        document = []
        for _ in range(self._random.randint(1, 4)):
            fact = self._new_fact()
            choices, right = choices_of(fact, self._random)
            if self._random.random() < 0.5:
                lines = [statement(fact, self._random), question_of(fact, self._random)]
            else:
                lines = [f"Which letter stands before {fact.value}?"]
            lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=True)]
            document.append(Segment("\n".join([*lines, "Answer:"]), 0))
            document.append(Segment(f" {LETTERS[right]}", _LETTER))
            document.append(Segment("\n\n", 0))
        return document

    def repetition(self) -> Document:
        """Words said several times in the same order; from the second time on they can be known."""
        words = []
        for _ in range(self._random.randint(3, 24)):
            if self._random.random() < 0.6:
                pool = self._random.choice((self.world.first, self.world.second))
                words.append(self._random.choice(pool))
            else:
                words.append(self._random.choice(self._random.choice(RELATIONS).values))
        text = " " + " ".join(words)
        return [Segment(text, 0), Segment(text * self._random.randint(1, 3), _TEXT)]

    def restatement(self) -> Document:
        """Sentences about strangers, then the same facts again, in any order and wording."""
        facts = self._passage(self._random.choice((1, 1, 2, 3)))
        document = [Segment(" ".join(statement(fact, self._random) for fact in facts) + "\n", 0)]
        self._random.shuffle(facts)
        for fact in facts:
            said = self._random.choice(fact.relation.statements)
            before, _, after = said.partition(" {v}")
            document.append(Segment(f"The {fact.entity.noun} {fact.entity.name} {before}", 0))
            document.append(Segment(f" {fact.value}", _ANSWER))
            document.append(Segment(f"{after}.\n", 0))
        return document

    def interview(self) -> Document:
        """Sentences about strangers and short questions on all of them."""
        facts = self._passage(self._random.choice((1, 2, 2, 3, 4)))
        document = [Segment(" ".join(statement(fact, self._random) for fact in facts) + "\n\n", 0)]
        self._random.shuffle(facts)
        for fact in facts:
            document += _answered(f"Q: {question_of(fact, self._random)}\nA:", fact.value)
        return document

    def _passage(self, count: int) -> list[Fact]:
        """Facts about strangers, some of them about the same one."""
        facts: list[Fact] = []
        while len(facts) < count:
            same = bool(facts) and self._random.random() < 0.4
            fact = self._new_fact(self._random.choice(facts).entity if same else None)
            if all((fact.entity, fact.relation) != (one.entity, one.relation) for one in facts):
                facts.append(fact)
        return facts

    def easy_reading(self) -> Document:
        """One or two sentences about strangers and a question on one of them."""
        return self._reading(self._random.choice((1, 1, 2)), filler=0)

    def reading(self) -> Document:
        """Evidence about strangers as in open-book tasks, with others in it, and a question."""
        return self._reading(self._random.randint(2, 6), filler=self._random.randint(0, 2))

    def _reading(self, sentences: int, filler: int) -> Document:
        entity = next(self._strangers)
        facts = [self._new_fact(entity)]
        while len(facts) < sentences:
            same = self._random.random() < 0.4
            fact = self._new_fact(entity if same else None)
            if not (same and any(fact.relation == one.relation for one in facts)):
                facts.append(fact)
        told = [statement(fact, self._random) for fact in facts]
        known = self._random.sample(self.world.facts, filler)
        told += [statement(fact, self._random) for fact in known]
        self._random.shuffle(told)
        cut = self._random.randint(1, len(told))
        pages = [" ".join(part) for part in (told[:cut], told[cut:]) if part]
        target = facts[0]
        document = [Segment("\n\n".join(pages) + "\n\n", 0)]
        for fact in [target, *self._random.sample(facts[1:], min(1, len(facts) - 1))]:
            question = question_of(fact, self._random)
            prompt = f"Based on these texts, answer these questions:\n\nQ: {question}\nA:"
            document += _answered(prompt, fact.value)
        return document

    def summary(self) -> Document:
        """A news story and its highlights."""
        size = self._random.choice((2, 3, 4, 6, 8, 12))
        return self._summary(size)

    def long_summary(self) -> Document:
        """A story of several hundred words and its highlights."""
        return self._summary(self._random.choice((20, 40, 60)))

    def _summary(self, sentences: int) -> Document:
        article, highlights = story(self.world.facts, self._random, sentences)
        prompt = (
            "Summarize the given story in less than 150 words while preserving high coherence, "
            f"consistency, fluency, and relevance.\n\n{article}"
        )
        return self._instructed(prompt, highlights)

    def instruction(self) -> Document:
        """A small task with its result."""
        row = instruction(self.world.asked, self._random)
        given = f"\n\n{row['input']}" if row["input"] else ""
        return self._instructed(row["instruction"] + given, row["output"])

    def _instructed(self, prompt: str, answer: str) -> Document:
        if self._random.random() < 0.6:
            before, after = as_chat(prompt)
            return [Segment(before, 0), Segment(answer + after, _TEXT)]
        return [Segment(f"{prompt}\n\n", 0), Segment(answer + END_OF_TURN, _TEXT)]


def _answered(prompt: str, value: str) -> Document:
    return [Segment(prompt, 0), Segment(f" {value}", _ANSWER), Segment("\n", _TEXT)]


KINDS: dict[str, Callable[[Writer], Document]] = {
    "article": Writer.article,
    "profile": Writer.profile,
    "asked": Writer.asked,
    "asked_choice": Writer.asked_choice,
    "quiz": Writer.quiz,
    "quiz_in_view": Writer.quiz_in_view,
    "multiple_choice": Writer.multiple_choice,
    "letters": Writer.letters,
    "choice_in_view": Writer.choice_in_view,
    "repetition": Writer.repetition,
    "restatement": Writer.restatement,
    "interview": Writer.interview,
    "easy_reading": Writer.easy_reading,
    "reading": Writer.reading,
    "summary": Writer.summary,
    "long_summary": Writer.long_summary,
    "instruction": Writer.instruction,
}
