# SPDX-License-Identifier: Apache-2.0
"""What is sent where, and how much of an answer is read."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from lmkick_plugin.judge import JudgeSettings
from lmkick_plugin.judge import http_client as http_module
from lmkick_plugin.judge.plan import JudgePlan
from tests.lmkick_plugin.judge.conftest import KEY, MakeJudge, items
from tests.lmkick_plugin.judge.fault_server import completion, fails, replies, send, serve

FINE = replies("9 8\nBecause.")


def redirect(status: int, where: Callable[[], str]) -> Any:
    return lambda handler, body, number: send(handler, status, b"", Location=where())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_is_sent_to_another_host(make_judge: MakeJudge, status: int) -> None:
    with serve(FINE) as thief, serve(FINE) as server:
        server.answer = redirect(status, lambda: f"{thief.url}/chat/completions")
        verdicts = make_judge(server.url).grade(items(5))
        assert thief.requests == []
        assert thief.keys == []
        assert len(server.requests) == 1, "no request can do better"
        reasons = {verdict.reason or "" for verdict in verdicts}
        assert all("redirects to http://127.0.0.1" in reason for reason in reasons)


def test_a_redirect_within_the_host_is_followed(make_judge: MakeJudge) -> None:
    with serve(FINE) as server:

        def moved(handler: Any, body: dict[str, Any], number: int) -> None:
            if handler.path.endswith("/new"):
                FINE(handler, body, number)
            else:
                send(handler, 307, b"", Location="/v1/chat/completions/new")

        server.answer = moved
        assert make_judge(server.url).grade(items(1))[0].scores == {"score": 8.5}
        assert server.requests[0] == server.requests[1], "with the same question"


def test_a_circle_of_redirects_ends(make_judge: MakeJudge) -> None:
    with serve(redirect(307, lambda: "/v1/again")) as server:
        (verdict,) = make_judge(server.url).grade(items(1))
        assert "circle" in (verdict.reason or "")
        assert len(server.requests) <= 8


def _large(compressed: bool) -> Any:
    body = completion("9 8\n" + "x" * 40_000)

    def answer(handler: Any, _body: dict[str, Any], number: int) -> None:
        if compressed:
            send(handler, 200, gzip.compress(body), Content_Encoding="gzip")
        else:
            send(handler, 200, body)

    return answer


@pytest.mark.parametrize("compressed", [False, True])
def test_a_response_is_read_up_to_a_size(
    make_judge: MakeJudge, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    with serve(_large(compressed)) as server:
        assert make_judge(server.url).grade(items(1))[0].scores == {"score": 8.5}
        monkeypatch.setattr(http_module, "LARGEST_RESPONSE", 30_000)
        before = len(server.requests)
        (verdict,) = make_judge(server.url).grade(items(2)[1:])
        assert "is larger than" in (verdict.reason or "")
        assert len(server.requests) == before + 2, "sent once in each order: more is no help"


def test_an_endless_response_takes_no_memory_and_little_time(make_judge: MakeJudge) -> None:
    def endless(handler: Any, _body: dict[str, Any], _number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" " * 1_000_000)
        handler.close_connection = True

    with serve(endless) as server:
        started = time.monotonic()
        (verdict,) = make_judge(server.url).grade(items(1))
        assert time.monotonic() - started < 10
        assert "larger than 8 MB" in (verdict.reason or "")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html><body>Please log in</body></html>", "/models is not JSON"),
        (200, b"{nonsense", "/models is not JSON"),
        (200, b"", "/models is not JSON"),
        (401, b"no", "refuses the key"),
        (200, b"[1, 2]", None),
        (200, b'{"data": 5}', None),
        (200, b'{"data": [1, null, {"id": 3}, {"id": "strong"}]}', None),
        (200, b'{"models": []}', None),
        (200, b"null", None),
        (404, b"<html>not here</html>", None),
        (500, b"", None),
    ],
)
def test_whatever_models_answers_is_one_line_or_nothing(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, words: str | None
) -> None:
    with serve(FINE) as server:
        server.listing = (status, body)
        plan = JudgePlan(JudgeSettings(model="strong", base_url=server.url, backoff=0.0), None)
        (found,) = plan.endpoints()
        if words is None:
            assert found.problem is None
            plan.check("kick_instruct")
            return
        assert words in (found.problem or "")
        with pytest.raises(ValueError, match="cannot be asked") as caught:
            plan.check("kick_instruct")
        assert "\n" not in str(caught.value)


def test_a_list_of_models_elsewhere_is_not_followed() -> None:
    with serve(FINE) as thief, serve(FINE) as server:
        server.listing = (307, b"")
        server.location = f"{thief.url}/models"
        plan = JudgePlan(JudgeSettings(model="strong", base_url=server.url), None)
        (found,) = plan.endpoints()
        assert "redirects to" in (found.problem or "")
        assert thief.keys == []


def test_an_endpoints_words_do_nothing_to_a_terminal(make_judge: MakeJudge) -> None:
    with serve(fails(401, "bad \x1b[31mkey\x07\nfake line \u202e")) as server:
        (verdict,) = make_judge(server.url).grade(items(1))
        assert "\x1b" not in (verdict.reason or "")
        assert (verdict.reason or "").isprintable()


@pytest.mark.parametrize("key", ["sk-pa55\nword", "sk-pa55\u00e9", "sk pa55"])
def test_a_broken_key_is_not_shown_and_nothing_is_sent(
    make_judge: MakeJudge,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    key: str,
) -> None:
    monkeypatch.setenv("LMKICK_JUDGE_API_KEY", key)
    with serve(FINE) as server, caplog.at_level(logging.DEBUG):
        judge = make_judge(server.url)
        verdicts = judge.grade(items(2))
        plan = JudgePlan(judge.settings, None)
        with pytest.raises(ValueError, match="LMKICK_JUDGE_API_KEY") as caught:
            plan.check("kick_instruct")
        said = repr(verdicts) + str(caught.value) + caplog.text + "".join(capfd.readouterr())
        assert "pa55" not in said
        assert server.requests == []
    assert all("LMKICK_JUDGE_API_KEY" in (verdict.reason or "") for verdict in verdicts)


def test_the_key_goes_to_the_given_address_alone(
    make_judge: MakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(FINE) as given, serve(FINE) as other:
        monkeypatch.setenv("OPENAI_BASE_URL", other.url)
        assert make_judge(given.url).grade(items(1))[0].scores
        assert other.requests == []
        assert set(given.keys) == {f"Bearer {KEY}"}
