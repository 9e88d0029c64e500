# SPDX-License-Identifier: Apache-2.0
"""What quantization costs a real model, in WikiText-2 perplexity: RTN, GPTQ and AWQ.

    python -m benchmarks.quantization MODEL --data DIR --output lines.jsonl

One recipe after the other, each on the model as it is in its folder, in float32. A line of JSON is
appended per recipe; those that the file holds, with the same sizes, are not measured again, so a
run that was stopped goes on. ``--data`` has ``web_text/train.jsonl`` (calibration) and
``wikitext/test.jsonl``. At the end a table is printed, of all lines of the model.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.perplexity import perplexity, wikitext, windows_of
from compressors import AWQ, GPTQ, RTN, compress_model, load_calibration

__all__ = ["RECIPES", "measure"]

_ORDERED: dict[str, Any] = {"act_order": True, "static_groups": True}


def _integers(bits: int, group: int) -> dict[str, Any]:
    grid: dict[str, Any] = {"num_bits": bits, "group_size": group}
    return {
        f"rtn int{bits} g{group}": RTN(**grid),
        f"gptq int{bits} g{group}": GPTQ(**grid, **_ORDERED),
        f"awq int{bits} g{group}": AWQ(**grid),
    }


def _floats(name: str) -> dict[str, Any]:
    return {
        f"rtn {name}": RTN(number_format=name),
        f"gptq {name}": GPTQ(number_format=name, **_ORDERED),
        f"awq {name}": AWQ(number_format=name),
    }


#: By name: what is compared. GPTQ with act-order and static groups. RTN and GPTQ are symmetric
#: unless they say so, AWQ is asymmetric as published.
RECIPES: dict[str, Any] = {
    **_integers(4, 64),
    **_integers(3, 64),
    "gptq group-aware int4 g64": GPTQ(
        num_bits=4, group_size=64, act_group_aware=True, static_groups=False
    ),
    "rtn asymmetric int4 g64": RTN(num_bits=4, group_size=64, symmetric=False),
    "gptq asymmetric int4 g64": GPTQ(num_bits=4, group_size=64, symmetric=False, **_ORDERED),
    "rtn asymmetric int3 g64": RTN(num_bits=3, group_size=64, symmetric=False),
    "gptq asymmetric int3 g64": GPTQ(num_bits=3, group_size=64, symmetric=False, **_ORDERED),
    **_floats("nvfp4"),
    **_floats("mxfp4"),
    **_floats("fp8"),
    **_integers(4, 32),
    **_integers(4, 16),
}


def measure(
    folder: Path, data: Path, name: str, calibration: list[int] | None, test: list[int]
) -> dict[str, Any]:
    """Compress one model by one recipe, and measure it.

    Args:
        folder: A checkpoint of a causal language model with its tokenizer.
        data: Folder of the calibration and test text.
        name: Of :data:`RECIPES`, or ``dense``.
        calibration: Samples and tokens of each; None where the recipe needs none.
        test: Windows of the test text and tokens of each.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    line: dict[str, Any] = {"model": folder.name, "recipe": name}
    line |= {"calibration": calibration, "test": test}
    started = time.process_time()
    if name != "dense":
        tokens = None
        if calibration is not None:
            nsamples, seqlen = calibration
            tokens = load_calibration(
                "c4", tokenizer, nsamples=nsamples, seqlen=seqlen, data_dir=data, progress=False
            )
        report = compress_model(model, RECIPES[name], calibration=tokens, progress=False)
        line |= {
            "method": report.recipe,
            "bits_per_weight": 8 * report.bytes_best_format / report.parameters,
            "mean_error": report.summary()["mean_error"],
            "notes": report.summary()["notes"],
        }
    line["seconds"] = round(time.process_time() - started, 1)
    line["perplexity"] = perplexity(model, windows_of(tokenizer, wikitext(data), *test))
    line["versions"] = {package: version(package) for package in ("torch", "transformers")}
    return line


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--nsamples", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    sizes, test = [options.nsamples, options.seqlen], [options.windows, options.length]
    for name in ["dense", *options.recipes]:
        calibration = None if name.startswith(("dense", "rtn")) else sizes
        known = _lines(options.output, options.model).get(name, {})
        if (known.get("calibration"), known.get("test")) != (calibration, test):
            line = measure(options.model, options.data, name, calibration, test)
            with options.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    print("| recipe | bits per weight | mean output error | perplexity | processor seconds |")
    print("| --- " * 5 + "|")
    for name, line in _lines(options.output, options.model).items():
        cells = [
            name,
            f"{line['bits_per_weight']:.2f}" if "bits_per_weight" in line else "32",
            f"{line['mean_error']:.4f}" if line.get("mean_error") is not None else "-",
            f"{line['perplexity']:.2f}",
            f"{line['seconds']:.0f}",
        ]
        print("|", " | ".join(cells), "|")


def _lines(path: Path, model: Path) -> dict[str, dict[str, Any]]:
    """What the file holds of this model, by recipe."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["recipe"]: line for line in lines if line["model"] == model.name}


if __name__ == "__main__":
    main()
