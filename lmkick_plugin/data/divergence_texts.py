# SPDX-License-Identifier: Apache-2.0
"""Texts for measuring divergence: WikiText-2, or a given file."""

from __future__ import annotations

from pathlib import Path

from lmkick_plugin.data import wikitext
from lmkick_plugin.data.sources import DataError, read_json_lines, read_text

__all__ = ["from_file", "pieces", "wikitext_articles"]

_PIECE_CHARACTERS = 8_000  # about 2,000 tokens of English: one window


def wikitext_articles(data_dir: str | None = None) -> list[str]:
    """The articles of the test split of WikiText-2."""
    return [article.page for article in wikitext.articles(data_dir)]


def from_file(name: str) -> list[str]:
    """Texts of a file: rows of a ``.jsonl`` (field ``text``), or pieces of a ``.txt``.

    Raises:
        DataError: No such file, of another kind, unreadable, or without text.
    """
    path = Path(name).expanduser()
    kind = path.name.removesuffix(".gz")
    if not path.is_file() or not kind.endswith((".txt", ".jsonl")):
        raise DataError(
            f"divergence_text={name}: no such file, or its name does not end in .txt or .jsonl "
            "(.gz may follow)"
        )
    if kind.endswith(".txt"):
        found = pieces(read_text(path))
    else:
        found = []
        for where, row in read_json_lines(path):
            if not isinstance(row.get("text"), str):
                raise DataError(f"{where}: no text in field 'text'")
            found.append(row["text"])
    found = [text for text in found if text.strip()]
    if not found:
        raise DataError(f"{path}: holds no text")
    return found


def pieces(text: str, characters: int = _PIECE_CHARACTERS) -> list[str]:
    r"""Cut a text at blank lines into pieces of a minimum length.

    >>> pieces("one\n\ntwo\n\nthree", 5)
    ['one\n\ntwo', 'three']
    """
    found: list[str] = []
    waiting: list[str] = []
    for paragraph in text.split("\n\n"):
        waiting.append(paragraph)
        if sum(map(len, waiting)) >= characters:
            found.append("\n\n".join(waiting))
            waiting = []
    rest = "\n\n".join(waiting)
    return [*found, rest] if rest.strip() else found
