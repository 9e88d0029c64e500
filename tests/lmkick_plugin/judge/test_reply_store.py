# SPDX-License-Identifier: Apache-2.0
"""Replies are paid for once: crashes, two processes, full and read-only disks."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.judge import Reply, StoreError
from lmkick_plugin.judge import ReplyStore as _ReplyStore
from lmkick_plugin.judge.reply_store import request_key
from tests.lmkick_plugin.judge.conftest import MakeJudge, items
from tests.lmkick_plugin.judge.fault_server import fails, first, replies, send, serve

WORKER = Path(__file__).with_name("worker.py")
REPOSITORY = Path(__file__).resolve().parents[3]
FINE = replies("9 8\nBecause.")


_OPENED: list[_ReplyStore] = []


class ReplyStore(_ReplyStore):
    """Remembers to be closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        _OPENED.append(self)


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    while _OPENED:
        _OPENED.pop().close()


def _start(url: str, store: Path, count: int, concurrency: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), url, str(store), str(count), str(concurrency)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def _stored(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])
    finally:
        connection.close()


def test_the_key_is_the_content() -> None:
    messages = [{"role": "user", "content": "a"}]
    key = request_key("m", messages, {"temperature": 0.0})
    assert key == request_key("m", [{"content": "a", "role": "user"}], {"temperature": 0.0})
    assert len(key) == 64
    others = {
        request_key("n", messages, {"temperature": 0.0}),
        request_key("m", [{"role": "user", "content": "b"}], {"temperature": 0.0}),
        request_key("m", [{"role": "system", "content": "a"}], {"temperature": 0.0}),
        request_key("m", messages, {"temperature": 0.5}),
    }
    assert len(others | {key}) == 5


def test_replies_outlive_the_object(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "r.sqlite3"
    store = ReplyStore(path)
    assert store.get("k") is None
    reply = Reply("9 8 \u2603", "stop", 7, 3)
    store.put("k", reply, model="m", endpoint="h")
    assert ReplyStore(path).get("k") == reply, "before closing"
    store.put("k", Reply("other"), model="m", endpoint="h")
    store.close()
    assert ReplyStore(path).get("k") == reply, "what is paid for is not replaced"


def test_claims(tmp_path: Path) -> None:
    one, two = ReplyStore(tmp_path / "r"), ReplyStore(tmp_path / "r")
    assert one.claim("k", 60)
    assert one.claim("k", 60), "one's own"
    assert not two.claim("k", 60)
    one.release("k")
    assert two.claim("k", 0.05)
    time.sleep(0.06)
    assert one.claim("k", 60), "a claim that ran out"
    one.close()
    assert two.claim("k", 60), "a claim given up"


def test_a_claim_that_could_not_be_given_up_binds_nobody_here(tmp_path: Path) -> None:
    one, two = ReplyStore(tmp_path / "r"), ReplyStore(tmp_path / "r")
    assert one.claim("k", 3600)
    assert one._connection is not None
    one._connection.execute("PRAGMA query_only = 1")  # as on a disk that has become full
    one.release("k")
    assert not two.claim("k", 3600), "still there"
    one.close()
    assert two.claim("k", 3600)


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, os, lmkick_plugin.judge as j\n"
        "assert j.ReplyStore(sys.argv[1]).claim('k', 3600)\n"
        "os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r")]
    subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    connection = sqlite3.connect(tmp_path / "r")
    assert connection.execute("SELECT count(*) FROM claims").fetchone() == (1,)
    connection.close()
    assert ReplyStore(tmp_path / "r").claim("k", 60)


def test_two_processes_pay_each_reply_once(tmp_path: Path) -> None:
    def slow(handler: Any, body: dict[str, Any], number: int) -> None:
        time.sleep(1.0)  # long enough for the other process to start
        FINE(handler, body, number)

    with serve(slow) as server:
        pair = [_start(server.url, tmp_path / "r", 12, 3) for _ in range(2)]
        results = [process.communicate(timeout=60) for process in pair]
        (judged, sent), (judged_too, sent_too) = (map(int, out.split()) for out, _ in results)
        assert judged == judged_too == 12, results
        assert sent + sent_too == len(server.requests) == 24
        assert min(sent, sent_too) > 0, "both were at work"
        assert _stored(tmp_path / "r") == 24


