# SPDX-License-Identifier: Apache-2.0
"""Answers to compare with: from a file, from a reference model, or from an earlier run's samples.

``judge_reference`` is ``file:PATH``, ``model:NAME``, ``dense:RESULTS`` (the answers that the dense
model gave in an earlier run) or ``dense`` (``--model kick`` gives them itself). An answer is a
tuple of turns; for a task of one turn it holds one text.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compressors.errors import SettingsError
from lmkick_plugin.files import parse_json
from lmkick_plugin.terminal import plain

__all__ = ["IDENTITIES", "TEXTS", "Reference", "Turns", "load_answers", "read_reference"]

Turns = tuple[str, ...]

# Not lm-eval's doc_id: it counts documents from 0, and Vicuna's question_id from 1. As an identity
# it would pair each question with the answer to another.
IDENTITIES = ("question_id", "doc_hash", "id")
"""Fields of a row that may name its document, the first one counts."""

TEXTS = ("text", "answer", "output", "response", "highlights")
"""Fields of a row that may hold its answer, the first one counts."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the answers to compare with come from.

    Attributes:
        kind: ``file``, ``model`` or ``dense``.
        value: The path, the model's name, or where the dense model's results are; empty where they
            lie among those that are judged, or the evaluated model is to give its dense answers.
    """

    kind: Literal["file", "model", "dense"]
    value: str = ""


def read_reference(text: str | None) -> Reference | None:
    """Read the setting ``judge_reference``.

    Args:
        text: The setting; None judges answers alone.

    Returns:
        What it says.

    Raises:
        SettingsError: It says nothing known.
    """
    if text is None:
        return None
    kind, _, value = text.partition(":")
    kind, value = kind.strip().lower(), value.strip()
    if kind == "dense":
        return Reference("dense", value)
    if kind == "file" and value:
        return Reference("file", value)
    if kind == "model" and value:
        return Reference("model", value)
    raise SettingsError(
        f"judge_reference={text}: expected file:PATH (JSON Lines of answers), model:NAME, dense or "
        "dense:RESULTS (results folder or samples file of an earlier run of the dense model)."
    )


def load_answers(path: Path | str) -> dict[str, Turns]:
    """Read answers from JSON Lines, plain or ``.gz``.

    Args:
        path: A file whose rows hold an identity (``question_id``, ``doc_hash`` or ``id``) and an
            answer: ``text``, ``answer``, ``output`` or ``response``; ``choices[0].turns`` as
            FastChat writes them; or ``resps`` of an lm-eval samples file.

    Returns:
        Answers by identity, as text. A row of lm-eval is found by its ``doc_hash``.

    Raises:
        SettingsError: The file is missing, broken, empty, or a row lacks a field; names the line.
    """
    path = Path(path).expanduser()
    answers: dict[str, Turns] = {}
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                identity, turns = _read_row(parse_json(line), f"{path}, line {number}")
                if answers.setdefault(identity, turns) != turns:
                    raise SettingsError(
                        f"{path}, line {number}: a second, different answer to {identity}."
                        " Keep one."
                    )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path}: not a file of answers ({error}). Give JSON Lines.") from error
    if not answers:
        raise SettingsError(f"{path} holds no answers.")
    return answers


def _read_row(row: Any, where: str) -> tuple[str, Turns]:
    if not isinstance(row, Mapping):
        raise SettingsError(f"{where}: expected an object.")
    identity = next((row[name] for name in IDENTITIES if row.get(name) is not None), None)
    if identity is None:
        held = ", ".join(map(str, row)) or "nothing"
        raise SettingsError(
            f"{where}: no identity, only {plain(held, limit=100)}. Give one of: "
            f"{', '.join(IDENTITIES)}."
        )
    turns = _turns(row)
    if turns is None:
        raise SettingsError(f"{where}: no answer. Expected one of: {', '.join(TEXTS)}.")
    return str(identity), turns


def _turns(row: Mapping[str, Any]) -> Turns | None:
    """The answer of one row; None where it holds none."""
    found: Any = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
    if found is None:
        found = row.get("resps", row.get("choices"))
        while isinstance(found, list) and len(found) == 1:  # one request, one repeat
            found = found[0]
        if isinstance(found, Mapping):
            found = found.get("turns")
    turns = [found] if isinstance(found, str) else found
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        return None
    return tuple(turns) or None
