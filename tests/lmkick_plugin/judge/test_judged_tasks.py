# SPDX-License-Identifier: Apache-2.0
"""Tasks judged as they run: scores against plain loops, faults before and after the answers."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import statistics
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.inference import loaded_models
from lmkick_plugin.judge import Judge, ReplyStore, shared_judge
from tests.lmkick_plugin.judge.fault_server import (
    FaultServer,
    fails,
    first,
    replies,
    serve,
    shown,
    user_text,
)
from tests.task_yaml.conftest import tiny_files
from tests.task_yaml.scripted import ScriptedLM
from tests.task_yaml.test_generation import TalkingLM

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

KEY = "sk-test-MUST-NEVER-SHOW"
FILES = tiny_files()
ALONE, MINE, OTHER = "the assistant's answer", "assistant 1's answer", "assistant 2's answer"
ASPECTS = ("coherence", "consistency", "fluency", "relevance")


def grade(text: str) -> float:
    """What our judge thinks of an answer."""
    return 1 + len(text) % 9


def judging(handler: Any, body: dict[str, Any], number: int) -> None:
    """A judge that counts letters; the last aspect is always 5."""
    texts = shown(body)
    names = [ALONE] if ALONE in texts else [MINE, OTHER]
    row = " ".join(f"{grade(texts[name]):g}" for name in names)
    if "four lines" in user_text(body):
        five = " ".join("5" for _ in names)
        row = "\n".join([row, row, row, five])
    replies(f"{row}\nBecause of {number}.")(handler, body, number)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LMKICK_JUDGE_API_KEY", KEY)
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve(judging) as state:
        yield state


@pytest.fixture
def judged(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., TaskManager],
    tiny_data: Path,
    tmp_path: Path,
    server: FaultServer,
) -> Callable[..., dict[str, Any]]:
    """Evaluate with the server as the judge; keywords beyond lm-eval's are settings of it."""

    def run(lm: ScriptedLM, *tasks: str, predict_only: bool = False, **settings: Any) -> Any:
        metadata = {
            "data_dir": str(tiny_data),
            "judge_model": "strong",
            "judge_base_url": server.url,
            "judge_store": str(tmp_path / "replies.sqlite3"),
            "judge_backoff": 0.001,
            "judge_retries": 1,
            **settings,
        }
        manager = make_manager(**{k: v for k, v in metadata.items() if v is not None})
        return evaluate(lm, *tasks, task_manager=manager, predict_only=predict_only)

    return run


def say(prompt: str) -> str:
    return "word " * (len(prompt) % 7) + "end"


def talking(answer: Callable[[str], str] = say) -> TalkingLM:
    lm = TalkingLM(say=answer)
    loaded_models.announce(lm)
    return lm


def check(scores: dict[str, Any], metric: str, values: list[float]) -> None:
    assert scores[f"{metric},none"] == pytest.approx(statistics.fmean(values)), metric
    stderr = scores[f"{metric}_stderr,none"]
    if len(values) == 1:
        assert stderr == "N/A"
    else:
        expected = statistics.stdev(values) / math.sqrt(len(values))
        assert stderr == pytest.approx(expected), metric


def answers_file(path: Path, answers: dict[str, str]) -> str:
    rows = [json.dumps({"question_id": name, "text": text}) for name, text in answers.items()]
    path.write_text("\n".join(rows), encoding="utf-8")
    return f"file:{path}"


# --- scores ---------------------------------------------------------------------------------------


