# SPDX-License-Identifier: Apache-2.0
"""Calibration text that the dense model writes itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

__all__ = ["write_text"]

_BATCH = 16  # fixed: what is drawn depends on it


def write_text(
    model: Any, start: int, nsamples: int, seqlen: int, seed: int, *, progress: bool = True
) -> Tensor:
    """Sample texts from a model's own distribution: temperature 1, over the whole vocabulary.

    Each begins with the same token and has the full length: the end-of-text token is not drawn, so
    that no sample is padding for the most part.

    Args:
        model: A dense transformers causal language model, where it is to run.
        start: The first token of each text, the one that begins texts for this model.
        nsamples: How many texts.
        seqlen: Tokens of each.
        seed: Of the draws. The same seed gives the same texts on the same kind of device.
        progress: Show a progress bar.

    Returns:
        int64 ``[nsamples, seqlen]``, in main memory.

    References:
        Williams et al., "Self-calibration for Language Model Quantization and Pruning",
        arXiv:2410.17170, which lowers the temperature over a text's first tokens; here it is 1.
    """
    from transformers import GenerationConfig

    from compressors.blocks.preconditions import in_evaluation

    own = model.generation_config
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        min_length=seqlen,
        max_length=seqlen,
        eos_token_id=own.eos_token_id,
        pad_token_id=start,
        use_cache=True,
    )
    device = next(model.parameters()).device
    written = []
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        tqdm(total=nsamples, desc="calibration self", unit="sample", disable=not progress) as bar,
        in_evaluation(model),
        torch.no_grad(),
    ):
        torch.manual_seed(seed)
        for first in range(0, nsamples, _BATCH):
            count = min(_BATCH, nsamples - first)
            opening = torch.full((count, 1), start, dtype=torch.long, device=device)
            texts = model.generate(
                input_ids=opening,
                attention_mask=torch.ones_like(opening),
                generation_config=settings,
            )
            written.append(texts[:, :seqlen].cpu())
            bar.update(count)
    return torch.cat(written)
