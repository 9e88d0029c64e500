# SPDX-License-Identifier: Apache-2.0
"""Prompts are encoded many at a time, ahead of lm-eval, which encodes them one by one.

lm-eval encodes the prompt of a question again for each of its choices, and with each of them. Five
shots make that as long as scoring them takes on a GPU. A fast tokenizer encodes a list of texts on
all cores, each text as it encodes it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["EncodedAhead"]

#: Requests whose texts are encoded together, and held until the next ones are.
_AT_A_TIME = 512


class EncodedAhead:
    """The tokens of texts that are about to be asked for, in order."""

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        encode: Callable[[list[str]], list[list[int]]],
    ) -> None:
        """Nothing is encoded yet.

        Args:
            pairs: Context and continuation of each request.
            encode: Encodes texts as they are encoded one by one.
        """
        self._pairs = pairs
        self._encode = encode
        self._next = 0
        self._held: dict[str, list[int]] = {}

    def get(self, text: str) -> list[int] | None:
        """The tokens of a text, not to be changed; None for a text that was not to be expected."""
        if text not in self._held and self._next < len(self._pairs):
            some = self._pairs[self._next : self._next + _AT_A_TIME]
            self._next += len(some)
            texts = {
                text: None
                for context, continuation in some
                if context
                # Spaces at the end of a context go to the continuation.
                for text in (context.rstrip(), context + continuation)
            }
            self._held = dict(zip(texts, self._encode([*texts]), strict=True))
        return self._held.get(text)
