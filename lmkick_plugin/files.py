# SPDX-License-Identifier: Apache-2.0
"""Atomic folder writes, and checks of targets and disk space."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from compressors.files import remove_leftovers, unfinished

__all__ = [
    "check_file",
    "check_folder",
    "check_space",
    "check_target",
    "new_folder",
    "parse_json",
    "read_settings",
]

_log = logging.getLogger(__name__)


_LARGEST = 1 << 24  # bytes of a file of settings; /dev/zero has no end


def read_settings(path: Path) -> bytes:
    """Contents of a file of settings, which is small.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger than 16 MB.
    """
    with path.open("rb") as file:
        found = file.read(_LARGEST + 1)
    if len(found) > _LARGEST:
        raise ValueError("larger than 16 MB")
    return found


def parse_json(text: str | bytes, *, once: bool = False) -> Any:
    """Parse JSON from an untrusted file.

    Args:
        text: The file's contents.
        once: Refuse a name that stands twice in an object; the first would be dropped.

    Raises:
        ValueError: Not JSON, nested too deeply, or with an integer that no float can hold.
    """
    try:
        return json.loads(
            text, parse_int=_bounded_int, object_pairs_hook=_names_once if once else None
        )
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise json.JSONDecodeError(f"{name[:60]!r} stands twice", "", 0)
        found[name] = value
    return found


def _bounded_int(digits: str) -> int:
    if len(digits) > 300:
        raise json.JSONDecodeError(f"a number of {len(digits)} digits", digits[:20], 0)
    return int(digits)


def check_folder(name: str, folder: str | Path) -> Path:
    """Refuse a folder that neither exists nor can be created; changes nothing but leftovers.

    Args:
        name: The argument, for messages.
        folder: The folder.

    Raises:
        SettingsError: A file, a dangling link, or not writable.
    """
    try:
        path = Path(folder).expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(
            f"{name}={folder}: no user of that name. Choose another folder."
        ) from error
    try:
        there = _existing(path)
        if there.is_symlink() and not there.exists():
            raise SettingsError(f"{name}={folder} is a dangling link. Choose another folder.")
        if not there.is_dir():
            which = "" if there == path else f": {there}"
            raise SettingsError(f"{name}={folder}{which} is a file. Choose another folder.")
        _remove_leftovers(there)
        probe = unfinished(there / "probe")
        try:
            probe.write_bytes(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
    except SettingsError:
        raise
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{name}={str(folder)[:100]!r}: not writable ({cause}). Choose another folder."
        ) from error
    return path


def check_file(name: str, file: Path) -> None:
    """Refuse a file that cannot be written.

    Args:
        name: The argument, for messages.
        file: The file; an existing one will be replaced.

    Raises:
        SettingsError: A folder, or as :func:`check_folder` for its folder.
    """
    if file.is_dir():
        raise SettingsError(f"{name}={file} is a folder. Give a file.")
    check_folder(name, file.parent)


def check_target(folder: str | Path, name: str = "save_compressed") -> Path:
    """Refuse a target folder that is not empty or cannot be created; changes only leftovers.

    Args:
        folder: The folder.
        name: The argument, for messages.

    Raises:
        SettingsError: As :func:`check_folder`, or it is not empty.
    """
    path = check_folder(name, folder)
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        if names:
            raise SettingsError(
                f"{name}={folder} is not empty "
                f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}). Choose a new "
                "folder, or delete this one."
            )
    return path


def check_space(folder: Path, size: int) -> None:
    """Refuse to write more than the disk has free.

    Args:
        folder: Where it is to be.
        size: Bytes that will be written.

    Raises:
        SettingsError: With what is needed and what is left.
    """
    free = shutil.disk_usage(_existing(folder)).free
    if size > free:
        raise SettingsError(
            f"save_compressed={folder}: the model takes {_readable(size)}, and the disk has "
            f"{_readable(free)} free. Make room, or choose another disk."
        )


def _remove_leftovers(folder: Path) -> None:
    for leftover in remove_leftovers(folder):
        _log.warning("Removed %s, left by an interrupted save", leftover)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, renamed to ``folder`` when the block ends.

    Leftovers of saves that were killed are named in the log, and removed.

    Raises:
        SettingsError: As :func:`check_target`.
        OSError: What could not be written; nothing is left.
    """
    path = check_target(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    partial = unfinished(path)
    try:
        partial.mkdir()
        yield partial
        _to_disk(partial)
        # Onto nothing or an empty folder; one that was filled meanwhile makes this fail.
        partial.rename(path)
        _sync(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        remedy = "make room, or choose another disk" if full else "see the cause"
        raise OSError(
            error.errno,
            f"{path} could not be saved ({error.strerror or error}); nothing was left behind: "
            f"{remedy}. With compress_cache or resume_dir the compression is not repeated",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _existing(path: Path) -> Path:
    while not path.exists() and not path.is_symlink():
        path = path.parent
    return path


def _readable(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
