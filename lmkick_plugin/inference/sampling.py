# SPDX-License-Identifier: Apache-2.0
"""Sampled tokens that do not depend on the batch.

``generate`` draws for all rows of a batch from one generator, so a sample changes with the rows
beside it. Here an answer has numbers of its own: they depend on torch's seed (lm-eval's
``--seed``), the prompt, and which of the prompt's samples it is. A sample is then the same in any
batch and any order, and a compressed model draws with the numbers of the dense one. Scores are
changed by transformers' own classes, so the distribution is that of ``generate``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Sampling", "Warp", "choose", "sampling_of"]

Warp: TypeAlias = Callable[[Tensor | None, Tensor], Tensor]
"""Changes scores [rows, vocabulary], each row by itself: temperature, top-k and the like."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is sampled.

    Attributes:
        warp: Changes the scores.
        numbers: For each token a number in [0, 1), which says where in the distribution it lies.
    """

    warp: Warp
    numbers: Sequence[float]


def sampling_of(warp: Warp, prompt: str, sample: int, limit: int) -> Sampling:
    """The sampling of one answer.

    Args:
        warp: Changes the scores.
        prompt: What it follows.
        sample: Which of this prompt's samples it is.
        limit: Most tokens to generate.
    """
    named = repr((torch.initial_seed(), sample, prompt)).encode(errors="surrogatepass")
    seed = int.from_bytes(hashlib.sha256(named).digest()[:7], "big")
    chance = torch.Generator().manual_seed(seed)
    return Sampling(warp, torch.rand(limit, generator=chance, dtype=torch.float64).tolist())


def choose(scores: Tensor, how: Sequence[tuple[Sampling | None, int]]) -> Tensor:
    """The next token of each row.

    Args:
        scores: float32 ``[rows, vocabulary]``.
        how: For each row its sampling, None for the likeliest token, and how many tokens it has.

    Returns:
        int64 ``[rows]``.
    """
    chosen = scores.argmax(dim=-1)
    by_warp: dict[int, list[int]] = {}
    for row, (sampling, _) in enumerate(how):
        if sampling is not None:
            by_warp.setdefault(id(sampling.warp), []).append(row)
    for rows in by_warp.values():
        samplings = [(sampling, at) for sampling, at in (how[row] for row in rows) if sampling]
        warped = samplings[0][0].warp(None, scores[rows])
        below = warped.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        numbers = below.new_tensor([sampling.numbers[at] for sampling, at in samplings])
        # right: a token of probability 0 ends where the one before it ends, and is never first.
        found = torch.searchsorted(below, (numbers * below[:, -1])[:, None], right=True)
        chosen[rows] = found[:, 0].clamp(max=scores.shape[-1] - 1)
    return chosen
