# SPDX-License-Identifier: Apache-2.0
"""Stop strings, checked with one look-up per token.

lm-eval's ``hf`` decodes the last few tokens of every row for every stop string at every step. Here
nothing is decoded unless the newest token could be the end of a stop string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["StopStrings"]

#: Decoders that put the tokens' own texts one after the other, up to a space in front.
_PLAIN_DECODERS = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StopStrings:
    """Stop strings of a request, found where ``hf`` finds them in a batch of one.

    ``hf`` looks for a string in the text of the last tokens: as many as the string is encoded to,
    and two more.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        """Build the look-up table.

        Args:
            tokenizer: The model's.
            stops: Any strings; an empty one ends every answer after its first token, as in ``hf``.
        """
        self._tokenizer = tokenizer
        self._windows = {
            stop: len(tokenizer.encode(stop, add_special_tokens=False)) + 2 for stop in stops
        }
        self._all = tuple(self._windows)
        self._longest = max(self._windows.values(), default=0)
        self._by_token: dict[int, tuple[str, ...]] = {}
        # Bytes: what they are depends on those beside them, and so on where the window begins.
        self._bytes: set[int] = set()
        self._predictable = _texts_add_up(tokenizer)

    def reached(self, generated: Sequence[int]) -> bool:
        """Whether an answer ends here.

        Args:
            generated: Its tokens, without the prompt's. This must have been asked before at each
                of its lengths from 1 on.
        """
        newest = generated[-1]
        ending = self._by_token.get(newest)
        if ending is None:
            ending = self._by_token[newest] = self._possible_ends(newest)
        if self._bytes and not self._bytes.isdisjoint(generated[-self._longest :]):
            ending = self._all
        texts: dict[int, str] = {}
        for stop in ending:
            window = self._windows[stop]
            if window not in texts:
                texts[window] = self._tokenizer.decode(generated[-window:])
            if stop in texts[window]:
                return True
        return False

    def _possible_ends(self, token: int) -> tuple[str, ...]:
        """Stop strings that a token can complete."""
        if not self._predictable:
            return self._all
        text = str(self._tokenizer.decode([token]))
        if _BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token))) or (
            _REPLACEMENT in text
        ):
            self._bytes.add(token)
        if not text:
            return self._all
        # Some decoders drop the space in front of the first token.
        texts = (text, " " + text)
        return tuple(stop for stop in self._all if any(_can_end(stop, one) for one in texts))


def _can_end(stop: str, text: str) -> bool:
    """Whether appending a text can complete a stop string."""
    return stop in text or any(
        stop.endswith(text[:length]) for length in range(1, min(len(stop), len(text)) + 1)
    )


def _texts_add_up(tokenizer: Any) -> bool:
    """Whether decoding tokens equals joining their texts."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None or getattr(tokenizer, "clean_up_tokenization_spaces", True):
        return False
    state = json.loads(decoder.__getstate__())
    return all(
        part["type"] in _PLAIN_DECODERS and not part.get("stop")
        for part in state.get("decoders", [state])
    )
