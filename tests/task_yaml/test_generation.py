# SPDX-License-Identifier: Apache-2.0
"""Summaries, answers and conversations: prompts to the letter, scores against plain loops."""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from lmkick_plugin.data import summarization
from lmkick_plugin.inference import loaded_models
from lmkick_plugin.inference.conversations import answer_turns
from lmkick_plugin.judge.rubric import rubric_of
from lmkick_plugin.metrics.aggregation import mean_of_scored
from tests.task_yaml.conftest import tiny_files, write_data
from tests.task_yaml.scripted import ScriptedLM

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

FILES = tiny_files()
STORIES = FILES["cnn_dailymail/test.jsonl"]
SUMMARIZE = (
    "Summarize the given {} in less than 150 words while preserving high coherence, consistency,"
    " fluency, and relevance.\n\n"
)
TASKS = [
    *(f"kick_summarization_{size}" for size in summarization.SIZES),
    *(f"llmkick_summarization_{size}" for size in summarization.SIZES),
    *("kick_instruct", "llmkick_instruct", "kickonly_mtbench"),
]


class TalkingLM(ScriptedLM):
    """Serves ``turns`` as a ``kick`` model does."""

    def turns(self, requests: list[Any]) -> list[list[str]]:
        return answer_turns(self, requests)


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TalkingLM]:
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())

    def make(say: Callable[[str], str] = lambda prompt: "nothing") -> TalkingLM:
        lm = TalkingLM(say=say)
        loaded_models.announce(lm)
        return lm

    return make


def prompts(evaluate: Callable[..., Any], lm: ScriptedLM, task: str, **options: Any) -> list[str]:
    evaluate(lm, task, bootstrap_iters=0, **options)
    return [arguments[0] for _, arguments in lm.asked]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())


# --- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "places"), [("small", (0, 1)), ("medium", (2, 3)), ("large", (4, 5))]
)
def test_summarization(evaluate: Callable[..., Any], size: str, places: tuple[int, int]) -> None:
    rows = in_order([STORIES[place] for place in places])
    found = prompts(evaluate, ScriptedLM(), f"kick_summarization_{size}")
    assert found == [SUMMARIZE.format("story") + row["article"] + "\n\n" for row in rows]
    chat = prompts(evaluate, ScriptedLM(), f"kick_summarization_{size}", apply_chat_template=True)
    assert chat == [f"[user]{SUMMARIZE.format('story')}{row['article']}[assistant]" for row in rows]


@pytest.mark.parametrize(
    ("size", "places", "what"),
    [("small", (0, 1), "story"), ("medium", (2, 3), "news"), ("large", (4, 5), "news")],
)
def test_summarization_as_released_leaks_the_highlights(
    evaluate: Callable[..., Any], size: str, places: tuple[int, int], what: str
) -> None:
    rows = in_order([STORIES[place] for place in places])
    found = prompts(evaluate, ScriptedLM(), f"llmkick_summarization_{size}")
    assert found == [
        f"{SUMMARIZE.format(what)}{row['article']}"
        f"@highlightA cat sat {row['id'][-1]} times@highlightIt was seen!\n\n"
        for row in rows
    ]


@pytest.mark.parametrize("task", ["kick_instruct", "llmkick_instruct"])
def test_instruct(evaluate: Callable[..., Any], task: str) -> None:
    assert prompts(evaluate, ScriptedLM(), task) == [f"What is {n}?\n\n" for n in range(4)]
    chat = prompts(evaluate, ScriptedLM(), task, apply_chat_template=True)
    assert chat == [f"[user]What is {n}?[assistant]" for n in range(4)]


def test_the_second_turn_holds_the_models_own_first_answer(
    evaluate: Callable[..., Any], talk: Callable[..., TalkingLM]
) -> None:
    def say(prompt: str) -> str:
        return f" said of {len(prompt)}."

    lm = talk(say)
    found = prompts(evaluate, lm, "kickonly_mtbench")
    first = [f"First question {n}?\n\n" for n in range(3)]
    assert found[:3] == first
    assert found[3:] == [
        f"{prompt}{say(prompt)}\n\nSecond question {n}?\n\n" for n, prompt in enumerate(first)
    ]


def test_conversations_in_a_chat_template(
    evaluate: Callable[..., Any], talk: Callable[..., TalkingLM]
) -> None:
    lm = talk(lambda prompt: f"said of {len(prompt)}.")
    options = {"apply_chat_template": True, "system_instruction": "Be brief."}
    found = prompts(evaluate, lm, "kickonly_mtbench", **options)
    first = "[system]Be brief.[user]First question 1?[assistant]"
    assert found[1] == first
    assert found[4] == (
        f"[system]Be brief.[user]First question 1?[assistant]said of {len(first)}."
        "[user]Second question 1?[assistant]"
    )


