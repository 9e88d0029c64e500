# SPDX-License-Identifier: Apache-2.0
"""Sources of a task's rows: a local data directory, the Hub, or a URL.

Which of the two is decided by the user, never by what happens to be there: with a data directory
(``--metadata data_dir=DIR``, ``data_dir=DIR`` among the arguments of ``--model kick``, or
``LMKICK_DATA_DIR``) every row comes from it, and a file or a field that it lacks is an error.

A :class:`Source` describes one file. :func:`locate` says where its rows are now, as an
:class:`Origin`: a small value that can be hashed and that changes when the file does. What is made
of the rows can therefore be kept with ``functools.lru_cache`` on a function of the origin, which is
how 57 MMLU tasks share one reading of one file.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from compressors.errors import LmkickError
from lmkick_plugin import bundled
from lmkick_plugin.files import parse_json

__all__ = [
    "DATA_DIR_VARIABLE",
    "DataError",
    "FetchError",
    "HubFiles",
    "Origin",
    "Source",
    "WebFile",
    "data_directory",
    "load_rows",
    "locate",
    "read_json_lines",
    "read_text",
]

DATA_DIR_VARIABLE = "LMKICK_DATA_DIR"


class DataError(LmkickError, ValueError):
    """A task's data is missing, damaged, or without a field that the task needs."""


class FetchError(LmkickError, OSError):
    """Remote rows could not be loaded; the caller adds the remedy."""


@dataclass(frozen=True)
class HubFiles:
    """One split of a data set on the Hugging Face Hub.

    Attributes:
        repository: such as ``cais/mmlu``.
        pattern: the split's files in it. They are named because ``load_dataset`` otherwise fetches
            every split of a configuration: 26 files of TriviaQA's training split to read four.
    """

    repository: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.repository} ({self.pattern}) on the Hugging Face Hub"

    def read(self, fields: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        """Yield the rows, restricted to the columns of ``fields``.

        Raises:
            FetchError: They could not be loaded.
        """
        import datasets

        try:
            # No checks: the README there describes whole configurations, and this is a part of one.
            table = datasets.load_dataset(
                self.repository,
                data_files={"rows": self.pattern},
                split="rows",
                verification_mode="no_checks",
            )
        except Exception as error:  # the Hub's clients raise anything; it is passed on
            raise FetchError(str(error)) from error
        wanted = {field.split(".")[0] for field in fields}
        yield from table.select_columns([name for name in table.column_names if name in wanted])


@dataclass(frozen=True)
class WebFile:
    """A file at a URL: JSON Lines, or a JSON document with a list of rows.

    It is fetched once into the cache of ``datasets``.

    Attributes:
        url: where it is.
        rows: how many rows it has to have.
        field: the key of the list of rows; None for JSON Lines.
    """

    url: str
    rows: int
    field: str | None = None

    def __str__(self) -> str:
        return self.url

    def read(self, fields: Iterable[str]) -> Iterator[Mapping[str, Any]]:  # noqa: ARG002
        """Yield the rows with all fields.

        Raises:
            FetchError: They could not be fetched, or the file is not what it should be.
        """
        import datasets

        # Without the server's ETag, a copy is used without asking the network.
        settings = datasets.DownloadConfig(use_etag=False, max_retries=3)
        try:
            path = Path(datasets.DownloadManager(download_config=settings).download(self.url))
        except Exception as error:  # its clients raise anything; it is passed on
            raise FetchError(repr(error)) from error
        again = f"{path}; delete it to fetch it again"
        try:
            if self.field is None:
                rows = [row for _, row in read_json_lines(path)]
            else:
                rows = parse_json(path.read_bytes())[self.field]
        except (ValueError, KeyError, TypeError) as error:
            raise FetchError(f"unexpected content, {error!r}, in {again}") from error
        if len(rows) != self.rows:
            raise FetchError(f"{len(rows):,} rows instead of {self.rows:,} in {again}")
        yield from rows


@dataclass(frozen=True)
class Source:
    """One file of rows.

    Attributes:
        file: its path in a data directory, ending in ``.jsonl``; ``.jsonl.gz`` will do.
        fields: what every row has to have; ``a.b`` is field ``b`` of the mapping ``a``.
        remote: where the rows are when there is no data directory.
    """

    file: str
    fields: tuple[str, ...]
    remote: HubFiles | WebFile


@dataclass(frozen=True)
class Origin:
    """A source, and its local file (None: remote).

    Attributes:
        source: what was asked for.
        path: the local file.
        stamp: time and size of the local file, so that a file that was replaced is read again.
    """

    source: Source
    path: Path | None = None
    stamp: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self.path or self.source.remote)

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(where, row)``, ``where`` for error messages.

        Raises:
            DataError: Unreadable, or a row lacks a field.
        """
        count = 0
        for where, row in self._unchecked():
            for field in self.source.fields:
                _require(row, field, where)
            count += 1
            yield where, row
        if not count:
            raise DataError(f"{self}: holds no rows")

    def _unchecked(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if self.path is not None:
            yield from read_json_lines(self.path)
            return
        source = self.source
        try:
            for number, row in enumerate(source.remote.read(source.fields)):
                yield f"{source.remote}, row {number}", row
        except FetchError as error:
            raise DataError(
                f"could not load {source.remote}: {error}. Offline, put {source.file} (JSON Lines "
                f"with the fields {', '.join(source.fields)}) into a folder and name it: "
                f"{DATA_DIR_VARIABLE}=DIR or --metadata data_dir=DIR."
            ) from error


def data_directory(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Data directory in use.

    Args:
        folder: What was given; ``mini`` is the embedded one. None or empty: ``LMKICK_DATA_DIR``.

    Returns:
        An absolute path, which need not exist; None where rows come from the Hub.
    """
    text = str(folder or os.environ.get(DATA_DIR_VARIABLE) or "")
    return Path(bundled.data_folder(text)).expanduser().absolute() if text else None


