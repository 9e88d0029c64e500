# SPDX-License-Identifier: Apache-2.0
"""This package beside llm-compressor and GPTQModel: perplexity and processor seconds.

    python -m benchmarks.peers MODEL --data DIR --output lines.jsonl \
        --llm-compressor ENV/bin/python --gptqmodel OTHER/bin/python

All compress the same model in float32 on the same calibration tokens, each peer in the environment
of the given Python (made with ``pip install llmcompressor``, ``pip install gptqmodel``). A peer
hands back its weights as the compressed model computes with them; one loop here measures
everybody's perplexity on WikiText-2's test text. A line of JSON is appended per case, seed and
side, and what the file holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.perplexity import perplexity, wikitext, windows_of
from compressors import (
    AWQ,
    GPTQ,
    RTN,
    Compressor,
    SparseGPT,
    Unstructured,
    Wanda,
    compress_model,
    load_calibration,
)

__all__ = ["CASES", "PEERS"]

OURS = "lmkick"
PEERS = ("llm-compressor", "GPTQModel")
#: By name: our recipe, and the peers that have the method. Settings that are not given here or in
#: ``peers_worker.py`` are each library's defaults.
CASES: dict[str, tuple[Compressor, tuple[str, ...]]] = {
    "gptq int4 g64": (GPTQ(num_bits=4, group_size=64), PEERS),
    "gptq int4 g64, group-aware": (
        GPTQ(num_bits=4, group_size=64, act_group_aware=True, static_groups=False),
        (),
    ),
    "wanda 50 %": (Wanda(pattern=Unstructured(0.5)), PEERS[:1]),
    "sparsegpt 50 %": (SparseGPT(pattern=Unstructured(0.5)), PEERS[:1]),
    "awq int4 g64": (AWQ(num_bits=4, group_size=64), PEERS[:1]),
    "rtn nvfp4": (RTN(number_format="nvfp4"), PEERS[:1]),
    "gptq nvfp4": (GPTQ(number_format="nvfp4"), PEERS[:1]),
}


def _ours(model: Any, case: str, tokens: Tensor) -> dict[str, Any]:
    started = time.process_time()
    compress_model(model, CASES[case][0], calibration=tokens, progress=False)
    seconds = round(time.process_time() - started, 1)
    names = ("torch", "transformers", OURS)
    return {"seconds": seconds, "versions": {name: version(name) for name in names}}


def _peer(
    model: Any, side: str, case: str, folder: Path, tokens: Tensor, python: str
) -> dict[str, Any]:
    """Have a peer compress, and put its weights into ``model``."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        save_file({"tokens": tokens.contiguous()}, scratch / "tokens.safetensors")
        worker = Path(__file__).with_name("peers_worker.py").resolve()
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(
            [
                python, str(worker), side, case, str(folder.resolve()),
                str(scratch / "tokens.safetensors"), name,
            ],
            check=True, cwd=name, env=environment,
        )  # fmt: skip
        found = model.load_state_dict(load_file(scratch / "model.safetensors"), strict=False)
        if found.unexpected_keys or set(found.missing_keys) - {"lm_head.weight"}:
            raise RuntimeError(f"{side}, {case}: its weights have other names: {found}")
        facts: dict[str, Any] = json.loads((scratch / "peer.json").read_text(encoding="utf-8"))
    return facts


def measure(
    folder: Path, data: Path, side: str, case: str, seed: int, python: str,
    sizes: list[int], test: list[int],
) -> dict[str, Any]:  # fmt: skip
    """Compress a model by one case on one side, and measure it.

    Args:
        folder: A checkpoint of a causal language model with its tokenizer.
        data: Folder of ``web_text`` and ``wikitext``.
        side: ``lmkick``, or one of :data:`PEERS`.
        case: Of :data:`CASES`.
        seed: Of the calibration text.
        python: The interpreter of a peer's environment.
        sizes: Calibration samples and tokens of each.
        test: Windows of the test text and tokens of each.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    dense = {name: value.clone() for name, value in _matrices(model).items()}
    tokens = load_calibration(
        "c4", tokenizer, nsamples=sizes[0], seqlen=sizes[1], seed=seed, data_dir=data,
        progress=False,
    )  # fmt: skip
    line: dict[str, Any] = {"model": folder.name, "side": side, "case": case, "seed": seed}
    line |= {"calibration": sizes, "test": test}
    if side == OURS:
        line |= _ours(model, case, tokens)
    else:
        line |= _peer(model, side, case, folder, tokens, python)
    now = _matrices(model)
    line["zeros"] = sum(int((w == 0).sum()) for w in now.values()) / sum(
        w.numel() for w in now.values()
    )
    line["unchanged"] = sum(torch.equal(now[name], dense[name]) for name in now)
    line["perplexity"] = perplexity(model, windows_of(tokenizer, wikitext(data), *test))
    return line


def _matrices(model: Any) -> dict[str, Tensor]:
    """The weight matrices of the decoder blocks."""
    return {
        name: module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def _lines(path: Path, model: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Lines of the file about this model, by case, side and seed."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {
        (line["case"], line["side"], line.get("seed", 0)): line
        for line in lines
        if line["model"] == model.name
    }


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--llm-compressor", metavar="PYTHON")
    parser.add_argument("--gptqmodel", metavar="PYTHON")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sides", nargs="+", choices=(OURS, *PEERS), default=[OURS, *PEERS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the calibration text")
    parser.add_argument("--nsamples", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    sizes, test = [options.nsamples, options.seqlen], [options.windows, options.length]
    pythons = {OURS: "", PEERS[0]: options.llm_compressor, PEERS[1]: options.gptqmodel}
    for case, seed in product(options.cases, options.seeds):
        for side in (OURS, *CASES[case][1]):
            known = _lines(options.output, options.model).get((case, side, seed), {})
            wanted = side in options.sides and pythons[side] is not None
            if not wanted or [known.get("calibration"), known.get("test")] == [sizes, test]:
                continue
            line = measure(
                options.model, options.data, side, case, seed, pythons[side], sizes, test
            )
            with options.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    print("| case | side | seed | perplexity | processor seconds | zeros |")
    print("| --- " * 6 + "|")
    for (case, side, seed), line in sorted(_lines(options.output, options.model).items()):
        numbers = f"{line['perplexity']:.2f} | {line['seconds']:.0f} | {line['zeros']:.1%}"
        print(f"| {case} | {side} | {seed} | {numbers} |")


if __name__ == "__main__":
    main()
