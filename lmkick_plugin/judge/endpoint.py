# SPDX-License-Identifier: Apache-2.0
"""Requests to one OpenAI-compatible endpoint, with the fields that it accepts."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.judge.endpoint_errors import EndpointCapabilities, Fault
from lmkick_plugin.judge.limits import Limits
from lmkick_plugin.judge.reply_store import Reply
from lmkick_plugin.judge.settings import KEY_VARIABLES, JudgeSettings, api_key, endpoint_address

__all__ = ["Request", "Sender", "missing_requirement", "open_client", "quiet"]

_NO_KEY = "no-key"  # the client insists on one; servers without keys ignore it
Check = Callable[[bytes, JudgeSettings], Fault | None]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

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


def missing_requirement(base_url: str | None) -> str | None:
    """Find what is missing before anything can be asked.

    Args:
        base_url: The endpoint; None for the default, which wants a key.

    Returns:
        What is missing and how to get it, or None.
    """
    try:
        import openai  # noqa: F401
    except ImportError:
        return 'the package openai is missing: pip install "lmkick[judge]"'
    try:
        if api_key() is None and base_url is None:
            return (
                f"there is no key: export {KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]}), or give the "
                "address of an endpoint that needs none as judge_base_url"
            )
        endpoint_address(base_url)
    except SettingsError as error:
        return str(error)
    return None


def open_client(limits: Limits, address: str, check: Check, *, retries: int) -> Any:
    """Make an ``openai.OpenAI`` whose HTTP stays within limits.

    Args:
        limits: Of the run; they hold the key.
        address: The endpoint.
        check: Finds fault with the body of a successful response.
        retries: How often a request that failed is sent again.
    """
    import openai

    from lmkick_plugin.judge.http_client import GuardedClient

    return openai.OpenAI(
        api_key=limits.secret or _NO_KEY,
        base_url=address,
        max_retries=retries,
        timeout=limits.settings.timeout,
        http_client=GuardedClient(limits, check),
    )


class Sender:
    """Sends requests with the fields that an endpoint accepts.

    Args:
        client: From :func:`open_client`.
        model: The model asked.
        limits: Of the run.
        capabilities: What is known of the endpoint; learns more.
    """

    def __init__(
        self, client: Any, model: str, limits: Limits, capabilities: EndpointCapabilities
    ) -> None:
        self._client = client
        self._model = model
        self._limits = limits
        self._capabilities = capabilities
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply | Fault:
        """Send a request, again where the endpoint refuses a field of it."""
        settings = self._limits.settings
        while True:
            options = self._capabilities.options(settings, request.schema)
            result = self._send(request, options)
            with self._lock:
                if isinstance(result, Reply):
                    self._capabilities.proven = True
                    return result
                # What another request has learnt meanwhile answers this one's refusal too.
                known = self._capabilities.options(settings, request.schema)
                if known == options and not self._capabilities.adapt(result):
                    return result

    def _send(self, request: Request, options: dict[str, Any]) -> Reply | Fault:
        """Send a request as often as faults of the moment allow."""
        import openai

        from lmkick_plugin.judge.http_client import fault_of

        try:
            completion = self._client.chat.completions.create(
                model=self._model, messages=list(request.messages), **options
            )
            choice = completion.choices[0]
            refusal = getattr(choice.message, "refusal", None)
            text, finish = choice.message.content, str(choice.finish_reason or "")
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError) as error:
            fault = fault_of(error)
            tries = self._limits.settings.retries + 1
            if fault.lasting == "moment" and tries > 1 and not self._limits.stopped:
                return replace(fault, reason=f"{fault.reason}, {tries} times")
            return fault
        usage = getattr(completion, "usage", None)
        return Reply(
            self._limits.scrub(str(refusal or text)),
            "refusal" if refusal else finish,
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
        )


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and 0 <= value < 2**63 else None


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep a library from writing a line for each request, unless its logger was set up to."""
    loggers = [logging.getLogger(name) for name in names]
    silenced = [logger for logger in loggers if logger.level == logging.NOTSET]
    for logger in silenced:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger in silenced:
            logger.setLevel(logging.NOTSET)
