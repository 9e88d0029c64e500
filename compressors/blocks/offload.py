# SPDX-License-Identifier: Apache-2.0
"""Move blocks to the compute device one by one; the model need not fit on it.

On CUDA the next block is copied on a side stream, through pinned host memory and by a worker
thread, while the present one computes; the compressed weights go home the same way. The worker
finishes sending one block home before it fetches another, so at most two are on the device. A block
that is where it should be is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressors.blocks.find import Block
from compressors.errors import SettingsError

__all__ = ["BlockMover", "concrete_device", "home_device", "synchronize"]


def concrete_device(device: torch.device | str) -> torch.device:
    """Return ``device`` with its index filled in, so that devices can be compared.

    Raises:
        SettingsError: There is no such device.
    """
    try:
        # Allocating nothing on it is the one way that works for every kind of device.
        return torch.empty(0, device=torch.device(device)).device
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no one class
        cause = str(error).partition("\n")[0]
        raise SettingsError(
            f"device={device}: torch cannot use it ({cause:.100}). Use cpu, or a device that is "
            "there"
        ) from error


def home_device(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that timings are right."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(slots=True)
class _Visitor:
    """A block on the device: its tensors at home, and their copies."""

    slots: list[tuple[nn.Module, str]]
    home: list[Tensor]
    away: list[Tensor]
    changed: list[bool]


class BlockMover:
    """Moves blocks to the compute device in a known order, and back.

    Args:
        blocks: The blocks in the order in which they will be asked for.
        device: The compute device; None leaves every block where it is.
    """

    def __init__(self, blocks: Sequence[Block], device: torch.device | None) -> None:
        self._blocks = blocks
        self._device = device
        self._fetched: dict[int, Future[_Visitor]] = {}
        self._sent: list[Future[None]] = []
        self._carrier: _Carrier | None = None

    @contextmanager
    def visiting(self, step: int) -> Iterator[torch.device]:
        """Yield the device with block ``step`` on it."""
        module = self._blocks[step].module
        home = home_device(module)
        if self._device is None or home == self._device:
            yield home
        elif self._device.type == "cuda" and home.type == "cpu":
            with self._streamed(step, self._device):
                yield self._device
        else:
            module.to(self._device)
            try:
                yield self._device
            finally:
                module.to(home)

    def close(self) -> None:
        """Wait for what is under way, and let the worker go."""
        if self._carrier is not None:
            self._carrier.close()
            self._carrier = None

    @contextmanager
    def _streamed(self, step: int, device: torch.device) -> Iterator[None]:
        if self._carrier is None:
            self._carrier = _Carrier(device)
        carrier = self._carrier
        future = self._fetched.pop(step, None) or carrier.fetch(self._blocks[step])
        visitor = future.result()
        for (module, name), tensor in zip(visitor.slots, visitor.away, strict=True):
            _put(module, name, tensor)
        following = step + 1
        if following < len(self._blocks) and self._can_overtake(step, following):
            self._fetched[following] = carrier.fetch(self._blocks[following])
        try:
            yield
        finally:
            # The module is whole again at once; the worker fills in the new values behind it.
            for (module, name), tensor in zip(visitor.slots, visitor.home, strict=True):
                _put(module, name, tensor)
            self._sent.append(carrier.send_home(visitor))
            if not self._fetched:
                for sent in self._sent:
                    sent.result()
                self._sent.clear()

    def _can_overtake(self, step: int, following: int) -> bool:
        """Whether the next block may be fetched early: the two share no tensor."""
        here, there = self._blocks[step].module, self._blocks[following].module
        shared = {id(p) for p in here.parameters()} & {id(p) for p in there.parameters()}
        return not shared and home_device(there).type == "cpu"


class _Carrier:
    """One worker thread with a side stream and a pinned buffer, for copies in both directions."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="block-mover")
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def fetch(self, block: Block) -> Future[_Visitor]:
        """Start copying a block to the device."""
        return self._worker.submit(self._fetch, block)

    def send_home(self, visitor: _Visitor) -> Future[None]:
        """Start copying a compressed block to the host, once the device is done with it."""
        done = torch.cuda.current_stream(self._device).record_event()
        return self._worker.submit(self._send_home, visitor, done)

    def close(self) -> None:
        """Let the worker finish and end it."""
        self._worker.shutdown(wait=True)

    def _fetch(self, block: Block) -> _Visitor:
        matrices = {id(parameter) for _, parameter in block.parameters()}
        visitor = _Visitor([], [], [], [])
        with torch.no_grad(), torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            for module, name, tensor, owner in _tensors(block.module):
                pinned = self._pinned_like(tensor)
                pinned.copy_(tensor)
                away = torch.empty_like(tensor, device=self._device)
                away.copy_(pinned, non_blocking=True)
                # One buffer serves all: it may be filled again only when the copy has left it.
                self._stream.synchronize()
                visitor.slots.append((module, name))
                visitor.home.append(tensor)
                visitor.away.append(away)
                visitor.changed.append(owner in matrices)
        return visitor

    def _send_home(self, visitor: _Visitor, done: torch.cuda.Event) -> None:
        with torch.no_grad(), torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_event(done)
            for home, away, changed in zip(
                visitor.home, visitor.away, visitor.changed, strict=True
            ):
                if changed:
                    pinned = self._pinned_like(home)
                    pinned.copy_(away, non_blocking=True)
                    self._stream.synchronize()
                    home.copy_(pinned)
            # The device copies are freed here, after the stream that used them last.
            self._stream.synchronize()
            visitor.away.clear()

    def _pinned_like(self, tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._buffer[:size].view(tensor.dtype).view(tensor.shape)


def _tensors(block: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor, int]]:
    """Yield each parameter and buffer once: module, name, tensor, identity of the parameter."""
    seen: set[int] = set()
    for module in block.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, name, parameter.data, id(parameter)
        for name, buffer in module.named_buffers(recurse=False):
            yield module, name, buffer, id(buffer)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace the tensor of a parameter, keeping the object, or of a buffer."""
    parameter = module._parameters.get(name)
    if parameter is not None:
        parameter.data = tensor
    else:
        module._buffers[name] = tensor
