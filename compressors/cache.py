# SPDX-License-Identifier: Apache-2.0
"""Cache of compressed weights for other runs: one folder per entry, keyed by its identity.

An entry is the directory of a :class:`compressors.resume.ResumeStore` under the SHA-256 of its
identity (weights and configuration of the model, recipe, calibration tokens, versions), and the
report of the run that made it. So an entry that was not finished is gone on with, and a damaged
block is made again.

Who uses an entry holds a lock on it, which the system lets go when the process ends however it
ends: of two processes that want one entry, the second waits and then reads what the first wrote.
Entries that were not used for longest make room for new ones; those in use never do.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from compressors.errors import SettingsError
from compressors.files import home_expanded, remove_leftovers, unfinished, write_atomically
from compressors.report import CompressionReport, LayerReport
from compressors.resume import ResumeStore

__all__ = ["CacheEntry", "CompressionCache", "entry_name", "software"]

_log = logging.getLogger(__name__)

_REPORT = "report.json"
#: How large an entry becomes; its time of change is when the entry was last used.
_SIZE = "size"
#: Rows, grids and headers beside the weights.
_OVERHEAD = 1.05


class CacheEntry:
    """One locked compression of a cache.

    Attributes:
        store: Its finished blocks.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self._folder = folder
        self.store = ResumeStore(folder, identity, argument="compress_cache")

    def report(self) -> CompressionReport | None:
        """Report of the run that finished the entry; None where it is not finished."""
        path = self._folder / _REPORT
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = tuple(LayerReport.from_dict(row) for row in content.pop("layers"))
            return replace(CompressionReport(layers=rows, **content), from_cache=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("%s is damaged (%s): its blocks are read and reported again", path, error)
            return None

    def finish(self, report: CompressionReport) -> None:
        """Store the report, which completes the entry.

        Raises:
            OSError: It cannot be written.
        """
        text = json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"
        write_atomically(self._folder / _REPORT, text.encode())


class CompressionCache:
    """A folder of compressions.

    Args:
        directory: Made if it is not there.
        limit_gb: Most that all entries together may take, in units of 10^9 bytes.

    Raises:
        SettingsError: The folder cannot be used, or the limit is not a positive number.
    """

    def __init__(self, directory: str | Path, limit_gb: float) -> None:
        self._directory = home_expanded(directory)
        if not limit_gb > 0:
            raise SettingsError(
                f"compress_cache_gb={limit_gb!r}: expected the GB that compress_cache may take, "
                "above 0"
            )
        self._limit = int(limit_gb * 1e9)
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._locks):
                pass
        except OSError as error:
            raise SettingsError(
                f"compress_cache={directory}: {error}; choose a writable folder"
            ) from error

    @property
    def _locks(self) -> Path:
        return self._directory / "locks"

    @contextmanager
    def entry(self, identity: Mapping[str, str], size: int) -> Iterator[CacheEntry]:
        """Lock the entry of a compression; waits for a process that holds it.

        Args:
            identity: What :func:`compressors.resume.fingerprint` returns.
            size: Bytes of the weights that will be kept.

        Raises:
            SettingsError: The entry is larger than the limit, or than what the disk has left.
        """
        size = int(size * _OVERHEAD)
        if size > self._limit:
            raise SettingsError(
                f"this compression takes {size / 1e9:.3g} GB, more than "
                f"compress_cache_gb={self._limit / 1e9:.3g}: raise it, or leave "
                "compress_cache out"
            )
        name = entry_name(identity)
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.warning(
                "another process is running the same compression in %s: waiting for it",
                self._directory,
            )
            lock.acquire()
        try:
            folder = self._directory / name
            self._discard_foreign(folder, identity)
            with self._lock("directory"):
                self._make_room(name, size)
                folder.mkdir(exist_ok=True)
                (folder / _SIZE).write_text(str(size), encoding="utf-8")
            for parent in (self._directory, folder):
                remove_leftovers(parent)
            yield CacheEntry(folder, identity)
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._locks / f"{name}.lock")

    def _discard_foreign(self, folder: Path, identity: Mapping[str, str]) -> None:
        """Remove a copied or renamed folder."""
        try:
            stated = json.loads((folder / "resume.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            if not any(folder.glob("block_*.safetensors")):
                return
            stated = None
        except (OSError, ValueError, RecursionError):
            stated = None
        stated = stated if isinstance(stated, dict) else None
        if stated == dict(identity):
            return
        differing = [key for key in identity if not stated or stated.get(key) != identity[key]]
        _log.warning(
            "%s is not the entry that its name says (%s differ): removed; compressing again",
            folder,
            ", ".join(differing) or "parts of its resume.json",
        )
        _remove(folder)

    def _make_room(self, wanted: str, size: int) -> None:
        """Remove least recently used entries until ``size`` fits."""
        others = {
            folder.parent: folder.stat().st_mtime
            for folder in self._directory.glob(f"[!.]*/{_SIZE}")
        }
        others.pop(self._directory / wanted, None)
        sizes = {folder: _bytes_of(folder) for folder in others}
        for folder in sorted(others, key=lambda folder: others[folder]):
            if sum(sizes.values()) + size <= self._limit:
                break
            lock = self._lock(folder.name)
            try:
                with lock.acquire(timeout=0):
                    _log.info("removed %s to make room for another compression", folder)
                    _remove(folder)
                    sizes.pop(folder)
            except Timeout:
                continue
        if sum(sizes.values()) + size > self._limit:
            _log.warning(
                "%s exceeds compress_cache_gb while other processes use its entries",
                self._directory,
            )
        there = self._directory / wanted
        needed = size - (_bytes_on_disk(there) if there.is_dir() else 0)
        free = shutil.disk_usage(self._directory).free
        if needed > free:
            raise SettingsError(
                f"compress_cache={self._directory}: this compression takes {size / 1e9:.3g} "
                f"GB, and the disk has {free / 1e9:.3g} free; make room, or choose another "
                "folder"
            )


def entry_name(identity: Mapping[str, str]) -> str:
    """Folder name of an entry: prefix of a SHA-256 of its identity."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def software() -> str:
    """Versions that the bits of a compression may depend on."""
    found = []
    for package in ("lmkick", "torch"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} unknown")
    return ", ".join(found)


def _remove(folder: Path) -> None:
    """Rename a folder, then delete it: half an entry is never found."""
    away = unfinished(folder)
    folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _bytes_of(folder: Path) -> int:
    """Bytes of an entry, present or estimated."""
    try:
        announced = int((folder / _SIZE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        announced = 0
    if (folder / _REPORT).exists():
        announced = 0
    return max(announced, _bytes_on_disk(folder))
