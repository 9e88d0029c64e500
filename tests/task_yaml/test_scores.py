# SPDX-License-Identifier: Apache-2.0
"""Scores through lm-eval, against plain loops over the rows."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.data import wikitext
from lmkick_plugin.model import KickLM
from task_yaml.kick_mmlu._generate_configs import CATEGORIES
from tests.task_yaml.conftest import SUBJECTS, tiny_files
from tests.task_yaml.scripted import ScriptedLM

if TYPE_CHECKING:
    from pathlib import Path

    from lm_eval.tasks import TaskManager

FILES = tiny_files()


def answers_by_number(*answers: str) -> Callable[[str], str]:
    """Say the n-th answer to the question that holds the number n."""

    def say(prompt: str) -> str:
        question = prompt.rsplit("Q: ", 1)[-1].rsplit("question: ", 1)[-1]
        return answers[next(int(letter) for letter in question if letter.isdigit())]

    return say


def letter_scores(prompt: str, choice: str) -> tuple[float, bool]:
    """Prefer a letter by the question, and say it greedily for two questions of three."""
    question = prompt.rsplit("\n\n", 1)[-1].split("\n")[0]
    favourite = "ABCD"[sum(map(ord, question)) % 4]
    likely = choice.strip() == favourite
    return (-0.5 if likely else -2.0), likely and sum(map(ord, question)) % 3 > 0


def mmlu_expected() -> dict[str, list[tuple[float, float]]]:
    """(acc, acc_greedy) of each question, by subject, from the rows alone."""
    found: dict[str, list[tuple[float, float]]] = {subject: [] for subject in SUBJECTS}
    for row in FILES["mmlu/test.jsonl"]:
        question = row["question"].strip()
        right = sum(map(ord, question)) % 4 == row["answer"]
        found[row["subject"]].append(
            (float(right), float(right and sum(map(ord, question)) % 3 > 0))
        )
    return found


@pytest.fixture(scope="module")
def kick(evaluate: Callable[..., Any]) -> dict[str, Any]:
    """One run of every portable task."""
    lm = ScriptedLM(
        say=answers_by_number(
            " Paris.\nNot this: lutetia", "I'd say it is Lutetia", "parisian", " The Austen"
        ),
        score=letter_scores,
        roll=lambda text: -2.0 * len(text.split()),
    )
    result: dict[str, Any] = evaluate(lm, "kick_*")
    return result


def check_mean(scores: dict[str, Any], metric: str, expected: list[float]) -> None:
    assert scores[f"{metric},none"] == pytest.approx(statistics.fmean(expected))
    error = statistics.stdev(expected) / math.sqrt(len(expected))
    assert scores[f"{metric}_stderr,none"] == pytest.approx(error)


def test_freebaseqa(kick: dict[str, Any]) -> None:
    scores = kick["results"]["kick_freebaseqa"]
    # "Paris." / "I'd say it is Lutetia" (i d say it is lutetia) / "parisian" / "The Austen"
    check_mean(scores, "contains", [1, 1, 0, 0])
    check_mean(scores, "exact_match", [1, 0, 0, 0])
    check_mean(scores, "f1", [1, 2 / 7, 0, 0])


def test_triviaqa_closed(kick: dict[str, Any]) -> None:
    scores = kick["results"]["kick_triviaqa_closed"]
    check_mean(scores, "exact_match", [0, 0, 0, 1])
    check_mean(scores, "f1", [0, 0, 0, 1])
    check_mean(scores, "contains", [0, 0, 0, 1])


def test_triviaqa_open(kick: dict[str, Any]) -> None:
    scores = kick["results"]["kick_triviaqa_open"]
    check_mean(scores, "exact_match", [0, 0, 0, 1])
    check_mean(scores, "f1", [0, 0, 0, 1])
    check_mean(scores, "contains", [0, 0, 0, 1])
    check_mean(scores, "answer_in_context", [1, 0, 0, 0])


def test_mmlu_subjects(kick: dict[str, Any]) -> None:
    for subject, expected in mmlu_expected().items():
        scores = kick["results"][f"mmlu_kick_{subject}"]
        check_mean(scores, "acc", [acc for acc, _ in expected])
        check_mean(scores, "acc_greedy", [greedy for _, greedy in expected])


def test_mmlu_groups_average_over_questions(kick: dict[str, Any]) -> None:
    expected = mmlu_expected()
    groups = {f"mmlu_kick_{name}": subjects for name, subjects in CATEGORIES.items()}
    for name, subjects in {**groups, "kick_mmlu": SUBJECTS}.items():
        scores = kick["groups"][name]
        questions = [question for subject in subjects for question in expected[subject]]
        for place, metric in enumerate(("acc", "acc_greedy")):
            wanted = statistics.fmean(question[place] for question in questions)
            assert scores[f"{metric},none"] == pytest.approx(wanted)
            assert 0 <= scores[f"{metric}_stderr,none"] < 1
    overall = kick["groups"]["kick_mmlu"]
    assert 0 < overall["acc_greedy,none"] < overall["acc,none"] < 1  # the script tells them apart
    assert overall["acc_greedy_stderr,none"] > 0


def test_average_is_not_over_subjects(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    from tests.task_yaml.conftest import write_data

    files = tiny_files()
    rows = files["mmlu/test.jsonl"]
    files["mmlu/test.jsonl"] = [
        row for n, row in enumerate(rows) if row["subject"] == "anatomy" or n < 2 * len(SUBJECTS)
    ]
    files["mmlu/test.jsonl"] += [row for row in rows if row["subject"] == "anatomy"] * 50
    manager = make_manager(data_dir=str(write_data(tmp_path, files)))

    def score(prompt: str, choice: str) -> tuple[float, bool]:
        # Right in anatomy alone.
        row = prompt.rsplit("\n\n", 1)[-1]
        if not row.startswith("anatomy"):
            return -1.0, False
        number = int(row.split("what is ")[1].split(" ")[0])
        return (
            (0.0, True) if choice == " " + "ABCD"[(number + len("anatomy")) % 4] else (-9.0, False)
        )

    result = evaluate(ScriptedLM(score=score), "kick_mmlu", task_manager=manager, bootstrap_iters=0)
    questions = 153 + 56 * 2
    first_choice_is_gold = sum(
        row["answer"] == 0 for row in files["mmlu/test.jsonl"] if row["subject"] != "anatomy"
    )
    overall = result["groups"]["kick_mmlu"]
    assert overall["acc_greedy,none"] == pytest.approx(153 / questions)
    assert overall["acc,none"] == pytest.approx((153 + first_choice_is_gold) / questions)


def test_wikitext(kick: dict[str, Any]) -> None:
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    rows = [row["text"] for row in FILES["wikitext/test.jsonl"]]
    pages = [article.page for article in wikitext.split(rows)]
    assert [page.split(" = ")[1] for page in pages] == ["First", "Second"]
    loss = sum(2.0 * len(wikitext_detokenizer({"page": page}).split()) for page in pages)
    words = sum(1 + sum(1 for _ in page.split()) + 1 for page in pages)  # re.split keeps two ends
    size = sum(len(page.encode()) for page in pages)
    scores = kick["results"]["kick_wikitext"]
    assert scores["word_perplexity,none"] == pytest.approx(math.exp(loss / words))
    assert scores["byte_perplexity,none"] == pytest.approx(math.exp(loss / size))


def test_higher_is_better(kick: dict[str, Any]) -> None:
    assert kick["higher_is_better"]["kick_wikitext"] == {
        "word_perplexity": False,
        "byte_perplexity": False,
    }
    assert kick["higher_is_better"]["mmlu_kick_anatomy"] == {"acc": True, "acc_greedy": True}


def test_samples_can_be_written_and_joined(kick: dict[str, Any]) -> None:
    samples = kick["samples"]["kick_freebaseqa"]
    assert [sample["contains"] for sample in samples] == [1, 1, 0, 0]
    assert len({sample["doc_hash"] for sample in samples}) == 4
    assert samples[0]["target"] == ["paris", "lutetia", "the city of light"]
    json.dumps(kick["samples"])  # raises where a value is not JSON


# --- the released code's scores -------------------------------------------------------------------


def test_freebaseqa_as_released(evaluate: Callable[..., Any]) -> None:
    # Of 5 questions the sum is divided by 4; spaces inside an answer do not matter.
    prompt = len("Please give answer to this question: What is the capital number 0 of France?\n")
    prompt += len("The answer is ")
    far = "x" * (2 * prompt)
    lm = ScriptedLM(say=answers_by_number("pa ris", "lutetia", "PARISIAN", far + "paris", "no"))
    result = evaluate(lm, "llmkick_freebaseqa")
    assert result["results"]["llmkick_freebaseqa"]["contains,none"] == pytest.approx(2 / 4)
    near = ScriptedLM(say=answers_by_number("no", "no", "no", far[:-5] + "paris", "no"))
    result = evaluate(near, "llmkick_freebaseqa")
    assert result["results"]["llmkick_freebaseqa"]["contains,none"] == pytest.approx(1 / 4)


def test_freebaseqa_as_released_counts_the_question(
    evaluate: Callable[..., Any], make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    from tests.task_yaml.conftest import write_data

    files = tiny_files()
    files["freebase_qa/train.jsonl"][0]["RawQuestion"] = "Is Paris in France?"
    manager = make_manager(data_dir=str(write_data(tmp_path, files)))
    result = evaluate(ScriptedLM(), "llmkick_freebaseqa", task_manager=manager)
    assert result["results"]["llmkick_freebaseqa"]["contains,none"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("task", ["llmkick_triviaqa_closed", "llmkick_triviaqa_open"])
def test_triviaqa_as_released(evaluate: Callable[..., Any], task: str) -> None:
    lm = ScriptedLM(say=answers_by_number("", "\n\n It was Jane Austen\nQ:", "aus", "Dickens"))
    scores = evaluate(lm, task)["results"][task]
    check_mean(scores, "exact_match", [1, 1, 1, 0])  # silence, containment both ways
    check_mean(scores, "f1", [0, 2 * 2 / (4 + 2), 0, 0])


def test_mmlu_as_released(evaluate: Callable[..., Any]) -> None:
    rows = [row for row in FILES["mmlu/test.jsonl"] if row["subject"] == "anatomy"]
    golds = ["ABCD"[row["answer"]] for row in rows]
    said = dict(zip("012", [f" {golds[0]}", f"NAS{golds[1]}", ""], strict=True))

    def say(prompt: str) -> str:
        return said[prompt.rsplit("what is ", 1)[-1][0]]

    result = evaluate(ScriptedLM(say=say), "mmlu_llmkick_anatomy")
    check_mean(result["results"]["mmlu_llmkick_anatomy"], "acc", [1, 1, 0])


# --- options of a run -----------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["kick_*", "llmkick_*"])
def test_limit(evaluate: Callable[..., Any], pattern: str) -> None:
    result = evaluate(ScriptedLM(), pattern, limit=1, bootstrap_iters=0)
    assert {count["effective"] for count in result["n-samples"].values()} == {1}


@pytest.mark.parametrize("pattern", ["kick_*", "llmkick_*"])
def test_predict_only(evaluate: Callable[..., Any], pattern: str) -> None:
    lm = ScriptedLM(say=lambda prompt: "an answer")
    result = evaluate(lm, pattern, limit=1, predict_only=True)
    for name, samples in result["samples"].items():
        assert len(samples) == 1, name
    assert result["samples"][pattern[:-1] + "freebaseqa"][0]["filtered_resps"] == ["an answer"]


@pytest.mark.parametrize(
    ("names", "count"), [(["recall_kick", "recall_kick_freebase"], 9), (["kickonly"], 4)]
)
def test_predict_only_of_tasks_with_requests_of_their_own(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    names: list[str],
    count: int,
) -> None:
    lm = KickLM("kick-mini", device="cpu", batch_size=16)
    manager = make_manager(data_dir="mini", max_window=64)
    result = evaluate(lm, *names, task_manager=manager, limit=1, predict_only=True)
    assert len(result["samples"]) == count
    for name, samples in result["samples"].items():
        assert [bool(sample["filtered_resps"]) for sample in samples] == [True], name
        assert result["results"][name]["bypass,none"] == 999  # lm-eval's word for no score


def test_silence_scores_nothing(evaluate: Callable[..., Any]) -> None:
    tasks = ("kick_freebaseqa", "kick_triviaqa_closed", "kick_triviaqa_open")
    result = evaluate(ScriptedLM(say=lambda prompt: ""), *tasks, bootstrap_iters=0)
    for task in tasks:
        scores = result["results"][task]
        assert [scores[f"{name},none"] for name in ("contains", "exact_match", "f1")] == [0, 0, 0]


def test_a_broken_model_loses_no_results(evaluate: Callable[..., Any]) -> None:
    lm = ScriptedLM(score=lambda *_: (math.nan, True), roll=lambda text: -1e9)
    result = evaluate(lm, "kick_*", limit=1, bootstrap_iters=0)
    assert result["groups"]["kick_mmlu"]["acc,none"] == 0
    assert result["groups"]["kick_mmlu"]["acc_greedy,none"] == 0
    assert result["results"]["kick_wikitext"]["word_perplexity,none"] == math.inf
