# SPDX-License-Identifier: Apache-2.0
"""One compression by another library: started by ``benchmarks.peers`` in an environment of its own.

    python peers_worker.py PEER CASE MODEL TOKENS FOLDER

It knows nothing of this package. MODEL is loaded in float32 and compressed on the samples of TOKENS
(a safetensors file, int64 ``tokens`` ``[samples, tokens]``). FOLDER then has ``model.safetensors``,
the weights as the compressed model computes with them, and ``peer.json``: processor seconds of the
compression and versions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

__all__ = ["main"]

GROUP = 64
# The library's distributions, for the record of versions.
PACKAGES = {
    "llm-compressor": ("llmcompressor", "compressed-tensors"),
    "GPTQModel": ("gptqmodel",),
}


def _llm_compressor_recipe(case: str) -> Any:
    """The modifier of a case; what is not given has the library's default."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    def integers(*, symmetric: bool) -> dict[str, Any]:
        weights = QuantizationArgs(
            num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=GROUP
        )
        return {"group": QuantizationScheme(targets=["Linear"], weights=weights)}

    head = ["lm_head"]
    if case == "gptq int4 g64":
        return GPTQModifier(config_groups=integers(symmetric=True), ignore=head)
    if case == "awq int4 g64":
        return [
            AWQModifier(),
            QuantizationModifier(config_groups=integers(symmetric=False), ignore=head),
        ]
    if case == "rtn nvfp4":
        return QuantizationModifier(targets=["Linear"], scheme="NVFP4A16", ignore=head)
    if case == "gptq nvfp4":
        return GPTQModifier(targets=["Linear"], scheme="NVFP4A16", ignore=head)
    # By a pattern: pruners call the head "lm_head.", which "lm_head" does not match, and would
    # prune it; SmolLM2's is its embedding, too.
    head = ["re:.*lm_head"]
    pruners = {"wanda 50 %": WandaPruningModifier, "sparsegpt 50 %": SparseGPTModifier}
    return pruners[case](sparsity=0.5, mask_structure="0:0", targets=["Linear"], ignore=head)


def _llm_compressor(case: str, folder: Path, tokens: torch.Tensor) -> tuple[dict[str, Any], float]:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not torch.accelerator.is_available():
        # AWQ pins memory for copies to an accelerator, which fails where there is none.
        IntermediatesCache.pin_memory = lambda *_, **__: None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = {"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()}
    started = time.process_time()
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(folder),
        dataset=Dataset.from_dict(rows),
        recipe=_llm_compressor_recipe(case),
        max_seq_length=tokens.shape[1],
        num_calibration_samples=tokens.shape[0],
        shuffle_calibration_samples=False,
    )
    seconds = time.process_time() - started
    weights = dict(model.state_dict())
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or scheme.weights is None:
            continue
        found = {
            key: getattr(module, attribute, None)
            for key, attribute in {
                "scale": "weight_scale",
                "zero_point": "weight_zero_point",
                "global_scale": "weight_global_scale",
            }.items()
        }
        weights[f"{name}.weight"] = fake_quantize(module.weight, args=scheme.weights, **found)
    return weights, seconds


def _gptqmodel(case: str, folder: Path, tokens: torch.Tensor) -> tuple[dict[str, Any], float]:
    # On two cores its pool gets one worker and asks for two, and cannot be made.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    if case != "gptq int4 g64":
        raise SystemExit(f"GPTQModel: no case {case!r}")
    config = QuantizeConfig(bits=4, group_size=GROUP, sym=True, offload_to_disk=False)
    model = GPTQModel.load(str(folder), config, device="cpu", dtype=torch.float32)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens.tolist()]
    started = time.process_time()
    model.quantize(rows, batch_size=1, backend=BACKEND.TORCH)
    seconds = time.process_time() - started
    weights = dict(model.model.state_dict())
    for name, module in model.model.named_modules():
        if hasattr(module, "dequantize_weight"):
            # Packed for GPTQ's format, whose zero points are stored less one, until it is loaded.
            found = module.dequantize_weight() - module.scales[module.g_idx.long()]
            weights[f"{name}.weight"] = found.T
    return weights, seconds


def main(peer: str, case: str, model: str, tokens: str, folder: str) -> None:
    """Compress, and write what came of it."""
    run = {"llm-compressor": _llm_compressor, "GPTQModel": _gptqmodel}[peer]
    weights, seconds = run(case, Path(model), load_file(tokens)["tokens"])
    dense = {
        name: value.detach().float().contiguous().clone()
        for name, value in weights.items()
        if name.endswith((".weight", ".bias"))
    }
    save_file(dense, Path(folder) / "model.safetensors")
    names = ("torch", "transformers", *PACKAGES[peer])
    found = {"seconds": round(seconds, 1), "versions": {name: version(name) for name in names}}
    (Path(folder) / "peer.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
