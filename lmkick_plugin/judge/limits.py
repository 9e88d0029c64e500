# SPDX-License-Identifier: Apache-2.0
"""Limits of a run of requests: how many, how long to pause, and when to stop."""

from __future__ import annotations

import random
import threading
import time

from lmkick_plugin.judge.endpoint_errors import Fault
from lmkick_plugin.judge.settings import JudgeSettings

__all__ = ["Budget", "Limits"]


class Budget:
    """Requests that may still be sent.

    Args:
        limit: In all, retries included.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sent = 0
        self._lock = threading.Lock()

    def spend(self) -> bool:
        """Take one request; False where none is left."""
        with self._lock:
            if self.sent >= self.limit:
                return False
            self.sent += 1
            return True


class Limits:
    """Limits of all requests of one run, in whichever thread.

    Args:
        settings: The judge's.
        budget: Of requests; shared with other runs.
        secret: The key; taken out of everything that arrives.
        parallel: Requests under way at once.
    """

    def __init__(
        self, settings: JudgeSettings, budget: Budget, *, secret: str | None, parallel: int = 1
    ) -> None:
        self.settings = settings
        self.budget = budget
        self.secret = secret
        self.stopped: str | None = None
        # One request may use up its retries twice: with and without a JSON schema.
        self._most_failures = max(settings.give_up_after * parallel, settings.retries + 2)
        self._failures = 0
        self._not_before = 0.0
        self._halt = threading.Event()
        self._lock = threading.Lock()

    def stop(self, reason: str) -> None:
        """Send nothing more, and end all pauses."""
        with self._lock:
            self.stopped = self.stopped or reason
        self._halt.set()

    def refusal(self, retry: int) -> Fault | None:
        """Wait until a request may be sent, and count it.

        Args:
            retry: Which retry it is; 0 for the first try.

        Returns:
            Why it may not be sent; None where it may.
        """
        pause = self._not_before - time.monotonic()
        if retry and pause <= 0:
            backoff = self.settings.backoff * 2 ** min(retry - 1, 30) * (1 + random.random() / 4)
            pause = min(backoff, self.settings.max_wait)
        if pause > 0:
            self._halt.wait(pause)
        if self.stopped:
            return Fault(self.stopped, "run")
        if not self.budget.spend():
            limit = self.budget.limit
            spent = f"judge_max_requests={limit} are spent; raise it to judge the rest"
            return Fault(spent, "run")
        return None

    def failed(self, fault: Fault) -> Fault:
        """Take note of a fault.

        Returns:
            The same, without the key.
        """
        fault = Fault(
            self.scrub(fault.reason),
            fault.lasting,
            fault.wait,
            fault.status,
            self.scrub(fault.detail),
        )
        if fault.lasting == "run":
            self.stop(fault.reason)
        elif fault.lasting == "moment":
            with self._lock:
                self._failures += 1
                count = self._failures
                if fault.wait is not None:
                    self._not_before = max(self._not_before, time.monotonic() + fault.wait)
            if count >= self._most_failures:
                self.stop(f"{count} requests in a row failed, the last one: {fault.reason}")
        return fault

    def succeeded(self) -> None:
        """Take note of an answer."""
        with self._lock:
            self._failures = 0

    def scrub(self, text: str) -> str:
        """Text that can be stored and shown: whole characters, without the key."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return text.replace(self.secret, "***") if self.secret else text