def test_answers_judged_alone(judged: Callable[..., Any], server: FaultServer) -> None:
    result = judged(ScriptedLM(say=say), "kick_instruct")
    scores = result["results"]["kick_instruct"]
    grades = [grade(say(f"What is {n}?\n\n")) for n in range(4)]
    check(scores, "judge_score", grades)
    for place, category in enumerate(["generic", "coding", "math", "common_sense"]):
        check(scores, f"judge_score_{category}", [grades[place]])
    check(scores, "unjudged", [0, 0, 0, 0])
    assert not any("judge_win" in name for name in scores)
    assert scores["words,none"] > 0
    assert result["higher_is_better"]["kick_instruct"]["judge_score"] is True
    assert len(server.requests) == 4
    for n, sample in enumerate(result["samples"]["kick_instruct"]):
        answer, verdicts = sample["filtered_resps"][0]
        assert answer == say(f"What is {n}?\n\n")
        (verdict,) = json.loads(verdicts)
        assert verdict["scores"] == {"score": grades[n]}
        assert verdict["replies"][0].startswith(f"{grades[n]:g}\nBecause of ")
    record = result["configs"]["kick_instruct"]["metadata"]["judge"]
    assert (record["model"], record["order"], record["prompts"]) == ("strong", "both", "1")


def test_summaries(judged: Callable[..., Any], tmp_path: Path) -> None:
    rows = FILES["cnn_dailymail/test.jsonl"][:2]
    reference = tmp_path / "reference.jsonl"  # the data set itself: its highlights
    reference.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = {"0": "short", "1": "a rather long summary"}
    lm = ScriptedLM(say=lambda prompt: said["1" if "The cat 1" in prompt else "0"])
    result = judged(lm, "kick_summarization_small", judge_reference=f"file:{reference}")
    scores = result["results"]["kick_summarization_small"]
    mine = [grade(said[number]) for number in "01"]
    other = [grade(row["highlights"]) for row in rows]
    for aspect in ASPECTS[:3]:
        check(scores, f"judge_{aspect}", mine)
    check(scores, "judge_relevance", [5, 5])
    wins = [float((a > b) + (a == b) / 2) for a, b in zip(mine, other, strict=True)]
    check(scores, "judge_win", wins)


def test_each_turn_of_a_conversation(judged: Callable[..., Any], server: FaultServer) -> None:
    result = judged(talking(), "kickonly_mtbench")
    scores = result["results"]["kickonly_mtbench"]
    turns = []
    for n in range(3):
        one = f"First question {n}?\n\n"
        turns.append((say(one), say(f"{one}{say(one)}\n\nSecond question {n}?\n\n")))
    grades = [(grade(a), grade(b)) for a, b in turns]
    check(scores, "judge_score_turn_1", [a for a, _ in grades])
    check(scores, "judge_score_turn_2", [b for _, b in grades])
    check(scores, "judge_score", [(a + b) / 2 for a, b in grades])
    check(scores, "judge_score_math", [sum(grades[1]) / 2])
    second = [shown(body) for body in server.requests if "Second question 1" in user_text(body)]
    assert second[0]["the conversation so far"] == (
        f"User: First question 1?\n\nAssistant: {turns[1][0]}"
    )
    assert second[0]["a solution to compare with"] == "solution 1.2"
    verdicts = json.loads(result["samples"]["kickonly_mtbench"][0]["filtered_resps"][0][1])
    assert [verdict["scores"]["score"] for verdict in verdicts] == list(grades[0])


def test_what_is_unjudged_is_counted_and_left_out(
    judged: Callable[..., Any], server: FaultServer
) -> None:
    def half(handler: Any, body: dict[str, Any], number: int) -> None:
        hopeless = any(f"What is {n}?" in user_text(body) for n in (0, 2))
        (replies("N/A") if hopeless else judging)(handler, body, number)

    server.answer = half
    result = judged(ScriptedLM(say=say), "kick_instruct")
    scores = result["results"]["kick_instruct"]
    check(scores, "judge_score", [grade(say(f"What is {n}?\n\n")) for n in (1, 3)])
    check(scores, "unjudged", [1, 0, 1, 0])
    assert math.isnan(scores["judge_score_math,none"])
    assert scores["judge_score_math_stderr,none"] == "N/A"
    sample = result["samples"]["kick_instruct"][0]
    assert sample["judge_score"] is None
    (verdict,) = json.loads(sample["filtered_resps"][0][1])
    assert verdict["reason"] == "no scores in the reply"
    assert verdict["replies"] == ["N/A"]


