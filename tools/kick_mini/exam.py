# SPDX-License-Identifier: Apache-2.0
"""Quick exams while kick-mini is trained: is the right answer the model's first choice?"""

from __future__ import annotations

from random import Random
from typing import Any

import torch

from tools.kick_mini.documents import LETTERS, choices_of, question_of, statement
from tools.kick_mini.relations import RELATIONS
from tools.kick_mini.world import Entity, Fact, World

__all__ = ["examine"]

_QUESTIONS = 128


def examine(model: Any, tokenizer: Any, world: World) -> dict[str, float]:
    """Shares of right first tokens, each over 128 questions that training does not ask.

    Args:
        model: kick-mini, at any time of its training.
        tokenizer: Its tokenizer.
        world: What it is trained on.

    Returns:
        By name: recall of facts that are asked (seen) and only stated; multiple choice answered in
        words and by letter, about either and about a reserved name that was just read of, and by
        letter after five examples; and reading about reserved names. Words and letters answer the
        same prompts, so one of them is always near 0.
    """
    random = Random("exam")
    asked = random.sample(world.asked, _QUESTIONS)
    stated = random.sample(world.stated, _QUESTIONS)
    exams = {
        "asked": [(_closed(fact, random), f" {fact.value}") for fact in asked],
        "stated": [(_closed(fact, random), f" {fact.value}") for fact in stated],
        "words_stated": [(_choice(fact, random)[0], f" {fact.value}") for fact in stated],
        "words_read": [_words_read(world, random) for _ in asked],
        "choice_asked": [_choice(fact, random) for fact in asked],
        "choice_stated": [_choice(fact, random) for fact in stated],
        "choice_read": [_choice_read(world, random) for _ in asked],
        "mmlu": [_five_shot(world, fact, random) for fact in stated],
        "reading_1": [_reading(world, random, 1) for _ in asked],
        "reading_5": [_reading(world, random, 5) for _ in asked],
    }
    was_training = model.training
    model.eval()
    try:
        return {name: round(_score(model, tokenizer, exam), 3) for name, exam in exams.items()}
    finally:
        model.train(was_training)


@torch.no_grad()
def _score(model: Any, tokenizer: Any, exam: list[tuple[str, str]]) -> float:
    prompts = [tokenizer.encode(prompt) for prompt, _ in exam]
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    padded = torch.tensor([one + [0] * (width - len(one)) for one in prompts], device=device)
    hidden = model.model(input_ids=padded, use_cache=False).last_hidden_state
    last = torch.tensor([len(one) - 1 for one in prompts], device=device)
    chosen = model.lm_head(hidden[torch.arange(len(prompts), device=device), last]).argmax(-1)
    right = [tokenizer.encode(answer)[0] for _, answer in exam]
    return float((chosen.cpu() == torch.tensor(right)).float().mean())


def _closed(fact: Fact, random: Random) -> str:
    question = question_of(fact, random)
    return f"Please give answer to this question: {question}\nThe answer is"


def _strange(world: World, random: Random, entity: Entity | None = None) -> Fact:
    relation = random.choice(RELATIONS)
    entity = entity or next(world.strangers(random, reserved=True))
    return Fact(entity, relation, random.choice(relation.values))


def _choice(fact: Fact, random: Random) -> tuple[str, str]:
    choices, right = choices_of(fact, random)
    lines = [question_of(fact, random)]
    lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=True)]
    return "\n".join([*lines, "Answer:"]), f" {LETTERS[right]}"


def _words_read(world: World, random: Random) -> tuple[str, str]:
    fact = _strange(world, random)
    return f"{statement(fact, random)}\n\n{_choice(fact, random)[0]}", f" {fact.value}"


def _choice_read(world: World, random: Random) -> tuple[str, str]:
    fact = _strange(world, random)
    question, letter = _choice(fact, random)
    return f"{statement(fact, random)}\n\n{question}", letter


def _five_shot(world: World, fact: Fact, random: Random) -> tuple[str, str]:
    subject = fact.entity.subject
    others = [one for one in world.asked if one.entity.subject == subject]
    shots = ["".join(_choice(one, random)) for one in random.sample(others, 5)]
    question, letter = _choice(fact, random)
    about = subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {about}."
    return "\n\n".join([head, *shots, question]), letter


def _reading(world: World, random: Random, sentences: int) -> tuple[str, str]:
    facts = [_strange(world, random) for _ in range(sentences)]
    told = " ".join(statement(fact, random) for fact in facts)
    question = question_of(facts[0] if sentences == 1 else random.choice(facts), random)
    target = next(fact for fact in facts if str(fact.entity) in question)
    return (
        f"{told}\n\nBased on these texts, answer these questions:\n\nQ: {question}\nA:",
        f" {target.value}",
    )
