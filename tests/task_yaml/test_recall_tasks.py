# SPDX-License-Identifier: Apache-2.0
"""The recall tasks: one set of facts, five prompts, checked distractors, planted models."""

from __future__ import annotations

import hashlib
import logging
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.data import recall
from lmkick_plugin.data.sources import DataError
from lmkick_plugin.inference import loaded_models
from lmkick_plugin.metrics.answers import normalize_spelling
from lmkick_plugin.report.recall import FORMS, state_of
from tests.task_yaml.conftest import TASKS, tiny_files, write_data
from tests.task_yaml.scripted import ScriptedLM

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

TOWNS = ["Arden", "Borlo", "Culm", "Dorn", "Elver", "Farrow", "Gale", "Holm", "Isk", "Jarrow"]
GROUP = [f"recall_kick_{form}" for form in FORMS]


def _fact(number: int, evidence: str | None) -> dict[str, Any]:
    town = TOWNS[number]
    return {
        "question": f"Where does baker {number} live?",
        "question_id": f"t_{number}",
        "answer": {
            "value": town,
            "aliases": [town, f"{town} town"],
            "normalized_aliases": [town.lower(), f"{town.lower()} town"],
        },
        "entity_pages": {"wiki_context": [evidence] if evidence else []},
        "search_results": {"search_context": []},
    }


@pytest.fixture
def manager(make_manager: Callable[..., TaskManager], tmp_path: Path) -> TaskManager:
    files = tiny_files()
    closed = [_fact(number, None) for number in range(10)]
    closed.append(closed[4])  # a repeated row, as on the Hub
    files["trivia_qa/nocontext_validation.jsonl"] = closed
    opened = [_fact(n, f"Baker {n} lives in {TOWNS[n]}." if n % 3 else "No.") for n in range(9)]
    opened.append({**_fact(9, "Jarrow"), "question": "Another question of the same identifier?"})
    files["trivia_qa/rc_validation.jsonl"] = opened
    for number, town in enumerate(TOWNS):
        answer = {"Answers": [{"AnswersName": [town]}]}
        row = {"RawQuestion": f"Home of cook {number}?", "Parses": [answer]}
        half = "eval" if number < 5 else "train"
        if number in (0, 5):
            files[f"freebase_qa/{half}.jsonl"] = []
        files[f"freebase_qa/{half}.jsonl"].append({"Question-ID": f"f_{number}", **row})
    return make_manager(data_dir=str(write_data(tmp_path, files)))


def in_order(numbers: range) -> list[int]:
    return sorted(numbers, key=lambda n: hashlib.sha256(f"t_{n}".encode()).hexdigest())


def number_of(prompt: str) -> int:
    return int(prompt.rsplit("baker ", 1)[-1].split(" ")[0])


