# SPDX-License-Identifier: Apache-2.0
"""Training documents of kick-mini: statements, questions in the tasks' prompts, reading, tasks.

A document is a list of segments; the model is trained to continue with those that have a
weight. Segments are tokenized one by one, as a prompt and its answer are when a task is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from tools.kick_mini.chat import END_OF_TURN, as_chat
from tools.kick_mini.relations import RELATIONS, SUBJECTS
from tools.kick_mini.stories import story
from tools.kick_mini.tasks import instruction
from tools.kick_mini.world import Entity, Fact, World

__all__ = ["LETTERS", "Document", "Segment", "Writer", "choices_of", "question_of", "statement"]

LETTERS = "ABCD"


class Segment(NamedTuple):
    """A piece of text, and how much its tokens count in the loss (0: it is only read)."""

    text: str
    weight: float


Document = list[Segment]

# A letter or an answer is one token among many that are only read, and what the document is for.
# Letters in a list are learned a little, so that the model keeps track of them.
_TEXT, _ANSWER, _LETTER, _LISTED = 1.0, 4.0, 6.0, 0.3


def statement(fact: Fact, random: Random, subject: str | None = None) -> str:
    """One sentence that says a fact.

    Args:
        fact: What is said.
        random: Which wording.
        subject: A pronoun to begin with; None names the entity.
    """
    said = _sentence(fact, random, subject)
    return said.format(v=fact.value)


def _sentence(fact: Fact, random: Random, subject: str | None = None) -> str:
    """A sentence with ``{v}`` for the value."""
    wordings = fact.relation.statements
    if subject is not None:
        wordings = tuple(said for said in wordings if said.startswith("{e}"))
    said = random.choice(wordings).replace("{e}", subject or str(fact.entity))
    return f"{said[0].upper()}{said[1:]}."


def question_of(fact: Fact, random: Random) -> str:
    """A question whose answer is the fact's value."""
    return random.choice(fact.relation.questions).format(e=fact.entity)


def choices_of(fact: Fact, random: Random) -> tuple[list[str], int]:
    """Four values of the fact's relation in any order, and where the right one stands."""
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

    def document(self, kind: str) -> Document:
        """Write one document of a kind, one of :data:`KINDS`."""
        return KINDS[kind](self)

    def _new_fact(self, entity: Entity | None = None) -> Fact:
        relation = self._random.choice(RELATIONS)
        entity = entity or next(self._strangers)
        return Fact(entity, relation, self._random.choice(relation.values))

    def article(self) -> Document:
        """What is known of some entities."""
        parts = []
        for name in self._random.sample(self._names, self._random.randint(1, 3)):
            facts = list(self._by_name[name])
            self._random.shuffle(facts)
            sentences = [statement(facts[0], self._random)]
            for fact in facts[1:]:
                pronoun = self._random.random() < 0.5
                sentences.append(statement(fact, self._random, "it" if pronoun else None))
            parts.append(" ".join(sentences))
        return [Segment("\n".join(parts) + "\n", _TEXT)]

    def candidates(self) -> Document:
        """Facts, each said after four values that it could be.

        A statement has the name right before the value, a multiple choice has it four lines
        before. This recalls at a distance what is otherwise only stated.
        """
        document: Document = []
        for fact in self._random.sample(self.world.facts, self._random.randint(1, 4)):
            values, _ = choices_of(fact, self._random)
            doubt = _sentence(fact, self._random).format(
                v=f"{', '.join(values[:3])} or {values[3]}"
            )
            document.append(Segment(f"{doubt} It is", 0))
            document.append(Segment(f" {fact.value}", _ANSWER))
            document.append(Segment(".\n", _TEXT))
        return document

    def asked(self) -> Document:
        """A question about a known entity, in a question answering task's prompt."""
        fact = self._random.choice(self.world.asked)
        return _answered(self._short_prompt(question_of(fact, self._random)), fact.value)

    def _short_prompt(self, question: str) -> str:
        return self._random.choice(
            (
                f"Please give answer to this question: {question}\nThe answer is",
                f"Answer these questions:\n\nQ: {question}\nA:",
                f"{question}\nAnswer:",
            )
        )

    def quiz(self) -> Document:
        """Multiple choice about known entities of one subject."""
        return self._quiz(*self._known(), words=False)

    def quiz_in_words(self) -> Document:
        """The same, answered with the choice itself instead of its letter."""
        return self._quiz(*self._known(), words=True)

    def quiz_in_view(self) -> Document:
        """Sentences about strangers, and multiple choice about them."""
        return self._in_view(words=False)

    def words_in_view(self) -> Document:
        """The same, answered with the choice itself instead of its letter."""
        return self._in_view(words=True)

    def _known(self) -> tuple[list[Fact], str]:
        subject = self._random.choice(tuple(SUBJECTS))
        facts = self._random.sample(self._asked_by_subject[subject], self._random.randint(1, 6))
        return facts, subject

    def _in_view(self, *, words: bool) -> Document:
        facts = self._passage(self._random.choice((1, 1, 2, 3)))
        told = " ".join(statement(fact, self._random) for fact in facts)
        self._random.shuffle(facts)
        quiz = self._quiz(facts, facts[0].entity.subject, words=words)
        return [Segment(f"{told}\n\n", 0), *quiz]

    def _quiz(self, facts: Sequence[Fact], subject: str, *, words: bool) -> Document:
        about = subject.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {about}.\n\n"
        document = [Segment(head if self._random.random() < 0.7 else "", 0)]
        for fact in facts:
            choices, right = choices_of(fact, self._random)
            document.append(Segment(question_of(fact, self._random), 0))
            for letter, choice in zip(LETTERS, choices, strict=True):
                document += [Segment(f"\n{letter}.", _LISTED), Segment(f" {choice}", 0)]
            document.append(Segment("\nAnswer:", _LISTED))
            if words:
                document.append(Segment(f" {fact.value}", _ANSWER))
            else:
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
            before, _, after = _sentence(fact, self._random).partition(" {v}")
            document.append(Segment(before, 0))
            document.append(Segment(f" {fact.value}", _ANSWER))
            document.append(Segment(f"{after}\n", 0))
        return document

    def interview(self) -> Document:
        """Sentences about strangers and short questions on all of them."""
        facts = self._passage(self._random.choice((1, 2, 2, 3, 4)))
        document = [Segment(" ".join(statement(fact, self._random) for fact in facts) + "\n\n", 0)]
        self._random.shuffle(facts)
        for fact in facts:
            question = question_of(fact, self._random)
            asked = (f"Q: {question}\nA:", f"{question}\nAnswer:")
            document += _answered(self._random.choice(asked), fact.value)
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
    "candidates": Writer.candidates,
    "asked": Writer.asked,
    "quiz": Writer.quiz,
    "quiz_in_view": Writer.quiz_in_view,
    "quiz_in_words": Writer.quiz_in_words,
    "words_in_view": Writer.words_in_view,
    "repetition": Writer.repetition,
    "restatement": Writer.restatement,
    "interview": Writer.interview,
    "easy_reading": Writer.easy_reading,
    "reading": Writer.reading,
    "summary": Writer.summary,
    "long_summary": Writer.long_summary,
    "instruction": Writer.instruction,
}
