# SPDX-License-Identifier: Apache-2.0
"""What default settings cost a real model, in perplexity: the figures of docs/defaults.md.

    python -m benchmarks.defaults MODEL --data-dir DIR --output defaults.jsonl

Each case compresses MODEL on 16 samples of 1,024 tokens and measures the perplexity of 24
windows of 512 tokens of WikiText-2's test text. A case that stands in the output is skipped, so
the command can be stopped and given again. ``--table`` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.perplexity import perplexity, wikitext, windows_of
from compressors import (
    AWQ,
    GPTQ,
    RTN,
    Compressor,
    Magnitude,
    SparseGPT,
    Unstructured,
    Wanda,
    compress_model,
)
from compressors.calibration import load_calibration

__all__ = ["CASES", "Case", "measure"]

WINDOWS, WINDOW = 24, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One compression.

    Attributes:
        method: None leaves the model dense.
        seeds: Of the calibration text, one measurement each.
        source: Calibration text: ``c4`` reads ``web_text/train.jsonl`` of the data directory,
            ``wikitext`` the second half of WikiText-2's test text, which is not measured on.
        samples: Calibration samples of 1,024 tokens.
        bos: Whether samples begin with BOS: ``auto`` (where the tokenizer adds it itself) or
            ``always``. Measured windows are always as with ``auto``.
        settings: Further arguments of ``compress_model``.
    """

    method: Compressor | None
    seeds: tuple[int, ...] = (0,)
    source: str = "c4"
    samples: int = 16
    bos: str = "auto"
    settings: tuple[tuple[str, Any], ...] = ()


_THREE = (0, 1, 2)
_RELEASED = GPTQ(num_bits=4, act_order=False, static_groups=False)
_SIXTY_FOUR = GPTQ(num_bits=4, group_size=64)
_AWARE = replace(_SIXTY_FOUR, act_group_aware=True, static_groups=False)
_SEQUENTIAL = (("true_sequential", True),)
_HALF = Unstructured(0.5)
_DAMPING = (0.05, 0.1)


def _shared_out(method: Compressor) -> Case:
    return Case(method=method, settings=(("allocation", "owl"),))


CASES: dict[str, Case] = {
    "dense": Case(method=None),
    "rtn 4 bits g128": Case(method=RTN(num_bits=4)),
    "rtn 4 bits g64": Case(method=RTN(num_bits=4, group_size=64)),
    "gptq 4 bits g128 released order": Case(method=_RELEASED, seeds=_THREE),
    "gptq 4 bits g128": Case(method=GPTQ(num_bits=4), seeds=_THREE),
    "gptq 4 bits g64 released order": Case(method=replace(_RELEASED, group_size=64)),
    "gptq 4 bits g64": Case(method=_SIXTY_FOUR, seeds=_THREE),
    "gptq 4 bits g64, true sequential": Case(method=_SIXTY_FOUR, settings=_SEQUENTIAL),
    "gptq 4 bits g64, group-aware": Case(method=_AWARE, seeds=_THREE),
    "gptq 4 bits g64, group-aware, true sequential": Case(method=_AWARE, settings=_SEQUENTIAL),
    "gptq 4 bits g64, group-aware, damping 0.05": Case(method=replace(_AWARE, dampening_frac=0.05)),
    # The grid.
    "rtn 4 bits g32": Case(method=RTN(num_bits=4, group_size=32)),
    "rtn 4 bits g32 asymmetric": Case(method=RTN(num_bits=4, group_size=32, symmetric=False)),
    "rtn 4 bits g64 asymmetric": Case(method=RTN(num_bits=4, group_size=64, symmetric=False)),
    "gptq 4 bits g64 asymmetric": Case(method=replace(_SIXTY_FOUR, symmetric=False)),
    "awq 4 bits g64 asymmetric": Case(method=AWQ(num_bits=4, group_size=64)),
    "awq 4 bits g64": Case(method=AWQ(num_bits=4, group_size=64, symmetric=True)),
    "rtn 3 bits g64": Case(method=RTN(num_bits=3, group_size=64)),
    "gptq 3 bits g64": Case(method=replace(_SIXTY_FOUR, num_bits=3)),
    "wanda 50 %": Case(method=Wanda(pattern=_HALF), seeds=_THREE),
    "sparsegpt 50 %": Case(method=SparseGPT(pattern=_HALF), seeds=_THREE),
    "magnitude 50 %": Case(method=Magnitude(pattern=_HALF)),
    "wanda 60 %": Case(method=Wanda(pattern=Unstructured(0.6))),
    "wanda 60 % OWL": _shared_out(Wanda(pattern=Unstructured(0.6))),
    "sparsegpt 60 %": Case(method=SparseGPT(pattern=Unstructured(0.6))),
    "sparsegpt 60 % OWL": _shared_out(SparseGPT(pattern=Unstructured(0.6))),
    "wanda 70 %": Case(method=Wanda(pattern=Unstructured(0.7))),
    "wanda 70 % OWL": _shared_out(Wanda(pattern=Unstructured(0.7))),
    "sparsegpt 70 %": Case(method=SparseGPT(pattern=Unstructured(0.7))),
    "sparsegpt 70 % OWL": _shared_out(SparseGPT(pattern=Unstructured(0.7))),
    # Damping and number of samples, on top of the defaults.
    **{
        f"gptq 4 bits g128, damping {damping}": Case(
            method=GPTQ(num_bits=4, dampening_frac=damping), seeds=_THREE
        )
        for damping in _DAMPING
    },
    **{
        f"sparsegpt 50 %, damping {damping}": Case(
            method=SparseGPT(pattern=_HALF, dampening_frac=damping), seeds=_THREE
        )
        for damping in _DAMPING
    },
    "gptq 4 bits g128, 64 samples": Case(method=GPTQ(num_bits=4), samples=64),
    "gptq 4 bits g64, 64 samples": Case(method=_SIXTY_FOUR, samples=64),
    "sparsegpt 50 %, 64 samples": Case(method=SparseGPT(pattern=_HALF), samples=64),
    "wanda 50 %, 64 samples": Case(method=Wanda(pattern=_HALF), samples=64),
    # Why the released order loses to rounding: each case changes one thing.
    "gptq 4 bits g128 released order, damping 0.1": Case(
        method=replace(_RELEASED, dampening_frac=0.1)
    ),
    "gptq 4 bits g128 released order, BOS first": Case(method=_RELEASED, bos="always"),
    "gptq 4 bits g128 released order, static groups": Case(
        method=replace(_RELEASED, static_groups=True)
    ),
    "gptq 4 bits g128 released order, WikiText": Case(method=_RELEASED, source="wikitext"),
    "gptq 4 bits g128, WikiText": Case(method=GPTQ(num_bits=4), source="wikitext"),
    "gptq 4 bits g64, WikiText": Case(method=_SIXTY_FOUR, seeds=_THREE, source="wikitext"),
    "gptq 4 bits g128 released order, 64 samples": Case(method=_RELEASED, samples=64),
    "sparsegpt 50 %, WikiText": Case(
        method=SparseGPT(pattern=_HALF), seeds=_THREE, source="wikitext"
    ),
    "wanda 50 %, WikiText": Case(method=Wanda(pattern=_HALF), seeds=_THREE, source="wikitext"),
    "sparsegpt 50 %, BOS first": Case(method=SparseGPT(pattern=_HALF), bos="always"),
}


