# SPDX-License-Identifier: Apache-2.0
"""Readers of single argument values as command lines deliver them: ``-1.0``, ``"none"``.

Every reader takes the argument's name (for the message) and the value received, and returns the
value in its proper type or raises ``SettingsError`` with a remedy.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.files import check_folder

__all__ = [
    "BOS",
    "check_path",
    "is_unset",
    "read_amount",
    "read_batch_size",
    "read_bool",
    "read_choice",
    "read_device",
    "read_float",
    "read_folder",
    "read_generation",
    "read_int",
    "read_seeds",
    "read_text",
    "suggest",
]

_TRUE = {"true", "yes", "on", "1", "1.0"}
_FALSE = {"false", "no", "off", "0", "0.0"}

#: Whether BOS begins every window and calibration sample.
BOS = ("auto", "always", "never")


def is_unset(value: object) -> bool:
    """Whether a value means "not given": None, or ``none`` spelled as text."""
    return value is None or (isinstance(value, str) and value.strip().lower() in {"", "none"})


#: What other compression tools call our arguments, where the spelling gives no hint.
_ELSEWHERE = {
    "percdamp": "dampening_frac",
    "damp_percent": "dampening_frac",
    "desc_act": "act_order",
    "sparsity_type": "pattern",
    "sym": "symmetric",
}


def suggest(name: str, known: Iterable[str]) -> str:
    """``"Did you mean 'wanda'? "``; empty where no known name is close.

    >>> suggest("c5", ["c4", "self"])
    "Did you mean 'c4'? "
    """
    known = sorted(known)
    meant = _ELSEWHERE.get(name.lower())
    cutoff = 0.5 if len(name) == 2 else 0.6  # one of two letters is enough
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    close = [meant] if meant in known else close
    return f"Did you mean {close[0]!r}? " if close else ""


def read_text(name: str, value: object) -> str:
    """Read non-empty text; path objects are accepted.

    Raises:
        SettingsError: Not text, empty, or with characters that no file and no terminal can hold.
    """
    text = str(value).strip()
    if not text or not isinstance(value, str | os.PathLike | int | float) or value is True:
        raise SettingsError(f"{name}={_shown(value)}: expected text. Give a name or a path.")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise SettingsError(f"{name}={_shown(value)}: holds a NUL or a lone surrogate. Remove it.")
    return text


def check_path(name: str, value: object) -> str:
    """Read a path that a file system can hold, with ``~`` expanded; it need not exist.

    Raises:
        SettingsError: As :func:`read_text`; or a part of it is longer than 255 bytes.
    """
    text = os.path.expanduser(read_text(name, value))  # noqa: PTH111, names of the Hub pass too
    longest = max(text.split("/"), key=len)
    if len(os.fsencode(longest)) > 255 or len(os.fsencode(text)) > 4095:
        raise SettingsError(
            f"{name}={_shown(text)}: too long for a path (255 bytes per name, 4,095 in all)."
        )
    return text


def read_folder(name: str, value: object) -> str:
    """Read a folder that exists or can be created.

    Raises:
        SettingsError: It is a file, or not writable.
    """
    text = check_path(name, value)
    check_folder(name, text)
    return text


def read_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Read one of a few names, in any case."""
    choices = list(choices)
    text = str(value).strip().lower()
    if text not in choices:
        raise SettingsError(
            f"{name}={_shown(value)} is unknown. {suggest(text, choices)}Choose one of: "
            f"{', '.join(choices)}."
        )
    return text


def read_bool(name: str, value: object) -> bool:
    """Read a truth value: a bool, 0 or 1, or true and false (yes, no, on, off)."""
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise SettingsError(f"{name}={_shown(value)}: expected true or false.")


def read_float(name: str, value: object) -> float:
    """Read a finite number."""
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise SettingsError(f"{name}={_shown(value)}: expected a number, such as 0.5.")


def read_int(
    name: str,
    value: object,
    *,
    low: int | None = None,
    high: int | None = None,
    also: str = "",
) -> int:
    """Read a whole number within ``[low, high]``; ``128.0`` and ``"128"`` are accepted.

    Args:
        name: The argument, for the message.
        value: What was received.
        low: Smallest value allowed.
        high: Largest value allowed.
        also: A hint that the message of a value out of range ends with.
    """
    if low is not None and high is not None:
        wanted = f"a whole number from {low} to {high}"
    elif low is not None:
        wanted = f"a whole number of at least {low}"
    else:
        wanted = "a whole number"
    try:
        number = read_float(name, value)
    except ValueError as error:
        raise SettingsError(f"{name}={_shown(value)}: expected {wanted}.{also}") from error
    if (
        number != int(number)
        or (low is not None and number < low)
        or (high is not None and number > high)
    ):
        raise SettingsError(f"{name}={_shown(value)}: expected {wanted}.{also}")
    return int(number)