def locate(source: Source, data_dir: str | os.PathLike[str] | None = None) -> Origin:
    """Find a source's local file, or None for remote rows.

    Args:
        source: what is wanted.
        data_dir: the data directory; None or empty: ``LMKICK_DATA_DIR``, and without that the Hub.

    Raises:
        DataError: There is a data directory, and it lacks the file.
    """
    base = data_directory(data_dir)
    if base is None:
        return Origin(source)
    remedy = f"Add it, or leave the data directory out to use {source.remote}."
    if not base.is_dir():
        raise DataError(
            f"data directory {base} does not exist (looking for {source.file}). {remedy}"
        )
    for path in (base / source.file, base / f"{source.file}.gz"):
        if path.is_file():
            state = path.stat()
            return Origin(source, path, (state.st_mtime_ns, state.st_size))
    raise DataError(
        f"data directory {base} has no file {source.file} (nor {source.file}.gz). {remedy}"
    )


def load_rows(
    source: Source, data_dir: str | os.PathLike[str] | None = None
) -> Iterator[Mapping[str, Any]]:
    """Yield the checked rows of a source; see :func:`locate` and :meth:`Origin.rows`."""
    return (row for _, row in locate(source, data_dir).rows())


def _require(row: Mapping[str, Any], field: str, where: str) -> None:
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"{where}: no field {field!r}; fields: {', '.join(map(repr, row)) or 'none'}"
            )
        value = value[part]
    if value is None:
        raise DataError(f"{where}: field {field!r} is null")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gzipped or not.

    Raises:
        DataError: It cannot be read.
    """
    opener: Callable[..., TextIO] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ``(where, row)`` for each line of a JSON Lines file, gzipped or not.

    Raises:
        DataError: Unreadable, or a line is not a JSON object.
    """
    opener: Callable[..., TextIO] = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        # Only "\n" ends a line: JSON may hold other line separators unescaped.
        with opener(path, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = parse_json(line)
                    if not isinstance(row, dict):
                        raise DataError(f"{path}, line {number}: not a JSON object")
                    if "\\ud" in line.lower():
                        _check_characters(row, f"{path}, line {number}")
                    yield f"{path}, line {number}", row
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 after line {number} ({error})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {number} ({error})") from error


def _check_characters(row: Mapping[str, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: holds a lone surrogate (half a character)") from error
