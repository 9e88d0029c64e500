# SPDX-License-Identifier: Apache-2.0
"""Every fault of an endpoint ends in a clear reason; a rerun asks only for what is missing."""

from __future__ import annotations

import time

import pytest

from tests.lmkick_plugin.judge.conftest import KEY, MakeJudge, items
from tests.lmkick_plugin.judge.fault_server import (
    Answer,
    breaks_off,
    fails,
    first,
    page,
    replies,
    send,
    serve,
    trickles,
)

FINE = replies("9 8\nBecause.")


def test_without_faults_every_item_is_judged_once_in_each_order(make_judge: MakeJudge) -> None:
    with serve(FINE) as server:
        verdicts = make_judge(server.url).grade(items(5))
        assert len(server.requests) == 10
        assert [v.scores for v in verdicts] == [{"score": 8.5}] * 5
        assert [v.result for v in verdicts] == ["tie"] * 5
        assert all(v.replies == ("9 8\nBecause.",) * 2 for v in verdicts)
        assert set(server.keys) == {f"Bearer {KEY}"}
        # a new process, as it were: nothing is asked again, not even of a server that refuses all
        server.answer = fails(401)
        assert make_judge(server.url + "/").grade(items(5)) == verdicts
        assert len(server.requests) == 10
    with serve(FINE) as other:  # another endpoint's replies are another judge's
        assert make_judge(other.url).grade(items(1))[0].scores == {"score": 8.5}
        assert len(other.requests) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fails(401, "Incorrect API key provided", "invalid_api_key"), "LMKICK_JUDGE_API_KEY"),
        (fails(403, "not allowed"), "refuses the key"),
        (fails(404, "The model does not exist", "model_not_found"), "judge_model"),
        (fails(429, "You exceeded your current quota", "insufficient_quota"), "quota is used up"),
        (fails(429, "slow down", Retry_After="3600"), "asks to wait 3600 s"),
    ],
    ids=["wrong key", "forbidden", "unknown model", "quota", "long pause"],
)
def test_lasting_faults_stop_the_run_at_the_first_request(
    fault: Answer, words: str, make_judge: MakeJudge
) -> None:
    with serve(fault) as server:
        started = time.monotonic()
        verdicts = make_judge(server.url).grade(items(20))
        assert time.monotonic() - started < 5
        assert len(server.requests) == 1, "one request finds out; the others are not sent"
        assert all(v.scores is None and words in (v.reason or "") for v in verdicts)
        server.answer = FINE
        assert all(v.scores for v in make_judge(server.url).grade(items(20)))
        assert len(server.requests) == 41


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fails(500, "broken"), "HTTP 500"),
        (fails(429, "slow down"), "HTTP 429"),
        (page, "not a chat completion"),
        (replies(""), "empty"),
        (replies("  \n"), "empty"),
        (breaks_off, "connection failed"),
        (lambda handler, body, number: send(handler, 200, b"[1, 2]"), "not a chat completion"),
        (lambda handler, body, number: send(handler, 200, b"{nonsense"), "not a chat completion"),
        (lambda handler, body, number: send(handler, 200, b"{}"), "not a chat completion"),
    ],
    ids=["500", "429", "page", "empty", "blank", "cut", "list", "broken JSON", "no choices"],
)
def test_faults_of_the_moment_are_retried_then_counted(
    fault: Answer, words: str, make_judge: MakeJudge
) -> None:
    with serve(first(2, fault, FINE)) as server:
        verdicts = make_judge(server.url).grade(items(1))
        assert verdicts[0].scores == {"score": 8.5}
        assert len(server.requests) == 4
        server.answer = fault
        judge = make_judge(server.url)
        verdicts = judge.grade([*items(1), *items(2)[1:]])
        assert verdicts[0].scores == {"score": 8.5}, "kept from before"
        assert verdicts[1].scores is None
        assert words in (verdicts[1].reason or "")
        assert len(server.requests) <= 4 + 2 * 3
        assert judge.summary.unjudged.total() == 1
        server.answer = FINE
        before = len(server.requests)
        assert all(v.scores for v in make_judge(server.url).grade(items(2)))
        assert len(server.requests) == before + 2


