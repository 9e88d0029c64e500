# SPDX-License-Identifier: Apache-2.0
"""Blocks travel to the device and back: what is there when, and what they bring home."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors import SparseGPT, Unstructured, Wanda, compress_model
from compressors.blocks import offload
from compressors.blocks.find import find_blocks
from compressors.blocks.offload import BlockMover
from tests.tiny_models import make

WANDA = Wanda(pattern=Unstructured(0.5))


class _FakeStream:
    """A stream that is always finished, standing in for a CUDA device where there is none."""

    def __init__(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def wait_event(self, _: Any) -> None: ...

    def record_event(self) -> None: ...


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every block be streamed, to copies on the CPU; notes what the worker does.

    The bookkeeping (order, hand-over, what comes home) is the same as with a CUDA device; only the
    copies are plain ones.
    """
    log: list[str] = []

    def context(*_: Any) -> AbstractContextManager[None]:
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "Stream", _FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", _FakeStream)
    monkeypatch.setattr(torch.cuda, "device", context)
    monkeypatch.setattr(torch.cuda, "stream", context)
    original = offload._Carrier
    names: dict[int, str] = {}

    class Carrier(original):  # type: ignore[misc, valid-type]
        def _pinned_like(self, tensor: Tensor) -> Tensor:
            assert threading.current_thread() is not threading.main_thread()
            return torch.empty_like(tensor)

        def _fetch(self, block: Any) -> Any:
            log.append(f"fetch {block.name[-1]}")
            visitor = super()._fetch(block)
            names[id(visitor)] = block.name[-1]
            return visitor

        def _send_home(self, visitor: Any, done: Any) -> None:
            log.append(f"home {names[id(visitor)]}")
            super()._send_home(visitor, done)

    @contextmanager
    def streaming(self: BlockMover, step: int) -> Iterator[torch.device]:
        with self._streamed(step, torch.device("cpu")):
            yield torch.device("cpu")

    monkeypatch.setattr(offload, "_Carrier", Carrier)
    monkeypatch.setattr(BlockMover, "visiting", streaming)
    return log


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return torch.randint(3, 128, (5, 32), generator=torch.Generator().manual_seed(0))


def compressed(family: str, samples: Tensor, method: Any = WANDA, **more: Any) -> nn.Module:
    model = make(family)
    compress_model(model, method, calibration=samples, progress=False, **more)
    return model


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_streamed_blocks_come_home_compressed(
    family: str, samples: Tensor, streamed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(family)
    where = {name: p.data_ptr() for name, p in model.named_parameters()}
    identities = {name: id(p) for name, p in model.named_parameters()}
    compress_model(model, WANDA, calibration=samples, progress=False)
    # One block is fetched ahead, and never a third before the first is home.
    assert streamed == ["fetch 0", "fetch 1", "home 0", "fetch 2", "home 1", "home 2"]
    # The same parameters in the same memory.
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == where
    assert {name: id(p) for name, p in model.named_parameters()} == identities
    monkeypatch.undo()
    expected = compressed(family, samples).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_streaming_without_calibration(streamed: list[str]) -> None:
    model = make("llama")
    method = SparseGPT(pattern=Unstructured(0.5)).fallback()
    report = compress_model(model, method, progress=False)
    assert report.sparsity == 0.5
    assert streamed == ["fetch 0", "fetch 1", "home 0", "fetch 2", "home 1", "home 2"]


def test_a_layer_shared_by_blocks_is_not_fetched_before_it_is_home(
    samples: Tensor, streamed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared() -> nn.Module:
        model = make("llama")
        model.model.layers[1].mlp = model.model.layers[0].mlp
        return model

    model = shared()
    compress_model(model, WANDA, calibration=samples, progress=False)
    assert streamed == ["fetch 0", "home 0", "fetch 1", "fetch 2", "home 1", "home 2"]
    monkeypatch.undo()
    expected = shared()
    compress_model(expected, WANDA, calibration=samples, progress=False)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name]), name


def test_an_error_on_the_way_leaves_the_model_at_home(samples: Tensor, streamed: list[str]) -> None:
    model = make("llama")
    where = {name: p.data_ptr() for name, p in model.named_parameters()}

    def failing(*_: Any) -> None:
        raise RuntimeError("on purpose")

    model.model.layers[1].mlp.register_forward_pre_hook(failing)
    with pytest.raises(RuntimeError, match="on purpose"):
        compress_model(model, WANDA, calibration=samples, progress=False)
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == where
    assert not [t for t in threading.enumerate() if t.name.startswith("block-mover")]


def test_nothing_moves_where_everything_is_in_place(
    samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a move")

    monkeypatch.setattr(offload, "_Carrier", forbidden)
    for device in (None, "cpu", torch.device("cpu")):
        model = make("llama")
        monkeypatch.setattr(model.model.layers[0], "to", forbidden)
        where = {name: p.data_ptr() for name, p in model.named_parameters()}
        compress_model(model, WANDA, calibration=samples, device=device, progress=False)
        assert {name: p.data_ptr() for name, p in model.named_parameters()} == where
    with pytest.raises(AssertionError, match="a move"):  # what this test would notice
        compress_model(model, WANDA, calibration=samples, device="meta", progress=False)


def test_other_devices_get_plain_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = find_blocks(make("llama"))
    moves: list[str] = []
    monkeypatch.setattr(nn.Module, "to", lambda self, device: moves.append(str(device)))
    with BlockMover(blocks, torch.device("meta")).visiting(1) as device:
        assert device.type == "meta"
        assert moves == ["meta"]
    assert moves == ["meta", "cpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("method", [WANDA, SparseGPT(pattern=Unstructured(0.5))])
@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3"])
def test_cuda_gives_what_the_cpu_gives(family: str, method: Any, samples: Tensor) -> None:
    at_home = compressed(family, samples, method)
    streamed = compressed(family, samples, method, device="cuda")
    resident = make(family).to("cuda")
    compress_model(resident, method, calibration=samples, progress=False)
    for name, weight in streamed.state_dict().items():
        assert weight.device.type == "cpu"
        # Streaming changes no bit; another device may change the last ones.
        assert torch.equal(weight, resident.state_dict()[name].cpu()), name
        same = ((weight == 0) == (at_home.state_dict()[name] == 0)).double().mean()
        assert same > 0.98, name


@pytest.mark.gpu
def test_at_most_two_blocks_are_on_the_device(samples: Tensor) -> None:
    model = make("llama", num_hidden_layers=12, hidden_size=512, intermediate_size=2048)
    block = sum(p.numel() * p.element_size() for p in model.model.layers[0].parameters())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    compress_model(model, WANDA, calibration=samples, device="cuda", progress=False)
    assert torch.cuda.max_memory_allocated() < 4 * block