def test_empty_answers_are_scored_by_rule(judged: Callable[..., Any], server: FaultServer) -> None:
    result = judged(ScriptedLM(say=lambda prompt: " "), "kick_instruct", "kick_summarization_small")
    assert server.requests == []
    assert result["results"]["kick_instruct"]["judge_score,none"] == 1.0
    assert result["results"]["kick_summarization_small"]["judge_fluency,none"] == 1.0


# --- references -----------------------------------------------------------------------------------


def test_both_orders_and_the_released_one(
    judged: Callable[..., Any], server: FaultServer, tmp_path: Path
) -> None:
    reference = answers_file(tmp_path / "a.jsonl", {str(n): "other" for n in range(1, 5)})
    judged(ScriptedLM(say=lambda prompt: "mine!"), "kick_instruct", judge_reference=reference)
    orders = [shown(body)[MINE] for body in server.requests]
    assert sorted(orders) == ["mine!"] * 4 + ["other"] * 4
    del server.requests[:]
    judged(ScriptedLM(say=lambda prompt: "mine!"), "llmkick_instruct", judge_reference=reference)
    assert [shown(body)[MINE] for body in server.requests] == ["other"] * 4
    assert {body["temperature"] for body in server.requests} == {0.2}
    assert not any("response_format" in body for body in server.requests)
    assert sum("Python tuple" in user_text(body) for body in server.requests) == 1


def test_the_released_parser_misses_scores_at_the_end(
    judged: Callable[..., Any], server: FaultServer, tmp_path: Path
) -> None:
    server.answer = replies("Assistant 2 solves it.\n\n(4, 9)")
    reference = answers_file(tmp_path / "a.jsonl", {str(n): "other" for n in range(1, 5)})
    lm = ScriptedLM(say=lambda prompt: "mine")
    kept = judged(lm, "kick_instruct", judge_reference=reference)
    assert kept["results"]["kick_instruct"]["unjudged,none"] == 0
    missed = judged(lm, "llmkick_instruct", judge_reference=reference)
    assert missed["results"]["llmkick_instruct"]["unjudged,none"] == 1
    (verdict,) = json.loads(missed["samples"]["llmkick_instruct"][0]["filtered_resps"][0][1])
    assert "released" in verdict["reason"]
    assert verdict["replies"] == ["Assistant 2 solves it.\n\n(4, 9)"]


def test_a_reference_model_holds_its_own_conversations(
    judged: Callable[..., Any], server: FaultServer
) -> None:
    def both(handler: Any, body: dict[str, Any], number: int) -> None:
        if body["model"] == "reference":
            replies(f"reply {len(body['messages'])}")(handler, body, number)
        else:
            judging(handler, body, number)

    server.answer = both
    settings = {"judge_reference": "model:reference", "judge_order": "answer_first"}
    result = judged(talking(), "kickonly_mtbench", **settings)
    asked = [body["messages"] for body in server.requests if body["model"] == "reference"]
    assert [message["content"] for message in max(asked[3:], key=str)] == [
        "First question 2?",
        "reply 1",
        "Second question 2?",
    ]
    # Requests are concurrent: which arrives first is chance.
    others = {shown(body)[OTHER] for body in server.requests if body["model"] == "strong"}
    assert others == {
        "reply 1",
        "(to the earlier question 1)\nreply 1\n\n(to the question above)\nreply 3",
    }
    assert "judge_win,none" in result["results"]["kickonly_mtbench"]


def test_the_dense_models_answers(
    judged: Callable[..., Any],
    evaluate: Callable[..., Any],
    server: FaultServer,
    tmp_path: Path,
) -> None:
    from lm_eval.loggers import EvaluationTracker

    dense = evaluate(
        talking(lambda prompt: "dense " + say(prompt)), "kick_instruct", "kickonly_mtbench"
    )
    tracker = EvaluationTracker(output_path=str(tmp_path / "dense"))
    samples = dense.pop("samples")
    tracker.save_results_aggregated(dense, samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task, rows)
    result = judged(
        talking(),
        *("kick_instruct", "kickonly_mtbench"),
        judge_reference=f"dense:{tmp_path / 'dense'}",
        judge_order="answer_first",
    )
    texts = [shown(body) for body in server.requests]
    assert [text[OTHER] for text in texts[:4]] == [
        "dense " + say(f"What is {n}?\n\n") for n in range(4)
    ]
    assert all("dense" in text[OTHER] and "dense" not in text[MINE] for text in texts)
    assert 0 <= result["results"]["kickonly_mtbench"]["judge_win,none"] <= 1