def test_an_endpoint_that_always_fails_is_given_up(make_judge: MakeJudge) -> None:
    with serve(fails(500)) as server:
        verdicts = make_judge(server.url, give_up_after=2, concurrency=4).grade(items(50))
        assert len(server.requests) <= 2 * 4 + 4
        assert all(v.scores is None for v in verdicts)
        assert any("in a row failed" in (v.reason or "") for v in verdicts)


def test_the_time_limit_holds_for_a_server_that_hangs_or_trickles(make_judge: MakeJudge) -> None:
    with serve(lambda handler, body, number: None) as server:
        server.answer = lambda handler, body, number: (server.released.wait(10), None)[1]
        for answer in (server.answer, trickles):
            server.answer = answer
            started = time.monotonic()
            judge = make_judge(server.url, timeout=0.3, retries=1)
            verdicts = judge.grade(items(2))
            assert time.monotonic() - started < 4
            assert all("judge_timeout=0.3" in (v.reason or "") for v in verdicts)
        server.released.set()


def test_retry_after_holds_for_every_request(make_judge: MakeJudge) -> None:
    fault = fails(429, "slow down", Retry_After="1")
    with serve(first(1, fault, FINE)) as server:
        verdicts = make_judge(server.url, backoff=0.0).grade(items(4))
        assert all(v.scores for v in verdicts)
        assert min(server.times[1:]) - server.times[0] >= 0.95


def test_concurrency_is_limited_and_used(make_judge: MakeJudge) -> None:
    def slow(handler, body, number):  # type: ignore[no-untyped-def]
        time.sleep(0.05)
        FINE(handler, body, number)

    with serve(slow) as server:
        make_judge(server.url, concurrency=3).grade(items(8))
        assert server.busiest == 3


def test_the_budget_is_kept_and_the_rest_said(make_judge: MakeJudge) -> None:
    with serve(FINE) as server:
        judge = make_judge(server.url, max_requests=5)
        verdicts = judge.grade(items(6))
        assert len(server.requests) == 5
        assert sum(v.scores is not None for v in verdicts) == 2
        assert all("judge_max_requests=5" in (v.reason or "") for v in verdicts if not v.scores)
        assert all(v.scores for v in make_judge(server.url).grade(items(6)))
        assert len(server.requests) == 12, "what was paid for is not asked again"


def test_retries_count_against_the_budget(make_judge: MakeJudge) -> None:
    with serve(fails(500)) as server:
        make_judge(server.url, max_requests=4, retries=10).grade(items(6))
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (replies("-1 -1"), "no scores"),
        (replies("11 12"), "no scores"),
        (replies("N/A"), "no scores"),
        (replies("I'm sorry, I can't help with that."), "no scores"),
        (replies(None, refusal="I will not rate this."), "refused"),  # type: ignore[arg-type]
        (replies("Well, the first", finish="length"), "judge_max_tokens"),
    ],
    ids=["-1", "11", "N/A", "sorry", "refusal", "cut off"],
)
def test_replies_without_scores_are_asked_again_kept_and_counted(
    answer: Answer, words: str, make_judge: MakeJudge
) -> None:
    with serve(answer) as server:
        judge = make_judge(server.url)
        (verdict,) = judge.grade(items(1))
        assert verdict.scores is None
        assert words in (verdict.reason or "")
        assert len(verdict.replies) == 2, "the judge's words are shown"
        assert len(server.requests) == 4, "each order asked once more"
        assert "1 unjudged" in str(judge.summary)
        assert make_judge(server.url).grade(items(1)) == [verdict]
        assert len(server.requests) == 4, "they are paid for: a rerun does not ask again"


