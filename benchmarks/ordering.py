# SPDX-License-Identifier: Apache-2.0
"""What each method costs a small trained model, in perplexity on text it generates itself.

    python -m benchmarks.ordering MODEL --seeds 3

The model is calibrated and measured on its own samples, from different seeds, so it knows what it
is measured on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.perplexity import perplexity
from compressors import (
    GPTQ,
    NM,
    RTN,
    Magnitude,
    Random,
    SparseGPT,
    Unstructured,
    Wanda,
    compress_model,
)

__all__ = ["METHODS", "measure"]

_HALF = Unstructured(0.5)
METHODS: dict[str, Any] = {
    "sparsegpt 50 %": SparseGPT(pattern=_HALF),
    "wanda 50 %": Wanda(pattern=_HALF),
    "magnitude 50 %": Magnitude(pattern=_HALF),
    "random 50 %": Random(pattern=_HALF),
    "sparsegpt 2:4": SparseGPT(pattern=NM(2, 4)),
    "wanda 2:4": Wanda(pattern=NM(2, 4)),
    "magnitude 2:4": Magnitude(pattern=NM(2, 4)),
    "gptq 8 bits": GPTQ(num_bits=8, group_size=None),
    "gptq 4 bits": GPTQ(num_bits=4, group_size=None),
    "rtn 4 bits": RTN(num_bits=4, group_size=None),
    "gptq 3 bits": GPTQ(num_bits=3, group_size=None),
    "rtn 3 bits": RTN(num_bits=3, group_size=None),
}


def measure(folder: Path, seed: int, samples: int, length: int) -> dict[str, float]:
    """Return the perplexity of the dense model and of every method.

    Args:
        folder: A checkpoint of a causal language model.
        seed: Calibration text is generated from ``2 * seed``, what is measured from one more.
        samples: Samples in each of the two.
        length: Tokens of a sample.
    """
    dense = _load(folder)
    calibration = _generate(dense, 2 * seed, samples, length)
    held_out = _generate(dense, 2 * seed + 1, samples, length)
    found = {"dense": perplexity(dense, held_out)}
    for name, method in METHODS.items():
        model = _load(folder)
        compress_model(model, method, calibration=calibration, progress=False)
        found[name] = perplexity(model, held_out)
    return found


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def _generate(model: Any, seed: int, samples: int, length: int) -> Tensor:
    """Sample from the full distribution, past ends of text, so that all have one length."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((samples, 1), model.config.bos_token_id)
    cache, latest = None, tokens
    for _ in range(length - 1):
        output = model(input_ids=latest, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        latest = torch.multinomial(output.logits[:, -1].softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, latest], dim=1)
    return tokens


def main() -> None:
    """Print a table, one column per seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    columns = [
        measure(options.model, seed, options.samples, options.length)
        for seed in range(options.seeds)
    ]
    print("| method |", " | ".join(f"seed {seed}" for seed in range(options.seeds)), "|")
    print("| --- " * (options.seeds + 1) + "|")
    for name in columns[0]:
        print(f"| {name} |", " | ".join(f"{column[name]:.3f}" for column in columns), "|")


if __name__ == "__main__":
    main()
