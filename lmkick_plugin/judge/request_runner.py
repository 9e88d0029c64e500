# SPDX-License-Identifier: Apache-2.0
"""One run of concurrent requests to one endpoint: who may send when, and when to stop.

Each answer goes to the reply store before anything else is done with it. Faults of the moment are
retried with growing pauses, or after the pause that the endpoint asks for, which then holds for
all. Faults that no request can escape, and too many failures in a row, stop the run. The first
request goes alone: it finds out what the endpoint takes, and whether key and model are right.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmkick_plugin.judge.endpoint_errors import Dialect, Fault, classify, read_reply
from lmkick_plugin.judge.reply_store import Reply, ReplyStore, StoreError
from lmkick_plugin.judge.settings import JudgeSettings

__all__ = ["Budget", "Conversation", "Outcome", "Request", "complaint"]

_LOGGER = logging.getLogger(__name__)
_FIRST_POLL, _LONGEST_POLL = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask.

    Attributes:
        messages: The prompt.
        version: Names the wording, for the stored reply's key.
        schema: ``response_format``, for an endpoint that takes one.
        accepts: Whether a reply's text holds what was asked for.
    """

    messages: tuple[dict[str, str], ...]
    version: str = ""
    schema: dict[str, Any] | None = None
    accepts: Callable[[str], bool] = bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    Attributes:
        reply: The reply that counts; None where none arrived.
        reason: Why there is none, or what is wrong with it; None where all is well.
    """

    reply: Reply | None
    reason: str | None = None


@dataclass(slots=True)
class Budget:
    """Requests that may still be sent.

    Attributes:
        limit: In all.
        sent: So far, retries included.
    """

    limit: int
    sent: int = 0

    def spend(self) -> bool:
        """Take one request; False where none is left."""
        if self.sent >= self.limit:
            return False
        self.sent += 1
        return True


class Conversation:
    """The state of one run, inside one event loop.

    Args:
        client: An ``openai.AsyncOpenAI``.
        model: The model asked.
        endpoint: Its host, for the record.
        settings: Limits.
        store: Keeps the replies.
        budget: Shared with other runs.
        dialect: What is known of the endpoint, from earlier runs.
        secret: Taken out of everything that arrives.
        parallel: Requests under way at once.
    """

    def __init__(
        self,
        client: Any,
        *,
        model: str,
        endpoint: str,
        settings: JudgeSettings,
        store: ReplyStore,
        budget: Budget,
        dialect: Dialect,
        secret: str | None,
        parallel: int,
    ) -> None:
        self.stopped: str | None = None
        self._client = client
        self._model = model
        self._endpoint = endpoint
        self._settings = settings
        self._store = store
        self._budget = budget
        self._dialect = dialect
        self._secret = secret
        self._slots = asyncio.Semaphore(parallel)
        self._most_failures = settings.give_up_after * parallel
        self._failures = 0
        self._waits = False
        self._not_before = 0.0
        self._halt = asyncio.Event()
        self._first = asyncio.Lock()
        self._opened = asyncio.Event()
        # As long as one try may take; renewed for each further one.
        self._claim_seconds = settings.timeout + settings.max_wait + 60

    async def ask(self, request: Request, keys: list[str]) -> Outcome:
        """Ask until a reply holds what was asked for, or the attempts are used up.

        Args:
            request: What to ask.
            keys: The stored reply's key for each attempt.

        Returns:
            The outcome; faults do not raise.
        """
        outcome = Outcome(None, self.stopped)
        for key in keys:
            try:
                result = await self._reply(request, key)
            except StoreError as error:
                self._stop(str(error))
                result = Fault(str(error), "run")
            if isinstance(result, Fault):
                # A reply that did arrive says more than a later fault.
                return outcome if outcome.reply else Outcome(None, result.reason)
            outcome = Outcome(result, complaint(request, result, self._settings))
            if outcome.reason is None:
                break
        return outcome

    async def _reply(self, request: Request, key: str) -> Reply | Fault:
        """One reply: from the store, from another process that is asking already, or bought."""
        poll = _FIRST_POLL
        while True:
            async with self._slots:
                if self.stopped:
                    return Fault(self.stopped, "run")
                claimed = await asyncio.to_thread(self._store.claim, key, self._claim_seconds)
                try:
                    # Looked up after the claim: another process may have answered just before.
                    reply = await asyncio.to_thread(self._store.get, key)
                    if reply is not None:
                        return reply
                    if claimed:
                        result = await self._buy(request, key)
                        claimed = isinstance(result, Fault)  # a reply in the store ends the claim
                        return result
                finally:
                    if claimed:
                        self._store.release(key)
            if poll == _LONGEST_POLL and not self._waits:
                self._waits = True
                _LOGGER.info("Waiting for replies that another process is asking for.")
            await self._sleep(poll)
            poll = min(2 * poll, _LONGEST_POLL)

    async def _buy(self, request: Request, key: str) -> Reply | Fault:
        """Send a request until it is answered, and keep the answer."""
        fault = Fault("nothing was sent", "moment")
        for attempt in range(self._settings.retries + 1):
            result = await self._exchange(request)
            if isinstance(result, Reply):
                self._dialect.proven = True
                self._failures = 0
                # Kept even if the run is cancelled meanwhile: it is paid for.
                await asyncio.shield(asyncio.to_thread(self._keep, key, result))
                return result
            fault = result
            if fault.lasting == "run":
                self._stop(fault.reason)
            if fault.lasting != "moment":
                return fault
            self._count_failure(fault)
            if attempt > 0 and (fault.status or 0) >= 500 and not self._dialect.proven:
                self._dialect.drop_schema()  # some endpoints fall over it instead of refusing it
            if attempt < self._settings.retries:
                await self._pause(attempt, fault)
                await asyncio.to_thread(self._store.claim, key, self._claim_seconds)
        tries = self._settings.retries + 1
        return Fault(f"{fault.reason}, {tries} times" if tries > 1 else fault.reason, "moment")

    def _keep(self, key: str, reply: Reply) -> None:
        self._store.put(key, reply, model=self._model, endpoint=self._endpoint)
        if self._store.failure:
            self._stop(self._store.failure)

    async def _exchange(self, request: Request) -> Reply | Fault:
        """Send in a dialect the endpoint takes; the first request of a run alone."""
        if not self._opened.is_set():
            async with self._first:
                if not self._opened.is_set():
                    try:
                        return await self._in_dialect(request)
                    finally:
                        self._opened.set()
        return await self._in_dialect(request)

    async def _in_dialect(self, request: Request) -> Reply | Fault:
        while True:
            revision = self._dialect.revision
            result = await self._send(request)
            if not (isinstance(result, Fault) and result.status in (400, 422)):
                return result
            # A revision by another request answers this one's refusal too.
            if self._dialect.revision == revision and not self._dialect.adapt(result.detail):
                return result

    async def _send(self, request: Request) -> Reply | Fault:
        """Send once, within the time limit."""
        import openai

        await self._sleep(self._not_before - time.monotonic())
        if self.stopped:
            return Fault(self.stopped, "run")
        if not self._budget.spend():
            spent = f"judge_max_requests={self._budget.limit} are spent; raise it to judge the rest"
            return Fault(spent, "run")
        try:
            completion = await asyncio.wait_for(
                self._client.chat.completions.create(
                    model=self._model,
                    messages=list(request.messages),
                    **self._dialect.options(self._settings, request.schema),
                ),
                self._settings.timeout,
            )
        except (openai.OpenAIError, asyncio.TimeoutError, OSError, ValueError) as error:
            return self._clean(classify(error, self._settings, has_key=self._secret is not None))
        result = read_reply(completion, self._settings)
        if isinstance(result, Fault):
            return self._clean(result)
        usage = getattr(completion, "usage", None)
        return Reply(
            self._scrub(result[0]),
            result[1],
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
        )

    def _scrub(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")
        return text.replace(self._secret, "***") if self._secret else text

    def _clean(self, fault: Fault) -> Fault:
        return Fault(
            self._scrub(fault.reason),
            fault.lasting,
            fault.wait,
            fault.status,
            self._scrub(fault.detail),
        )

    def _stop(self, reason: str) -> None:
        self.stopped = self.stopped or reason
        self._halt.set()

    def _count_failure(self, fault: Fault) -> None:
        self._failures += 1
        if self._failures >= self._most_failures:
            self._stop(f"{self._failures} requests in a row failed, the last one: {fault.reason}")

    async def _pause(self, attempt: int, fault: Fault) -> None:
        """Wait before a retry; a pause that the endpoint asks for holds for every request."""
        if fault.wait is not None:
            self._not_before = max(self._not_before, time.monotonic() + fault.wait)
            await self._sleep(fault.wait)
            return
        pause = self._settings.backoff * 2**attempt * (1 + random.random() / 4)
        await self._sleep(min(pause, self._settings.max_wait))

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not longer than the run goes on."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._halt.wait(), seconds)
            except asyncio.TimeoutError:
                return


def complaint(request: Request, reply: Reply, settings: JudgeSettings) -> str | None:
    """What is wrong with a reply that arrived.

    Args:
        request: What was asked.
        reply: What was answered.
        settings: The run's.

    Returns:
        The reason why the reply does not count; None where it does.
    """
    if reply.finish != "refusal" and request.accepts(reply.text):
        return None
    if reply.finish == "refusal":
        return "the judge refused"
    if reply.finish == "length":
        return f"the reply was cut off at judge_max_tokens={settings.max_tokens} before its scores"
    return "no scores in the reply"


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and 0 <= value < 2**63 else None
