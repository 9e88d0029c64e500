# SPDX-License-Identifier: Apache-2.0
"""Ask an OpenAI-compatible endpoint many things, and never the same thing twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from tqdm import tqdm

from lmkick_plugin.judge.endpoint_errors import Dialect
from lmkick_plugin.judge.reply_store import ReplyStore, StoreError, request_key
from lmkick_plugin.judge.request_runner import Budget, Conversation, Outcome, Request, complaint
from lmkick_plugin.judge.settings import KEY_VARIABLES, JudgeSettings, api_key

__all__ = ["ChatClient", "missing_requirement"]

_LOGGER = logging.getLogger(__name__)
_NO_KEY = "no-key"  # the client insists on one; servers without keys ignore it


def missing_requirement(base_url: str | None) -> str | None:
    """What has to be there before anything can be asked.

    Args:
        base_url: The endpoint; None for OpenAI's own, which wants a key.

    Returns:
        What is missing and how to get it, or None.
    """
    try:
        import openai  # noqa: F401
    except ImportError:
        return 'the package openai is missing: pip install "lmkick[judge]"'
    if api_key() is None and base_url is None:
        return (
            f"there is no key: export {KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]}), or give the "
            "address of an endpoint that needs none as judge_base_url"
        )
    return None


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
        self._dialect = Dialect(structured=settings.structured == "auto")

    @property
    def endpoint(self) -> str:
        """The host that is asked."""
        return urlsplit(self.base_url).netloc if self.base_url else "api.openai.com"

    def ask(self, requests: Sequence[Request], *, description: str = "judge") -> list[Outcome]:
        """Ask all of them; what is in the store is not sent, what stands twice is sent once.

        Args:
            requests: What to ask.
            description: Stands on the progress bar.

        Returns:
            One outcome for each request. Faults of endpoint and store are reasons in it.
        """
        keys = [self._keys(request) for request in requests]
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
        self.stopped = self.stopped or (missing_requirement(self.base_url) if missing else None)
        if missing and not self.stopped:
            self._in_own_thread(missing, outcomes, description)
        if missing and self.stopped:
            _LOGGER.warning("Judging stopped: %s.", self.stopped.rstrip("."))
        unasked = Outcome(None, self.stopped)
        return [outcomes.get(attempts[0], unasked) for attempts in keys]

    def _keys(self, request: Request) -> list[str]:
        """The stored reply's key, for each attempt at one that holds what is asked."""
        shape = {
            "max_tokens": self.settings.max_tokens,
            "prompt": request.version,
            "temperature": self.settings.temperature,
        }
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

    def _in_own_thread(
        self,
        missing: dict[str, tuple[Request, list[str]]],
        outcomes: dict[str, Outcome],
        description: str,
    ) -> None:
        """Run an event loop in a thread: the caller may be inside one, as in a notebook."""
        loop = asyncio.new_event_loop()
        crashes: list[BaseException] = []

        def work() -> None:
            try:
                loop.run_until_complete(self._converse(missing, outcomes, description))
            except asyncio.CancelledError:
                return  # the caller was interrupted, and says so itself
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread instead
                crashes.append(error)
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()

        thread = threading.Thread(target=work, name="lmkick-judge", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.05)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(_cancel_all, loop)
            thread.join()
            raise
        if crashes:
            raise crashes[0]

    async def _converse(
        self,
        missing: dict[str, tuple[Request, list[str]]],
        outcomes: dict[str, Outcome],
        description: str,
    ) -> None:
        import openai

        key = api_key()
        client = openai.AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=self.base_url,
            max_retries=0,
            timeout=self.settings.timeout,
        )
        with _quiet("httpx", "httpx2"), tqdm(total=len(missing), desc=description) as bar:
            async with client:
                conversation = Conversation(
                    client,
                    model=self.model,
                    endpoint=self.endpoint,
                    settings=self.settings,
                    store=self._store,
                    budget=self._budget,
                    dialect=self._dialect,
                    secret=key,
                    parallel=min(self._concurrency, len(missing)),
                )

                async def one(name: str, request: Request, keys: list[str]) -> None:
                    outcomes[name] = await conversation.ask(request, keys)
                    bar.update(1)

                changes = len(self._dialect.changes)
                await asyncio.gather(*(one(name, *item) for name, item in missing.items()))
        self.stopped = conversation.stopped
        for change in self._dialect.changes[changes:]:
            _LOGGER.warning("%s at %s: %s.", self.model, self.endpoint, change)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
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
