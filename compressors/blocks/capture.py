# SPDX-License-Identifier: Apache-2.0
"""Captured inputs of the decoder blocks, so that blocks can run on their own.

Every block is replaced temporarily by a stand-in that records its arguments and passes the
hidden states on. So masks and position embeddings that differ from block to block (sliding and full
attention, local and global rotary tables) are recorded per block, and no block is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressors.errors import UnsupportedModelError

__all__ = ["BlockInputs", "Stop", "capture", "run_block"]

#: What a stand-in returns, tried in turn: transformers 5 layers return a tensor, some a tuple.
_RETURNS: tuple[Callable[[Tensor], Any], ...] = (
    lambda hidden: hidden,
    lambda hidden: (hidden,),
    lambda hidden: (hidden, None),
    lambda hidden: (hidden, None, None),
)
_POOL = 8


class Stop(Exception):  # noqa: N818, control flow, not an error
    """Ends a forward pass early; caught within this package."""


class _WrongReturnError(Exception):
    """The model could not unpack a stand-in's return value."""


class _NotOneChainError(Exception):
    """A block was not given what the block called before it returned."""


#: What a model may raise when it unpacks something else than what its blocks return.
_MISUNDERSTOOD = (
    _WrongReturnError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class _Call:
    """Arguments of one call without the hidden states; ``slot`` says where these go."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slot: int | str


@dataclass(slots=True)
class BlockInputs:
    """Arguments of the blocks' calls, for every batch of the calibration data.

    Attributes:
        hidden: The first block's hidden states, one tensor a batch.
        order: Indices of the blocks in the order of their calls; a block may come more than once.
        calls: By batch, then in that order: all other arguments.
        storage: Where hidden states are kept between blocks; None: wherever they are computed.
    """

    hidden: list[Tensor]
    order: list[int]
    calls: list[list[_Call]]
    storage: torch.device | None = None
    _moved: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict)

    def arguments(
        self, step: int, batch: int, hidden: Tensor, device: torch.device
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return ``(args, kwargs)`` of call ``step`` on ``batch``, ``hidden`` among them."""
        call = self.calls[batch][step]

        def move(tensor: Tensor) -> Tensor:
            key = (id(tensor), device)
            if tensor.device != device and key not in self._moved:
                self._moved[key] = tensor.to(device)
            return self._moved.get(key, tensor)

        args, kwargs = _map(call.args, move), dict(_map(call.kwargs, move))
        if isinstance(call.slot, int):
            args = (*args[: call.slot], hidden, *args[call.slot + 1 :])
        else:
            kwargs[call.slot] = hidden
        return args, kwargs


def capture(
    model: nn.Module, blocks: Sequence[nn.Module], batches: Sequence[Tensor]
) -> BlockInputs:
    """Run everything but the blocks on the token batches; record the blocks' inputs.

    Args:
        model: A causal language model.
        blocks: Its decoder blocks.
        batches: Token ids, int64 ``[samples, seqlen]`` each.

    Raises:
        UnsupportedModelError: The blocks were never called, not all in the same way, or not each
            with the hidden states of the one before.
    """
    pool = _Pool()
    inputs = BlockInputs(hidden=[], order=[], calls=[])
    choices = _RETURNS
    device = _embedding_device(model)
    for number, batch in enumerate(batches):
        recorder = _record(model, blocks, batch.to(device), choices)
        choices = (recorder.returns,)
        if not recorder.calls:
            raise UnsupportedModelError(
                f"{type(model).__name__} never calls the blocks that were found; give "
                "model._no_split_modules the class name of its decoder blocks"
            )
        if number == 0:
            inputs.order = recorder.order
        inputs.hidden.append(recorder.hidden)
        inputs.calls.append(pool.share(recorder.calls))
    return inputs


def run_block(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Call a block and return its hidden states, whether it returns a tensor or a tuple."""
    output = block(*args, **kwargs)
    result: Tensor = output[0] if isinstance(output, tuple | list) else output
    return result


class _Recorder:
    """Records block calls of one batch."""

    def __init__(self, returns: Callable[[Tensor], Any]) -> None:
        self.returns = returns
        self.order: list[int] = []
        self.calls: list[_Call] = []
        self.hidden = torch.empty(0)
        self._returned = self.hidden
        self._version = 0

    def __call__(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        slot = _hidden_slot(args, kwargs)
        if isinstance(slot, int):
            hidden = args[slot]
            call = _Call((*args[:slot], None, *args[slot + 1 :]), kwargs, slot)
        else:
            hidden = kwargs[slot]
            call = _Call(args, {**kwargs, slot: None}, slot)
        if not self.calls:
            self.hidden = hidden
        elif hidden.shape != self.hidden.shape:
            raise _WrongReturnError(f"shape {tuple(hidden.shape)} after {tuple(self.hidden.shape)}")
        elif not self._is_returned(hidden):
            raise _NotOneChainError(f"before block {index}, call {len(self.calls) + 1}")
        self._returned, self._version = hidden, hidden._version
        self.order.append(index)
        self.calls.append(call)
        return self.returns(hidden)

    def _is_returned(self, hidden: Tensor) -> bool:
        """Whether a block is given what the block called before it returned."""
        last = self._returned
        if last._version != self._version or hidden.dtype != last.dtype:
            return False
        return hidden is last or torch.equal(hidden, last.to(hidden.device))


def _record(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    tokens: Tensor,
    choices: Sequence[Callable[[Tensor], Any]],
) -> _Recorder:
    """Record one batch with the first kind of return value that the model accepts."""
    first_error: Exception | None = None
    for returns in choices:
        recorder = _Recorder(returns)
        with _stand_ins(blocks, recorder), _stopping_at_head(model):
            try:
                model(input_ids=tokens, use_cache=False)
            except Stop:
                pass
            except torch.OutOfMemoryError:
                raise
            except _NotOneChainError as error:
                raise UnsupportedModelError(
                    f"{type(model).__name__} changes hidden states between the blocks that were "
                    f"found ({error}), so they cannot be compressed one after the other; set "
                    "model._no_split_modules to the class name of blocks that read each other's "
                    "outputs, or use another model"
                ) from None
            except _MISUNDERSTOOD as error:
                first_error = first_error or error
                continue
        return recorder
    if isinstance(first_error, _WrongReturnError):
        raise UnsupportedModelError(
            f"the blocks of {type(model).__name__} do not pass on hidden states of one shape "
            f"({first_error}); this model cannot be compressed block by block"
        )
    # Not a fault of the stand-ins: the model cannot run on these tokens; its own error says why.
    raise first_error or RuntimeError("no stand-in for the blocks was tried")


@contextmanager
def _stand_ins(blocks: Sequence[nn.Module], recorder: _Recorder) -> Iterator[None]:
    """Replace the blocks' ``forward`` on the instances within the context."""
    # A block that is listed twice goes by its first place, whose matrices are compressed.
    first = {block: index for index, block in reversed([*enumerate(blocks)])}
    originals = [(block, block.__dict__.get("forward")) for block in first]
    try:
        for block, index in first.items():

            def forward(*args: Any, _index: int = index, **kwargs: Any) -> Any:
                return recorder(_index, args, kwargs)

            block.forward = forward
        yield
    finally:
        for block, original in originals:
            if original is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = original


@contextmanager
def _stopping_at_head(model: nn.Module) -> Iterator[None]:
    """Stop the forward pass before the output head."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if callable(getter) else None

    def stop(*_: Any) -> None:
        raise Stop

    handle = head.register_forward_pre_hook(stop) if isinstance(head, nn.Module) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


class _Pool:
    """Shared copies of arguments that are equal in every batch: masks, rotary tables."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], list[Tensor]] = {}

    def share(self, calls: list[_Call]) -> list[_Call]:
        """Replace tensors of one batch's calls by equal ones seen before."""
        # Blocks mostly get the very same tensors: compare each once. Ids are safe as keys because
        # ``calls`` keeps all of them alive.
        known: dict[int, Tensor] = {}

        def intern(tensor: Tensor) -> Tensor:
            if id(tensor) not in known:
                known[id(tensor)] = self._intern(tensor)
            return known[id(tensor)]

        return [
            _Call(_map(call.args, intern), _map(call.kwargs, intern), call.slot) for call in calls
        ]

    def _intern(self, tensor: Tensor) -> Tensor:
        kept = self._kept.setdefault((tensor.shape, tensor.dtype, tensor.device), [])
        for other in kept:
            if torch.equal(other, tensor):
                return other
        if len(kept) < _POOL:
            kept.append(tensor)
        return tensor


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to the tensors in nested tuples, lists and dicts.

    A container in which nothing changes is returned unchanged: some models pass a dict along that
    their blocks write to.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        mapped = {key: _map(item, function) for key, item in value.items()}
        return value if all(mapped[key] is value[key] for key in value) else mapped
    if type(value) in (tuple, list):
        items = [_map(item, function) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    return value


def _embedding_device(model: nn.Module) -> torch.device:
    """Device on which the model expects token ids."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    parameter = next((embeddings or model).parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _hidden_slot(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str:
    """Place of the hidden states: the first positional tensor, or ``hidden_states=``."""
    if args and isinstance(args[0], Tensor):
        return 0
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return "hidden_states"
    for name, value in kwargs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3:
            return name
    raise UnsupportedModelError(
        f"a decoder block was called without hidden states (arguments {sorted(kwargs)}); this "
        "model cannot be compressed block by block"
    )
