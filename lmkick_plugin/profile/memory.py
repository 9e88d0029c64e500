# SPDX-License-Identifier: Apache-2.0
"""Bytes of a model's tensors, and peak memory of a block of code."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

import torch
from torch import nn

from lmkick_plugin.record.quantized_weights import parts

__all__ = ["PeakMemory", "bytes_in_memory"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def bytes_in_memory(model: nn.Module) -> int:
    """Bytes of weights and buffers as stored, those of packed formats included, tied ones once."""
    seen: dict[int, int] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        for _, part in parts(name, tensor):
            storage = part.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


class PeakMemory:
    """Peak memory while its block runs.

    On a GPU the allocator's, on Linux the process's resident set (its high-water mark is reset
    first); elsewhere nothing.

    Attributes:
        bytes: The peak; None where the system does not tell.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None
        self._known = False

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._known = True
        else:
            try:
                _CLEAR.write_text("5", encoding="ascii")  # see proc(5): resets the high-water mark
                self._known = True
            except OSError:
                self._known = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._known:
            return
        if self.device.type == "cuda":
            self.bytes = int(torch.cuda.max_memory_allocated(self.device))
            return
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        self.bytes = int(found[1]) * 1024 if found else None
