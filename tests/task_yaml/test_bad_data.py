# SPDX-License-Identifier: Apache-2.0
"""Missing files and fields are named before the model is asked anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.data.sources import DataError
from tests.task_yaml.conftest import tiny_files, write_data
from tests.task_yaml.scripted import ScriptedLM

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

NEEDED = {
    "kick_alpaca": {"alpaca/train.jsonl": ["instruction", "input", "output"]},
    "kick_unnatural": {"unnatural_instructions/test.jsonl": ["instruction", "output"]},
    "kick_freebaseqa": {"freebase_qa/eval.jsonl": ["RawQuestion", "Parses"]},
    "kick_mmlu": {
        "mmlu/test.jsonl": ["question", "subject", "choices", "answer"],
        "mmlu/dev.jsonl": ["question", "subject", "choices", "answer"],
    },
    "kick_instruct": {"instruct/vicuna_bench.jsonl": ["question_id", "category", "turns"]},
    "kick_summarization_small": {"cnn_dailymail/test.jsonl": ["article", "highlights", "id"]},
    "kick_triviaqa_closed": {"trivia_qa/nocontext_validation.jsonl": ["question", "answer"]},
    "kick_triviaqa_open": {
        "trivia_qa/rc_validation.jsonl": ["question", "answer", "entity_pages", "search_results"]
    },
    "kick_wikitext": {"wikitext/test.jsonl": ["text"]},
    "kickonly_divergence": {"wikitext/test.jsonl": ["text"]},
    "kickonly_mtbench": {"instruct/mt_bench.jsonl": ["question_id", "category", "turns"]},
    "kickonly_perplexity": {"wikitext/test.jsonl": ["text"]},
    "llmkick_freebaseqa": {"freebase_qa/train.jsonl": ["RawQuestion", "Parses"]},
    "llmkick_instruct": {"instruct/vicuna_bench.jsonl": ["turns"]},
    "llmkick_mmlu": {"mmlu/test.jsonl": ["choices"], "mmlu/dev.jsonl": ["answer"]},
    "llmkick_summarization_large": {"cnn_dailymail/test.jsonl": ["highlights"]},
    "llmkick_triviaqa_closed": {"trivia_qa/nocontext_validation.jsonl": ["answer"]},
    "llmkick_triviaqa_open": {"trivia_qa/rc_validation.jsonl": ["entity_pages"]},
}
CASES = [(task, file) for task, files in NEEDED.items() for file in files]
FIELDS = [(task, file, field) for task, file in CASES for field in NEEDED[task][file]]


def check_refused(
    evaluate: Callable[..., Any], manager: TaskManager, task: str, *named: str
) -> None:
    lm = ScriptedLM()
    with pytest.raises(DataError) as refusal:
        evaluate(lm, task, task_manager=manager)
    for part in named:
        assert part in str(refusal.value)
    assert lm.asked == []


@pytest.mark.parametrize(("task", "file"), CASES)
def test_missing_file(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    tmp_path: Path,
    task: str,
    file: str,
) -> None:
    files = tiny_files()
    del files[file]
    write_data(tmp_path, files)
    check_refused(evaluate, make_manager(data_dir=str(tmp_path)), task, file, str(tmp_path))


@pytest.mark.parametrize(("task", "file", "field"), FIELDS)
def test_missing_field(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    tmp_path: Path,
    task: str,
    file: str,
    field: str,
) -> None:
    files = tiny_files()
    del files[file][1][field]  # the second row: every row is looked at
    write_data(tmp_path, files)
    manager = make_manager(data_dir=str(tmp_path))
    check_refused(evaluate, manager, task, field, str(tmp_path / file), "line 2")


@pytest.mark.parametrize(
    ("task", "file", "change", "said"),
    [
        ("kick_mmlu", "mmlu/test.jsonl", {"answer": 4}, "0, 1, 2 or 3"),
        ("kick_mmlu", "mmlu/test.jsonl", {"answer": "A"}, "0, 1, 2 or 3"),
        ("kick_mmlu", "mmlu/dev.jsonl", {"choices": ["a", "b"]}, "four"),
        ("kick_freebaseqa", "freebase_qa/eval.jsonl", {"Parses": 3}, "Answers"),
        (
            "kick_freebaseqa",
            "freebase_qa/eval.jsonl",
            {"Parses": [{"Answers": [{}]}]},
            "AnswersName",
        ),
        ("kick_instruct", "instruct/vicuna_bench.jsonl", {"turns": ["a", "b"]}, "one text"),
        ("kickonly_mtbench", "instruct/mt_bench.jsonl", {"turns": ["one"]}, "2 texts"),
        ("kickonly_mtbench", "instruct/mt_bench.jsonl", {"reference": ["one"]}, "'reference'"),
        ("kick_summarization_large", "cnn_dailymail/test.jsonl", {"article": " "}, "must be text"),
        (
            "kick_triviaqa_closed",
            "trivia_qa/nocontext_validation.jsonl",
            {"answer": {"normalized_aliases": "austen"}},
            "list of texts",
        ),
        (
            "kick_triviaqa_open",
            "trivia_qa/rc_validation.jsonl",
            {"entity_pages": {}},
            "entity_pages.wiki_context",
        ),
    ],
)
def test_values_that_cannot_be_meant(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    tmp_path: Path,
    task: str,
    file: str,
    change: dict[str, Any],
    said: str,
) -> None:
    files = tiny_files()
    files[file][0].update(change)
    write_data(tmp_path, files)
    manager = make_manager(data_dir=str(tmp_path))
    check_refused(evaluate, manager, task, said, str(tmp_path / file), "line 1")


def test_missing_subject(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    files = tiny_files()
    files["mmlu/dev.jsonl"] = [
        row for row in files["mmlu/dev.jsonl"] if row["subject"] != "virology"
    ]
    write_data(tmp_path, files)
    check_refused(evaluate, make_manager(data_dir=str(tmp_path)), "kick_mmlu", "virology", "dev")


def test_missing_directory(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    manager = make_manager(data_dir=str(tmp_path / "nowhere"))
    check_refused(evaluate, manager, "kick_freebaseqa", "nowhere", "does not exist")


def test_directory_of_the_environment(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LMKICK_DATA_DIR", str(tiny_data))
    assert len(make_manager().load(["kick_freebaseqa"])["tasks"]["kick_freebaseqa"].eval_docs) == 4
    # The metadata comes first, and is not helped out by the environment.
    shutil.copytree(tiny_data / "mmlu", tmp_path / "mmlu")
    check_refused(evaluate, make_manager(data_dir=str(tmp_path)), "kick_freebaseqa", str(tmp_path))


def test_evidence_chars_that_make_no_sense(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tiny_data: Path
) -> None:
    for value in (0, -5, "many"):
        manager = make_manager(data_dir=str(tiny_data), evidence_chars=value)
        check_refused(evaluate, manager, "kick_triviaqa_open", "evidence_chars", repr(value))
