# SPDX-License-Identifier: Apache-2.0
"""A small data directory of the tasks' schema, and one TaskManager that reads from it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from task_yaml.kick_mmlu._generate_configs import CATEGORIES

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

TASK_FOLDER = Path(__file__).resolve().parents[2] / "task_yaml"
TASKS = {
    found[1]: path
    for path in sorted(TASK_FOLDER.rglob("*.yaml"))
    if (found := re.search(r"^task: (\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
}
"""File of each task, groups left out."""
SUBJECTS = sorted(subject for subjects in CATEGORIES.values() for subject in subjects)


def _freebaseqa(number: int) -> dict[str, Any]:
    parses = [
        {"Parse-Id": f"{number}.P0", "Answers": [{"AnswersMid": "m.1", "AnswersName": ["paris"]}]},
        {
            "Parse-Id": f"{number}.P1",
            "Answers": [
                {"AnswersMid": "m.2", "AnswersName": ["lutetia", "paris"]},
                {"AnswersMid": "m.3", "AnswersName": ["the city of light"]},
            ],
        },
    ]
    return {
        "Question-ID": f"FreebaseQA-{number}",
        "RawQuestion": f"What is the capital number {number} of France?",
        "ProcessedQuestion": "what is the capital",
        "Parses": parses,
    }


def _mmlu(subject: str, number: int) -> dict[str, Any]:
    return {
        "question": f" {subject}: what is {number} + 1? ",
        "subject": subject,
        "choices": [str(number + shift) for shift in range(4)],
        "answer": (number + len(subject)) % 4,
    }


def _triviaqa(number: int, pages: list[str], results: list[str]) -> dict[str, Any]:
    return {
        "question": f"Who wrote book {number}?",
        "question_id": f"q_{number}",
        "question_source": "",
        "entity_pages": {"filename": [""] * len(pages), "wiki_context": pages},
        "search_results": {"filename": [""] * len(results), "search_context": results},
        "answer": {
            "aliases": ["Jane Austen", "Austen"],
            "normalized_aliases": ["jane austen", "austen"],
            "value": "Jane Austen",
        },
    }


def _shots() -> list[dict[str, Any]]:
    """Train questions; one is scored as well, and one stands there twice."""
    rows = [_triviaqa(number, [], []) for number in range(9)]
    for number, row in enumerate(rows):
        row["question_id"] = f"train_{number}"
        row["answer"]["value"] = f"Author {number}"
        if number:
            row["question"] = f"Who wrote poem {number}?"
    return [*rows, rows[5]]


def _story(number: int, words: int) -> dict[str, Any]:
    filler = " ".join(f"word{number}" for _ in range(words - 4))
    return {
        "article": f"The cat {number} sat. {filler}",
        "highlights": f"A cat sat {number} times .\nIt was seen!",
        "id": f"story-{number}",
    }


def _mt_bench(number: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "question_id": 81 + number,
        "category": ["writing", "math", "reasoning"][number],
        "turns": [f"First question {number}?", f"Second question {number}?"],
    }
    if number:
        row["reference"] = [f"solution {number}.1", f"solution {number}.2"]
    return row


def _vicuna(number: int) -> dict[str, Any]:
    category = ["generic", "coding", "math", "common-sense"][number]
    return {"question_id": 1 + number, "category": category, "turns": [f"What is {number}?"]}


LENGTHS = [20, 470, 471, 789, 790, 900]
"""Words of the tiny stories: two of each size, at the bounds."""


def _instruction(number: int) -> dict[str, Any]:
    return {
        "instruction": f"Write about {number} things.",
        "input": f"thing {number}" if number % 2 else "",
        "output": f"Of {number} things there is little to say.",
    }


def _alpaca() -> list[dict[str, Any]]:
    """25 rows: three are scored, and one of the others asks the same as one of those."""
    rows = [_instruction(number) for number in range(25)]
    rows[7] = {**rows[7], "instruction": "write  about 10\nthings.", "input": ""}
    return rows


def tiny_files() -> dict[str, list[dict[str, Any]]]:
    """Rows of every file the tasks read, by path in the data directory."""
    evidence: list[tuple[list[str], list[str]]] = [
        (["Jane Austen wrote it.\n", "second page"], ["A search result."]),
        ([], ["Nobody knows. " * 500, "second result"]),
        ([], []),
        (["A page on something else."], []),
    ]
    lines = ["", " = First = \n", "", " Some text , with a comma . \n", " = = Part = = \n"]
    lines += [" More @-@ text . \n", "", " = Second = \n", "", " The end . \n"]
    return {
        "alpaca/train.jsonl": _alpaca(),
        "unnatural_instructions/test.jsonl": [_instruction(100 + number) for number in range(4)],
        "freebase_qa/eval.jsonl": [_freebaseqa(number) for number in range(4)],
        "freebase_qa/train.jsonl": [_freebaseqa(number) for number in range(5)],
        "mmlu/test.jsonl": [_mmlu(subject, n) for n in range(3) for subject in SUBJECTS],
        "mmlu/dev.jsonl": [_mmlu(subject, 10 + n) for subject in SUBJECTS for n in range(6)],
        "trivia_qa/nocontext_validation.jsonl": [_triviaqa(n, [], []) for n in range(4)],
        "trivia_qa/nocontext_train.jsonl": _shots(),
        "trivia_qa/rc_validation.jsonl": [
            _triviaqa(number, *texts) for number, texts in enumerate(evidence)
        ],
        "cnn_dailymail/test.jsonl": [_story(n, words) for n, words in enumerate(LENGTHS)],
        "instruct/vicuna_bench.jsonl": [_vicuna(number) for number in range(4)],
        "instruct/mt_bench.jsonl": [_mt_bench(number) for number in range(3)],
        "wikitext/test.jsonl": [{"text": line} for line in lines],
    }


def write_data(folder: Path, files: dict[str, list[dict[str, Any]]]) -> Path:
    """Write JSON Lines; MMLU's test file is gzipped, as real ones are."""
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "mmlu/test.jsonl":
            with gzip.open(path.with_name(path.name + ".gz"), "wt", encoding="utf-8") as out:
                out.write(text)
        else:
            path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data directory; not to be written to."""
    return write_data(tmp_path_factory.mktemp("data"), tiny_files())


@pytest.fixture(scope="session")
def make_manager() -> Callable[..., TaskManager]:
    """Make a TaskManager of our tasks alone, with metadata as ``--metadata`` gives it."""
    from lm_eval.tasks import TaskManager

    def make(**metadata: Any) -> TaskManager:
        return TaskManager(include_path=TASK_FOLDER, include_defaults=False, metadata=metadata)

    return make


@pytest.fixture(scope="session")
def tiny_manager(make_manager: Callable[..., TaskManager], tiny_data: Path) -> TaskManager:
    """The tasks on the small data."""
    return make_manager(data_dir=str(tiny_data))


@pytest.fixture(scope="session")
def evaluate(tiny_manager: TaskManager) -> Callable[..., dict[str, Any]]:
    """``simple_evaluate`` on the small data, in process."""
    from lm_eval import simple_evaluate

    def run(lm: Any, *tasks: str, **options: Any) -> dict[str, Any]:
        options.setdefault("task_manager", tiny_manager)
        names = options["task_manager"].match_tasks(list(tasks))
        # lm-eval's report on the machine takes longer than all the rest.
        with mock.patch("lm_eval.evaluator.add_env_info"):
            result: dict[str, Any] = simple_evaluate(model=lm, tasks=names, **options)
        return result

    return run
