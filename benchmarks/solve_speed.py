# SPDX-License-Identifier: Apache-2.0
"""How fast the solves are, against the plain loops of ``tests/oracles.py``, in one process.

``python -m benchmarks.solve_speed`` times each method on one matrix and prints medians and ratios;
what is timed starts from ready statistics and ends with the new weight. Both sides run in turn, on
the same data, and the results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from compressors import GPTQ, NM, Magnitude, SparseGPT, Unstructured, Wanda
from compressors.base import CompressedWeight
from compressors.statistics import ColumnNorm, Hessian
from tests import oracles

__all__ = ["SolveTiming", "time_solves"]


@dataclass(frozen=True)
class SolveTiming:
    """One method's median seconds.

    Attributes:
        name: The method and its setting.
        seconds: Of this package.
        oracle_seconds: Of the plain loop.
        agreement: Share of weights that are the same (to 1e-3 of the largest) on both sides.
    """

    name: str
    seconds: float
    oracle_seconds: float
    agreement: float

    @property
    def ratio(self) -> float:
        """How many times faster than the plain loop."""
        return self.oracle_seconds / self.seconds


def time_solves(
    size: int = 2048, tokens: int = 8192, repeats: int = 5, only: str = ""
) -> Iterator[SolveTiming]:
    """Time every solve on a ``[size, size]`` matrix.

    Args:
        size: Rows and columns.
        tokens: Calibration tokens; their features are correlated, as a model's are.
        repeats: Timed runs a side, after one to warm up.
        only: Time the methods whose name contains this.

    Yields:
        One timing a method.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, size, generator=generator)
    mixing = torch.eye(size) + torch.randn(size, size, generator=generator) / size**0.5
    inputs = torch.randn(tokens, size, generator=generator) @ mixing
    norms, hessian = ColumnNorm(size), Hessian(size)
    norms.update(inputs)
    hessian.update(inputs)
    norm, matrix = norms.norm, hessian.matrix

    def masked(mask: Tensor) -> Tensor:
        return weight * mask

    cases: list[tuple[str, Callable[[], CompressedWeight], Callable[[], Tensor]]] = [
        (
            "magnitude 50 %",
            lambda: Magnitude(pattern=Unstructured(0.5)).compress(weight),
            lambda: masked(oracles.magnitude_mask(weight, 0.5)),
        ),
        (
            "wanda 50 %",
            lambda: Wanda(pattern=Unstructured(0.5)).compress(weight, norms),
            lambda: masked(oracles.wanda_mask(weight, norm, 0.5)),
        ),
        (
            "wanda 2:4",
            lambda: Wanda(pattern=NM(2, 4)).compress(weight, norms),
            lambda: masked(oracles.nm_mask(weight.abs() * norm, 2, 4)),
        ),
        (
            "sparsegpt 50 %",
            lambda: SparseGPT(pattern=Unstructured(0.5)).compress(weight, hessian),
            lambda: oracles.sparsegpt(weight, matrix, sparsity=0.5)[0],
        ),
        (
            "sparsegpt 2:4",
            lambda: SparseGPT(pattern=NM(2, 4)).compress(weight, hessian),
            lambda: oracles.sparsegpt(weight, matrix, nm=(2, 4))[0],
        ),
        (
            "gptq 4 bits, groups of 128",
            lambda: GPTQ(num_bits=4, act_order=False, static_groups=False).compress(
                weight, hessian
            ),
            lambda: oracles.gptq(weight, matrix, num_bits=4, group_size=128),
        ),
    ]
    for name, fast, plain in cases:
        if only not in name:
            continue
        difference = (fast().weight - plain()).abs()
        agreement = float((difference <= 1e-3 * weight.abs().max()).float().mean())
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(repeats):
            for run, seconds in ((fast, ours), (plain, theirs)):
                started = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - started)
        yield SolveTiming(name, statistics.median(ours), statistics.median(theirs), agreement)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048, help="rows and columns (2048)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs a side (5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    parser.add_argument("--only", default="", help="time the methods whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for row in time_solves(arguments.size, repeats=arguments.repeats, only=arguments.only):
        figures = asdict(row)
        print(
            f"{figures['name']:28} {row.seconds * 1e3:8.1f} ms  plain loop "
            f"{row.oracle_seconds * 1e3:8.1f} ms  {row.ratio:5.1f} x  same {row.agreement:.4%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
