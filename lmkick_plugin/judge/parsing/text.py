# SPDX-License-Identifier: Apache-2.0
"""A judge's reply as lines of its own words: without quotations, echoes and markup.

Everything here reads a reply once, line by line: time is linear in its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

__all__ = [
    "QUOTATION",
    "clean_lines",
    "closing_fence",
    "fences",
    "hide_echoes",
    "plain_characters",
    "sentences",
    "unfenced",
]

QUOTATION = "\u25a0"
"""Stands where a quotation or fenced code was; no sentence that holds it is read as scores."""

_OTHER_CHARACTERS = {
    "\u2212": "-",
    "\u2044": "/",
    "\uff08": "(",
    "\uff09": ")",
    "\uff0c": ",",
    "\uff0f": "/",
    "\uff1a": ":",
}
_FENCE = re.compile(r"[ \t]*(?:(`{3,})[^`]*|(~{3,}).*)$")
_QUOTED = re.compile(r'"[^"]*"|\u201c[^\u201c\u201d]*\u201d|\u00ab[^\u00ab\u00bb]*\u00bb')
_MOST_EMPHASIS = 8  # characters of markup before a quotation that fills its line
_END_OF_LINE = re.compile(r"[ \t*_]*(?:\n|$)")
_MARKER = re.compile(
    r"^(?:#{1,6}\s+|[-*+\u2022\u2023\u25e6]\s+|\d{1,2}[.)]\s+|\(\d{1,2}\)\s+)+",
)
_EMPHASIS = re.compile(
    r"(?<![\w*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w*])|(?<!\w)__(?=\S)|(?<=\S)__(?!\w)"
)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+(?=\S)")
_BEGIN = re.compile(r"(?:BEGIN ([0-9a-f]{16}) (.+?)|\[The Start of (.+?)\])\s*")


class _Characters(dict[int, str]):
    """ASCII form of each character; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if code < 0x7F:
            plain = character
        elif category == "Nd":
            plain = str(unicodedata.decimal(character))
        elif category in ("Zl", "Zp"):
            plain = "\n"
        elif category == "Zs":
            plain = " "
        elif category == "Cf":  # a zero-width character would hide between two digits
            plain = ""
        else:
            plain = _OTHER_CHARACTERS.get(character, character)
        self[code] = plain
        return plain


_CHARACTERS = _Characters()


def plain_characters(text: str) -> str:
    """Write the digits, spaces and signs of any script with their ASCII characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_CHARACTERS)


def hide_echoes(text: str) -> str:
    """Replace texts of the prompt that a judge repeats within the prompt's own delimiters.

    Args:
        text: The reply, in plain characters.

    Returns:
        The reply with :data:`QUOTATION` for each block from ``BEGIN <name> <title>`` to its
        ``END`` (or ``[The Start of ...]`` to ``[The End of ...]``); one without an end goes on to
        the reply's end.
    """
    if "BEGIN " not in text and "[The Start of " not in text:
        return text
    lines = []
    end: str | None = None
    for line in text.split("\n"):
        if end is not None:
            end = None if line.strip() == end else end
            continue
        begin = _BEGIN.fullmatch(line.strip())
        if begin is None:
            lines.append(line)
            continue
        end = f"[The End of {begin[3]}]" if begin[3] else f"END {begin[1]} {begin[2]}"
        lines.append(QUOTATION)
    return "\n".join(lines)


def fences(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Find fenced code.

    Args:
        lines: A reply's.

    Returns:
        The places of each block's first and last line. A block without a closing line ends after
        the last line.
    """
    blocks = []
    start, mark = 0, ""
    for place, line in enumerate(lines):
        if not mark:
            opening = _FENCE.match(line)
            if opening:
                start, mark = place, opening[1] or opening[2]
        elif line.strip() == mark:
            blocks.append((start, place))
            mark = ""
    return [*blocks, (start, len(lines))] if mark else blocks


def unfenced(text: str) -> str:
    """Take off a code fence around a whole reply."""
    text = text.strip()
    lines = text.split("\n")
    blocks = fences(lines)
    if blocks and blocks[0][0] == 0 and blocks[0][1] >= len(lines) - 1:
        return "\n".join(lines[1 : blocks[0][1]]).strip()
    return text


def closing_fence(text: str) -> tuple[str, str] | None:
    """Find the fenced code that ends a reply.

    Args:
        text: The reply.

    Returns:
        The line before the fence and what the fence holds; None where the reply does not end so.
    """
    lines = text.strip().split("\n")
    blocks = fences(lines)
    if not blocks or blocks[-1][1] < len(lines) - 1:
        return None
    start, end = blocks[-1]
    before = "\n".join(lines[:start]).strip()
    return before.rsplit("\n", 1)[-1], "\n".join(lines[start + 1 : end]).strip()


def clean_lines(text: str) -> list[str]:
    """Split a reply into its own non-empty lines.

    A judge puts into block quotes and fenced code what others wrote: :data:`QUOTATION` stands for
    them, and for words in double quotation marks unless they fill their line. List markers,
    headings and emphasis are taken off.

    Args:
        text: The reply.

    Returns:
        The lines, without those that only draw a table's border.
    """
    raw = text.split("\n")
    kept, after = list[str](), 0
    for start, end in fences(raw):
        kept += [*raw[after:start], QUOTATION]
        after = end + 1
    lines = []
    quoted = False
    for line in _hide_quotations("\n".join([*kept, *raw[after:]])).split("\n"):
        line = " ".join(line.split())
        quoted = bool(line) and (quoted or line.startswith(">"))  # goes on until an empty line
        line = QUOTATION if quoted else _EMPHASIS.sub("", line)
        line = _EMPHASIS.sub("", _MARKER.sub("", line)).strip()
        if line.strip("|-+=:*_ "):
            lines.append(line)
    return lines


def _hide_quotations(text: str) -> str:
    parts = list[str]()
    done = line_start = 0
    for match in _QUOTED.finditer(text):
        start, end = match.span()
        line_start = max(line_start, text.rfind("\n", done, start) + 1)
        before = text[max(line_start, start - _MOST_EMPHASIS) : start]
        whole = start - line_start <= _MOST_EMPHASIS and not before.strip(" \t*_")
        if whole and _END_OF_LINE.match(text, end):
            hidden = match.group()
        else:
            hidden = "\n".join([QUOTATION] * (match.group().count("\n") + 1))
        parts += [text[done:start], hidden]
        done = end
        line_start = max(line_start, text.rfind("\n", start, end) + 1)
    return "".join([*parts, text[done:]])


def sentences(line: str) -> list[str]:
    """Cut a line after the marks that end a sentence.

    Args:
        line: A line from :func:`clean_lines`.

    Returns:
        Its sentences.
    """
    return _SENTENCE_END.split(line)
