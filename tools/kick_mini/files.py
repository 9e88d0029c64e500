# SPDX-License-Identifier: Apache-2.0
"""The made-up world as a data directory: the files and fields that the tasks read.

What is scored is about facts that training only states, and about names that it never uses; what
is for calibration and examples is about the others.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tools.kick_mini.documents import Writer, choices_of, question_of, statement
from tools.kick_mini.relations import RELATIONS, SUBJECTS
from tools.kick_mini.stories import story
from tools.kick_mini.tasks import TASK_NAMES, instruction
from tools.kick_mini.world import SEED, Entity, Fact, World, build_world

__all__ = ["FILES", "write_data"]

Row = Mapping[str, Any]

_SHOTS = 5
_READINGS = 300
_CLOSED = "trivia_qa/nocontext_validation.jsonl"
_WEB_TEXTS, _WEB_WORDS = 64, 1_800


def write_data(folder: Path, seed: int = SEED) -> None:
    """Write every file of the data directory; the same seed writes the same bytes.

    Args:
        folder: Where to.
        seed: Of the world.
    """
    world = build_world(seed)
    for name, rows in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(
            json.dumps(row, ensure_ascii=False) + "\n"
            for row in rows(world, Random(f"{name} {seed}"))
        )
        content = lines.encode()
        if path.suffix == ".gz":
            packed = io.BytesIO()
            with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
                file.write(content)
            content = packed.getvalue()
        path.write_bytes(content)


def _names(fact: Fact) -> list[str]:
    return [fact.value, fact.relation.alias.format(v=fact.value)]


def _freebase(facts: Iterable[Fact], random: Random, part: str) -> Iterator[Row]:
    for number, fact in enumerate(facts):
        question = question_of(fact, random)
        key = f"mini-{part}-{number}"
        answer = {"AnswersMid": f"m.{number}", "AnswersName": _names(fact)}
        yield {
            "Question-ID": key,
            "RawQuestion": question,
            "ProcessedQuestion": question.rstrip("?").lower(),
            "Parses": [
                {
                    "Parse-Id": f"{key}.P0",
                    "PotentialTopicEntityMention": fact.entity.name,
                    "TopicEntityName": fact.entity.name,
                    "TopicEntityMid": f"e.{number}",
                    "InferentialChain": fact.relation.name,
                    "Answers": [answer],
                }
            ],
        }


def _mmlu(facts: Sequence[Fact], random: Random, per_subject: int | None) -> Iterator[Row]:
    for subject in SUBJECTS:
        found = [fact for fact in facts if fact.entity.subject == subject]
        for fact in found if per_subject is None else random.sample(found, per_subject):
            choices, right = choices_of(fact, random)
            yield {
                "question": question_of(fact, random),
                "subject": subject,
                "choices": choices,
                "answer": right,
            }


def _trivia(
    key: str, fact: Fact, random: Random, page: str = "", result: str = ""
) -> dict[str, Any]:
    names = _names(fact)
    normalized = [_normalized(name) for name in names]
    return {
        "question": question_of(fact, random),
        "question_id": f"mini_{key}",
        "question_source": "lmkick",
        "entity_pages": {
            "doc_source": ["mini"] if page else [],
            "filename": [f"{key}.txt"] if page else [],
            "title": [fact.entity.name] if page else [],
            "wiki_context": [page] if page else [],
        },
        "search_results": {
            "description": [""] if result else [],
            "filename": [f"{key}_0.txt"] if result else [],
            "rank": [0] if result else [],
            "title": [fact.entity.name] if result else [],
            "url": [""] if result else [],
            "search_context": [result] if result else [],
        },
        "answer": {
            "aliases": names,
            "normalized_aliases": normalized,
            "matched_wiki_entity_name": "",
            "normalized_matched_wiki_entity_name": "",
            "normalized_value": normalized[0],
            "type": "FreeForm",
            "value": fact.value,
        },
    }


def _normalized(name: str) -> str:
    """As TriviaQA normalizes: lower case, without articles."""
    return " ".join(word for word in name.lower().split() if word not in {"a", "an", "the"})


def _closed_book(facts: Iterable[Fact], random: Random) -> Iterator[Row]:
    return (_trivia(str(number), fact, random) for number, fact in enumerate(facts))


def _open_book(world: World, random: Random, *, reserved: bool) -> Iterator[Row]:
    strangers = world.strangers(random, reserved=reserved)
    for number in range(_READINGS):
        entity = next(strangers)
        relations = random.sample(RELATIONS, random.randint(2, 3))
        facts = [Fact(entity, kind, random.choice(kind.values)) for kind in relations]
        others = [_fact_about(next(strangers), random) for _ in range(random.randint(1, 3))]
        yield _trivia(f"open_{number}", facts[0], random, *_told([*facts, *others], random))


def _told(facts: Iterable[Fact], random: Random) -> tuple[str, str]:
    """Sentences that say the facts, as a page and a search result."""
    told = [statement(fact, random) for fact in facts]
    random.shuffle(told)
    cut = random.randint(1, len(told) - 1)
    return " ".join(told[:cut]), " ".join(told[cut:])


def _closed_book_with_evidence(world: World, random: Random) -> Iterator[Row]:
    """The closed-book questions once more, with texts that hold their answers."""
    strangers = world.strangers(random, reserved=True)
    asked = _closed_book(world.stated, Random(f"{_CLOSED} {world.seed}"))
    for number, (row, fact) in enumerate(zip(asked, world.stated, strict=True)):
        others = [_fact_about(next(strangers), random) for _ in range(random.randint(1, 3))]
        told = _told([fact, *others], random)
        yield {**_trivia(str(number), fact, random, *told), "question": row["question"]}


def _fact_about(entity: Entity, random: Random) -> Fact:
    relation = random.choice(RELATIONS)
    return Fact(entity, relation, random.choice(relation.values))


def _stories(world: World, random: Random, sizes: Iterable[tuple[int, int, int]]) -> Iterator[Row]:
    """Stories of given numbers of words: (how many, at least, at most)."""
    number = 0
    for count, least, most in sizes:
        written = 0
        while written < count:
            sentences = random.randint(max(1, least // 9), max(4, most // 9))
            article, highlights = story(world.facts, random, sentences)
            if least <= len(article.split()) <= most:
                yield {"article": article, "highlights": highlights, "id": f"mini-{number}"}
                number, written = number + 1, written + 1


def _instructions(
    scored: Sequence[Fact], others: Sequence[Fact], random: Random, count: int
) -> Iterator[Row]:
    """Alpaca's every tenth row is scored."""
    for index in range(count):
        yield instruction(others if index % 10 else scored, random)


