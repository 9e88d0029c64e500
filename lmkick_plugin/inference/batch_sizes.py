# SPDX-License-Identifier: Apache-2.0
"""Batch sizes: given or measured, reduced after running out of memory.

With ``batch_size=auto``, lm-eval runs sixty-four sequences as long as the context five times, then
fewer, before it begins. Here the evaluation itself is the search. Requests come longest first, with
as many rows as may be; where memory runs out, half of them; then, from batch to batch, a step back
towards what failed, as long as that is far. What has been answered stays answered. The outcome is
kept as a number of tokens that fit, so shorter requests get more rows, and for all evaluations of a
model of the same shape in this process.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

__all__ = [
    "BatchSize",
    "batch_size_of",
    "detect_batch_size",
    "free_main_memory",
    "give_back_memory",
    "is_out_of_memory",
]

_LOGGER = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

#: What allocators say, other than by torch.OutOfMemoryError and MemoryError.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
)

#: On a CPU, more tokens in one forward pass make it no faster, and need memory all the same. A step
#: of generation has one token per row, but a prompt and its answer stay in the cache.
_CPU_TOKENS = {"scoring": 4096, "rolling": 4096, "generation": 32768}
#: Share of the free main memory that a batch may take.
_CPU_SHARE = 0.4

_found: dict[tuple[Any, ...], BatchSize] = {}
_searched: dict[tuple[Any, ...], int] = {}


class BatchSize:
    """Rows of a batch for one kind of request."""

    def __init__(
        self, most: int, kind: str, *, automatic: bool = False, tokens: int | None = None
    ) -> None:
        """Store the limits; :func:`batch_size_of` sets them for a model.

        Args:
            most: Rows, at most.
            kind: ``scoring``, ``rolling`` or ``generation``; for messages.
            automatic: Whether the number is to be found, or was given by the user.
            tokens: Tokens (rows times the longest one's) that are taken to fit; None: any.
        """
        self.most = most
        self.kind = kind
        self.automatic = automatic
        self._tokens = tokens
        self._fitted = 0
        self._failed: int | None = None

    def rows(self, length: int) -> int:
        """Rows for requests of a length.

        Args:
            length: Tokens of the longest one, with those that are yet to be generated.

        Returns:
            At least 1.
        """
        if self._tokens is None:
            return self.most
        return max(1, min(self.most, self._tokens // max(length, 1)))

    def ran_out(self, rows: int, length: int) -> None:
        """Note an out-of-memory error: later batches have about half the rows.

        Args:
            rows: Rows of the batch that failed, more than 1.
            length: As for :meth:`rows`.
        """
        first = self._failed is None
        self._failed = rows * length
        half = (rows // 2) * length
        self._tokens = max(half, self._fitted) if self._fitted < self._failed else half
        if self.automatic:
            _LOGGER.info("Out of memory with %d rows of %d tokens (%s).", rows, length, self.kind)
        elif first:
            _LOGGER.warning(
                "Out of memory with batch_size=%d and %d tokens per row (%s): continuing with %d "
                "rows. batch_size=auto finds a size that fits.",
                rows, length, self.kind, self.rows(length),
            )  # fmt: skip

    def fitted(self, rows: int, length: int) -> None:
        """Note a batch that fitted.

        Args:
            rows: Its rows.
            length: As for :meth:`rows`.
        """
        tokens = rows * length
        self._fitted = max(self._fitted, tokens)
        if not self.automatic or self._failed is None or self._tokens is None:
            return
        if tokens + length > self._tokens and 8 * self._failed > 9 * self._tokens:
            self._tokens = (self._tokens + self._failed) // 2


def batch_size_of(model: Any, kind: str) -> BatchSize:
    """The batch size of a model for one kind of request.

    Args:
        model: An lm-eval ``hf`` model.
        kind: ``scoring``, ``rolling`` or ``generation``.

    Returns:
        The same object each time; with ``batch_size=auto`` the same for all models of a shape.
    """
    if str(model.batch_size) != "auto":
        sizes: dict[str, BatchSize] = model.__dict__.setdefault("_kick_batch_sizes", {})
        if kind not in sizes:
            sizes[kind] = BatchSize(int(model.batch_size), kind)
        return sizes[kind]
    key = _key(model, kind)
    if key not in _found:
        on_cpu = torch.device(model.device).type == "cpu"
        tokens = _cpu_tokens(model.model, kind) if on_cpu else None
        _found[key] = BatchSize(_most(model), kind, automatic=True, tokens=tokens)
    return _found[key]


def detect_batch_size(
    model: Any, requests: Any, pos: int, search: Callable[[Any, int], int]
) -> int:
    """One batch size for code that needs a single number, such as ``hf`` itself.

    Args:
        model: An lm-eval ``hf`` model with ``batch_size=auto``.
        requests: Scoring requests with their tokens; None: anything up to the context.
        pos: The longest of those that come next.
        search: How lm-eval finds it: by running out of memory. On a CPU that ends the process, or
            takes minutes, so a size is chosen there by memory and throughput.

    Returns:
        Rows. What was found for a length is not searched again in this process.
    """
    length = int(model.max_length)
    if requests:
        _, context, continuation = requests[pos]
        length = min(len(context) + len(continuation), length + 1) - 1
    size = batch_size_of(model, "scoring")
    if torch.device(model.device).type == "cpu":
        return size.rows(length)
    if model.world_size > 1:  # the search ends with all processes telling each other: never skip it
        return search(requests, pos)
    key = (*_key(model, "search"), length)
    if key not in _searched:
        _searched[key] = search(requests, pos)
    return _searched[key]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in _OUT_OF_MEMORY)


def give_back_memory() -> None:
    """Free unreferenced memory before the next attempt."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_main_memory() -> int | None:
    """Bytes of main memory available within container limits; None where unknown."""
    free: list[int] = []
    meminfo = _read("/proc/meminfo")
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        free.append(max(0, int(limit) - int(used)))
    if not free and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(free, default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def _cpu_tokens(model: Any, kind: str) -> int:
    """Tokens per batch on a CPU, by throughput and memory."""
    tokens = _CPU_TOKENS[kind]
    free = free_main_memory()
    if free is None:
        return tokens
    return min(tokens, max(1, int(free * _CPU_SHARE) // _token_bytes(model, kind)))


def _token_bytes(model: Any, kind: str) -> int:
    """Approximate bytes per token of a batch during a forward pass."""
    config = model.config.get_text_config()
    size = int(model.dtype.itemsize)
    hidden = int(getattr(config, "hidden_size", 1024))
    layers = int(getattr(config, "num_hidden_layers", 24))
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    inside_a_layer = (8 * hidden + 4 * inner) * size
    if kind == "generation":
        return inside_a_layer + 2 * layers * hidden * size
    # Logits, and their log-softmax in float32.
    return inside_a_layer + int(getattr(config, "vocab_size", 32000)) * (size + 8)


def _most(model: Any) -> int:
    return int(model.max_batch_size or 64)


def _key(model: Any, kind: str) -> tuple[Any, ...]:
    """Key of models that need equal memory for equal requests."""
    weights = tuple((tuple(one.shape), one.dtype) for one in model.model.parameters())
    device = torch.device(model.device).type
    return type(model.model).__name__, hash(weights), device, model.max_length, _most(model), kind
