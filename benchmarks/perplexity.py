# SPDX-License-Identifier: Apache-2.0
"""Token perplexity on windows of a text, for benchmarks that compress a model in their own process.

Each window begins with BOS where the tokenizer adds it itself, as ``kickonly_perplexity`` has it:
Gemma without BOS has more than twice the perplexity.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressors.calibration import first_token

__all__ = ["perplexity", "wikitext", "windows_of"]


def wikitext(data: Path) -> str:
    """WikiText-2's test rows in the data directory, joined by two newlines."""
    with (data / "wikitext" / "test.jsonl").open(encoding="utf-8") as file:
        return "\n\n".join(json.loads(line)["text"] for line in file)


def windows_of(
    tokenizer: Any, text: str, count: int, length: int, *, spread: bool = False
) -> Tensor:
    """Windows of a text: int64 ``[count, length]``, one more column where BOS begins them.

    Args:
        tokenizer: Of the model.
        text: At least ``count * length`` tokens.
        count: Windows.
        length: Tokens of the text in each.
        spread: At least two windows over the whole text; otherwise its first tokens.
    """
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    step = (len(tokens) - length) // (count - 1) if spread else length
    begin = first_token(tokenizer, "auto")
    rows = [tokens[at : at + length] for at in range(0, count * step, step)]
    return torch.tensor([row if begin is None else [begin, *row] for row in rows])


@torch.no_grad()
def perplexity(model: Any, windows: Tensor) -> float:
    """Perplexity of the tokens after the first of each window; all are as long."""
    losses = []
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits.float(), window[1:]))
    return float(torch.stack(losses).double().mean().exp())
