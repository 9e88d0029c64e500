# SPDX-License-Identifier: Apache-2.0
"""Endpoint faults and how long each lasts; request fields that an endpoint accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from lmkick_plugin.judge.settings import KEY_VARIABLES, JudgeSettings
from lmkick_plugin.terminal import plain

__all__ = [
    "EndpointCapabilities",
    "Fault",
    "completion_fault",
    "listing_fault",
    "quote",
    "status_fault",
]

_QUOTA_WORDS = ("insufficient_quota", "exceeded your current quota", "billing", "credit balance")
_SCHEMA_WORDS = ("response_format", "json_schema", "schema", "structured", "guided", "grammar")
_LONGEST_QUOTE = 200
_MOMENTARY = (408, 409, 425, 429)


@dataclass(frozen=True, slots=True)
class Fault:
    """Reason why a request has no reply.

    Attributes:
        reason: In words, without secrets.
        lasting: ``run``: no other request can succeed either; ``request``: this one never will;
            ``moment``: it may next time.
        wait: Seconds that the endpoint asks to wait.
        status: The HTTP status, where there was one.
        detail: The endpoint's own words.
    """

    reason: str
    lasting: Literal["run", "request", "moment"]
    wait: float | None = None
    status: int | None = None
    detail: str = ""


@dataclass(slots=True)
class EndpointCapabilities:
    """Fields of a chat completion that an endpoint accepts; learnt from its refusals.

    Attributes:
        structured: It takes a JSON schema.
        token_field: Its name for the longest reply.
        temperature: It takes a temperature.
        proven: A request with these fields was answered.
        changes: What was learnt, in words.
    """

    structured: bool
    token_field: str = "max_tokens"
    temperature: bool = True
    proven: bool = False
    changes: list[str] = field(default_factory=list)

    def options(self, settings: JudgeSettings, schema: dict[str, Any] | None) -> dict[str, Any]:
        """The request's fields beside model and messages."""
        options: dict[str, Any] = {self.token_field: settings.max_tokens}
        if self.temperature:
            options["temperature"] = settings.temperature
        if self.structured and schema is not None:
            options["response_format"] = schema
        return options

    def adapt(self, fault: Fault) -> bool:
        """Learn from a refusal.

        Args:
            fault: What the endpoint answered.

        Returns:
            Whether a request now looks different, so that sending it again makes sense.
        """
        text = fault.detail.lower()
        if (fault.status or 0) >= 500 and not self.proven:
            return self._drop_schema()  # some endpoints fall over it instead of refusing it
        if fault.status not in (400, 422):
            return False
        if self.token_field == "max_tokens" and "max_completion_tokens" in text:
            self.token_field = "max_completion_tokens"
            return self._changed("it wants max_completion_tokens")
        if self.temperature and "temperature" in text:
            self.temperature = False
            return self._changed("it takes no temperature: its own default is used")
        if not self.proven or any(word in text for word in _SCHEMA_WORDS):
            return self._drop_schema()
        return False

    def _drop_schema(self) -> bool:
        if not self.structured:
            return False
        self.structured = False
        return self._changed("it takes no JSON schema: scores are read from its prose")

    def _changed(self, what: str) -> bool:
        self.changes.append(what)
        return True


def quote(text: object) -> str:
    """An endpoint's words for a message: one short line, nothing that a terminal obeys."""
    return plain(" ".join(str(text)[: 4 * _LONGEST_QUOTE].split()), limit=_LONGEST_QUOTE)


def status_fault(
    status: int, headers: Mapping[str, str], body: bytes, settings: JudgeSettings, *, has_key: bool
) -> Fault | None:
    """Read an HTTP status.

    Args:
        status: Of the response.
        headers: Of the response.
        body: Of the response.
        settings: The run's.
        has_key: Whether a key was sent.

    Returns:
        What went wrong; None for a success.
    """
    if 200 <= status < 300:
        return None
    detail = _error_message(body)
    message = quote(detail)
    if status in (401, 403):
        cure = (
            f"check {' or '.join(KEY_VARIABLES)}"
            if has_key
            else f"no key was sent: export {KEY_VARIABLES[0]}"
        )
        return Fault(f"the endpoint refuses the key ({message}); {cure}", "run", status=status)
    if status == 404:
        return Fault(
            f"model {settings.model!r}, or the address, is unknown there ({message}); check "
            "judge_model and judge_base_url (which ends in /v1)",
            "run",
            status=status,
        )
    if status in (402, 429) and any(word in detail.lower() for word in _QUOTA_WORDS):
        return Fault(f"the quota is used up ({message})", "run", status=status)
    if status in _MOMENTARY or status >= 500:
        wait = _retry_after(headers)
        if wait is not None and wait > settings.max_wait:
            return Fault(
                f"the endpoint asks to wait {wait:g} s ({message}); run again later, or raise "
                f"judge_max_wait={settings.max_wait:g}",
                "run",
                status=status,
            )
        text = f"HTTP {status} ({message})"
        return Fault(text, "moment", wait=wait, status=status, detail=detail)
    if status == 402:
        return Fault(f"the endpoint wants payment ({message})", "run", status=status)
    return Fault(f"HTTP {status} ({message})", "request", status=status, detail=detail)


def _error_message(body: bytes) -> str:
    """The message of an error in OpenAI's form, with its code; else the beginning of the body."""
    text = body[:20_000].decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return text
    if isinstance(error, dict):
        parts = [error.get(name) for name in ("message", "code")]
        return " ".join(part for part in parts if isinstance(part, str) and part)
    return str(error)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``Retry-After`` (seconds or a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                date = parsedate_to_datetime(value)
            except ValueError:
                continue
            if date.tzinfo is None:
                date = date.replace(tzinfo=timezone.utc)
            seconds = (date - datetime.now(timezone.utc)).total_seconds()
        if seconds == seconds:  # not a NaN
            return max(0.0, seconds)
    return None


def completion_fault(body: bytes, settings: JudgeSettings) -> Fault | None:
    """Check that a successful response is a chat completion with a text in it.

    Args:
        body: Of the response; a login page of a proxy is a success too.
        settings: The run's.

    Returns:
        What is wrong, or None.
    """
    try:
        choice = json.loads(body)["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        seen = quote(body[:1000].decode("utf-8", "replace"))
        return Fault(f"the answer is not a chat completion ({seen})", "moment")
    if refusal or (isinstance(text, str) and text.strip()):
        return None
    if finish == "length":
        return Fault(
            f"judge_max_tokens={settings.max_tokens} were used up before any text; raise it",
            "request",
        )
    if finish == "content_filter":
        return Fault("the endpoint's content filter holds the reply back", "request")
    return Fault("the reply is empty", "moment")


def listing_fault(body: bytes, settings: JudgeSettings) -> Fault | None:  # noqa: ARG001
    """Check that a successful response to ``/models`` is JSON.

    Args:
        body: Of the response.
        settings: The run's.

    Returns:
        What is wrong, or None.
    """
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        seen = quote(body[:1000].decode("utf-8", "replace"))
        return Fault(
            f"/models is not JSON ({seen}); check judge_base_url (which ends in /v1)", "run"
        )
    return None
