# SPDX-License-Identifier: Apache-2.0
"""Where kick-mini's training starts: with an induction head, so that it need not be found.

A small transformer learns to copy from its context only after a long plateau, in which two layers
have to find each other: a head that looks at the previous token, and in a later layer one that
looks for what came after an earlier occurrence of the present token (Olsson et al., "In-context
Learning and Induction Heads", arXiv:2209.11895). On a processor the plateau alone takes longer than
all the rest. So both heads are there from the start, as weak patterns in random weights, which
training is free to change. Everything else is random.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["start_with_induction"]

_EMBEDDING = 0.05
"""Standard deviation of an embedding's components."""
_COMMON = 0.5
"""Length of the part that all embeddings share, as a share of the rest's."""
_SHARPNESS = (4.0, 4.0, 2.0, 1.0)
"""Logits that the fastest rotary frequencies add to a previous-token head's logits."""
_MATCH = 2.0
"""How much a match of tokens adds to an induction head's logits."""


@torch.no_grad()
def start_with_induction(model: Any, seed: int) -> None:
    """Change a Llama's random weights in place.

    Args:
        model: A ``LlamaForCausalLM`` of at least two layers, with tied embeddings.
        seed: Source of chance.
    """
    config = model.config
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    common = torch.nn.functional.normalize(normal(width), dim=0)

    def without_common(matrix: Tensor) -> Tensor:
        return matrix - (matrix @ common)[:, None] * common

    embedding = model.model.embed_tokens.weight
    length = _EMBEDDING * math.sqrt(width)
    shared = _COMMON * length
    embedding.copy_(without_common(normal(*embedding.shape) * _EMBEDDING) + shared * common)
    for layer in model.model.layers:
        # The usual factor for weights that write into the residual stream.
        for writing in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writing.weight.mul_(1 / math.sqrt(2 * config.num_hidden_layers))

    # First layer: key 0 is the same everywhere, and queries 0 and 1 are turned against it by one
    # and two positions, so that these heads look at the last token and the one before it.
    first, second = (model.model.layers[index].self_attn for index in (0, 1))
    seen = math.sqrt(width) * _COMMON / math.sqrt(1 + _COMMON**2)  # of `common`, after the norm
    heights = [math.sqrt(height * math.sqrt(size)) / seen for height in _SHARPNESS]
    key = torch.zeros(size)
    key[: len(heights)] = torch.tensor(heights)
    first.k_proj.weight[:size] = key[:, None] * common
    for head, distance in enumerate((1, 2)):
        query = torch.zeros(size)
        for index, height in enumerate(heights):
            turn = distance * config.rope_parameters["rope_theta"] ** (-2 * index / size)
            query[index] = height * math.cos(turn)
            query[index + size // 2] = -height * math.sin(turn)
        first.q_proj.weight[head * size : (head + 1) * size] = query[:, None] * common
    what = without_common(normal(size, width) / math.sqrt(width))
    first.v_proj.weight[:size] = what
    written = length / math.sqrt(size)
    places = [torch.linalg.qr(normal(width, size))[0] for _ in range(2)]
    for head, place in enumerate(places):
        first.o_proj.weight[:, head * size : (head + 1) * size] = place * written

    # Second layer: query 0 holds the present token, key 0 the token before, as written above; what
    # is found is copied to the output.
    after_norm = math.sqrt(width) / math.sqrt(2 * length**2 + shared**2)
    scale = math.sqrt(width) / (after_norm * length)
    second.q_proj.weight[:size] = math.sqrt(_MATCH) * what * scale
    second.k_proj.weight[:size] = math.sqrt(_MATCH) * places[0].T / (written * after_norm)
    copied = without_common(normal(size, width) / math.sqrt(width))
    second.v_proj.weight[:size] = copied * scale
    second.o_proj.weight[:, :size] = copied.T * written
