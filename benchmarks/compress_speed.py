# SPDX-License-Identifier: Apache-2.0
"""How long compression takes, where the time goes, and against what.

    python -m benchmarks.compress_speed --shape llama-100m --threads 1 2          # CPU
    python -m benchmarks.compress_speed --shape llama-7b --device cuda            # resident
    python -m benchmarks.compress_speed --shape llama-70b --blocks 4 --device cuda --stream

Random weights and tokens, so no download. Everything is timed in turn in one process, after a
warm-up; ratios are of medians. On a CPU the plain reference loop runs too, and what it makes is
compared with what the fast code makes; on a GPU the ratio to the floor of the work is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.reference_loop import SOLVES, reference_compress
from benchmarks.solve_speed import time_solves
from compressors import GPTQ, RTN, Magnitude, SparseGPT, Unstructured, Wanda, compress_model
from compressors.driver import BATCH_TOKENS

METHODS: dict[str, Any] = {
    "magnitude": Magnitude(pattern=Unstructured(0.5)),
    "rtn": RTN(num_bits=4, group_size=128),
    "wanda": Wanda(pattern=Unstructured(0.5)),
    "sparsegpt": SparseGPT(pattern=Unstructured(0.5)),
    "gptq": GPTQ(num_bits=4, group_size=128, act_order=False, static_groups=False),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama: widths, blocks, heads, and the calibration it is measured with."""

    hidden: int
    inner: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int
    samples: int = 128
    seqlen: int = 2048


SHAPES = {
    "llama-100m": Shape(768, 2048, 12, 12, 12, 32000, samples=32, seqlen=512),
    "llama-7b": Shape(4096, 11008, 32, 32, 32, 32000),
    "llama-3-8b": Shape(4096, 14336, 32, 32, 8, 128256),
    "llama-70b": Shape(8192, 28672, 80, 64, 8, 32000),
}

# One H200: multiply-adds count as two; TFLOP/s in bfloat16 and float32, TB/s of memory.
PEAK_BF16, PEAK_FP32, PEAK_BYTES = 790e12, 67e12, 4.3e12


