# SPDX-License-Identifier: Apache-2.0
"""HTTP client within limits, for the ``openai`` client, which retries.

- Nothing is sent after a stop, beyond the budget, or to another host than the one configured.
- A response is read up to a size and for a time, both limited.
- Every fault says whether sending again can help. The ``openai`` client obeys that
  (``x-should-retry``), and pauses are made here, where a stop ends them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx2
import openai

from lmkick_plugin.judge.endpoint_errors import Fault, quote, status_fault
from lmkick_plugin.judge.limits import Limits
from lmkick_plugin.judge.settings import JudgeSettings

__all__ = ["FaultError", "GuardedClient", "fault_of"]

LARGEST_RESPONSE = 8_000_000
"""Bytes of a response that are read."""

_MOST_REDIRECTS = 3


class FaultError(openai.OpenAIError):
    """Fault that a retry cannot cure; the ``openai`` client passes it on unchanged."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class GuardedClient(openai.DefaultHttpxClient):
    """An HTTP client within limits.

    Args:
        limits: Of the run.
        check: Finds fault with the body of a successful response.
    """

    def __init__(
        self, limits: Limits, check: Callable[[bytes, JudgeSettings], Fault | None]
    ) -> None:
        super().__init__(timeout=limits.settings.timeout, follow_redirects=False)
        self._limits = limits
        self._check = check

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send once, and read the whole response.

        Args:
            request: As the ``openai`` client makes it.
            options: Of ``httpx2.Client.send``; streams and redirects are not the caller's to ask.

        Returns:
            The response; for a fault of the moment one that the ``openai`` client retries.

        Raises:
            FaultError: A fault that lasts.
        """
        limits = self._limits
        refusal = limits.refusal(int(request.headers.get("x-stainless-retry-count") or 0))
        if refusal is not None:
            raise FaultError(refusal)
        auth = {"auth": options["auth"]} if "auth" in options else {}
        try:
            response, body = self._exchange(request, auth)
            fault = status_fault(
                response.status_code,
                response.headers,
                body,
                limits.settings,
                has_key=limits.secret is not None,
            ) or self._check(body, limits.settings)
        except FaultError as error:
            fault = error.fault
        except httpx2.TimeoutException:
            fault = Fault(f"no answer within judge_timeout={limits.settings.timeout:g} s", "moment")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            detail = quote(f"{type(error).__name__}: {error}")
            fault = Fault(f"the connection failed ({detail})", "moment")
        if fault is None:
            limits.succeeded()
            kind = {"content-type": response.headers.get("content-type", "")}
            return httpx2.Response(
                response.status_code, headers=kind, content=body, request=request
            )
        fault = limits.failed(fault)
        if fault.lasting != "moment" or limits.stopped:
            raise FaultError(fault)
        return httpx2.Response(
            503,
            headers={"x-should-retry": "true", "retry-after-ms": "1"},
            request=request,
            extensions={"fault": fault},
        )

    def _exchange(
        self, request: httpx2.Request, auth: dict[str, Any]
    ) -> tuple[httpx2.Response, bytes]:
        """Send, follow redirects within the host, and read the body."""
        started = time.monotonic()
        for _ in range(_MOST_REDIRECTS + 1):
            response = super().send(request, stream=True, follow_redirects=False, **auth)
            following = response.next_request
            if following is None:
                return response, self._read(response, started)
            response.close()
            if _origin(following.url) != _origin(request.url):
                where = quote(f"{following.url.scheme}://{following.url.netloc.decode('ascii')}")
                raise FaultError(
                    Fault(
                        f"the endpoint redirects to {where}, and nothing is sent to another "
                        "address than the one given; if it is right, give it as judge_base_url",
                        "run",
                    )
                )
            request = following
        raise FaultError(Fault("the endpoint redirects in a circle; check judge_base_url", "run"))

    def _read(self, response: httpx2.Response, started: float) -> bytes:
        """Read a body within the limits of size and time."""
        chunks, size = [], 0
        try:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > LARGEST_RESPONSE:
                    limit = f"{LARGEST_RESPONSE // 1_000_000} MB"
                    raise FaultError(Fault(f"the response is larger than {limit}", "request"))
                if time.monotonic() - started > self._limits.settings.timeout:
                    raise httpx2.ReadTimeout("the whole response took too long")
        finally:
            response.close()
        return b"".join(chunks)


def fault_of(error: Exception) -> Fault:
    """The fault behind an error of the ``openai`` client.

    Args:
        error: What a call of it raised.
    """
    if isinstance(error, FaultError):
        return error.fault
    if isinstance(error, openai.APIStatusError):
        found = error.response.extensions.get("fault")
        if isinstance(found, Fault):
            return found
    return Fault(
        f"the answer is not readable ({quote(f'{type(error).__name__}: {error}')})", "moment"
    )


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
