# SPDX-License-Identifier: Apache-2.0
"""Every block is given what the model would give it, and equal arguments are kept once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors import UnsupportedModelError
from compressors.blocks.capture import capture, run_block
from compressors.blocks.find import find_blocks
from tests.tiny_models import CONFIGS, make


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return torch.randint(3, 128, (5, 32), generator=torch.Generator().manual_seed(0))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return [block.module for block in find_blocks(model)]


@torch.no_grad()
@pytest.mark.parametrize("family", CONFIGS)
def test_blocks_run_alone_as_they_run_in_the_model(family: str, samples: Tensor) -> None:
    model = make(family)
    blocks = blocks_of(model)
    batches = samples.split(2)
    outputs: list[list[Tensor]] = [[] for _ in blocks]
    handles = [
        block.register_forward_hook(
            lambda _, __, output, index=index: outputs[index].append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        for index, block in enumerate(blocks)
    ]
    for batch in batches:
        model(input_ids=batch, use_cache=False)
    for handle in handles:
        handle.remove()
    inputs = capture(model, blocks, batches)
    assert inputs.order == [0, 1, 2]
    for step in inputs.order:
        for batch in range(len(batches)):
            args, kwargs = inputs.arguments(step, batch, inputs.hidden[batch], torch.device("cpu"))
            inputs.hidden[batch] = run_block(blocks[step], args, kwargs)
            assert torch.equal(inputs.hidden[batch], outputs[step][batch])


@torch.no_grad()
def test_masks_differ_by_block_where_the_model_makes_them_differ(samples: Tensor) -> None:
    model = make("gemma3", attn_implementation="eager")
    inputs = capture(model, blocks_of(model), samples.split(2))
    sliding, full, again = (call.kwargs["attention_mask"] for call in inputs.calls[0])
    assert not torch.equal(sliding, full)
    assert again is sliding


@torch.no_grad()
def test_equal_arguments_of_batches_are_kept_once(samples: Tensor) -> None:
    model = make("llama")
    inputs = capture(model, blocks_of(model), samples.split(1))
    tables = {id(call.kwargs["position_embeddings"][0]) for calls in inputs.calls for call in calls}
    assert len(inputs.calls) == 5
    assert len(tables) == 1


@torch.no_grad()
def test_arguments_move_once_and_containers_stay_themselves() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, hidden: Tensor, table: Any, shared: Any) -> Tensor:
            return self.layer(hidden)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(8, 4)
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
            hidden, table, shared = self.embed(input_ids), (torch.ones(3),), {}
            for block in self.blocks:
                hidden = block(hidden, table, shared=shared)
            return hidden

    model = Model()
    inputs = capture(model, list(model.blocks), [torch.zeros(2, 3, dtype=torch.int64)])
    there = torch.device("meta")
    first, kwargs = inputs.arguments(0, 0, inputs.hidden[0], there)
    second, others = inputs.arguments(1, 0, inputs.hidden[0], there)
    assert first[1][0].device == there
    assert first[1][0] is second[1][0]
    # One dict that blocks may write to, and later ones read.
    assert kwargs["shared"] is others["shared"]


def test_a_model_that_never_calls_its_blocks_is_refused(samples: Tensor) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4)])

        def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
            return input_ids

    model = Idle()
    with pytest.raises(UnsupportedModelError, match="Idle never calls the blocks"):
        capture(model, list(model.blocks), [samples])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["other", "in place", "dtype", "equal"])
def test_hidden_states_that_change_between_blocks_are_refused(kind: str, samples: Tensor) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(128, 4)
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
            hidden = self.blocks[0](self.embed(input_ids))
            if kind == "in place":
                hidden += 1
            change = {"other": hidden + 1, "dtype": hidden.double(), "equal": hidden * 1}
            return self.blocks[1](change.get(kind, hidden))

    model = Model()
    if kind == "equal":
        assert capture(model, list(model.blocks), [samples]).order == [0, 1]
        return
    with pytest.raises(
        UnsupportedModelError, match=r"Model changes hidden states .*before block 1"
    ):
        capture(model, list(model.blocks), [samples])


def test_the_models_own_error_is_what_is_told() -> None:
    model = make("gpt2")
    with pytest.raises(IndexError, match="index out of range"):
        capture(model, blocks_of(model), [torch.full((1, 4), 999)])
