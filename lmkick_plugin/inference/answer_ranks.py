# SPDX-License-Identifier: Apache-2.0
"""Rank, probability and bits of known answers, teacher-forced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from lmkick_plugin.inference.token_windows import batch_size_for
from lmkick_plugin.inference.truncation import cut_left

__all__ = ["rank_answers"]

_MOST_NAMES = 8


def rank_answers(model: Any, requests: Sequence[Any]) -> list[dict[str, Any]]:
    """Serve ``ranks`` requests.

    Args:
        model: A ``KickLM``.
        requests: Instances whose arguments are a prompt and a mapping with ``names``, the names of
            the answer; the first eight are tried.

    Returns:
        For each, of the name with the fewest bits: ``name``, ``bits`` (of all its tokens),
        ``probability`` of its first token and that token's ``rank``, 1 for the likeliest.
    """
    found = []
    for request in tqdm(requests, desc="Ranking answers", disable=model.rank != 0):
        prompt, names = request.args[0], request.args[1]["names"][:_MOST_NAMES]
        found.append(min(_measure(model, prompt, names), key=lambda one: float(one["bits"])))
    return found


def _measure(model: Any, prompt: str, names: Sequence[str]) -> list[dict[str, Any]]:
    pairs = [model._encode_pair(prompt, name) for name in names]
    measured: list[dict[str, Any]] = []
    length = min(model.max_length, max(len(start) + len(end) for start, end in pairs))
    step = batch_size_for(model, length)
    for first in range(0, len(pairs), step):
        part = pairs[first : first + step]
        rows = [cut_left([*start, *end][:-1], model.max_length)[0] for start, end in part]
        width = max(map(len, rows))
        # Padding on the right is invisible to a causal model.
        batch = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
        with torch.no_grad():
            logits = model._model_call(batch)
        for name, row, (_, end), scores in zip(
            names[first : first + step], rows, part, logits, strict=True
        ):
            targets = torch.tensor(end, device=scores.device)
            logs = scores[len(row) - len(end) : len(row)].float().log_softmax(dim=-1)
            chosen = logs.gather(1, targets[:, None])[:, 0]
            measured.append(
                {
                    "name": name.strip(),
                    "bits": -float(chosen.double().sum()) / math.log(2),
                    "probability": float(chosen[0].exp()),
                    "rank": 1 + int((logs[0] > chosen[0]).sum()),
                }
            )
    return measured