def test_generation_settings(evaluate: Callable[..., Any], talk: Callable[..., TalkingLM]) -> None:
    greedy = {"until": [], "do_sample": False}
    sampled = {"until": [], "do_sample": True, "temperature": 0.7, "max_gen_toks": 1024}
    expected = {
        "kick_summarization_small": {**greedy, "max_gen_toks": 256},
        "kick_instruct": {**greedy, "max_gen_toks": 1024},
        "kickonly_mtbench": {**greedy, "max_gen_toks": 1024},
        "llmkick_summarization_large": sampled,
        "llmkick_instruct": sampled,
    }
    for task, settings in expected.items():
        lm = talk()
        evaluate(lm, task, limit=1, bootstrap_iters=0)
        assert [arguments[1] for _, arguments in lm.asked] == [settings] * len(lm.asked)
    lm = talk()
    evaluate(lm, "kickonly_mtbench", limit=1, bootstrap_iters=0, gen_kwargs={"max_gen_toks": 7})
    assert [arguments[1]["max_gen_toks"] for _, arguments in lm.asked] == [7, 7]


def test_a_reference_model_is_asked_the_same(tiny_manager: TaskManager) -> None:
    loaded = tiny_manager.load(TASKS)["tasks"]
    for name, task in loaded.items():
        rubric = rubric_of(name)
        assert rubric is not None
        for doc in task.eval_docs:
            wanted = doc["turns"] if name == "kickonly_mtbench" else [task.doc_to_text(doc)]
            assert list(rubric.prompts(doc)) == list(wanted)


def test_other_models_are_refused(
    evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    lm = ScriptedLM()
    with pytest.raises(ValueError, match=r"kickonly_mtbench .*--model kick"):
        evaluate(lm, "kick_instruct", "kickonly_mtbench")
    assert lm.asked == []


# --- the choice of stories ------------------------------------------------------------------------


def test_at_most_a_hundred_stories_of_a_size_by_hash(
    make_manager: Callable[..., TaskManager], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"article": f"A story {n}.", "highlights": "h", "id": f"id{n}"} for n in range(130)]
    manager = make_manager(
        data_dir=str(write_data(tmp_path, {**FILES, "cnn_dailymail/test.jsonl": rows}))
    )
    names = ["kick_summarization_small", "llmkick_summarization_small"]
    tasks = manager.load(names)["tasks"]
    ids = [row["id"] for row in in_order(rows)]
    assert list(tasks[names[0]].eval_docs["id"]) == ids[:100]
    assert list(tasks[names[1]].eval_docs["id"]) == ids[:30]
    assert not [text for text in caplog.messages if "stories" in text]
    with pytest.raises(ValueError, match="no story of 790 or more words"):
        manager.load(["kick_summarization_large"])


def test_fewer_stories_are_said(
    make_manager: Callable[..., TaskManager], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_manager(data_dir=str(write_data(tmp_path, FILES))).load(["kick_summarization_medium"])
    (said,) = [text for text in caplog.messages if "stories" in text]
    assert "2 stories of size medium (471 to 789 words) instead of 100" in said


# --- scores ---------------------------------------------------------------------------------------


def check(scores: dict[str, Any], metric: str, values: list[float]) -> None:
    assert scores[f"{metric},none"] == pytest.approx(statistics.fmean(values)), metric
    stderr = statistics.stdev(values) / math.sqrt(len(values))
    assert scores[f"{metric}_stderr,none"] == pytest.approx(stderr), metric


def test_scores_of_summaries(evaluate: Callable[..., Any]) -> None:
    rows = in_order(STORIES[4:6])
    said = ["A cat sat. " + "more " * 147, "the cat sat"]
    answers = dict(zip([row["id"][-1] for row in rows], said, strict=True))
    lm = ScriptedLM(say=lambda prompt: answers[re.findall(r"The cat (\d)", prompt)[0]])
    scores = evaluate(lm, "kick_summarization_large")["results"]["kick_summarization_large"]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=True)
    rouges = [
        scorer.score(row["highlights"], text.replace(". ", ".\n"))
        for row, text in zip(rows, said, strict=True)
    ]
    for name in names:
        check(scores, name, [one[name].fmeasure for one in rouges])
    assert 0 < scores["rouge2,none"] < scores["rouge1,none"] < 1
    check(scores, "words", [150, 3])
    check(scores, "overlong", [1, 0])
    check(scores, "empty", [0, 0])
    # a-cat, cat-sat, sat-more, more-more; the-cat, cat-sat: the story says "The cat 4 sat."
    check(scores, "novel_bigrams", [1, 1 / 2])


def test_empty_summaries_have_no_bigrams(evaluate: Callable[..., Any]) -> None:
    first = in_order(STORIES[:2])[0]["id"][-1]
    lm = ScriptedLM(say=lambda prompt: "The cat" if f"The cat {first}" in prompt else " \n")
    result = evaluate(lm, "kick_summarization_small")
    scores = result["results"]["kick_summarization_small"]
    check(scores, "empty", [0, 1])
    assert scores["novel_bigrams,none"] == 0.0, "the one that has bigrams"
    assert scores["novel_bigrams_stderr,none"] == "N/A"
    assert [row["novel_bigrams"] for row in result["samples"]["kick_summarization_small"]] == [
        0.0,
        None,
    ]
    assert scores["sample_len"] == 2