# --- what is found before anything is generated ---------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judge_base_url": None, "key": None}, "export LMKICK_JUDGE_API_KEY"),
        ({"judge_base_url": "http://127.0.0.1:9/v1"}, "http://127.0.0.1:9/v1"),
        ({"listing": 401}, "refuses the key"),
        ({"judge_modle": "x"}, "Did you mean 'judge_model'"),
        ({"judge_api_key": "x"}, "export LMKICK_JUDGE_API_KEY"),
        ({"judge_prompt": "/nowhere.yaml"}, "judge_prompt=/nowhere.yaml"),
        ({"judge_reference": "best"}, "expected file:PATH"),
        ({"judge_reference": "dense"}, "dense:RESULTS"),
        ({"judge_reference": "dense:/nowhere"}, "no such file or folder"),
        ({"judge_reference": "file:/nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_faults_found_first(
    judged: Callable[..., Any],
    server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    words: str,
) -> None:
    given = dict(settings)
    if "key" in given:
        monkeypatch.delenv("LMKICK_JUDGE_API_KEY")
        del given["key"]
    server.models = given.pop("listing", 404)
    lm = ScriptedLM()
    with pytest.raises(ValueError, match="judge") as caught:
        judged(lm, "kick_instruct", **given)
    assert words in str(caught.value)
    assert KEY not in str(caught.value)
    assert lm.asked == []
    assert server.requests == []


def test_missing_reference_answers_are_counted_first(
    judged: Callable[..., Any], tmp_path: Path
) -> None:
    reference = answers_file(tmp_path / "a.jsonl", {"1": "other", "3": "other"})
    lm = ScriptedLM()
    with pytest.raises(ValueError, match="no answer to 2 of 4 documents") as caught:
        judged(lm, "kick_instruct", judge_reference=reference)
    assert "(2, 4)" in str(caught.value)
    more = answers_file(tmp_path / "b.jsonl", {str(n): "x" for n in range(81, 84)})
    with pytest.raises(ValueError, match="has 1 turns; 2 are needed"):
        judged(talking(), "kickonly_mtbench", judge_reference=f"{reference}+{more[5:]}")
    assert lm.asked == []


def test_the_released_protocol_needs_a_reference(judged: Callable[..., Any]) -> None:
    lm = ScriptedLM()
    with pytest.raises(ValueError, match="llmkick_instruct compares with a reference"):
        judged(lm, "llmkick_instruct")
    assert lm.asked == []


def test_a_model_that_is_not_listed_is_mentioned(
    judged: Callable[..., Any], server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    from lmkick_plugin.judge import plan

    plan._say_unlisted.cache_clear()
    server.models = ["weak", "weaker"]
    judged(ScriptedLM(say=say), "kick_instruct")
    assert [text for text in caplog.messages if "judge_model=strong is not among" in text]


def test_a_store_that_can_only_be_read_is_mentioned(
    judged: Callable[..., Any],
    server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(store: ReplyStore) -> sqlite3.Connection:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    judged(ScriptedLM(say=say), "kick_instruct")
    before = len(server.requests)
    shared_judge.cache_clear()
    monkeypatch.setattr(ReplyStore, "_open_for_writing", refuse)
    again = judged(ScriptedLM(say=say), "kick_instruct")
    assert again["results"]["kick_instruct"]["unjudged,none"] == 0
    assert len(server.requests) == before
    assert [text for text in caplog.messages if "only the replies in it count" in text]


def test_nothing_is_asked_under_predict_only(
    judged: Callable[..., Any], server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMKICK_JUDGE_API_KEY")
    result = judged(
        ScriptedLM(say=say),
        "kick_instruct",
        predict_only=True,
        judge_base_url="http://127.0.0.1:9/v1",
    )
    assert [row["filtered_resps"] for row in result["samples"]["kick_instruct"]] == [
        [say(f"What is {n}?\n\n")] for n in range(4)
    ]
    assert server.requests == []


# --- what goes wrong after that -------------------------------------------------------------------


def test_answers_survive_a_fault_and_the_rerun_asks_for_the_rest(
    judged: Callable[..., Any], server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    quota = fails(429, "You exceeded your current quota", "insufficient_quota")
    server.answer = first(2, judging, quota)
    broken = judged(ScriptedLM(say=say), "kick_instruct", judge_concurrency=1)
    scores = broken["results"]["kick_instruct"]
    assert scores["unjudged,none"] == 0.5
    assert scores["words,none"] > 0
    assert len(broken["samples"]["kick_instruct"]) == 4
    assert any("quota is used up" in text for text in caplog.messages)
    assert any("lmkick judge RESULTS_DIR" in text for text in caplog.messages)
    before = len(server.requests)
    server.answer = judging
    whole = judged(ScriptedLM(say=say), "kick_instruct", judge_concurrency=1)
    assert whole["results"]["kick_instruct"]["unjudged,none"] == 0
    assert len(server.requests) == before + 2
    again = judged(ScriptedLM(say=say), "kick_instruct", judge_concurrency=2)
    assert len(server.requests) == before + 2, "a rerun costs nothing"
    assert again["results"] == whole["results"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("surprise")])
def test_whatever_happens_while_judging_the_answers_are_kept(
    judged: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def breaks(self: Judge, items: Any) -> Any:
        raise fault

    monkeypatch.setattr(Judge, "grade", breaks)
    if isinstance(fault, KeyboardInterrupt):
        really, calls = Judge.grade, []

        def once(self: Judge, items: Any) -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise fault
            return []

        monkeypatch.setattr(Judge, "grade", once)
        assert really is breaks
    result = judged(ScriptedLM(say=say), "kick_instruct", judge_concurrency=3)
    assert result["results"]["kick_instruct"]["unjudged,none"] == 1
    assert len(result["samples"]["kick_instruct"]) == 4


def test_the_key_shows_up_nowhere(
    judged: Callable[..., Any],
    server: FaultServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.answer = fails(400, f"Bad request with {KEY}")
    with caplog.at_level(logging.DEBUG):
        result = judged(ScriptedLM(say=say), "kick_instruct")
    assert server.keys[0] == f"Bearer {KEY}"
    out, err = capfd.readouterr()
    everything = json.dumps([result["results"], result["samples"], result["configs"]], default=str)
    assert KEY not in everything + out + err + caplog.text
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), path


def test_processes_share_budget_and_concurrency(
    tiny_data: Path, make_manager: Callable[..., TaskManager], server: FaultServer, tmp_path: Path
) -> None:
    metadata = {
        "judge_model": "strong",
        "judge_base_url": server.url,
        "judge_store": str(tmp_path / "r.sqlite3"),
        "judge_max_requests": 2,
    }
    samples = []
    for rank in range(2):
        shared_judge.cache_clear()  # each process has its own
        manager = make_manager(data_dir=str(tiny_data), **metadata)
        task = manager.load(["kick_instruct"])["tasks"]["kick_instruct"]
        task.build_all_requests(rank=rank, world_size=2)
        assert len(task.instances) == 2
        for instance in task.instances:
            instance.resps.append(f"answer to {instance.doc['question']}")
        task.apply_filters()
        samples += [json.loads(i.filtered_resps["none"].verdicts)[0] for i in task.instances]
    assert [sample["scores"] is not None for sample in samples].count(True) == 2
    assert "judge_max_requests=1" in str(samples)
    assert len(server.requests) == 2