def test_a_new_store_waits_for_the_process_that_makes_it(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "r", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # before the switch to write-ahead mode
    release = threading.Timer(0.3, other.execute, ["COMMIT"])
    release.start()
    assert ReplyStore(tmp_path / "r").claim("k", 60)
    release.join()
    other.close()


def test_a_killed_process_loses_no_reply_that_arrived(
    tmp_path: Path, make_judge: MakeJudge
) -> None:
    store = tmp_path / "replies.sqlite3"
    answered = 0

    def slow(handler: Any, body: dict[str, Any], number: int) -> None:
        nonlocal answered
        time.sleep(0.02)
        FINE(handler, body, number)
        answered += 1

    with serve(slow) as server:
        process = _start(server.url, store, 100, 2)
        deadline = time.monotonic() + 60
        while answered < 15 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert 15 <= answered < 200, "killed in the middle"
        kept = _stored(store)
        assert kept >= answered - 2, "at most those on their way, one for each connection"
        sent = len(server.requests)
        verdicts = make_judge(server.url, store=str(store)).grade(items(100))
        assert all(verdict.scores for verdict in verdicts)
        # a request may have been on its way to the server when it was asked what had arrived
        assert 0 <= len(server.requests) - (sent + 200 - kept) <= 2


def test_a_full_disk_stops_paying(
    make_judge: MakeJudge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = replies("9 8\n" + "because " * 300)
    with serve(long) as server:
        judge = make_judge(server.url, concurrency=2)
        judge.store.get("open")
        connection = judge.store._connection
        assert connection is not None
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        verdicts = judge.grade(items(20))
        judged = [verdict for verdict in verdicts if verdict.scores]
        assert judged
        assert len(server.requests) < 12, "nothing more is bought"
        reasons = {verdict.reason for verdict in verdicts if not verdict.scores}
        assert any("full" in (reason or "") for reason in reasons)
        assert all("judge_store=PATH" in (reason or "") for reason in reasons)
        assert "judge_store=PATH" in caplog.text
        kept = _stored(judge.store.path)
        assert len(judged) * 2 > kept - 1, "what had arrived is used all the same"
        assert "not kept" in (judge.store.failure or "")
        # with space again, only what is not kept is asked for
        before = len(server.requests)
        assert all(verdict.scores for verdict in make_judge(server.url).grade(items(20)))
        assert len(server.requests) == before + 40 - kept


def test_a_store_that_cannot_be_made_buys_nothing(make_judge: MakeJudge, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serve(FINE) as server:
        for bad in (tmp_path / "file" / "r.sqlite3", Path("/proc/lmkick/r.sqlite3")):
            verdicts = make_judge(server.url, store=str(bad)).grade(items(3))
            assert all("judge_store=PATH" in (verdict.reason or "") for verdict in verdicts)
            assert all(str(bad) in (verdict.reason or "") for verdict in verdicts)
        (tmp_path / "text").write_text("this is no data base, but long enough to be one " * 50)
        (verdict,) = make_judge(server.url, store=str(tmp_path / "text")).grade(items(1))
        assert "not a database" in (verdict.reason or "")
        assert not server.requests


def test_a_read_only_store_is_read_and_buys_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    store = ReplyStore(path)
    store.put("k", Reply("9 8"), model="m", endpoint="h")
    store.close()

    class ReadOnly(ReplyStore):
        def _open_for_writing(self) -> sqlite3.Connection:
            raise sqlite3.OperationalError("attempt to write a readonly database")

    locked = ReadOnly(path)
    assert locked.get("k") == Reply("9 8")
    assert locked.get("other") is None
    with pytest.raises(StoreError, match="judge_store=PATH"):
        locked.claim("other", 60)
    locked.close()
    assert "readonly" in (locked.check() or "")


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path / "new" / "r.sqlite3")
    assert store.check() is None
    assert store._connection is None
    connection = sqlite3.connect(store.path)
    assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    connection.close()
    assert [path.name for path in store.path.parent.iterdir()] == ["r.sqlite3"]


def test_free_space_is_advised_where_it_lacks(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path)
    for error, words in [
        (OSError(28, "No space left on device"), "Free space there, or give another file"),
        (sqlite3.OperationalError("database is locked"), "(database is locked). Give another"),
    ]:
        store.path = tmp_path / "r"
        assert words in store._message("read", error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_file_permissions_are_respected(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "r.sqlite3"
    store = ReplyStore(path)
    store.put("k", Reply("9 8"), model="m", endpoint="h")
    store.close()
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        locked = ReplyStore(path)
        assert locked.get("k") == Reply("9 8")
        with pytest.raises(StoreError, match="judge_store=PATH"):
            locked.claim("other", 60)
        locked.close()
    finally:
        path.parent.chmod(0o755)


def test_the_key_is_in_no_output(
    make_judge: MakeJudge,
    key: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def echo(handler: Any, body: dict[str, Any], number: int) -> None:
        said = f"9 8\nYou sent {handler.headers['Authorization']}"
        replies(said)(handler, body, number)

    def refuse(handler: Any, body: dict[str, Any], number: int) -> None:
        fails(401, f"Incorrect API key provided: {key}")(handler, body, number)

    def web(handler: Any, body: dict[str, Any], number: int) -> None:
        send(handler, 200, f"<html>{key}</html>".encode(), "text/html")

    with caplog.at_level(logging.DEBUG), serve(first(3, web, echo)) as server:
        judge = make_judge(server.url)
        said = repr(judge.grade(items(2)))
        server.answer = refuse
        more = judge.grade(items(4))
        said += repr(more) + repr(judge.settings) + str(judge.summary) + repr(judge)
        said += repr([verdict.to_dict() for verdict in more])
    out, err = capfd.readouterr()
    assert "refuses the key" in said, "the faults were met"
    assert "You sent Bearer ***" in said
    for place in (said, out, err, caplog.text):
        assert key not in place
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """The signal raises, also where a process started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_keeps_what_arrived(make_judge: MakeJudge) -> None:
    def interrupting(handler: Any, body: dict[str, Any], number: int) -> None:
        if number == 6:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        FINE(handler, body, number)

    with serve(interrupting) as server:
        judge = make_judge(server.url, concurrency=2)
        with pytest.raises(KeyboardInterrupt):
            judge.grade(items(100))
        sent = len(server.requests)
        assert 6 <= sent < 60
        kept = _stored(judge.store.path)
        assert kept >= sent - 4, "two on their way when it was noticed, two more meanwhile"
        started = time.monotonic()
        assert all(verdict.scores for verdict in make_judge(server.url).grade(items(100)))
        assert time.monotonic() - started < 30, "no claim is left that would be waited for"
        assert len(server.requests) == sent + 200 - kept
