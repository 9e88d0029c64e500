# SPDX-License-Identifier: Apache-2.0
"""KV cache with rows added and removed during decoding.

Rows are aligned at their last column; columns left of a row's first token are masked. Columns are
written in place, into buffers with spare room, where a ``DynamicCache`` copies itself per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["RowCache"]

#: Most columns of room beyond what is needed, when a buffer is made or grows.
_MOST_ROOM = 64


class _RowLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers' own is untyped
    """Keys and values of one layer: views of two buffers ``[rows, heads, columns, width]``."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self._buffers: list[Tensor] = []
        self._first = self._end = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns, as ``DynamicLayer`` does."""
        new = (key_states, value_states)
        columns = key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [_empty(states, columns + self.room) for states in new]
        elif self._end + columns > self._buffers[0].shape[-2]:
            self._rebuild(columns)
        for buffer, states in zip(self._buffers, new, strict=True):
            buffer[:, :, self._end : self._end + columns] = states
        self._end += columns
        return self._show()

    def _rebuild(self, columns: int) -> None:
        """Reallocate with more free columns."""
        used = self._end - self._first
        room = max(columns, self.room)
        for index, buffer in enumerate(self._buffers):
            grown = _empty(buffer, used + room)
            grown[:, :, :used] = buffer[:, :, self._first : self._end]
            self._buffers[index] = grown
        self._first, self._end = 0, used

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[:, :, self._first : self._end] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values

    def keep(self, rows: Tensor, columns: int) -> None:
        """Keep some rows and the last columns; free the memory of the others."""
        unused = self._end - columns
        for index, buffer in enumerate(self._buffers):
            # A copy: the whole of the old buffer would live on in a view of it.
            kept = buffer[:, :, unused:].index_select(0, rows.to(buffer.device))
            self._buffers[index] = kept
        self._first, self._end = 0, columns
        self._show()

    def join(self, other: _RowLayer) -> None:
        """Append the rows of another layer, last columns aligned; the other one is consumed."""
        used = max(self._end - self._first, other._end - other._first)
        self.room = max(self.room, other.room)
        for index, (one, two) in enumerate(zip(self._buffers, other._buffers, strict=True)):
            rows = one.shape[0]
            # Zeros: what is masked is multiplied by 0, and must not be infinite or no number.
            shape = (rows + two.shape[0], one.shape[1], used + self.room, one.shape[3])
            joined = one.new_zeros(shape)
            width = self._end - self._first
            joined[:rows, :, used - width : used] = one[:, :, self._first : self._end]
            width = other._end - other._first
            joined[rows:, :, used - width : used] = two[:, :, other._first : other._end]
            self._buffers[index] = joined
            other._buffers[index] = two[:0]
        self._first, self._end = 0, used
        self._show()

    def repeat(self, source: _RowLayer, rows: int, columns: int, further: int) -> None:
        """Fill rows with the first columns of another layer's only row."""
        for states in (source.keys, source.values):
            if states is None:
                continue
            shape = (rows, states.shape[1], columns + further + self.room, states.shape[3])
            buffer = states.new_zeros(shape)
            buffer[:, :, :columns] = states[:, :, :columns]
            self._buffers.append(buffer)
        if self._buffers:
            self.dtype, self.device = self._buffers[0].dtype, self._buffers[0].device
            self.is_initialized = True
            self._end = columns
            self._show()

    def close_gaps(self, columns: Tensor) -> None:
        """Reorder columns: int64 ``[rows, columns in use]``, the source of each."""
        for index, buffer in enumerate(self._buffers):
            chosen = columns.to(buffer.device)[:, None, :, None]
            used = buffer[:, :, self._first : self._end]
            buffer[:, :, self._first : self._end] = used.gather(2, chosen.expand(used.shape))
            self._buffers[index] = buffer


class RowCache(Cache):
    """KV cache of a running batch, for models whose layers all keep keys and values.

    Sliding windows are applied by the attention mask; no columns are dropped here.
    """

    def __init__(self, layers: int, coming: int) -> None:
        """Create an empty cache.

        Args:
            layers: Number of the model's layers.
            coming: How many columns will follow the first ones, at most.
        """
        self._parts = [_RowLayer(min(coming, _MOST_ROOM)) for _ in range(layers)]
        super().__init__(layers=[*self._parts])

    def keep(self, rows: Sequence[int], columns: int) -> None:
        """Keep some rows and the last columns of every layer.

        Args:
            rows: Those that stay; one that is named several times becomes several rows.
            columns: How many of the last columns stay.
        """
        chosen = torch.tensor(rows, dtype=torch.long)
        for layer in self._parts:
            layer.keep(chosen, columns)

    def repeat(self, prefix: RowCache, rows: int, columns: int, further: int) -> None:
        """Fill an empty cache with a prefix that all rows share.

        Args:
            prefix: A cache of one row.
            rows: How many rows begin with it.
            columns: How many of its first columns they share.
            further: Columns added next.
        """
        for layer, source in zip(self._parts, prefix._parts, strict=True):
            layer.repeat(source, rows, columns, further)

    def close_gaps(self, shared: int, gaps: Tensor) -> None:
        """Move shared columns next to those that follow.

        Args:
            shared: Columns at the beginning, of all rows.
            gaps: int64 ``[rows]``: empty columns behind these, which go to the front.
        """
        width = self._parts[0].get_seq_length()
        places = torch.arange(width, device=gaps.device)[None].expand(len(gaps), -1)
        moved = places - gaps[:, None]
        columns = torch.where(places < shared + gaps[:, None], moved.clamp(min=0), places)
        for layer in self._parts:
            layer.close_gaps(columns)

    def join(self, other: RowCache) -> None:
        """Append the rows of another cache; the other one is consumed.

        Args:
            other: Of the same model, with any number of columns.
        """
        for one, two in zip(self._parts, other._parts, strict=True):
            one.join(two)


def _empty(like: Tensor, columns: int) -> Tensor:
    return like.new_zeros(*like.shape[:2], columns, like.shape[3])
