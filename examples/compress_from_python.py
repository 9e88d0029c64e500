# SPDX-License-Identifier: Apache-2.0
"""Tutorial 2: compress a model from Python, look at its layers, save it and load it again.

    python examples/compress_from_python.py

Runs on the bundled model in seconds. For your own, change MODEL and the calibration text.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compressors import GPTQ, compress_model, load_calibration
from lmkick_plugin import bundled, checkpoints

MODEL = str(bundled.MODEL)
TEXT = str(bundled.DATA / "wikitext" / "train.jsonl")


def main(output: Path) -> None:
    """Quantize to 4 bits, save, reload, and show that nothing changed on the way."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokens = load_calibration(TEXT, tokenizer, nsamples=16, seqlen=256, seed=0)
    report = compress_model(model, GPTQ(num_bits=4), calibration=tokens, device="cpu")
    worst = max(report.layers, key=lambda layer: layer.error or 0)
    print(f"{len(report.layers)} matrices in {report.seconds:.1f} s")
    print(f"largest relative output error: {worst.error:.4f} at {worst.name}")
    checkpoints.save(model, output, tokenizer=tokenizer, report=report)
    again = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    with torch.inference_mode():
        same = torch.equal(again(tokens[:1]).logits, model(tokens[:1]).logits)
    print(f"saved in {output}; logits equal after reloading: {same}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/kick-mini-gptq4"))
