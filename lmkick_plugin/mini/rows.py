# SPDX-License-Identifier: Apache-2.0
"""Training documents as rows of tokens, and which documents come when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Any

import torch
from torch import Tensor

from lmkick_plugin.mini.documents import Writer
from lmkick_plugin.mini.world import World

__all__ = ["Rows", "shares"]

#: Until how many tokens, and how often each kind of document: what is needed by others is learned
#: first. Letters of choices in any order were not learned, and are given up.
_STAGES: tuple[tuple[float, dict[str, float]], ...] = (
    (241_664, {"repetition": 1}),
    (1_081_344, {"repetition": 1, "restatement": 3, "interview": 4}),
    (
        3_000_320,
        {
            "article": 2, "asked": 1.5, "repetition": 0.5, "restatement": 1, "interview": 2,
            "reading": 2.5, "choice_in_view": 4, "multiple_choice": 1,
        },
    ),
    (
        3_651_584,
        {
            "article": 4.5, "asked": 3.5, "restatement": 0.5, "interview": 1, "easy_reading": 1,
            "reading": 3.5, "choice_in_view": 1.5, "multiple_choice": 4.5, "summary": 1.5,
            "instruction": 3,
        },
    ),
    (
        6_000_640,
        {
            "article": 9, "asked": 5, "letters": 3, "choice_in_view": 3, "restatement": 0.3,
            "interview": 1, "reading": 2, "multiple_choice": 1.5, "summary": 0.5,
            "instruction": 1.5,
        },
    ),
    (
        7_682_048,
        {
            "article": 6, "asked": 4, "letters": 0.5, "choice_in_view": 1.5, "interview": 0.7,
            "reading": 2.5, "multiple_choice": 4, "summary": 1.2, "instruction": 2.5,
        },
    ),
    (
        10_444_800,
        {
            "profile": 8, "asked": 4, "asked_choice": 2, "quiz": 3.5, "interview": 0.7,
            "reading": 2.5, "summary": 1.2, "instruction": 2.5,
        },
    ),
    (
        math.inf,
        {
            "profile": 6, "asked": 3, "asked_choice": 3, "quiz": 2.5, "quiz_in_view": 5,
            "interview": 0.7, "reading": 2.5, "summary": 1.2, "instruction": 2.5,
        },
    ),
)  # fmt: skip
#: What comes on top in the last part, whose rows are as long as the context.
_LONG = {"long_summary": 0.6, "quiz": 3.0}
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