def read_seeds(name: str, value: object) -> tuple[int, ...]:
    """Read one seed, or several joined by ``+`` (a comma would end the argument): ``0+1+2``."""
    parts = value.split("+") if isinstance(value, str) else [value]
    hint = " Several seeds are joined by a plus sign: seed=0+1+2."
    seeds = tuple(read_int(name, part, low=0, also=hint) for part in parts)
    if len(set(seeds)) != len(seeds):
        raise SettingsError(f"{name}={value!r} repeats a seed. Give each seed once.")
    return seeds


def read_batch_size(name: str, value: object) -> int | str:
    """Read a whole number of at least 1, ``auto``, or ``auto:N`` (detected N times)."""
    text = str(value).strip().lower()
    if re.fullmatch(r"auto(:[1-9]\d{0,5}(\.\d+)?)?", text):
        return text
    try:
        return read_int(name, value, low=1)
    except SettingsError as error:
        raise SettingsError(
            f"{name}={_shown(value)}: expected a whole number of at least 1, auto, or auto:4 "
            "(batch size re-detected four times)."
        ) from error


def read_amount(name: str, value: object) -> int | float:
    """Read a number of documents: a whole number of at least 1, or a share below 1."""
    number = read_float(name, value)
    if number <= 0 or (number >= 1 and number != int(number)):
        raise SettingsError(
            f"{name}={_shown(value)}: expected a whole number of at least 1, or a share below 1."
        )
    return int(number) if number >= 1 else number


#: Common generation settings, for hints on spelling; transformers has more.
_GENERATION = (
    "diversity_penalty", "do_sample", "early_stopping", "epsilon_cutoff", "eta_cutoff",
    "length_penalty", "max_gen_toks", "max_length", "max_new_tokens", "max_time", "min_length",
    "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_beams", "num_return_sequences",
    "penalty_alpha", "repetition_penalty", "temperature", "top_h", "top_k", "top_p", "typical_p",
    "until", "use_cache",
)  # fmt: skip


def _read_until(name: str, value: object) -> object:
    texts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise SettingsError(f"{name}={_shown(value)}: expected text, or a list of texts.")
    return value


def _read_not_negative(name: str, value: object) -> object:
    if read_float(name, value) < 0:
        raise SettingsError(f"{name}={_shown(value)}: expected 0 or more.")
    return value


def _read_share(name: str, value: object) -> object:
    if not 0 < read_float(name, value) <= 1:
        raise SettingsError(f"{name}={_shown(value)}: expected a number above 0, at most 1.")
    return value


def _read_one(name: str, value: object) -> object:
    if read_int(name, value, low=1) > 1:
        raise SettingsError(f"{name}={_shown(value)}: one answer is scored. Leave it out.")
    return value


_READ_GENERATION: dict[str, Callable[[str, object], object]] = {
    **dict.fromkeys(
        ("max_gen_toks", "max_new_tokens", "max_length", "num_beams"), partial(read_int, low=1)
    ),
    **dict.fromkeys(("do_sample", "early_stopping"), read_bool),
    **dict.fromkeys(("temperature", "top_k"), _read_not_negative),
    "num_return_sequences": _read_one,
    "top_p": _read_share,
    "until": _read_until,
}


def read_generation(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Read generation settings; those of length and sampling are checked.

    Raises:
        SettingsError: One is out of range, its name is misspelt, or two contradict each other.
    """
    found = dict(value)
    for key, part in value.items():
        place = f"{name} {key}"
        close = difflib.get_close_matches(str(key).lower(), _GENERATION, n=1, cutoff=0.85)
        if close and key not in _GENERATION:
            raise SettingsError(f"{place}: no such setting. Did you mean {close[0]!r}?")
        if key in _READ_GENERATION and not is_unset(part):
            found[key] = _READ_GENERATION[key](place, part)
    cold = not is_unset(found.get("temperature")) and float(found["temperature"]) == 0
    if cold and found.get("do_sample") is True:
        raise SettingsError(
            f"{name} do_sample=true samples, but temperature=0 leaves nothing to sample. Leave one "
            "of the two out."
        )
    return found


_DEVICES = ("cpu", "cuda", "hpu", "mps", "npu", "xpu")


def read_device(name: str, value: object) -> str:
    """Read a device name, such as ``cpu`` or ``cuda:1``; it need not exist."""
    text = read_text(name, value).lower()
    kind, colon, number = text.partition(":")
    if kind not in _DEVICES or (colon and not re.fullmatch(r"\d{1,4}", number)):
        hint = "Did you mean 'cuda'? " if kind in ("gpu", "nvidia") else suggest(kind, _DEVICES)
        raise SettingsError(
            f"{name}={_shown(value)}: not a device. {hint}Use cpu, cuda, cuda:1 or mps."
        )
    return text


def _shown(value: object) -> str:
    """A value for a message, on one line and shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