def test_a_second_attempt_may_bring_the_scores(make_judge: MakeJudge) -> None:
    with serve(first(1, replies("N/A"), FINE)) as server:
        (verdict,) = make_judge(server.url).grade(items(1))
        assert verdict.scores == {"score": 8.5}
        assert len(server.requests) == 3


def test_one_order_alone_is_no_verdict(make_judge: MakeJudge) -> None:
    def half(handler, body, number):  # type: ignore[no-untyped-def]
        text = body["messages"][-1]["content"]
        turned = text.index("Other 0.") < text.index("My answer 0.")
        (replies("N/A") if turned else FINE)(handler, body, number)

    with serve(half) as server:
        (verdict,) = make_judge(server.url).grade(items(1))
        assert verdict.scores is None
        assert verdict.reason == "no scores in the reply"


def test_a_schema_is_tried_and_dropped_once(make_judge: MakeJudge) -> None:
    def picky(handler, body, number):  # type: ignore[no-untyped-def]
        refused = "response_format" in body
        answer = fails(400, "response_format is not supported") if refused else FINE
        answer(handler, body, number)

    with serve(picky) as server:
        assert all(v.scores for v in make_judge(server.url).grade(items(5)))
        assert sum("response_format" in body for body in server.requests) == 1
        assert len(server.requests) == 11


def test_a_schema_that_is_taken_gives_structured_replies(make_judge: MakeJudge) -> None:
    text = '{"assistant_1": 9, "assistant_2": 4, "explanation": "1 1"}'
    with serve(replies(text)) as server:
        (verdict,) = make_judge(server.url).grade(items(1))
        assert verdict.scores == {"score": 6.5}
        schema = server.requests[0]["response_format"]["json_schema"]
        assert schema["schema"]["required"] == ["assistant_1", "assistant_2", "explanation"]


def test_newer_endpoints_names_are_learnt(make_judge: MakeJudge) -> None:
    def newer(handler, body, number):  # type: ignore[no-untyped-def]
        if "max_tokens" in body:
            fails(400, "Use 'max_completion_tokens' instead of 'max_tokens'.")(handler, body, 0)
        elif "temperature" in body:
            fails(400, "Unsupported value: 'temperature'.")(handler, body, 0)
        else:
            FINE(handler, body, number)

    with serve(newer) as server:
        assert all(v.scores for v in make_judge(server.url).grade(items(3)))
        assert len(server.requests) == 8
        assert server.requests[-1]["max_completion_tokens"] == 1024


def test_one_prompt_that_is_refused_does_not_stop_the_others(make_judge: MakeJudge) -> None:
    def long_one(handler, body, number):  # type: ignore[no-untyped-def]
        if "My answer 2." in body["messages"][-1]["content"]:
            fails(400, "maximum context length is 8192 tokens")(handler, body, number)
        else:
            FINE(handler, body, number)

    with serve(long_one) as server:
        verdicts = make_judge(server.url).grade(items(4))
        assert [v.scores is not None for v in verdicts] == [True, True, False, True]
        assert "context length" in (verdicts[2].reason or "")


def test_no_key_is_said_before_anything_is_sent(
    make_judge: MakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMKICK_JUDGE_API_KEY")
    judge = make_judge(None)
    assert "export LMKICK_JUDGE_API_KEY" in (judge.problem() or "")
    verdicts = judge.grade(items(2))
    assert all("export LMKICK_JUDGE_API_KEY" in (v.reason or "") for v in verdicts)
    assert judge.summary.sent == 0


def test_no_key_at_an_endpoint_that_wants_one(
    make_judge: MakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMKICK_JUDGE_API_KEY")
    with serve(fails(401, "missing key")) as server:
        (verdict,) = make_judge(server.url).grade(items(1))
        assert "no key was sent: export LMKICK_JUDGE_API_KEY" in (verdict.reason or "")


def test_an_endpoint_that_is_not_there(make_judge: MakeJudge) -> None:
    (verdict,) = make_judge("http://127.0.0.1:9/v1", retries=1).grade(items(1))
    assert "connection failed" in (verdict.reason or "")
