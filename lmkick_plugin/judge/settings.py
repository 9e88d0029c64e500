# SPDX-License-Identifier: Apache-2.0
"""Settings of the judge, from ``--metadata`` or the environment; the key from the latter only.

Every setting is called ``judge_<name>`` in the metadata and ``LMKICK_JUDGE_<NAME>`` in the
environment; the metadata wins. The key is ``LMKICK_JUDGE_API_KEY`` or ``OPENAI_API_KEY``; it is
read when the client is made and kept in no setting, so that no record can hold it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from compressors.errors import SettingsError
from lmkick_plugin.recipe.readers import (
    is_unset,
    read_choice,
    read_float,
    read_int,
    read_text,
    suggest,
)
from lmkick_plugin.terminal import plain

__all__ = [
    "ADDRESS_VARIABLE",
    "KEY_VARIABLES",
    "JudgeSettings",
    "api_key",
    "decides_scores",
    "default_store",
    "endpoint_address",
    "is_setting",
    "of_judge",
]

KEY_VARIABLES = ("LMKICK_JUDGE_API_KEY", "OPENAI_API_KEY")
"""Where the key is looked for, in this order."""

ADDRESS_VARIABLE = "OPENAI_BASE_URL"
"""Where the address is looked for if no setting gives one."""

_PREFIX = "judge_"
_ENVIRONMENT_PREFIX = "LMKICK_JUDGE_"
_OPENAI = "https://api.openai.com/v1"
_SECRET_WORDS = ("key", "token", "password", "passwd", "secret", "auth", "credential", "bearer")
ORDERS = ("both", "reference_first", "answer_first")

# How a judge is asked decides its scores; how often, how patiently and where its replies are kept
# does not.
_PATIENCE = frozenset(
    f"judge_{name}"
    for name in (
        "store", "max_requests", "concurrency", "timeout", "retries", "backoff", "max_wait",
        "give_up_after",
    )
)  # fmt: skip


def is_setting(variable: str) -> bool:
    """Whether :meth:`JudgeSettings.read` reads an environment variable; it reads no key.

    Args:
        variable: Its name.
    """
    return variable.startswith(_ENVIRONMENT_PREFIX) and variable not in KEY_VARIABLES


def of_judge(name: str) -> bool:
    """Whether a value says which judge is asked, and how.

    Args:
        name: Of any setting in the metadata or the environment.
    """
    return name == ADDRESS_VARIABLE or is_setting(name) or name.startswith(_PREFIX)


def decides_scores(name: str) -> bool:
    """Whether a value affects scores, and not only how patiently the judge is asked for them.

    Args:
        name: Of any setting in the metadata or the environment.
    """
    return name.lower().removeprefix("lmkick_") not in _PATIENCE


def default_store(environment: Mapping[str, str] | None = None) -> Path:
    """The file that keeps replies where no ``judge_store`` is given.

    Args:
        environment: Instead of the process's own.

    Returns:
        ``judge_replies.sqlite3`` in ``$LMKICK_CACHE_DIR``, or in ``lmkick`` in the user's cache.
    """
    values = os.environ if environment is None else environment
    folder = values.get("LMKICK_CACHE_DIR")
    if folder:
        return Path(folder) / "judge_replies.sqlite3"
    cache = values.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "lmkick" / "judge_replies.sqlite3"


def api_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The key, or None where the environment holds none.

    Args:
        environment: Instead of the process's own.

    Returns:
        The first of :data:`KEY_VARIABLES` that is set.

    Raises:
        SettingsError: It holds a character that no HTTP header may carry; the message does not
            repeat it.
    """
    values = os.environ if environment is None else environment
    for name in KEY_VARIABLES:
        key = values.get(name, "").strip()
        if not key:
            continue
        if not all("!" <= character <= "~" for character in key):
            raise SettingsError(
                f"{name} holds a space, line break or non-ASCII character (not shown here); export "
                "the key alone."
            )
        return key
    return None


