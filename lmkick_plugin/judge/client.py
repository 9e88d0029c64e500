# SPDX-License-Identifier: Apache-2.0
"""Requests to one model, each sent once: replies come from the store or the endpoint.

The first request goes alone: it finds out what the endpoint takes, and whether key and model are
right. A process claims a request before sending it, so that two processes with the same items do
not both pay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from lmkick_plugin.judge.endpoint import Request, Sender, missing_requirement, open_client, quiet
from lmkick_plugin.judge.endpoint_errors import EndpointCapabilities, Fault, completion_fault
from lmkick_plugin.judge.limits import Budget, Limits
from lmkick_plugin.judge.reply_store import Reply, ReplyStore, StoreError, request_key
from lmkick_plugin.judge.settings import JudgeSettings, api_key, endpoint_address

__all__ = ["ChatClient", "Outcome"]

_LOGGER = logging.getLogger(__name__)
_FIRST_POLL, _LONGEST_POLL = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The reply to a request, or why there is none.

    Attributes:
        reply: The reply that counts; None where none arrived.
        reason: Why there is none, or what is wrong with it; None where all is well.
    """

    reply: Reply | None
    reason: str | None = None


class ChatClient:
    """Requests to one model at one endpoint.

    Args:
        settings: Limits, and the judge's model and address.
        store: Keeps the replies.
        budget: Counts the requests, over all clients that share it.
        model: Instead of the judge's: a reference model.
        base_url: Its endpoint; None for the judge's.
        concurrency: Requests under way at once; None for the settings'.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        store: ReplyStore,
        budget: Budget,
        *,
        model: str | None = None,
        base_url: str | None = None,
        concurrency: int | None = None,
    ) -> None:
        self.settings = settings
        self.model = model or settings.model
        self.base_url = base_url or settings.base_url
        self.stopped: str | None = None
        self._store = store
        self._budget = budget
        self._concurrency = concurrency or settings.concurrency
        self._capabilities = EndpointCapabilities(structured=settings.structured == "auto")

    def ask(
        self,
        requests: Sequence[Request],
        *,
        description: str = "judge",
        repeat: int = 0,
    ) -> list[Outcome]:
        """Ask all of them; what is in the store is not sent, what stands twice is sent once.

        Args:
            requests: What to ask.
            description: Stands on the progress bar.
            repeat: Asks anew for another number, to see how much replies vary.

        Returns:
            One outcome for each request. Faults of endpoint and store are reasons in it.
        """
        keys = [self._keys(request, repeat) for request in requests]
        outcomes: dict[str, Outcome] = {}
        missing: dict[str, tuple[Request, list[str]]] = {}
        for request, attempts in zip(requests, keys, strict=True):
            name = attempts[0]
            if name in outcomes or name in missing:
                continue
            try:
                stored = self._stored(request, attempts)
            except StoreError as error:
                self.stopped = self.stopped or str(error)
                stored = None
            if stored is None:
                missing[name] = (request, attempts)
            else:
                outcomes[name] = stored
        before = self.stopped
        self.stopped = before or (missing_requirement(self.base_url) if missing else None)
        if missing and not self.stopped:
            self._ask_missing(missing, outcomes, description)
        if missing and self.stopped and not before:  # once, not for every task
            _LOGGER.warning("Judging stopped: %s.", self.stopped.rstrip("."))
        unasked = Outcome(None, self.stopped)
        return [outcomes.get(attempts[0], unasked) for attempts in keys]

    def _keys(self, request: Request, repeat: int) -> list[str]:
        """The stored reply's key, for each attempt at one that holds what is asked."""
        shape: dict[str, Any] = {
            "endpoint": _normalised(self.base_url),
            "max_tokens": self.settings.max_tokens,
            "prompt": request.version,
            "temperature": self.settings.temperature,
        }
        if repeat:
            shape["repeat"] = repeat
        return [
            request_key(self.model, request.messages, {**shape, "attempt": attempt})
            for attempt in range(self.settings.reask + 1)
        ]

    def _stored(self, request: Request, keys: Sequence[str]) -> Outcome | None:
        """The outcome as far as the store knows it; None where something is left to ask."""
        outcome = None
        for key in keys:
            reply = self._store.get(key)
            if reply is None:
                return None
            outcome = Outcome(reply, complaint(request, reply, self.settings))
            if outcome.reason is None:
                break
        return outcome

    def _ask_missing(
        self,
        missing: Mapping[str, tuple[Request, list[str]]],
        outcomes: dict[str, Outcome],
        description: str,
    ) -> None:
        """Send what is not in the store; Ctrl-C waits for what is under way, and pays no more."""
        parallel = min(self._concurrency, len(missing))
        limits = Limits(self.settings, self._budget, secret=api_key(), parallel=parallel)
        address = endpoint_address(self.base_url)
        changes = len(self._capabilities.changes)
        client = open_client(limits, address, completion_fault, retries=self.settings.retries)
        with (
            quiet("httpx", "httpx2", "openai"),
            tqdm(total=len(missing), desc=description) as bar,
            client,
        ):
            send = Sender(client, self.model, limits, self._capabilities)

            def one(name: str, *, patient: bool) -> None:
                outcome = self._ask_one(*missing[name], send, limits, patient=patient)
                if outcome is not None:
                    outcomes[name] = outcome
                    bar.update(1)

            first, *others = missing
            pool = ThreadPoolExecutor(parallel, "lmkick-judge")
            try:
                pool.submit(one, first, patient=True).result()
                for patient in (False, True):  # what another process is asking for comes last
                    left = [name for name in others if name not in outcomes]
                    for future in [pool.submit(one, name, patient=patient) for name in left]:
                        future.result()
            except BaseException:
                limits.stop("judging was interrupted")
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        self.stopped = limits.stopped
        for change in self._capabilities.changes[changes:]:
            _LOGGER.warning("%s at %s: %s.", self.model, address, change)

    def _ask_one(
        self,
        request: Request,
        keys: Sequence[str],
        send: Sender,
        limits: Limits,
        *,
        patient: bool,
    ) -> Outcome | None:
        """Ask until a reply holds what was asked for, or the attempts are used up.

        Returns:
            The outcome; None where another process is asking, and nobody is patient.
        """
        outcome = Outcome(None, limits.stopped)
        for key in keys:
            try:
                result = self._reply(request, key, send, limits, patient=patient)
            except StoreError as error:
                limits.stop(str(error))
                result = Fault(str(error), "run")
            if result is None:
                return None
            if isinstance(result, Fault):
                # A reply that did arrive says more than a later fault.
                return outcome if outcome.reply else Outcome(None, result.reason)
            outcome = Outcome(result, complaint(request, result, self.settings))
            if outcome.reason is None:
                break
        return outcome

    def _reply(
        self, request: Request, key: str, send: Sender, limits: Limits, *, patient: bool
    ) -> Reply | Fault | None:
        """One reply: from the store, from another process that is asking already, or bought."""
        tries = self.settings.retries + 1
        seconds = tries * (self.settings.timeout + self.settings.max_wait) + 60
        poll = _FIRST_POLL
        while not limits.stopped:
            claimed = self._store.claim(key, seconds)
            try:
                # Looked up after the claim: another process may have answered just before.
                reply = self._store.get(key)
                if reply is not None:
                    return reply
                if claimed:
                    result = send(request)
                    if isinstance(result, Fault):
                        return result
                    claimed = False  # a reply in the store ends the claim
                    self._store.put(key, result, model=self.model, endpoint=self.base_url or "")
                    if self._store.failure:
                        limits.stop(self._store.failure)
                    return result
            finally:
                if claimed:
                    self._store.release(key)
            if not patient:
                return None
            time.sleep(poll)
            poll = min(2 * poll, _LONGEST_POLL)
        return Fault(limits.stopped, "run")


def complaint(request: Request, reply: Reply, settings: JudgeSettings) -> str | None:
    """Find fault with a reply that arrived.

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


def _normalised(base_url: str | None) -> str:
    """The address for a key: host and scheme in lower case."""
    parts = urlsplit(endpoint_address(base_url))
    return f"{parts.scheme}://{parts.netloc}".lower() + parts.path.rstrip("/")
