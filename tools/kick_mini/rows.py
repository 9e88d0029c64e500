# SPDX-License-Identifier: Apache-2.0
"""Training documents as rows of tokens, and which documents come when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Any

import torch
from torch import Tensor

from tools.kick_mini.documents import Writer
from tools.kick_mini.world import World

__all__ = ["LETTERS_FROM", "Rows", "shares"]

LETTERS_FROM = 8_806_400
"""Tokens until which multiple choice is answered in words."""
#: Until how many tokens, and how often each kind of document: what is needed by others is learned
#: first.
_STAGES: tuple[tuple[float, dict[str, float]], ...] = (
    (241_664, {"repetition": 1}),
    (1_081_344, {"repetition": 1, "restatement": 3, "interview": 4, "words_in_view": 2}),
    (
        2_457_600,
        {
            "article": 5, "asked": 2, "quiz_in_words": 1.5, "words_in_view": 2, "interview": 2,
            "reading": 2.5, "restatement": 0.5, "repetition": 0.3,
        },
    ),
    (
        7_864_320,
        {
            "article": 8, "asked": 2.5, "quiz_in_words": 2.5, "words_in_view": 1.5,
            "interview": 1.2, "reading": 3, "summary": 1.2, "instruction": 2.5,
        },
    ),
    # Fewer questions about known entities: more of them are learned by heart by now, and what is
    # only stated is recalled less well for it.
    (
        LETTERS_FROM,
        {
            "article": 10, "candidates": 5, "asked": 1.5, "quiz_in_words": 1, "words_in_view": 2,
            "interview": 2, "restatement": 1, "reading": 3, "summary": 1, "instruction": 2,
        },
    ),
    (
        10_088_448,
        {
            "article": 8, "candidates": 2, "asked": 2, "quiz": 3, "quiz_in_view": 1.5,
            "interview": 2, "reading": 3, "summary": 1.2, "instruction": 2.5,
        },
    ),
    (
        math.inf,
        {
            "article": 6, "candidates": 5, "asked": 1, "quiz": 0.8, "quiz_in_view": 2.5,
            "interview": 1.5, "reading": 3, "summary": 1.2, "instruction": 2,
        },
    ),
)  # fmt: skip
#: What comes on top in the last part, whose rows are as long as the context.
_LONG = {"long_summary": 0.6, "quiz_in_view": 1.0}
# Ending a document matters, but should not outweigh what stands in it.
_END_WEIGHT = 0.5


def shares(tokens: int, *, long: bool) -> dict[str, float]:
    """How often each kind of document comes.

    Args:
        tokens: Tokens seen until now.
        long: Whether rows are as long as the context by now.
    """
    found = next(found for until, found in _STAGES if tokens < until)
    if not long:
        return found
    return {**found, **{kind: found.get(kind, 0) + more for kind, more in _LONG.items()}}


class Rows:
    """Packs documents into rows; a document is never cut in two."""

    def __init__(self, tokenizer: Any, world: World) -> None:
        """Remember what rows are made of.

        Args:
            tokenizer: kick-mini's.
            world: What the documents are about.
        """
        self._tokenizer = tokenizer
        self._world = world
        self._end = int(tokenizer.eos_token_id)

    def batch(
        self, random: Random, kinds: dict[str, float], count: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """Rows of new documents.

        Args:
            random: Source of chance.
            kinds: How often each kind comes.
            count: Number of rows.
            length: Tokens of a row; documents that are longer are passed over.

        Returns:
            Tokens (int64) and weights (float32), both [count, length]. A weight counts for the
            loss of predicting its token.
        """
        rows: list[tuple[list[int], list[float]]] = []
        row: tuple[list[int], list[float]] = ([], [])
        for tokens, weights in self._documents(random, kinds):
            if len(tokens) > length:
                continue
            if len(row[0]) + len(tokens) > length:
                rows.append(row)
                if len(rows) == count:
                    break
                row = ([], [])
            row[0].extend(tokens)
            row[1].extend(weights)
        missing = [length - len(tokens) for tokens, _ in rows]
        return (
            torch.tensor(
                [row[0] + [self._end] * gap for row, gap in zip(rows, missing, strict=True)]
            ),
            torch.tensor([row[1] + [0.0] * gap for row, gap in zip(rows, missing, strict=True)]),
        )

    def _documents(
        self, random: Random, kinds: dict[str, float]
    ) -> Iterator[tuple[list[int], list[float]]]:
        writer = Writer(self._world, random)
        names, weights_of_kinds = list(kinds), list(kinds.values())
        while True:
            tokens: list[int] = []
            weights: list[float] = []
            for text, weight in writer.document(random.choices(names, weights_of_kinds)[0]):
                piece = self._tokenizer.encode(text)
                tokens += piece
                weights += [weight] * len(piece)
            if tokens[-1] != self._end:
                tokens.append(self._end)
                weights.append(_END_WEIGHT)
            yield tokens, weights
