# SPDX-License-Identifier: Apache-2.0
"""What of a judge's reply is the judge's own words: thoughts, quotations and markup taken off."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["QUOTATION", "clean_lines", "closing_fence", "sentences", "unwrap"]

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
_THINKING = re.compile(r"\s*<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THINKING = {"</think>", "</thinking>", "</reasoning>"}
_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_QUOTED = re.compile(r'"[^"]*"|\u201c[^\u201c\u201d]*\u201d|\u00ab[^\u00ab\u00bb]*\u00bb')
_MARKER = re.compile(
    r"^(?:#{1,6}\s+|[-*+\u2022\u2023\u25e6]\s+|\d{1,2}[.)]\s+|\(\d{1,2}\)\s+)+",
)
_EMPHASIS = re.compile(
    r"(?<![\w*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w*])|(?<!\w)__(?=\S)|(?<=\S)__(?!\w)"
)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+(?=\S)")


def _plain_characters(text: str) -> str:
    """Write the digits, spaces and signs of any script with their ASCII characters."""
    out = []
    for character in text.replace("\r\n", "\n").replace("\r", "\n"):
        if character < "\x7f":
            out.append(character)
            continue
        category = unicodedata.category(character)
        if category == "Nd":
            out.append(str(unicodedata.decimal(character)))
        elif category in ("Zl", "Zp"):
            out.append("\n")
        elif category == "Zs":
            out.append(" ")
        elif category != "Cf":  # a zero-width character would hide between two digits
            out.append(_OTHER_CHARACTERS.get(character, character))
    return "".join(out)


def unwrap(text: str) -> str:
    """Take off a reasoning model's thoughts and a code fence around the whole reply.

    Args:
        text: The reply as it came.

    Returns:
        The reply in plain characters; empty where the thoughts never end.
    """
    text = _plain_characters(text)
    if _THINKING.match(text):
        text = _THINKING.sub("", text, count=1)
    else:  # some endpoints drop the opening tag
        lines = text.split("\n")
        ends = [i for i, line in enumerate(lines) if line.strip().lower() in _END_OF_THINKING]
        text = "\n".join(lines[ends[-1] + 1 :]) if ends else text
    text = text.strip()
    fence = _FENCE.match(text)
    if fence and fence.end() == len(text):
        text = fence.group(2).strip()
    return text


def closing_fence(text: str) -> tuple[str, str] | None:
    """Find the fenced code that ends a reply.

    Args:
        text: The reply, after :func:`unwrap`.

    Returns:
        The line before the fence and what the fence holds; None where the reply does not end so.
    """
    fences = list(_FENCE.finditer(text))
    if not fences or text[fences[-1].end() :].strip():
        return None
    return text[: fences[-1].start()].strip().rsplit("\n", 1)[-1], fences[-1].group(2).strip()


def clean_lines(text: str) -> list[str]:
    """Split a reply into its own non-empty lines.

    A judge puts into block quotes and fenced code what others wrote: :data:`QUOTATION` stands for
    them, and for words in double quotation marks unless they fill their line. List markers,
    headings and emphasis are taken off.

    Args:
        text: The reply, after :func:`unwrap`.

    Returns:
        The lines, without those that only draw a table's border.
    """
    lines = []
    quoted = False
    for line in _hide_quotations(_FENCE.sub(QUOTATION + "\n", text)).split("\n"):
        line = " ".join(line.split())
        quoted = bool(line) and (quoted or line.startswith(">"))  # goes on until an empty line
        line = QUOTATION if quoted else _EMPHASIS.sub("", line)
        line = _EMPHASIS.sub("", _MARKER.sub("", line)).strip()
        if line.strip("|-+=:*_ "):
            lines.append(line)
    return lines


def _hide_quotations(text: str) -> str:
    def hide(match: re.Match[str]) -> str:
        start = text.rfind("\n", 0, match.start()) + 1
        end = text.find("\n", match.end())
        line = text[start : len(text) if end < 0 else end]
        if match.group().strip() == line.strip().strip("*_ "):
            return match.group()
        return QUOTATION + f"\n{QUOTATION}" * match.group().count("\n")

    return _QUOTED.sub(hide, text)


def sentences(line: str) -> list[str]:
    """Cut a line after the marks that end a sentence.

    Args:
        line: A line from :func:`clean_lines`.

    Returns:
        Its sentences.
    """
    return _SENTENCE_END.split(line)
