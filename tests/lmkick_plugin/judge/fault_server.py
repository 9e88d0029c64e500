# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server on 127.0.0.1 that misbehaves as told, and counts its requests."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FaultServer", "completion", "serve"]

Answer = Callable[["BaseHTTPRequestHandler", dict[str, Any], int], None]


def completion(text: str | None, *, refusal: str | None = None, finish: str = "stop") -> bytes:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "judge",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
    ).encode()


@dataclass
class FaultServer:
    """What the server does, and what it saw.

    ``answer(handler, body, number)`` answers request ``number`` (from 0). ``models`` is what it
    lists: names, or the status with which it refuses to; ``listing`` is that answer byte for byte.
    """

    answer: Answer
    models: list[str] | int = 404
    listing: tuple[int, bytes] | None = None
    location: str = ""
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    busiest: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length))
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.keys.append(handler.headers.get("Authorization"))
            self.times.append(time.monotonic())
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            self.answer(handler, body, number)
        finally:
            with self._lock:
                self._busy -= 1


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    kind: str = "application/json",
    **headers: str,
) -> None:
    """Send a whole response."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def replies(text: str, **keywords: Any) -> Answer:
    """Always the same reply."""
    return lambda handler, body, number: send(handler, 200, completion(text, **keywords))


def fails(status: int, message: str = "no", code: str = "", **headers: str) -> Answer:
    """Always the same error."""
    body = json.dumps({"error": {"message": message, "code": code, "type": code}}).encode()
    return lambda handler, _body, _number: send(handler, status, body, **headers)


def first(count: int, fault: Answer, then: Answer) -> Answer:
    """A fault for the first requests, then something else."""
    return lambda handler, body, number: (fault if number < count else then)(handler, body, number)


def page(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
    """A web page, as a proxy sends it."""
    send(handler, 200, b"<html><body>Please log in, 10 10</body></html>", "text/html")


def breaks_off(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
    """Half of the body that was announced, then nothing."""
    whole = completion("9 8")
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(whole)))
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 2])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def trickles(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
    """A byte now and then: no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def user_text(body: dict[str, Any]) -> str:
    """The prompt a request holds."""
    return str(body["messages"][-1]["content"])


def shown(body: dict[str, Any]) -> dict[str, str]:
    """The texts of one of our prompts, by title."""
    blocks = re.findall(r"BEGIN (\w+) ([^\n]*)\n(.*?)\nEND \1 \2", user_text(body), re.DOTALL)
    return {title: text for _, title, text in blocks}


@contextmanager
def serve(answer: Answer) -> Iterator[FaultServer]:
    """Run a server on a free port of 127.0.0.1."""
    state = FaultServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.close_connection = False
            try:
                state.handle(self)
            except OSError:  # the client went away
                self.close_connection = True

        def do_GET(self) -> None:
            if state.listing is not None:
                status, content = state.listing
                kind = "text/html" if content.startswith(b"<") else "application/json"
                send(self, status, content, kind, Location=state.location)
                return
            if isinstance(state.models, int):
                send(self, state.models, b'{"error": {"message": "no list"}}')
                return
            listed = [{"id": name, "object": "model", "created": 1} for name in state.models]
            send(self, 200, json.dumps({"object": "list", "data": listed}).encode())

        def log_message(self, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            return

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
