# SPDX-License-Identifier: Apache-2.0
"""Split of a reasoning judge's reply into thoughts and the rest.

The tags are those that chat templates of reasoning models use. A closing tag has to be of the same
name as the opening one; without an opening one it has to end its line. It is text in fenced code,
in quotation marks or backticks, in a block quote, and after a line that announces somebody's words
(``It wrote:``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lmkick_plugin.judge.parsing.statements import is_heading
from lmkick_plugin.judge.parsing.text import fences
from lmkick_plugin.judge.parsing.tokens import tokenize

__all__ = ["Split", "count_ends", "split_thoughts"]

_NAMES = "think|thinking|thought|thoughts|reason|reasoning|reflection|seed:think"
# Opening and closing tag. <name> of many models, [THINK] of Mistral's, and special tokens of
# Cohere's, Kimi's, OpenThinker's and gpt-oss, which a server may hand through.
_PAIRS = (
    (rf"<\s*(?P<name>{_NAMES})\s*>", rf"<\s*/\s*(?P<name>{_NAMES})\s*>"),
    (r"\[think\]", r"\[/think\]"),
    (r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
    (r"<\|start_thinking\|>", r"<\|end_thinking\|>"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    (r"<\|channel\|>analysis<\|message\|>", r"<\|channel\|>final<\|message\|>"),
)
_OPENING = [re.compile(rf"\s*(?:{opening})", re.IGNORECASE) for opening, _ in _PAIRS]
_CLOSING = [re.compile(closing, re.IGNORECASE) for _, closing in _PAIRS]
_LINE_END = re.compile(r"[ \t]*(?:\n|$)")
_NEAR = 300  # characters before a tag that are looked at
_INLINE_QUOTE = re.compile(r'"[^"\n]*"|`[^`\n]*`|\u201c[^\u201c\u201d\n]*\u201d|^[ \t]*>.*$', re.M)


@dataclass(frozen=True, slots=True)
class Split:
    """A reply cut at the end of its thoughts.

    Attributes:
        before: The text before a closing tag that no opening one precedes: thoughts, or the
            judge's own words; None where thoughts are certain, or there are none.
        after: The text after the thoughts; empty where they never end.
    """

    before: str | None
    after: str


def split_thoughts(text: str, *, last: bool = False) -> Split:
    """Cut a reply at the end of its thoughts.

    Args:
        text: The reply, in plain characters.
        last: Cut at the last closing tag instead of the first.

    Returns:
        Both parts. Without any tag all of the text stands after them.
    """
    for opening, closing in zip(_OPENING, _CLOSING, strict=True):
        found = opening.match(text)
        if found is None:
            continue
        text = text[found.end() :]
        ends = [end for end in closing.finditer(text) if _name(end) == _name(found)]
        ends = _unquoted(text, ends)
        ends = [end for end in ends if not _is_announced(text, end.start())] or ends[:1]
        return Split(None, text[ends[-1 if last else 0].end() :] if ends else "")
    ends = [end for closing in _CLOSING for end in closing.finditer(text)]
    ends = _unquoted(text, [end for end in ends if _LINE_END.match(text, end.end())])
    ends = [end for end in ends if not _is_announced(text, end.start())]
    if not ends:
        return Split(None, text)
    end = ends[-1 if last else 0]
    return Split(text[: end.start()], text[end.end() :])


def count_ends(text: str) -> int:
    """Count closing tags, quoted or not."""
    return sum(len(closing.findall(text)) for closing in _CLOSING)


def _name(match: re.Match[str]) -> str:
    return match.groupdict().get("name", "").lower()


def _unquoted(text: str, tags: list[re.Match[str]]) -> list[re.Match[str]]:
    """Tags outside fenced code and quotations, in their order."""
    if not tags:
        return []
    tags = sorted(tags, key=re.Match.start)
    quoted = bytearray(len(text))
    spans = [match.span() for match in _INLINE_QUOTE.finditer(text)]
    pieces, done = list[str](), 0
    for tag in tags:  # a tag after the line that closes a fence does not keep it open
        pieces += [text[done : tag.start()], "\n", " " * (len(tag.group()) - 1)]
        done = tag.end()
    lines = "".join([*pieces, text[done:]]).split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    blocks = fences(lines)
    spans += [(starts[a], starts[b + 1] - 1) for a, b in blocks if b + 1 < len(starts)]
    for start, end in spans:
        quoted[start:end] = b"\1" * (end - start)
    return [tag for tag in tags if not quoted[tag.start()]]


def _is_announced(text: str, place: int) -> bool:
    """Whether the line before a tag that begins its line announces what follows as a quotation."""
    near = text[max(0, place - _NEAR) : place]
    if near.rpartition("\n")[2].strip() or "\n" not in near:
        return False
    lead = near.rstrip().rpartition("\n")[2]
    return lead.endswith(":") and not is_heading(tokenize(lead))
