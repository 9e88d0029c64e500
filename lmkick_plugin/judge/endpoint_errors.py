# SPDX-License-Identifier: Apache-2.0
"""What went wrong with a request, in words, and whether sending it again can help."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from lmkick_plugin.judge.settings import KEY_VARIABLES, JudgeSettings

__all__ = ["Dialect", "Fault", "classify", "read_reply"]

_QUOTA_WORDS = ("insufficient_quota", "exceeded your current quota", "billing", "credit balance")
_SCHEMA_WORDS = ("response_format", "json_schema", "schema", "structured", "guided", "grammar")
_LONGEST_QUOTE = 200


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request brought no reply.

    Attributes:
        reason: In words, without secrets.
        lasting: ``run``: no other request can succeed either; ``request``: this one never will;
            ``moment``: it may next time.
        wait: Seconds that the endpoint asks to wait.
        status: The HTTP status, where there was one.
        detail: All that the endpoint said.
    """

    reason: str
    lasting: str
    wait: float | None = None
    status: int | None = None
    detail: str = ""


@dataclass(slots=True)
class Dialect:
    """What of the chat-completions interface an endpoint takes; found out by its refusals.

    Attributes:
        structured: It takes a JSON schema.
        token_field: What it calls the longest reply.
        temperature: It takes a temperature.
        proven: A request in this dialect was answered.
        revision: Counts the changes.
    """

    structured: bool
    token_field: str = "max_tokens"
    temperature: bool = True
    proven: bool = False
    revision: int = 0
    changes: list[str] = field(default_factory=list)

    def options(self, settings: JudgeSettings, schema: dict[str, Any] | None) -> dict[str, Any]:
        """The request's fields beside model and messages."""
        options: dict[str, Any] = {self.token_field: settings.max_tokens}
        if self.temperature:
            options["temperature"] = settings.temperature
        if self.structured and schema is not None:
            options["response_format"] = schema
        return options

    def adapt(self, message: str) -> bool:
        """Learn from a refusal (400 or 422).

        Args:
            message: What the endpoint said.

        Returns:
            Whether a request now looks different, so that sending it again makes sense.
        """
        text = message.lower()
        if self.token_field == "max_tokens" and "max_completion_tokens" in text:
            self.token_field = "max_completion_tokens"
            return self._changed("it wants max_completion_tokens")
        if self.temperature and "temperature" in text:
            self.temperature = False
            return self._changed("it takes no temperature: its own default is used")
        if self.structured and (not self.proven or any(word in text for word in _SCHEMA_WORDS)):
            return self.drop_schema()
        return False

    def drop_schema(self) -> bool:
        """Go on without structured output; the scores are read from prose.

        Returns:
            Whether that changes anything.
        """
        if not self.structured:
            return False
        self.structured = False
        return self._changed("it takes no JSON schema: scores are read from its prose")

    def _changed(self, what: str) -> bool:
        self.changes.append(what)
        self.revision += 1
        return True


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + " ..."


def classify(error: BaseException, settings: JudgeSettings, *, has_key: bool) -> Fault:
    """Put an exception of the client into words.

    Args:
        error: Raised by ``openai``, or a time-out.
        settings: The run's.
        has_key: Whether a key was sent.

    Returns:
        What happened and how long it lasts.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, settings, has_key=has_key)
    # asyncio's is another class before Python 3.11
    if isinstance(error, TimeoutError | asyncio.TimeoutError | openai.APITimeoutError):
        return Fault(f"no answer within judge_timeout={settings.timeout:g} s", "moment")
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        detail = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
        return Fault(f"the connection failed ({_quote(detail)})", "moment")
    return Fault(f"the answer is no chat completion ({_quote(str(error))})", "moment")


def _status_fault(error: Any, settings: JudgeSettings, *, has_key: bool) -> Fault:
    """A fault that came with an HTTP status."""
    status: int = error.status_code
    message = _quote(str(error))
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
    if status in (402, 429) and any(word in str(error).lower() for word in _QUOTA_WORDS):
        return Fault(f"the quota is used up ({message})", "run", status=status)
    if status == 429 or status in (408, 409, 425) or status >= 500:
        wait = _retry_after(error.response.headers)
        if wait is not None and wait > settings.max_wait:
            return Fault(
                f"the endpoint asks to wait {wait:g} s ({message}); run again later, or raise "
                f"judge_max_wait={settings.max_wait:g}",
                "run",
                status=status,
            )
        return Fault(f"HTTP {status} ({message})", "moment", wait=wait, status=status)
    if status == 402:
        return Fault(f"the endpoint wants payment ({message})", "run", status=status)
    return Fault(f"HTTP {status} ({message})", "request", status=status, detail=str(error))


def _retry_after(headers: Any) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``Retry-After`` (seconds or a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            continue
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    return None


def read_reply(completion: Any, settings: JudgeSettings) -> tuple[str, str] | Fault:
    """Take text and finish reason out of what an endpoint returned, whatever it is.

    Args:
        completion: What the client returned: a web page arrives as a plain string.
        settings: The run's.

    Returns:
        The reply's text and why it ended (``refusal`` for one), or a fault.
    """
    if isinstance(completion, str):
        return Fault(f"the answer is no chat completion ({_quote(completion)})", "moment")
    try:
        choice = completion.choices[0]
        message, finish = choice.message, str(choice.finish_reason or "")
        text, refusal = message.content, getattr(message, "refusal", None)
    except (AttributeError, IndexError, TypeError):
        return Fault("the answer is no chat completion (no choices in it)", "moment")
    if refusal:
        return str(refusal), "refusal"
    if isinstance(text, str) and text.strip():
        return text, finish
    if finish == "length":
        return Fault(
            f"judge_max_tokens={settings.max_tokens} were used up before any text; raise it",
            "request",
        )
    if finish == "content_filter":
        return Fault("the endpoint's content filter holds the reply back", "request")
    return Fault("the reply is empty", "moment")
