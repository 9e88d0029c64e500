# SPDX-License-Identifier: Apache-2.0
"""State of a cell on disk: ``cell.json``, rewritten after each task.

::

    {"schema": 1, "cell": "Qwen3-0.6B/wanda_sparsity=0.5", "state": "done",
     "identity": {"model": {...}, "recipe": {...}}, "seconds": 12.3, "compress_seconds": 4.5,
     "weights_sha256": "...", "dense_sha256": "...", "bytes": 123, "error": null,
     "tasks": {"kick_mmlu": {"state": "done", "seconds": 7.8, "results": "Qwen.../results_...json",
                             "settings": {...}, "error": null}}}

A task is done when its entry says so and its results file is there. Nothing else is trusted.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressors.files import remove_leftovers, write_atomically
from lmkick_plugin.files import parse_json
from lmkick_plugin.terminal import CommandError, plain

__all__ = ["NAME", "Ledger", "describe_error"]

NAME = "cell.json"
SCHEMA = 1
_FACTS: dict[str, Any] = {
    "seconds": int | float,
    "compress_seconds": int | float,
    "weights_sha256": str,
    "dense_sha256": str,
    "bytes": int,
}
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


@dataclass
class Ledger:
    """The state of one cell.

    Attributes:
        folder: The cell's.
        cell: Its name.
        identity: What decides its weights.
        tasks: Entry by task.
        facts: ``seconds``, ``compress_seconds``, ``weights_sha256``, ``dense_sha256``, ``bytes``.
        error: Why the model could not be made; None where it could.
    """

    folder: Path
    cell: str
    identity: Mapping[str, Any]
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None

    @classmethod
    def open(cls, folder: Path, cell: str, identity: Mapping[str, Any]) -> Ledger:
        """Read a cell's state; a missing or broken file counts as nothing done.

        Args:
            folder: The cell's.
            cell: Its name.
            identity: What decides its weights now.

        Raises:
            CommandError: The folder holds a cell of the same name with other weights.
        """
        if folder.is_dir():  # of a run killed at its last write, after which there is none
            remove_leftovers(folder)
        try:
            found = cls.parse(folder, (folder / NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(folder, cell, identity)
        # A file that is gone, or was not recorded, says nothing.
        kept, here = found.identity.get("files"), identity.get("files")
        if not isinstance(kept, Mapping) or here is None:
            kept = here = {}
        both = kept.keys() & here.keys()
        before, now = ({path: files[path] for path in both} for files in (kept, here))
        _require_same(folder, {**found.identity, "files": before}, {**identity, "files": now})
        return found

    @classmethod
    def parse(cls, folder: Path, text: str) -> Ledger:
        """Read a ``cell.json``.

        Args:
            folder: The cell's.
            text: The file's contents.

        Raises:
            ValueError: Not such a file (likewise ``KeyError``, ``TypeError``, ``AttributeError``).
        """
        data = parse_json(text)
        facts = {name: data[name] for name in _FACTS if data.get(name) is not None}
        tasks, error = data["tasks"], data.get("error")
        whole = all(isinstance(facts[name], _FACTS[name]) for name in facts) and all(
            isinstance(entry, dict)
            and isinstance(entry.get("seconds", 0), int | float)
            and isinstance(entry.get("settings"), dict | None)
            for entry in tasks.values()
        )
        if (
            not whole
            or not isinstance(data["identity"], dict)
            or not isinstance(error, dict | None)
        ):
            raise ValueError("fields of other types")
        return cls(folder, str(data["cell"]), data["identity"], tasks, facts, error)

    def results(self, task: str, settings: Mapping[str, Any]) -> Path | None:
        """Results file of a finished task; None where it is not finished.

        Args:
            task: Its name.
            settings: How it is evaluated now.

        Raises:
            CommandError: It was evaluated in another way.
        """
        entry = self.tasks.get(task, {})
        if entry.get("state") != "done":
            return None
        path = self.folder / str(entry.get("results"))
        if not _is_whole(path):
            return None
        _require_same(self.folder, entry.get("settings") or {}, settings, task)
        return path

    def failed(self, task: str) -> bool:
        """Whether a task's last evaluation failed, or its model could not be loaded."""
        return self.error is not None or self.tasks.get(task, {}).get("state") == "failed"

    @property
    def state(self) -> str:
        """``done``, ``failed`` or ``partial`` (a begun task has not ended)."""
        states = {entry.get("state") for entry in self.tasks.values()}
        if self.error is not None or "failed" in states:
            return "failed"
        return "done" if states == {"done"} else "partial"

    def write(self) -> None:
        """Write the file atomically."""
        entries = {"schema": SCHEMA, "cell": self.cell, "state": self.state}
        rest = {"identity": self.identity, "error": self.error, "tasks": self.tasks}
        text = json.dumps({**entries, **self.facts, **rest}, indent=1, ensure_ascii=False)
        write_atomically(self.folder / NAME, text + "\n")


def _is_whole(path: Path) -> bool:
    """Whether a results file ends like a JSON object; a full disk or a crash may cut it."""
    try:
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, 16), os.SEEK_END)
            return file.read().rstrip().endswith(b"}")
    except (OSError, ValueError):
        return False


def _require_same(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], task: str = ""
) -> None:
    """Refuse other settings; one that is None is as one that is not there."""
    differing = next(iter(_differing(before, now)), None)
    if differing is None:
        return
    part, old, new = differing
    remedy = "G"
    if part.startswith("environment."):
        name = part.removeprefix("environment.")
        remedy = f"Unset {name}, or g" if old is None else f"Set {name} to that, or g"
    whose = f"{task} of another sweep" if task else "a cell of another sweep"
    raise CommandError(
        plain(
            f"{folder} holds {whose}: its {part} is {old!r}, now {new!r}. {remedy}ive another "
            "output, or remove that folder"
        )
    )


def _differing(
    before: Mapping[str, Any], now: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping | None) and isinstance(new, Mapping | None):
            yield from _differing(old or {}, new or {}, f"{place}{name}.")
        elif old != new:
            yield f"{place}{name}", old, new


def describe_error(error: BaseException) -> dict[str, str]:
    """Type, message and traceback of an error, without secrets.

    Args:
        error: The error.

    Returns:
        ``type``, ``message`` and ``traceback``; values of environment variables whose names speak
        of keys, tokens or passwords are replaced.
    """
    secrets = {
        value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= 6
    }
    text = "".join(traceback.format_exception(error))
    message = str(error)
    for secret in sorted(secrets, key=len, reverse=True):
        text, message = text.replace(secret, "[secret]"), message.replace(secret, "[secret]")
    return {"type": type(error).__name__, "message": message, "traceback": text}
