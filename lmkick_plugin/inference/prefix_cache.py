# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a prefix, computed once and shared by every row of a batch.

Which models can do this is read off the cache that the model itself makes, by the classes of its
layers, not by names of models. Keys and values of plain attention, over all tokens or a sliding
window, do not depend on what follows, and any number of rows can continue them. Recurrent states
(Mamba, linear attention), compressed or quantized keys, indexers and others are left
alone: for these nothing is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["Prefix", "continue_prefix", "layer_windows", "new_prefix", "why_not_shared"]

#: How far back a layer sees: None for all tokens, their number, or 0 for a layer without keys.
Window = int | None

#: The class of layers without keys, which transformers has since 5.23.
_DUMMY: Any = getattr(cache_utils, "DummyLayer", None)


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of some leading tokens.

    Attributes:
        length: Number of tokens.
        layers: For each layer its pieces, in order: key and value ``[1, heads, tokens, size]``.
            A layer over all tokens shares the pieces of the prefix that this one continues, so a
            chain of prefixes holds every token once.
    """

    length: int
    layers: tuple[tuple[tuple[Tensor, Tensor], ...], ...]


def why_not_shared(cache: Any, length: int) -> str | None:
    """Why a model's cache cannot be shared; None where it can.

    Args:
        cache: What the model returned as ``past_key_values``.
        length: Tokens it was given, as a batch of one.
    """
    if type(cache) is not DynamicCache:
        kind = "none" if cache is None else type(cache).__name__
        return f"unsupported key-value cache ({kind})"
    layers: list[Any] = cache.layers
    for number, layer in enumerate(layers):
        if type(layer) is _DUMMY:
            continue
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return f"layer {number} keeps more than keys and values"
        held = length
        if type(layer) is DynamicSlidingWindowLayer:
            held = min(length, layer.sliding_window - 1)
        for state in (layer.keys, layer.values):
            if state is None or state.ndim != 4 or state.shape[0] != 1 or state.shape[2] != held:
                return f"layer {number} keeps no keys and values per token"
    return None


def layer_windows(cache: Cache) -> tuple[Window, ...]:
    """Attention window of each layer of a cache."""
    windows: list[Window] = []
    for layer in cache.layers:
        if isinstance(layer, DynamicSlidingWindowLayer):
            windows.append(int(layer.sliding_window))
        else:
            windows.append(0 if type(layer) is _DUMMY else None)
    return tuple(windows)


class _Whole(DynamicLayer):  # type: ignore[no-untyped-call]
    """Full-attention layer that reads a prefix and keeps at most the new columns."""

    def __init__(self, pieces: Sequence[tuple[Tensor, Tensor]], length: int, keep: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pieces = tuple(pieces)
        self.length = length
        self.keep = keep
        self.is_initialized = bool(pieces)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix and the new tokens, for every row."""
        self.length += key_states.shape[-2]
        whole = _join(self.pieces, key_states, value_states)
        if self.keep:
            # Not views of what computed them, such as queries, keys and values in one.
            self.pieces = (*self.pieces, (key_states.contiguous(), value_states.contiguous()))
        return whole

    def get_seq_length(self) -> int:
        """Tokens of the prefix, and of the new part once added."""
        return self.length


class _Sliding(DynamicSlidingWindowLayer):  # type: ignore[no-untyped-call]
    """Sliding-window layer that reads a prefix."""

    def __init__(
        self, window: int, pieces: Sequence[tuple[Tensor, Tensor]], length: int, keep: bool
    ) -> None:
        super().__init__(sliding_window=window)
        self.pieces = tuple(pieces)
        self.cumulative_length = length
        self.keep = keep
        self.is_initialized = bool(pieces)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix within the window and of the new tokens, for every row."""
        self.cumulative_length += key_states.shape[-2]
        keys, values = _join(self.pieces, key_states, value_states)
        if self.keep:
            # With a window of one token, nothing before a token is seen.
            held = max(0, keys.shape[-2] - (self.sliding_window - 1))
            self.pieces = ((keys[:, :, held:].clone(), values[:, :, held:].clone()),)
        return keys, values


def _join(
    pieces: Sequence[tuple[Tensor, Tensor]], keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values of a prefix, repeated for every row, and those of the new tokens."""
    if not pieces:
        return keys, values
    rows = len(keys)
    return (
        torch.cat([*(key.expand(rows, -1, -1, -1) for key, _ in pieces), keys], dim=-2),
        torch.cat([*(value.expand(rows, -1, -1, -1) for _, value in pieces), values], dim=-2),
    )


def continue_prefix(windows: Sequence[Window], prefix: Prefix | None, *, keep: bool) -> Cache:
    """Cache for one forward pass that continues a prefix without changing it.

    Args:
        windows: As :func:`layer_windows` says.
        prefix: What the rows continue; None for nothing.
        keep: Whether :func:`new_prefix` is to be called afterwards, for a batch of one row.
    """
    length = 0 if prefix is None else prefix.length
    layers: list[Any] = []
    for number, window in enumerate(windows):
        pieces = () if prefix is None else prefix.layers[number]
        if window == 0:
            layers.append(_DUMMY())
        elif window is None:
            layers.append(_Whole(pieces, length, keep))
        else:
            layers.append(_Sliding(window, pieces, length, keep))
    cache = DynamicCache()
    cache.layers = layers
    return cache


def new_prefix(cache: Cache, length: int) -> Prefix:
    """Prefix from a forward pass, with the prefix it continued.

    Args:
        cache: Of :func:`continue_prefix`, after the pass.
        length: Tokens of the whole prefix.
    """
    return Prefix(length, tuple(getattr(layer, "pieces", ()) for layer in cache.layers))