def measure(model: Path, data_dir: Path, case: Case, seed: int) -> dict[str, Any]:
    """Compress once.

    Args:
        model: A checkpoint of a causal language model; computed in float32.
        data_dir: The folder with ``web_text`` and ``wikitext``.
        case: What to do.
        seed: Of the calibration text.

    Returns:
        Perplexity, mean relative output error of the matrices (None without calibration) and
        processor seconds of the compression.
    """
    dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = wikitext(data_dir)
    measured, unseen = text[: len(text) // 2], text[len(text) // 2 :]
    found: dict[str, Any] = {"error": None, "seconds": 0.0}
    if case.method is not None:
        source: Any = "c4" if case.source == "c4" else [unseen]
        tokens = load_calibration(
            source, tokenizer, nsamples=case.samples, seqlen=1024, seed=seed, data_dir=data_dir,
            bos=case.bos, progress=False,
        )  # fmt: skip
        started = time.process_time()
        report = compress_model(
            dense, case.method, calibration=tokens, progress=False, **dict(case.settings)
        )
        found["seconds"] = time.process_time() - started
        found["error"] = report.summary()["mean_error"]
        found["sparsity"] = report.sparsity
    found["perplexity"] = perplexity(
        dense, windows_of(tokenizer, measured, WINDOWS, WINDOW, spread=True)
    )
    return found


def _rows(path: Path, model: Path) -> list[dict[str, Any]]:
    """Lines of the file about this model."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row.get("model") == model.name]


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| case | perplexity | by seed | mean layer error | processor seconds |"
    yield "| --- | --- | --- | --- | --- |"
    for name in CASES:
        mine = [row for row in rows if row["case"] == name]
        if not mine:
            continue
        values = [row["perplexity"] for row in mine]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        errors = [row["error"] for row in mine if row["error"] is not None]
        error = f"{mean(errors):.4f}" if errors else "-"
        seconds = mean(row["seconds"] for row in mine)
        each = ", ".join(f"{value:.1f}" for value in values) if len(values) > 1 else "-"
        yield f"| {name} | {mean(values):.1f}{spread} | {each} | {error} | {seconds:.0f} |"


def main() -> None:
    """Measure what is missing, one line of JSON each; or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("defaults.jsonl"))
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    arguments = parser.parse_args()
    done = {(row["case"], row["seed"]) for row in _rows(arguments.output, arguments.model)}
    if not arguments.table:
        for seed in sorted({seed for case in CASES.values() for seed in case.seeds}):
            for name, case in CASES.items():
                if seed not in case.seeds or arguments.only not in name or (name, seed) in done:
                    continue
                found = measure(arguments.model, arguments.data_dir, case, seed)
                with arguments.output.open("a", encoding="utf-8") as file:
                    line = {"model": arguments.model.name, "case": name, "seed": seed, **found}
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                print(name, seed, f"{found['perplexity']:.2f}", flush=True)
    print("\n".join(_table(_rows(arguments.output, arguments.model))))


if __name__ == "__main__":
    main()