def test_scores_of_answers(evaluate: Callable[..., Any]) -> None:
    said = ["a b a b a b", "", "x " * 150, " ".join(f"w{n}" for n in range(120))]
    lm = ScriptedLM(say=lambda prompt: said[int(prompt.split()[2][0])])
    scores = evaluate(lm, "kick_instruct")["results"]["kick_instruct"]
    check(scores, "words", [6, 0, 150, 120])
    check(scores, "unique_words", [2, 0, 1, 120])
    check(scores, "unique_ratio", [2 / 6, 1 / 150, 1])
    check(scores, "unique_ratio_100", [1 / 100, 1])
    check(scores, "empty", [0, 1, 0, 0])
    check(scores, "repeated_ngrams", [1 - 2 / 3, 0, 1 - 1 / 147, 0])


def test_scores_of_conversations_are_means_over_turns(
    evaluate: Callable[..., Any], talk: Callable[..., TalkingLM]
) -> None:
    lm = talk(
        lambda prompt: "" if "Second question 2" in prompt else "one two three" * (len(prompt) % 2)
    )
    result = evaluate(lm, "kickonly_mtbench")
    samples = result["samples"]["kickonly_mtbench"]
    for sample in samples:
        answers = sample["filtered_resps"][0]
        assert len(answers) == 2
        assert sample["words"] == statistics.fmean(len(text.split()) for text in answers)
        assert sample["empty"] == statistics.fmean(not text for text in answers)
    check(result["results"]["kickonly_mtbench"], "words", [row["words"] for row in samples])
    json.dumps(samples)


def test_predict_only_keeps_the_answers(
    evaluate: Callable[..., Any], talk: Callable[..., TalkingLM]
) -> None:
    result = evaluate(talk(lambda prompt: "yes"), *TASKS, predict_only=True)
    for name, samples in result["samples"].items():
        wanted = [["yes", "yes"]] if name == "kickonly_mtbench" else ["yes"]
        assert [sample["filtered_resps"] for sample in samples] == [wanted] * len(samples)


def test_one_line_says_how_to_judge_later(
    evaluate: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    from lmkick_plugin.tasks import generation

    generation._say_how_to_judge.cache_clear()
    evaluate(ScriptedLM(), "kick_instruct", "kick_summarization_small", bootstrap_iters=0)
    said = [text for text in caplog.messages if "lmkick judge RESULTS_DIR" in text]
    assert len(said) == 1


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [1.0, None, 2.0, None, 4.0]])
def test_mean_of_scored_is_the_mean_of_the_rest_with_its_error(values: list[Any]) -> None:
    from lm_eval.api.metrics import mean, stderr_for_metric

    assert mean_of_scored(values) == pytest.approx(7 / 3)
    stderr = stderr_for_metric(mean_of_scored, 1000)
    assert stderr is stderr_for_metric(mean, 1000)
    assert stderr is not None
    assert stderr(values) == pytest.approx(statistics.stdev([1, 2, 4]) / math.sqrt(3))


def test_mean_of_scored_of_nothing() -> None:
    values: list[Any] = [None, None]
    assert math.isnan(mean_of_scored(values))
    assert values == []


# --- real stories and questions -------------------------------------------------------------------


def test_real_data(make_manager: Callable[..., TaskManager], data_dir: Path) -> None:
    tasks = make_manager(data_dir=str(data_dir)).load(TASKS)["tasks"]
    counts = {name: len(task.eval_docs) for name, task in tasks.items()}
    assert [counts[f"kick_summarization_{size}"] for size in summarization.SIZES] == [56, 21, 23]
    assert [counts[f"llmkick_summarization_{size}"] for size in summarization.SIZES] == [30, 21, 23]
    assert counts["kick_instruct"] == counts["llmkick_instruct"] == counts["kickonly_mtbench"] == 80
    assert len(set(tasks["kick_instruct"].eval_docs["category"])) == 9
    lines = (data_dir / "instruct" / "mt_bench.jsonl").read_text(encoding="utf-8").splitlines()
    solved = ["reference" in json.loads(line) for line in lines]
    assert list(map(bool, tasks["kickonly_mtbench"].eval_docs["solutions"])) == solved
    assert any(solved)


def test_the_released_prompts(data_dir: Path) -> None:
    """All 90 prompts that were released, up to blanks and the full stops that the data adds."""

    def squeeze(text: str) -> str:
        return re.sub(r"[\s.]", "", text)

    def rows(name: str) -> list[dict[str, Any]]:
        path = data_dir / "cnn_dailymail" / f"{name}.jsonl"
        if not path.is_file():
            pytest.skip(f"no file {path}")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    questions = {row["question_id"]: row["text"] for row in rows("llmkick_new_question")}
    stories = rows("llmkick_selected_stories")
    assert len(stories) == len(questions) == 90
    for story in stories:
        size = {"mid": "medium"}.get(story["category"], story["category"])
        ours = summarization.released_prompt(story, size)
        assert squeeze(ours) == squeeze(questions[story["question_id"]])