def endpoint_address(base_url: str | None, environment: Mapping[str, str] | None = None) -> str:
    """The address that requests go to, and their key.

    Args:
        base_url: As in the settings.
        environment: Instead of the process's own.

    Returns:
        ``base_url``, else ``OPENAI_BASE_URL``, else OpenAI's own address.

    Raises:
        SettingsError: ``OPENAI_BASE_URL`` is not an address.
    """
    if base_url:
        return base_url
    values = os.environ if environment is None else environment
    given = values.get(ADDRESS_VARIABLE, "").strip()
    if given:
        _check_url(ADDRESS_VARIABLE, given)
    return given.rstrip("/") or _OPENAI


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """The judge model, its settings and its budget.

    Attributes:
        model: The judge's name at its endpoint.
        base_url: The endpoint, up to and with ``/v1``; None for OpenAI's own.
        reference: What answers are compared with: None, ``file:PATH``, ``model:NAME`` or
            ``dense:RESULTS``.
        reference_base_url: The reference model's endpoint; None for the judge's.
        prompt: A file of prompts instead of ours.
        order: ``both`` asks twice with the two answers swapped and averages;
            ``reference_first`` and ``answer_first`` ask once.
        store: The file that keeps the replies; None for one in the user's cache.
        temperature: Sampling temperature of the judge.
        max_tokens: Longest reply; scores come first in it.
        structured: ``auto`` asks for JSON by schema and goes on without it where the endpoint
            refuses; ``off`` never asks.
        max_requests: Requests that may be sent in all, retries included.
        concurrency: Requests under way at once.
        timeout: Seconds that one request may take, from first byte sent to last byte read.
        retries: How often a request that failed is sent again.
        reask: How often a reply without scores is asked for again.
        backoff: Seconds before the first retry; doubled for each further one.
        max_wait: Longest pause in seconds; an endpoint that asks for a longer one is left alone.
        give_up_after: Times that all requests under way may fail in a row, with no answer between,
            before nothing more is sent.
    """

    model: str
    base_url: str | None = None
    reference: str | None = None
    reference_base_url: str | None = None
    prompt: str | None = None
    order: str = "both"
    store: str | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    structured: str = "auto"
    max_requests: int = 5000
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 4
    reask: int = 1
    backoff: float = 1.0
    max_wait: float = 90.0
    give_up_after: int = 3

    def __post_init__(self) -> None:
        read_choice("judge_order", self.order, ORDERS)
        read_choice("judge_structured", self.structured, ("auto", "off"))
        for name in ("max_tokens", "max_requests", "concurrency", "give_up_after"):
            if getattr(self, name) < 1:
                raise SettingsError(f"judge_{name}={getattr(self, name)}: expected 1 or more.")
        for name in ("temperature", "retries", "reask", "backoff", "max_wait"):
            if getattr(self, name) < 0:
                raise SettingsError(f"judge_{name}={getattr(self, name)}: expected 0 or more.")
        if self.timeout <= 0:
            raise SettingsError(f"judge_timeout={self.timeout}: expected seconds, more than 0.")
        for name in ("base_url", "reference_base_url"):
            if getattr(self, name) is not None:
                _check_url(f"judge_{name}", getattr(self, name))
        for name in ("model", "reference", "prompt", "store"):
            if not (getattr(self, name) or "").isprintable():
                raise SettingsError(f"judge_{name} holds a control character; give plain text.")

    @property
    def store_path(self) -> Path:
        """The file that keeps the replies."""
        try:
            return Path(self.store).expanduser() if self.store else default_store()
        except RuntimeError as error:  # no such user
            raise SettingsError(f"judge_store={self.store}: {error} Give a full path.") from error

    @classmethod
    def read(
        cls,
        metadata: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> JudgeSettings | None:
        """Gather the settings of a run.

        Args:
            metadata: A task's metadata; names that do not begin with ``judge_`` are ignored.
            environment: Instead of the process's own.

        Returns:
            The settings; None where no judge is configured, that is no ``judge_model``.

        Raises:
            SettingsError: A name is unknown, a value wrong, or a key stands in the metadata.
        """
        environment = os.environ if environment is None else environment
        given: dict[str, Any] = {}
        for full, value in environment.items():
            if is_setting(full):
                name = full.removeprefix(_ENVIRONMENT_PREFIX).lower()
                _check_name(full, name, [_ENVIRONMENT_PREFIX + one.upper() for one in _READERS])
                if not is_unset(value):
                    given[name] = _read(full, name, value)
        for full, value in (metadata or {}).items():
            if not re.match(r"judge\W|judge_", full, re.IGNORECASE):
                continue
            name = full.removeprefix(_PREFIX)
            _check_name(full, name, [_PREFIX + one for one in _READERS])
            given[name] = None if is_unset(value) else _read(full, name, value)
        if not given.get("model"):
            return None
        defaults = {name for name, value in given.items() if value is None}
        return cls(**{name: value for name, value in given.items() if name not in defaults})


def _check_name(full: str, name: str, known: Sequence[str]) -> None:
    """Refuse what is not a setting; what looks like a key is refused with advice of its own."""
    if name in _READERS:
        return
    if any(word in full.lower() for word in _SECRET_WORDS):
        raise SettingsError(
            f"{plain(full)}: a key in the arguments ends in logs and results. Take it out (and "
            f"change it), and export {KEY_VARIABLES[0]} instead."
        )
    raise SettingsError(
        f"{plain(full)} is not a setting of the judge. {suggest(full, known)}Known: "
        f"{', '.join(known)}."
    )


def _check_url(name: str, url: str) -> None:
    """Refuse what is not an address, without repeating it: a password may stand in it."""
    expected = f"{name}: expected an address such as http://127.0.0.1:8000/v1"
    if not url.isprintable() or not url.isascii() or " " in url:
        raise SettingsError(f"{expected}, without spaces, line breaks or other characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError(f"{expected}; its host or port (1 to 65535) is wrong.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SettingsError(f"{expected}.")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise SettingsError(
            f"{name}: an address with a name, password, query or fragment in it ends in logs. Give "
            f"the bare address and export {KEY_VARIABLES[0]}."
        )


def _read_number(name: str, value: object) -> float:
    return read_float(name, value)


_BY_TYPE: dict[str, Callable[[str, object], Any]] = {
    "str": read_text,
    "str | None": read_text,
    "int": read_int,
    "float": _read_number,
}
_READERS: dict[str, Callable[[str, object], Any]] = {
    field.name: _BY_TYPE[str(field.type)] for field in fields(JudgeSettings)
}


def _read(full: str, name: str, value: object) -> Any:
    if name.endswith("base_url"):  # checked before a message could repeat a password in it
        _check_url(full, str(value).strip())
        return str(value).strip().rstrip("/")
    return _READERS[name](full, value)
