# SPDX-License-Identifier: Apache-2.0
"""Scores by aspect in a judge's reply: four lines in the order asked for, named lines, a table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lmkick_plugin.judge.parsing.json_scores import find_json, json_aspect_rows
from lmkick_plugin.judge.parsing.statements import (
    bare_pair,
    is_heading,
    is_quotation,
    is_reversed_heading,
    is_verdict,
    labelled_pair,
    labels,
    significant,
)
from lmkick_plugin.judge.parsing.text import QUOTATION, clean_lines
from lmkick_plugin.judge.parsing.tokens import ASPECTS, Token, tokenize

__all__ = ["aspect_rows"]

Rows = dict[str, list[float]]
_REMARK = re.compile(r"\([^()\d]*\)")


def aspect_rows(text: str, width: int) -> Rows | None:
    """Read scores for each aspect.

    Args:
        text: A judge's reply, without thoughts.
        width: Scores for each aspect: 1, or 2 for a pair of assistants.

    Returns:
        A row of ``width`` scores for each of the four aspects, in their order; None where one is
        missing, no score, or stated twice differently, one right after the other.
    """
    found, value = find_json(text)
    if found:
        return json_aspect_rows(value, width)
    lines = [tokenize(_REMARK.sub("", line)) for line in clean_lines(text)]
    begin = 0
    while begin < len(lines) and _leads(lines[begin]):
        begin += 1
    block = _unnamed_block(lines[begin:])
    if block:
        return _rows_in_order(block, width, lines[:begin])
    table = _Table(width)
    if table.read(lines):
        return table.rows()
    return _closing_rows(lines, width)


def _leads(tokens: Sequence[Token]) -> bool:
    """A quotation, or a heading over all aspects, before the scores."""
    names = any(token.kind == "aspect" for token in tokens)
    return is_quotation(tokens) or (is_heading(tokens) and not names)


def _unnamed_block(lines: Sequence[Sequence[Token]]) -> list[Sequence[Token]]:
    """The lines that hold scores and no aspect's name, up to the first that does not."""
    block = list[Sequence[Token]]()
    for line in lines:
        if not is_verdict(line) or len(block) > 2 * len(ASPECTS):
            break
        block.append(line)
    named_by_assistant = any(len(labels(line)) == 1 for line in block)
    return [] if named_by_assistant else block


def _row(tokens: Sequence[Token], width: int) -> list[float] | None:
    """The scores of one line: one, or the first and the second assistant's."""
    if width == 1:
        rest = significant(tokens)
        return [rest[0].values[0]] if [token.kind for token in rest] == ["score"] else None
    pair = bare_pair(tokens) or labelled_pair(tokens)
    return None if pair is None else list(pair)


def _rows_in_order(
    block: Sequence[Sequence[Token]], width: int, before: Sequence[Sequence[Token]]
) -> Rows | None:
    """Four unnamed rows, in the order asked for."""
    rows = [row for line in block if (row := _row(line, width)) is not None]
    if len(block) != 4 or len(rows) != 4 or (before and is_reversed_heading(before[-1])):
        return None
    return dict(zip(ASPECTS, rows, strict=True))


def _closing_rows(lines: Sequence[Sequence[Token]], width: int) -> Rows | None:
    """Four unnamed rows that end a reply, unless the line before says whose words they are."""
    if len(lines) < 4 or len(_unnamed_block(lines[-4:])) != 4:
        return None
    lead = lines[-5] if len(lines) > 4 else []
    announced = bool(lead) and lead[-1].text in (":", QUOTATION) and not is_heading(lead)
    if announced or is_verdict(lead):
        return None
    return _rows_in_order(lines[-4:], width, [lead])


class _Table:
    """The first complete scores by aspect and assistant, from lines that name either or both."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.cells: dict[tuple[str, int], set[float]] = {}
        self.aspect: str | None = None
        self.section: int | None = None
        self.turned = False

    def read(self, lines: Sequence[Sequence[Token]]) -> bool:
        """Take in lines until every cell is filled and a line of something else follows.

        Returns:
            Whether any line scores an aspect. One that does so unreadably empties the table.
        """
        for line in lines:
            complete = len(self.cells) == len(ASPECTS) * self.width
            if is_heading(line) and not complete:
                self._heading(line)
                continue
            pieces = _by_aspect(line, self.aspect)
            if complete and not pieces:
                return True
            self.aspect = pieces[-1][0] if pieces else None
            opening = significant(line)[:2]
            if pieces and [token.kind for token in opening] == ["label", "aspect"]:
                self.section = int(opening[0].text) - 1
            for name, tokens in pieces:
                if not self._add(name, tokens):
                    self.cells = {(name, 0): set()}
                    return True
        return bool(self.cells)

    def rows(self) -> Rows | None:
        """The four rows; None unless every cell holds exactly one score."""
        wanted = [(aspect, column) for aspect in ASPECTS for column in range(self.width)]
        if any(len(self.cells.get(cell, ())) != 1 for cell in wanted):
            return None
        columns = range(self.width)
        return {name: [next(iter(self.cells[name, i])) for i in columns] for name in ASPECTS}

    def _heading(self, line: Sequence[Token]) -> None:
        names = labels(line)
        aspects = [token.text for token in line if token.kind == "aspect"]
        self.aspect = aspects[0] if len(aspects) == 1 else None
        if names:
            self.turned = names == ["2", "1"]
            self.section = int(names[0]) - 1 if len(names) == 1 else None

    def _add(self, name: str, tokens: Sequence[Token]) -> bool:
        row = _row(tokens, self.width)
        if row is not None:
            if self.turned and not labels(tokens):
                row.reverse()
            for column, score in enumerate(row):
                self.cells.setdefault((name, column), set()).add(score)
            return True
        rest = significant(tokens)
        kinds = [token.kind for token in rest]
        if self.width == 2 and kinds == ["score"] and self.section is not None:
            self.cells.setdefault((name, self.section), set()).add(rest[0].values[0])
            return True
        if self.width == 2 and kinds == ["label", "score"]:
            self.cells.setdefault((name, int(rest[0].text) - 1), set()).add(rest[1].values[0])
            return True
        return False


def _by_aspect(line: Sequence[Token], current: str | None) -> list[tuple[str, list[Token]]]:
    """Cut a line of scores at its aspects' names; no pieces for a line that is prose."""
    if not is_verdict([token for token in line if token.kind != "aspect"]):
        return []
    pieces: list[tuple[str, list[Token]]] = []
    name, tokens = current, list[Token]()
    for token in [*line, Token("aspect", "")]:
        if token.kind != "aspect":
            tokens.append(token)
            continue
        if name is not None and any(t.kind != "label" for t in significant(tokens)):
            pieces.append((name, tokens))
        name, tokens = token.text, []
    return pieces
