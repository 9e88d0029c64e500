# SPDX-License-Identifier: Apache-2.0
"""Prompts, character by character."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.data import freebaseqa, triviaqa
from lmkick_plugin.data.sources import DataError
from tests.task_yaml.conftest import TASKS, tiny_files, write_data
from tests.task_yaml.scripted import ScriptedLM

if TYPE_CHECKING:
    from pathlib import Path

    from lm_eval.tasks import TaskManager

FILES = tiny_files()


def prompts(evaluate: Callable[..., Any], task: str, **options: Any) -> list[str]:
    lm = ScriptedLM()
    evaluate(lm, task, bootstrap_iters=0, **options)
    return list(dict.fromkeys(arguments[0] for _, arguments in lm.asked))


def test_freebaseqa(evaluate: Callable[..., Any]) -> None:
    assert prompts(evaluate, "kick_freebaseqa") == [
        f"Please give answer to this question: {row['RawQuestion']}\nThe answer is"
        for row in FILES["freebase_qa/eval.jsonl"]
    ]
    assert prompts(evaluate, "llmkick_freebaseqa") == [
        f"Please give answer to this question: {row['RawQuestion']}\nThe answer is "
        for row in FILES["freebase_qa/train.jsonl"]
    ]


@pytest.mark.parametrize(
    ("kind", "file"), [("closed", "nocontext_validation"), ("open", "rc_validation")]
)
def test_repeated_questions(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    tmp_path: Path,
    kind: str,
    file: str,
) -> None:
    files = tiny_files()
    rows = files[f"trivia_qa/{file}.jsonl"]
    rows.insert(2, {**rows[0], "search_results": {"search_context": ["other evidence"]}})
    rows.append({**rows[1], "question_id": "q_9"})
    manager = make_manager(data_dir=str(write_data(tmp_path, files)))
    lm = ScriptedLM()
    result = evaluate(lm, f"kick_triviaqa_{kind}", task_manager=manager)
    samples = result["samples"][f"kick_triviaqa_{kind}"]
    assert [sample["doc_id"] for sample in samples] == [0, 1, 2, 3, 4]
    assert [arguments[0].split("Q: ")[1] for _, arguments in lm.asked] == [
        f"Who wrote book {number}?\nA:" for number in (0, 1, 2, 3, 1)
    ]
    # The same question under another id: one cluster where prompts are equal, two where not.
    clusters = [sample["doc"]["cluster"] for sample in samples]
    assert len(set(clusters)) == (4 if kind == "closed" else 5)
    # The released code asks every row, and its documents are what they were.
    twin = evaluate(ScriptedLM(), f"llmkick_triviaqa_{kind}", task_manager=manager)
    released = twin["samples"][f"llmkick_triviaqa_{kind}"]
    assert len(released) == 6
    columns = {"question", "aliases"} | ({"evidence"} if kind == "open" else set())
    assert set(released[0]["doc"]) == columns


@pytest.mark.parametrize("task", ["kick_triviaqa_closed", "llmkick_triviaqa_closed"])
def test_triviaqa_closed(evaluate: Callable[..., Any], task: str) -> None:
    assert prompts(evaluate, task) == [
        f"Answer these questions:\n\nQ: {row['question']}\nA:"
        for row in FILES["trivia_qa/nocontext_validation.jsonl"]
    ]


def test_triviaqa_open(evaluate: Callable[..., Any]) -> None:
    ask = "Based on these texts, answer these questions:\n\nQ: Who wrote book {}?\nA:".format
    long = ("Nobody knows. " * 500)[:6000]
    assert long.endswith("Nobody k")  # the limit falls inside a word
    assert prompts(evaluate, "kick_triviaqa_open") == [
        f"Jane Austen wrote it.\n\nA search result.\n\n{ask(0)}",
        f"{long.removesuffix(' k')}\n\n{ask(1)}",
        ask(2),
        f"A page on something else.\n\n{ask(3)}",
    ]


def test_triviaqa_open_as_released(evaluate: Callable[..., Any]) -> None:
    ask = "Based on these texts, answer these questions:\n\nQ: Who wrote book {}?\nA:".format
    assert prompts(evaluate, "llmkick_triviaqa_open") == [
        f"Jane Austen wrote it.\nA search result.\n\n{ask(0)}",
        f"{('Nobody knows. ' * 500)[:3072]}\n\n{ask(1)}",
        ask(2),
        f"A page on something else.\n\n{ask(3)}",
    ]


@pytest.mark.parametrize("value", [8, "8", 8.0])
def test_evidence_chars_is_metadata(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    tiny_data: Path,
    value: object,
) -> None:
    manager = make_manager(data_dir=str(tiny_data), evidence_chars=value)
    found = prompts(evaluate, "kick_triviaqa_open", task_manager=manager)
    assert [prompt.split("\n")[0] for prompt in found[:2]] == ["Jane", "Nobody"]


def mmlu_block(row: dict[str, Any], *, answer: bool) -> str:
    lines = [row["question"].strip()]
    lines += [f"{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True)]
    return "\n".join([*lines, f"Answer: {'ABCD'[row['answer']]}\n\n" if answer else "Answer:"])


@pytest.mark.parametrize("shots", [5, 2, 0])
def test_mmlu(evaluate: Callable[..., Any], shots: int) -> None:
    subject = "high_school_us_history"
    options = {} if shots == 5 else {"num_fewshot": shots}
    rows = {
        split: [row for row in FILES[f"mmlu/{split}.jsonl"] if row["subject"] == subject]
        for split in ("dev", "test")
    }
    intro = (
        "The following are multiple choice questions (with answers) about high school us history."
    )
    head = f"{intro}\n\n" + "".join(mmlu_block(row, answer=True) for row in rows["dev"][:shots])
    assert prompts(evaluate, f"mmlu_kick_{subject}", **options) == [
        head + mmlu_block(row, answer=False) for row in rows["test"]
    ]


def test_mmlu_asks_for_four_letters(evaluate: Callable[..., Any]) -> None:
    lm = ScriptedLM()
    evaluate(lm, "mmlu_kick_anatomy", limit=1, bootstrap_iters=0)
    assert [arguments[1] for _, arguments in lm.asked] == [" A", " B", " C", " D"]


def test_more_shots_than_there_are_stop_before_the_model(evaluate: Callable[..., Any]) -> None:
    lm = ScriptedLM()
    with pytest.raises(AssertionError, match="exceeds the 6 that are available"):
        evaluate(lm, "mmlu_kick_anatomy", num_fewshot=7)
    assert lm.asked == []


def test_mmlu_as_released(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tiny_data: Path
) -> None:
    dev = [row for row in FILES["mmlu/dev.jsonl"] if row["subject"] == "anatomy"][:5]
    test = next(row for row in FILES["mmlu/test.jsonl"] if row["subject"] == "anatomy")
    intro = "The following are multiple choice questions (with answers) about  anatomy.\n\n"

    def block(row: dict[str, Any], *, answer: bool) -> str:
        kept = mmlu_block(row, answer=answer)
        return row["question"] + kept.removeprefix(row["question"].strip())

    def whole(shots: int) -> str:
        return intro + "".join(block(row, answer=True) for row in dev[:shots]) + last

    last = block(test, answer=False)
    assert prompts(evaluate, "mmlu_llmkick_anatomy")[0] == whole(5)
    for shots in (4, 1, 0):
        for room in (0, 7):  # 7 characters are room for no other shot
            manager = make_manager(data_dir=str(tiny_data), prompt_chars=len(whole(shots)) + room)
            found = prompts(evaluate, "mmlu_llmkick_anatomy", task_manager=manager)
            assert found[0] == whole(shots)
    manager = make_manager(data_dir=str(tiny_data), prompt_chars=1)
    assert prompts(evaluate, "mmlu_llmkick_anatomy", task_manager=manager)[0] == whole(0)


def test_generation_settings(evaluate: Callable[..., Any]) -> None:
    expected = {
        "kick_freebaseqa": (["\n"], 32),
        "kick_triviaqa_closed": (["\n"], 32),
        "kick_triviaqa_open": (["\n"], 32),
        "llmkick_freebaseqa": ([], 128),
        "llmkick_triviaqa_closed": ([], 32),
        "llmkick_triviaqa_open": ([], 32),
        "mmlu_llmkick_anatomy": ([], 1),
    }
    for task, (until, tokens) in expected.items():
        lm = ScriptedLM()
        evaluate(lm, task, limit=1, bootstrap_iters=0)
        settings = lm.asked[0][1][1]
        assert settings == {"until": until, "max_gen_toks": tokens, "do_sample": False}


def test_shots_are_not_given_to_zero_shot_tasks(evaluate: Callable[..., Any]) -> None:
    for task in ("kick_alpaca", "llmkick_freebaseqa", "llmkick_triviaqa_closed"):
        assert prompts(evaluate, task, num_fewshot=3) == prompts(evaluate, task)


def triviaqa_shots(count: int) -> str:
    """The first by hash, without the one that is scored too."""
    rows = {
        row["question_id"]: row
        for row in FILES["trivia_qa/nocontext_train.jsonl"]
        if "book" not in row["question"]
    }
    order = sorted(rows, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert order != sorted(order)
    return "".join(
        f"Q: {rows[name]['question']}\nA: {rows[name]['answer']['value']}\n\n"
        for name in order[:count]
    )


@pytest.mark.parametrize("count", [1, 5])
def test_shots_of_triviaqa(evaluate: Callable[..., Any], count: int) -> None:
    head = "Answer these questions:\n\n" + triviaqa_shots(count)
    assert prompts(evaluate, "kick_triviaqa_closed", num_fewshot=count) == [
        f"{head}Q: {row['question']}\nA:" for row in FILES["trivia_qa/nocontext_validation.jsonl"]
    ]
    # Open book: as closed, before the evidence of the scored question.
    assert prompts(evaluate, "kick_triviaqa_open", num_fewshot=count) == [
        head + prompt for prompt in prompts(evaluate, "kick_triviaqa_open")
    ]


def test_shots_of_freebaseqa(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    files = tiny_files()
    train = files["freebase_qa/train.jsonl"]
    for number, row in enumerate(train):
        row["RawQuestion"] = f"Shot {number}?"
        row["Question-ID"] = f"train-{number}"
    train[1]["Parses"] = []  # a question without an answer is not an example
    train[2]["RawQuestion"] = " " + files["freebase_qa/eval.jsonl"][0]["RawQuestion"].upper()
    manager = make_manager(data_dir=str(write_data(tmp_path, files)))
    kept = sorted([0, 3, 4], key=lambda n: hashlib.sha256(f"train-{n}".encode()).hexdigest())
    ask = "Please give answer to this question: {}\nThe answer is".format
    head = "".join(f"{ask(f'Shot {n}?')} paris\n\n" for n in kept)
    options = {"num_fewshot": 3, "task_manager": manager}
    assert prompts(evaluate, "kick_freebaseqa", **options) == [
        head + ask(row["RawQuestion"]) for row in files["freebase_qa/eval.jsonl"]
    ]
    lm = ScriptedLM()
    with pytest.raises(DataError, match="3 unscored questions for num_fewshot=4"):
        evaluate(lm, "kick_freebaseqa", task_manager=manager, num_fewshot=4)
    assert lm.asked == []


def test_examples_and_calibration_text_have_the_form_of_the_prompt(
    make_manager: Callable[..., TaskManager],
) -> None:
    """It stands in YAML and in the code."""
    manager = make_manager(data_dir="mini")
    families = ("kick_freebaseqa", "kick_triviaqa_", "recall_kick_", "kickonly_recall_")
    tasks = manager.load([name for name in TASKS if name.startswith(families)])["tasks"]
    assert len(tasks) == 13
    for name, task in tasks.items():
        doc = task.eval_docs[0]
        solved = freebaseqa.SOLVED if "freebase" in name else triviaqa.SOLVED
        assert f"{task.doc_to_text(doc)} X".endswith(solved.format(doc["question"], "X")), name


def test_shots_are_found_once_for_all_documents(
    evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmkick_plugin.tasks.few_shot import TriviaQATask

    load, loaded = TriviaQATask.load_shots, []

    def counted(*arguments: Any) -> Any:
        loaded.append(arguments[0])
        return load(*arguments)

    monkeypatch.setattr(TriviaQATask, "load_shots", staticmethod(counted))
    assert len(prompts(evaluate, "kick_triviaqa_closed", num_fewshot=2)) > 1
    assert loaded == [2]


def test_shots_without_a_train_split(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    files = tiny_files()
    del files["trivia_qa/nocontext_train.jsonl"]
    manager = make_manager(data_dir=str(write_data(tmp_path, files)))
    evaluate(ScriptedLM(), "kick_triviaqa_open", task_manager=manager)  # without shots: not needed
    with pytest.raises(DataError, match="no file trivia_qa/nocontext_train"):
        evaluate(ScriptedLM(), "kick_triviaqa_open", task_manager=manager, num_fewshot=1)


QUESTION = re.compile(r"(Q: |Please give answer)[^\n]*\n(A:|The answer is)")


@pytest.mark.parametrize(
    "task", ["kick_triviaqa_closed", "kick_triviaqa_open", "kick_freebaseqa", "recall_kick_shown"]
)
def test_shots_are_recorded_and_turns_of_a_conversation(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], task: str
) -> None:
    run: dict[str, Any] = {"num_fewshot": 2, "task_manager": make_manager(data_dir="mini")}
    run["limit"] = 3
    result = evaluate(ScriptedLM(), task, bootstrap_iters=0, **run)
    assert result["n-shot"][task] == 2
    plain = prompts(evaluate, task, **run)
    assert len(plain) == 3
    # An answer begins behind its question and a space, and ends at the blank line.
    turns = []
    for prompt in plain:
        first, second, _ = QUESTION.finditer(prompt)
        ends = [prompt.index("\n\n", shot.end()) for shot in (first, second)]
        turns.append(
            f"[user]{prompt[: first.end()]}[assistant]{prompt[first.end() + 1 : ends[0]]}"
            f"[user]{prompt[ends[0] + 2 : second.end()]}"
            f"[assistant]{prompt[second.end() + 1 : ends[1]]}[user]{prompt[ends[1] + 2 :]}"
            "[assistant]"
        )
    chat = {"apply_chat_template": True, **run}
    assert prompts(evaluate, task, fewshot_as_multiturn=True, **chat) == turns
    single = prompts(evaluate, task, fewshot_as_multiturn=False, **chat)
    assert single == [f"[user]{prompt}[assistant]" for prompt in plain]


def test_chat_template(evaluate: Callable[..., Any]) -> None:
    found = prompts(evaluate, "kick_freebaseqa", apply_chat_template=True)
    plain = prompts(evaluate, "kick_freebaseqa")
    assert found == [f"[user]{prompt}[assistant]" for prompt in plain]


def test_chat_template_for_mmlu(evaluate: Callable[..., Any]) -> None:
    lm = ScriptedLM()
    evaluate(lm, "mmlu_kick_anatomy", limit=1, apply_chat_template=True, bootstrap_iters=0)
    prompt, letter = lm.asked[0][1]
    assert prompt.startswith("[system]The following are multiple choice questions")
    assert (prompt.endswith("Answer:[assistant]"), letter) == (True, "A")
