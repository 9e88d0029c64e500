# SPDX-License-Identifier: Apache-2.0
"""Replies of the judge on disk, each paid for once.

SQLite, from the standard library, in write-ahead mode with full synchronisation: a reply is on the
disk before anything else is done with it, so a killed process loses none that had arrived, and
readers and writers in several processes share one file. A process *claims* a request before it
sends it, so that two ranks with the same items do not both pay; the claim of a process that died,
or ran too long, is taken over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from compressors.errors import LmkickError
from compressors.files import is_running

__all__ = ["Reply", "ReplyStore", "StoreError", "request_key"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, endpoint TEXT NOT NULL, created REAL NOT NULL,
    text TEXT NOT NULL, finish TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL
) WITHOUT ROWID;
"""
_LOCK_SECONDS, _LOCK_POLL = 30.0, 0.02
_AT_WORK: set[str] = set()  # the stores of this process that may hold claims
_Result = TypeVar("_Result")


class StoreError(LmkickError, RuntimeError):
    """The file of replies cannot be read or written; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply of an endpoint.

    Attributes:
        text: The reply.
        finish: Why it ended, as the endpoint says: ``stop``, ``length``.
        prompt_tokens: Tokens paid for the prompt, where the endpoint says so.
        completion_tokens: Tokens paid for the reply.
    """

    text: str
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def request_key(
    model: str, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]
) -> str:
    """Name a request by its content.

    Args:
        model: The model asked.
        messages: The prompt, with the answers in it.
        settings: What else shapes the reply: endpoint, temperature, longest reply, which attempt.

    Returns:
        SHA-256 of the canonical JSON of all three, in hexadecimal.
    """
    content = {"messages": [dict(item) for item in messages], "model": model, **settings}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ReplyStore:
    """Replies by key, in one SQLite file that several processes may use at once.

    Nothing is opened before the first look-up. When a write fails (disk full, file read-only) the
    reply stays in memory; :attr:`failure` then says so, and the caller stops paying for replies
    that cannot be kept. A claim is a write too, so that a disk without space is found out before.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.failure: str | None = None
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._memory: dict[str, Reply] = {}

    def close(self) -> None:
        """Give up own claims and close the file."""
        with self._lock:
            _AT_WORK.discard(self._owner)
            if self._connection is None:
                return
            # On a full or read-only disk the claims stay, and run out.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
            self._connection.close()
            self._connection = None

    def check(self) -> str | None:
        """Open the file as a run would, which makes it where it is missing, and close it.

        Returns:
            Why replies can be read but not added; None where they can be added.

        Raises:
            StoreError: They cannot even be read.
        """
        try:
            self.get("")
            try:
                self.claim("check", 1.0)
            except StoreError as error:
                return str(error)
            return None
        finally:
            self.close()

    def get(self, key: str) -> Reply | None:
        """Look up a reply.

        Args:
            key: From :func:`request_key`.

        Returns:
            The reply; None where there is none.

        Raises:
            StoreError: The file is there and cannot be read.
        """
        if key in self._memory:
            return self._memory[key]

        def read(connection: sqlite3.Connection) -> Any:
            return connection.execute(
                "SELECT text, finish, prompt_tokens, completion_tokens FROM replies WHERE key = ?",
                (key,),
            ).fetchone()

        row = self._run(read, "read")
        return None if row is None else Reply(*row)

    def claim(self, key: str, seconds: float) -> bool:
        """Reserve a request, so that no other process sends it too.

        Args:
            key: From :func:`request_key`.
            seconds: After which another process may take over.

        Returns:
            Whether the request is this process's to send. False: another one is at it.

        Raises:
            StoreError: The file cannot be written: nothing should be paid for.
        """

        def write(connection: sqlite3.Connection) -> bool:
            connection.execute("BEGIN IMMEDIATE")
            try:
                row = connection.execute(
                    "SELECT owner, expires FROM claims WHERE key = ?", (key,)
                ).fetchone()
                taken = row is not None and row[0] != self._owner
                free = not (taken and row[1] > time.time() and _is_alive(row[0]))
                if free:
                    connection.execute(
                        "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)",
                        (key, self._owner, time.time() + seconds),
                    )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return free

        _AT_WORK.add(self._owner)
        return self._run(write, "write")

    def release(self, key: str) -> None:
        """Give up a claim: the request was not answered."""
        with contextlib.suppress(StoreError):  # it expires
            self._run(
                lambda connection: connection.execute(
                    "DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner)
                ),
                "write",
            )

    def put(self, key: str, reply: Reply, *, model: str, endpoint: str) -> None:
        """Keep a reply: on the disk when this returns, or in memory alone, with :attr:`failure`.

        Args:
            key: From :func:`request_key`.
            reply: What arrived.
            model: The model that answered.
            endpoint: Its address, for the record.
        """
        self._memory[key] = reply
        paid = (reply.prompt_tokens, reply.completion_tokens)
        values = (key, model, endpoint, time.time(), reply.text, reply.finish, *paid)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(
                    "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
                )
                connection.execute("DELETE FROM claims WHERE key = ?", (key,))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

        try:
            self._run(write, "write")
        except StoreError as error:
            self.failure = f"{error} What had arrived is used in this run, and not kept."

    def _run(self, action: Callable[[sqlite3.Connection], _Result], purpose: str) -> _Result:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                return action(self._connection)
            except (sqlite3.Error, OSError) as error:
                raise StoreError(self._message(purpose, error)) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._open_for_writing()
        except (sqlite3.OperationalError, OSError):
            if not self.path.is_file():
                raise
        # On a read-only disk replies can be read all the same; a claim then says what is wrong.
        # Where a write-ahead log cannot be joined either, the file is read as it stands.
        for options in ("mode=ro", "mode=ro&immutable=1"):
            connection = _connect(f"{self.path.resolve().as_uri()}?{options}", uri=True)
            try:
                connection.execute("SELECT count(*) FROM replies").fetchone()
            except sqlite3.OperationalError:
                connection.close()
                if "immutable" in options:
                    raise
            else:
                break
        return connection

    def _open_for_writing(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(str(self.path))
        try:
            _use_write_ahead_log(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _message(self, purpose: str, error: Exception) -> str:
        reason = "it is a folder" if os.path.isdir(self.path) else str(error)  # noqa: PTH112
        advice = "Free space there, or give" if re.search(r"full|space left", reason) else "Give"
        return (
            f"Cannot {purpose} the judge's reply store {self.path} ({reason}). {advice} another "
            "file as judge_store=PATH."
        )


def _connect(name: str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        name, uri=uri, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead mode; the file stays as it is on network disks.

    SQLite's timeout does not cover the switch: of two processes that make it at once, one is
    refused at once.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_POLL)
        else:
            return


def _is_alive(owner: str) -> bool:
    """Whether the store that made a claim may still be at it; other hosts' are taken to."""
    host, pid, _ = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    if int(pid) == os.getpid():
        return owner in _AT_WORK
    return is_running(int(pid))