def build(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.seqlen,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def floor(shape: Shape, method: str) -> float:
    """Seconds that the work itself takes on one H200 (the table of figures is in README.md)."""
    h, inner, tokens = shape.hidden, shape.inner, shape.samples * shape.seqlen
    kv = h // shape.heads * shape.kv_heads
    weights = 2 * h * h + 2 * h * kv + 3 * h * inner
    moved = shape.blocks * weights * 2 * 2 / PEAK_BYTES
    if method in ("magnitude", "rtn"):
        return moved
    attention = shape.seqlen * h  # causal: half of the products
    whole = 2 * tokens * (weights + attention)
    # First pass: without the product whose output is unused; no second pass of the last block.
    passes = shape.blocks * (whole - 2 * tokens * h * inner) + (shape.blocks - 1) * whole
    seconds = passes / PEAK_BF16 + moved
    widths = (h, h, h, inner)
    if method == "wanda":
        return seconds + shape.blocks * tokens * sum(widths) * 2 / PEAK_BYTES
    grams = sum(tokens * width * width for width in widths)  # the symmetric half, two operations
    factors = sum(width**3 * 2 / 3 for width in widths)
    updates = (h + 2 * kv) * h * h + h**3 + 2 * inner * h * h + h * inner * inner
    seconds += shape.blocks * (grams / PEAK_BF16 + (factors + updates) / PEAK_FP32)
    return seconds + shape.blocks * sum(widths) / 128 * 86e-6  # a fused kernel each 128 columns


class Bench:
    """One model, one set of tokens, and a way back to the dense weights."""

    def __init__(self, shape: Shape, options: argparse.Namespace) -> None:
        self.options = options
        self.shape = shape
        self.device = torch.device(options.device)
        dtype = getattr(torch, options.dtype or ("float32" if self.on_cpu else "bfloat16"))
        self.model = build(shape, "cpu" if options.stream else options.device, dtype)
        size = (shape.samples, shape.seqlen)
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(0, shape.vocabulary, size, generator=generator)
        layers = self.model.model.layers
        self.dense = {n: p.detach().to("cpu", copy=True) for n, p in layers.named_parameters()}

    @property
    def on_cpu(self) -> bool:
        """Whether this measures a CPU."""
        return self.device.type == "cpu"

    def restore(self) -> None:
        """Put the dense weights back."""
        for name, parameter in self.model.model.layers.named_parameters():
            parameter.data.copy_(self.dense[name])

    def weights(self) -> dict[str, Tensor]:
        """Copy the matrices of all blocks."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.model.model.layers.named_parameters()
            if parameter.ndim == 2
        }

    def ours(self, method: str) -> Any:
        """Compress, and return the report."""
        return compress_model(
            self.model,
            METHODS[method],
            calibration=self.tokens,
            device=self.options.device,
            batch_size=self.options.batch_size,
            progress=False,
        )

    def reference(self, method: str, at_once: int = 1) -> dict[str, float]:
        """Compress by the plain loop, and return its seconds by stage."""
        layers: nn.ModuleList = self.model.model.layers
        return reference_compress(self.model, layers, self.tokens, method, at_once)

    @torch.no_grad()
    def two_forwards(self) -> None:
        """Run the model on all samples twice, in batches, head and all."""
        # As many samples at once as the driver takes: also the fastest for these.
        size = self.options.batch_size or max(
            1, BATCH_TOKENS[self.device.type] // self.shape.seqlen
        )
        for _ in range(2):
            for batch in self.tokens.to(self.device).split(size):
                self.model(input_ids=batch, use_cache=False)
        if not self.on_cpu:
            torch.cuda.synchronize()


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()  # what --clock cpu has replaced, for the stages too
    result = function()
    return time.perf_counter() - started, result


def measure(bench: Bench, method: str, repeats: int, against: bool) -> dict[str, Any]:
    """Time the method, two plain forwards and the reference loop in turn."""
    rounds = [one_round(bench, method, against and method in SOLVES) for _ in range(repeats)]
    result: dict[str, Any] = {"method": method, **rounds[-1]}
    for table in ("seconds", "stages", "reference stages"):
        result[table] = {
            name: statistics.median(row[table][name] for row in rounds) for name in rounds[0][table]
        }
    seconds = result["seconds"]
    if "reference" in seconds:
        result["reference / ours"] = seconds["reference"] / seconds["ours"]
    if "two forwards" in seconds and method in SOLVES:
        result["ours / two forwards"] = seconds["ours"] / seconds["two forwards"]
    if not bench.on_cpu:
        result["floor"] = floor(bench.shape, method)
        result["ours / floor"] = seconds["ours"] / result["floor"]
    return result


def one_round(bench: Bench, method: str, against: bool) -> dict[str, Any]:
    bench.restore()
    row: dict[str, Any] = {"reference stages": {}}
    if not bench.on_cpu:
        torch.cuda.reset_peak_memory_stats()
    ours, report = timed(lambda: bench.ours(method))
    row["seconds"], row["stages"] = {"ours": ours}, report.stages
    if not bench.on_cpu:
        row["peak device GB"] = torch.cuda.max_memory_allocated() / 1e9
    fast = bench.weights() if against else {}
    if not bench.options.stream:
        bench.restore()
        row["seconds"]["two forwards"] = timed(bench.two_forwards)[0]
    if against:
        seconds, row["reference stages"] = timed(lambda: bench.reference(method))
        row["seconds"]["reference"] = seconds
        plain = bench.weights()
        row["agreement"] = agreement(method, fast, plain, bench.dense)
        if bench.options.control:
            # The same loop with its sums in another order: what rounding alone does to it.
            bench.restore()
            bench.reference(method, at_once=2)
            row["loop with itself"] = agreement(method, bench.weights(), plain, bench.dense)
    return row


def agreement(
    method: str, fast: dict[str, Tensor], plain: dict[str, Tensor], dense: dict[str, Tensor]
) -> dict[str, float]:
    """Share of equal decisions (zero or not; the same code) in all blocks, and in the first."""
    same: dict[str, list[float]] = {"all blocks": [], "first block": []}
    for name, weight in fast.items():
        if method == "gptq":
            step = dense[name].abs().max() / 64
            equal = (weight - plain[name]).abs() < step / 8
        else:
            equal = (weight == 0) == (plain[name] == 0)
        same["all blocks"].append(float(equal.double().mean()))
        if name.startswith("0."):
            same["first block"].append(float(equal.double().mean()))
    return {name: statistics.mean(values) for name, values in same.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-100m")
    parser.add_argument("--blocks", type=int, help="measure so many blocks only")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seqlen", type=int)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stream", action="store_true", help="keep the model in host memory")
    parser.add_argument("--dtype", help="default: float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor seconds of this process, for a machine that is busy with other things",
    )
    parser.add_argument("--no-reference", action="store_true", help="leave the plain loop out")
    parser.add_argument(
        "--control", action="store_true", help="also compare the plain loop with itself, re-rounded"
    )
    parser.add_argument("--solve-width", type=int, default=2048, help="0: no solves alone")
    return parser.parse_args()


def main() -> None:
    """Measure, and print one JSON line for each method and number of threads."""
    options = parse()
    if options.clock == "cpu":
        time.perf_counter = time.process_time
    changes = {
        name: getattr(options, name)
        for name in ("blocks", "samples", "seqlen")
        if getattr(options, name)
    }
    shape = dataclasses.replace(SHAPES[options.shape], **changes)
    bench = Bench(shape, options)
    where = torch.backends.cpu.get_cpu_capability()
    if not bench.on_cpu:
        where = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    about = {"where": where, "clock": options.clock, **versions}
    emit({"shape": options.shape, **dataclasses.asdict(shape), **about})
    for threads in options.threads:
        torch.set_num_threads(threads)
        warm_up = dataclasses.replace(shape, blocks=2, samples=4, seqlen=min(128, shape.seqlen))
        warm = Bench(warm_up, options)
        for method in options.methods:
            warm.ours(method)
        if options.solve_width and bench.on_cpu:
            for timing in time_solves(options.solve_width, repeats=options.repeats):
                ratio = {"oracle / ours": timing.ratio}
                emit(
                    {
                        "threads": threads,
                        "alone": options.solve_width,
                        **dataclasses.asdict(timing),
                        **ratio,
                    }
                )
        against = bench.on_cpu and not options.no_reference
        for method in options.methods:
            emit({"threads": threads, **measure(bench, method, options.repeats, against)})


def emit(row: dict[str, Any]) -> None:
    def shorten(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        return {k: shorten(v) for k, v in value.items()} if isinstance(value, dict) else value

    print(json.dumps(shorten(row)), flush=True)


if __name__ == "__main__":
    main()
