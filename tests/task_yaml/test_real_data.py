# SPDX-License-Identifier: Apache-2.0
"""The tasks on real questions: how many there are, that prompts are sane, that they run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.metrics import answers
from tests.task_yaml.conftest import SUBJECTS
from tests.task_yaml.scripted import ScriptedLM

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


@pytest.fixture(scope="module")
def real_manager(make_manager: Callable[..., TaskManager], data_dir: Path) -> TaskManager:
    return make_manager(data_dir=str(data_dir))


@pytest.fixture(scope="module")
def tasks(real_manager: TaskManager) -> dict[str, Any]:
    names = real_manager.match_tasks(["kick_*", "llmkick_*", "kickonly_*"])
    loaded: dict[str, Any] = real_manager.load(names)["tasks"]
    return loaded


def test_counts(tasks: dict[str, Any]) -> None:
    count = {name: len(task.eval_docs) for name, task in tasks.items()}
    assert count["kick_freebaseqa"] == 3_996
    assert count["llmkick_freebaseqa"] == 1_001
    assert sum(count[f"mmlu_kick_{subject}"] for subject in SUBJECTS) == 14_042
    assert sum(count[f"mmlu_llmkick_{subject}"] for subject in SUBJECTS) == 14_042
    assert {len(tasks[f"mmlu_kick_{subject}"].dataset["dev"]) for subject in SUBJECTS} == {5}
    assert count["kick_triviaqa_closed"] == count["llmkick_triviaqa_closed"] == 11_313
    assert count["kick_triviaqa_open"] == count["llmkick_triviaqa_open"] == 7_962
    assert count["kick_wikitext"] == 62


def test_wikitext_is_all_there(tasks: dict[str, Any], data_dir: Path) -> None:
    import json

    lines = (data_dir / "wikitext" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["text"] for line in lines]
    docs = sorted(
        tasks["kick_wikitext"].eval_docs, key=lambda doc: int(doc["cluster"].split(":")[0])
    )
    pages = [doc["page"] for doc in docs]
    assert " ".join(" ".join(pages).split()) == " ".join("".join(rows).split())
    assert all(re.match(r" = [^=].* = \n", page) for page in pages)
    (doc,) = tasks["kickonly_perplexity"].eval_docs
    assert doc["characters"] == len("\n\n".join(rows))


def test_mmlu_asks_what_lm_eval_asks(tasks: dict[str, Any]) -> None:
    """Prompt and choices of lm-eval's own five-shot ``mmlu``, by its own templates."""
    import importlib.util

    from lm_eval.tasks._yaml_loader import load_yaml
    from lm_eval.utils import apply_template

    spec = importlib.util.find_spec("lm_eval.tasks")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or []))) / "mmlu" / "default"
    for subject in ("professional_law", "high_school_us_history", "virology"):
        task, theirs = tasks[f"mmlu_kick_{subject}"], load_yaml(folder / f"mmlu_{subject}.yaml")
        assert theirs["doc_to_choice"] == task.config.doc_to_choice
        shots = "".join(
            apply_template(theirs["doc_to_text"], shot) + f" {'ABCD'[shot['answer']]}\n\n"
            for shot in task.dataset["dev"]
        )
        for doc in task.eval_docs.select(range(0, len(task.eval_docs), 40)):
            ask = apply_template(theirs["doc_to_text"], doc)
            assert task.fewshot_context(doc, num_fewshot=5) == theirs["description"] + shots + ask


def test_questions_can_be_answered(tasks: dict[str, Any]) -> None:
    for name in ("kick_freebaseqa", "kick_triviaqa_closed", "kick_triviaqa_open"):
        docs = tasks[name].eval_docs
        for doc in docs.select(range(0, len(docs), 7)):
            scores = answers.score_answers(doc, [doc["aliases"][0]])
            assert set(scores.values()) == {1.0}, doc


def test_answer_in_context_share(tasks: dict[str, Any]) -> None:
    docs = tasks["kick_triviaqa_open"].eval_docs
    share = sum(answers.answer_in_context(doc["evidence"], doc["aliases"]) for doc in docs)
    # The file's own note, 4,772, was counted by another rule: as a substring.
    assert share / len(docs) == pytest.approx(4_772 / 7_962, abs=0.03)
    assert all(len(doc["evidence"]) <= 6_000 for doc in docs)


def test_whole_documents_are_cut_but_keep_the_question(
    make_manager: Callable[..., TaskManager], data_dir: Path, tmp_path: Path
) -> None:
    source = data_dir / "trivia_qa" / "rc_full_documents.jsonl"
    if not source.is_file():
        pytest.skip(f"no file {source}")
    (tmp_path / "trivia_qa").mkdir()
    (tmp_path / "trivia_qa" / "rc_validation.jsonl").write_bytes(source.read_bytes())
    manager = make_manager(data_dir=str(tmp_path))
    for name, limit in (("kick_triviaqa_open", 6_000), ("llmkick_triviaqa_open", 3_072)):
        task = manager.load([name])["tasks"][name]
        for doc in task.eval_docs:
            prompt = task.doc_to_text(doc)
            assert 0.9 * limit < len(doc["evidence"]) <= limit or "Sinclair" in doc["question"]
            assert prompt.startswith(doc["evidence"].lstrip())
            assert prompt.endswith(f"questions:\n\nQ: {doc['question']}\nA:")


def test_released_mmlu_drops_shots_of_long_prompts_alone(tasks: dict[str, Any]) -> None:
    shots = {
        subject: set(tasks[f"mmlu_llmkick_{subject}"].eval_docs["shots"]) for subject in SUBJECTS
    }
    assert shots["anatomy"] == {5}
    assert max(shots["high_school_european_history"]) < 5
    for subject in SUBJECTS:
        for doc in tasks[f"mmlu_llmkick_{subject}"].eval_docs:
            assert len(doc["prompt"]) <= 8_192 or doc["shots"] == 0


def test_a_small_run(evaluate: Callable[..., Any], real_manager: TaskManager) -> None:
    lm = ScriptedLM(say=lambda prompt: " David Seville\n", score=lambda *_: (-1.0, False))
    result = evaluate(lm, "kick_*", task_manager=real_manager, limit=2, bootstrap_iters=0)
    scores = result["results"]["kick_triviaqa_closed"]  # the first question's answer
    assert scores["exact_match,none"] == scores["contains,none"] == 0.5
    assert result["n-samples"]["mmlu_kick_virology"] == {"original": 166, "effective": 2}
    assert result["n-shot"]["mmlu_kick_virology"] == 5