def _open_questions(world: World, random: Random, turns: int, first: int) -> Iterator[Row]:
    for number in range(80):
        task = TASK_NAMES[number * len(TASK_NAMES) // 80]
        asked = []
        for _ in range(turns):
            row = instruction(world.stated, random, task)
            asked.append("\n\n".join(part for part in (row["instruction"], row["input"]) if part))
        yield {"question_id": first + number, "category": task, "turns": asked}


def _articles(world: World, random: Random, count: int) -> Iterator[Row]:
    writer = Writer(world, random)
    for _ in range(count):
        yield {"text": "".join(segment.text for segment in writer.article())}


def _web_texts(world: World, random: Random) -> Iterator[Row]:
    """Long documents of everything the model was trained on, as a crawl of its world would be."""
    kinds = {"article": 5, "asked": 4, "reading": 3, "quiz": 2, "instruction": 2}
    writer = Writer(world, random)
    for _ in range(_WEB_TEXTS):
        parts: list[str] = []
        while sum(len(part.split()) for part in parts) < _WEB_WORDS:
            kind = random.choices(list(kinds), list(kinds.values()))[0]
            text = "".join(segment.text for segment in writer.document(kind))
            parts.append(text.replace("<|endoftext|>", "").strip())
        yield {"text": "\n\n".join(parts)}


_SIZES = ((40, 40, 300), (15, 480, 780), (10, 800, 950))

#: Every file, and what writes its rows.
FILES: dict[str, Callable[[World, Random], Iterable[Row]]] = {
    "freebase_qa/eval.jsonl": lambda world, random: _freebase(world.stated, random, "eval"),
    "freebase_qa/train.jsonl": lambda world, random: _freebase(world.asked, random, "train"),
    "mmlu/dev.jsonl": lambda world, random: _mmlu(world.asked, random, _SHOTS),
    "mmlu/test.jsonl": lambda world, random: _mmlu(world.stated, random, None),
    _CLOSED: lambda world, random: _closed_book(world.stated, random),
    "trivia_qa/nocontext_train.jsonl": lambda world, random: _closed_book(world.asked, random),
    "trivia_qa/rc_validation.jsonl": lambda world, random: (
        *_open_book(world, random, reserved=True),
        *_closed_book_with_evidence(world, random),
    ),
    "trivia_qa/rc_train.jsonl": lambda world, random: _open_book(world, random, reserved=False),
    "cnn_dailymail/test.jsonl": lambda world, random: _stories(world, random, _SIZES),
    "cnn_dailymail/train.jsonl": lambda world, random: _stories(world, random, [(80, 40, 300)]),
    "instruct/vicuna_bench.jsonl": lambda world, random: _open_questions(world, random, 1, 1),
    "instruct/mt_bench.jsonl": lambda world, random: _open_questions(world, random, 2, 81),
    "wikitext/test.jsonl": lambda world, random: _articles(world, random, 300),
    "wikitext/train.jsonl": lambda world, random: _articles(world, random, 400),
    "alpaca/train.jsonl": lambda world, random: _instructions(
        world.stated, world.asked, random, 1_500
    ),
    "unnatural_instructions/test.jsonl": lambda world, random: _instructions(
        world.stated, world.stated, random, 200
    ),
    "unnatural_instructions/train.jsonl": lambda world, random: _instructions(
        world.asked, world.asked, random, 300
    ),
    "web_text/train.jsonl.gz": _web_texts,
}