def test_one_set_of_facts_in_five_prompts(
    evaluate: Callable[..., Any], manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    lm = ScriptedLM()
    with caplog.at_level(logging.WARNING):
        result = evaluate(lm, "recall_kick", task_manager=manager, bootstrap_iters=0)
    asked = in_order(
        range(9)
    )  # not the tenth: its identifier has another question in the other file
    assert asked != sorted(asked)
    for task in GROUP:
        names = [sample["doc"]["cluster"] for sample in result["samples"][task]]
        read = task == "recall_kick_read"
        assert names == [f"t_{n}" for n in asked if n % 3 or not read], task
    assert "3 of 9 questions are not asked with evidence" in caplog.text
    prompts: dict[str, list[tuple[Any, ...]]] = {}
    for kind, arguments in lm.asked:
        prompts.setdefault(kind, []).append(arguments)
    ask = "Answer these questions:\n\nQ: Where does baker {} live?\nA:".format
    texts = [arguments[0] for arguments in prompts["generate_until"]]
    assert [texts.count(ask(n)) for n in asked] == [11] * 9  # said once, tried ten times
    settings = [args[1] for args in prompts["generate_until"] if args[1]["do_sample"]]
    assert len(settings) == 90
    assert settings[0]["temperature"] == 0.8
    assert sum(text.count("\nA: Author") == 4 for text in texts) == 9  # shown
    assert sum("lives in" in text and text.endswith("\nA:") for text in texts) == 6  # read
    pairs = [arguments for arguments in prompts["loglikelihood"] if arguments[0]]
    alone = [arguments for arguments in prompts["loglikelihood"] if not arguments[0]]
    assert len(pairs) == len(alone) == 36
    assert {context for context, _ in pairs} == {ask(n) for n in asked}
    assert all(choice.startswith(" ") for _, choice in [*pairs, *alone])


def test_limit_takes_the_same_facts(evaluate: Callable[..., Any], manager: TaskManager) -> None:
    result = evaluate(ScriptedLM(), "recall_kick", task_manager=manager, limit=2)
    names = {task: [s["doc"]["cluster"] for s in result["samples"][task]] for task in GROUP}
    assert names["recall_kick_say"] == names["recall_kick_choose"] == names["recall_kick_try"]
    assert result["n-shot"]["recall_kick_shown"] == 4


def town_of(prompt: str) -> str:
    return TOWNS[int(re.findall(r"(?:baker|cook) (\d)", prompt)[-1])]


@pytest.mark.parametrize("group", ["recall_kick", "recall_kick_freebase"])
def test_every_task_of_a_group_runs_and_is_scored(
    evaluate: Callable[..., Any], manager: TaskManager, group: str
) -> None:
    def score(prompt: str, choice: str) -> tuple[float, bool]:
        return (-1.0 if prompt and choice == f" {town_of(prompt)}" else -9.0), False

    lm = ScriptedLM(say=lambda prompt: f" {town_of(prompt)}.", score=score)
    result = evaluate(lm, group, task_manager=manager, limit=2, bootstrap_iters=0)
    leaves = {
        name for name in TASKS
        if name.startswith("recall_kick") and ("freebase" in name) == ("freebase" in group)
    }  # fmt: skip
    assert set(result["samples"]) == leaves
    metrics = ("contains", "acc_norm", "acc_pmi", "reached", "rate")
    for name in leaves:
        scores = result["results"][name]
        found = [scores[f"{metric},none"] for metric in metrics if f"{metric},none" in scores]
        assert found
        assert set(found) == {1.0}, name
    alone = [arguments for kind, arguments in lm.asked if kind == "loglikelihood"]
    assert [context == "" for context, _ in alone].count(True) == 8


def states(result: dict[str, Any]) -> set[str]:
    found: dict[str, dict[str, bool]] = {}
    for form, metric in FORMS.items():
        for sample in result["samples"][f"recall_kick_{form}"]:
            found.setdefault(sample["doc"]["cluster"], {})[form] = sample[metric] == 1.0
    assert len(found) == 9
    return {state_of(asked) for asked in found.values()}


def knows(prompt: str, choice: str) -> tuple[float, bool]:
    right = choice.strip() == (TOWNS[number_of(prompt)] if prompt else "")
    return (-1.0 if right else -9.0), right


def knows_not(prompt: str, choice: str) -> tuple[float, bool]:
    return (-9.0 if choice.strip() == TOWNS[number_of(prompt)] else -1.0) if prompt else 0.0, False


def reads(prompt: str) -> str:
    return TOWNS[number_of(prompt)] if "lives in" in prompt else "?"


@pytest.mark.parametrize(
    ("lm", "expected"),
    [
        (ScriptedLM(say=lambda prompt: f" {TOWNS[number_of(prompt)]}."), {"said"}),
        (ScriptedLM(score=knows), {"out of reach"}),
        (ScriptedLM(say=reads, score=knows_not), {"readable only", "lost"}),
        (ScriptedLM(score=lambda p, c: (float("nan"), False)), {"lost"}),
    ],
    ids=["says all", "recognises", "reads", "knows nothing"],
)
def test_planted_models(
    evaluate: Callable[..., Any], manager: TaskManager, lm: ScriptedLM, expected: set[str]
) -> None:
    result = evaluate(lm, "recall_kick", task_manager=manager, bootstrap_iters=0)
    assert states(result) == expected
    scores = result["results"]["recall_kick_choose"]
    if expected == {"out of reach"}:
        assert scores["acc_norm,none"] == scores["acc_pmi,none"] == 1


def test_one_right_sample_of_ten_is_reached(
    evaluate: Callable[..., Any], manager: TaskManager
) -> None:
    said: dict[str, int] = {}

    def say(prompt: str) -> str:
        said[prompt] = said.get(prompt, 0) + 1
        return TOWNS[number_of(prompt)] if said[prompt] == 7 else "elsewhere\nArden"

    result = evaluate(ScriptedLM(say=say), "recall_kick_try", task_manager=manager)
    scores = result["results"]["recall_kick_try"]
    assert scores["reached,none"] == 1
    assert scores["rate,none"] == pytest.approx(0.1)


def test_distractors(data_dir: Path) -> None:
    """On real questions: never a name of the answer, of one kind for the most part, fixed."""
    docs = recall.load(form="choose", data_dir=str(data_dir))["validation"]
    assert len(docs) == 1_000
    places = [0] * 4
    for doc in docs:
        names = {normalize_spelling(name) for name in doc["aliases"]}
        offered = [normalize_spelling(choice) for choice in doc["choices"]]
        assert len(set(offered)) == 4
        places[doc["answer"]] += 1
        for number, one in enumerate(offered):
            assert (one in names) == (number == doc["answer"])
            others = [f" {other} " for k, other in enumerate(offered) if k != number]
            assert not any(f" {one} " in other for other in others)
    assert min(places) > 200
    again = recall.load(form="choose", data_dir=str(data_dir))["validation"]
    assert again["choices"][:] == docs["choices"][:]
    years = [d["choices"] for d in docs if re.fullmatch(r"1\d{3}", d["choices"][d["answer"]])]
    assert years
    assert all(re.fullmatch(r"1\d{3}|20\d\d", one) for choices in years for one in choices)


def test_too_few_answers_for_choices() -> None:
    facts = [recall.Fact(f"{n}", "Who?", f"Name{n}", (f"Name{n}",)) for n in range(3)]
    with pytest.raises(DataError, match="fewer than 3 other answers"):
        recall.choices_of(facts, facts)
    more = [*facts, recall.Fact("9", "How many?", "7", ("7",))]
    assert sorted(recall.choices_of(facts[:1], more)[0]) == ["7", "Name0", "Name1", "Name2"]


def test_files_without_a_common_question(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    files = tiny_files()
    for row in files["trivia_qa/rc_validation.jsonl"]:
        row["question_id"] = f"other_{row['question_id']}"
    manager = make_manager(data_dir=str(write_data(tmp_path, files)))
    with pytest.raises(DataError, match="no question in common"):
        evaluate(ScriptedLM(), "recall_kick_say", task_manager=manager)


def test_ranks_need_a_kick_model(
    evaluate: Callable[..., Any], manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    lm = ScriptedLM()
    with pytest.raises(ValueError, match=r"kickonly_recall_rank .*--model kick"):
        evaluate(lm, "kickonly_recall_rank", task_manager=manager)
    assert lm.asked == []
