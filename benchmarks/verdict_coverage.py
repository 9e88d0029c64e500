# SPDX-License-Identifier: Apache-2.0
"""Error rates and coverage of the matching rule, by simulation.

    python -m benchmarks.verdict_coverage            # minutes on one core
    python -m benchmarks.verdict_coverage --experiments 500 --resamples 500

Pairs of models of known accuracy answer the same items; the rule judges every experiment. It passes
where, for every n of 20 or more, P(match) is at most .065 at a true recovery of .95 and .02 at
.90 in every world, and the interval of the difference covers the truth in at least 93 % of the
experiments of all worlds together. Worlds in which nothing at all is won are the exception: where
two or three lost items are expected, none is lost in 8 % of the experiments, and P(match) at .95 is
.074 exactly; .09 is allowed there. Two standard errors of the simulation are allowed for. Beside
it stands the rule that was used before: percentile intervals over resampled items.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmkick_plugin.report.bootstrap import (
    PSEUDO_WEIGHT,
    FloatArray,
    pseudo_clusters,
    t_factor,
    weighted_sums,
)
from lmkick_plugin.report.verdict import FEWEST, margin_of, slack_of

TOLERANCE = 0.05
RECOVERIES = (0.90, 0.95, 0.975, 1.0)
DENSE = (0.05, 0.25, 0.5, 0.8, 0.95)
SIZES = (20, 100, 1_000, 14_000)
GRADED = (3, 6, 10, 20, 50, 100)
LARGEST = 4  # items of a cluster

#: What a rule has to keep.
MOST_MATCH = {0.95: 0.065, 0.90: 0.02}
MOST_MATCH_LOST = {0.95: 0.09, 0.90: 0.02}
LEAST_COVERAGE = 0.93


@dataclass(frozen=True, kw_only=True)
class World:
    """Two models whose answers are known in distribution.

    Attributes:
        kind: ``lost`` (nothing is won), ``churn`` (3 % of the items are won), ``clusters``
            (the same in clusters of 1 to 4 items that mostly go together), ``graded``.
        n: Independent clusters; items where each is its own.
        dense: Accuracy of the dense model, or its mean graded score.
        recovery: Of the compressed model.
    """

    kind: str
    n: int
    dense: float
    recovery: float

    @property
    def cells(self) -> FloatArray:
        """float64 [4], shares of right/right, right/wrong, wrong/right and wrong/wrong."""
        won = 0.0 if self.kind == "lost" else min(0.03, (1 - self.dense) / 2)
        lost = min(self.dense, self.dense * (1 - self.recovery) + won)
        return np.asarray([self.dense - lost, lost, won, 1 - self.dense - won])

    @property
    def difference(self) -> float:
        """True compressed - dense."""
        _, lost, won, _ = self.cells
        return float(won - lost) if self.kind != "graded" else self.dense * (self.recovery - 1)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a rule says of a world.

    Attributes:
        match, fail: Share of the experiments with that verdict.
        coverage: Share whose interval of the difference holds the truth.
    """

    match: float
    fail: float
    coverage: float


def simulate(
    world: World, *, experiments: int, resamples: int, seed: int, old: bool = False
) -> Rates:
    """Judge many experiments of a world.

    Args:
        world: The world.
        experiments: How many.
        resamples: Draws in each.
        seed: Of everything.
        old: Whether by percentile intervals over resampled items, as before.
    """
    rng = np.random.default_rng(seed)
    matched = failed = covered = 0
    batch = max(1, 4_000_000 // (resamples * max(4, world.n if world.kind == "graded" else 4)))
    for start in range(0, experiments, batch):
        count = min(batch, experiments - start)
        draw = graded_draws if world.kind == "graded" else answer_draws
        dense, compressed, clusters, points = draw(world, count, resamples, rng, old)
        margin = np.percentile(
            margin_of(dense, compressed, TOLERANCE, "at_least"), [2.5, 97.5], axis=1
        )
        low, high = np.percentile(compressed - dense, [2.5, 97.5], axis=1)
        can = (points > 0) & (old | (clusters >= FEWEST))
        slack = slack_of(1.0)
        matched += int(np.sum(can & (margin[0] >= -slack)))
        failed += int(np.sum(can & (margin[1] < -slack)))
        covered += int(np.sum((low - 1e-9 <= world.difference) & (world.difference <= high + 1e-9)))
    return Rates(
        match=matched / experiments, fail=failed / experiments, coverage=covered / experiments
    )


Draws = tuple[FloatArray, FloatArray, int, FloatArray]


def answer_draws(
    world: World, count: int, resamples: int, rng: np.random.Generator, old: bool
) -> Draws:
    """Draws of the two scores, float64 [count, resamples] each, K, and the dense scores [count]."""
    rows, counts = clusters_of(world, count, rng)
    size = counts @ rows[:, 2] / world.n
    points = counts @ rows[:, 0] / (counts @ rows[:, 2])
    if old:  # items one by one
        cells = items_of(rows, counts)
        n = cells.sum(axis=1)
        drawn = np.stack(
            [rng.multinomial(n[i], cells[i] / n[i], size=resamples) for i in range(count)]
        )
        return (
            (drawn[..., 0] + drawn[..., 1]) / n[:, None],
            (drawn[..., 0] + drawn[..., 2]) / n[:, None],
            world.n,
            points,
        )
    shapes = counts.astype(np.float64)
    if world.kind == "clusters":
        sums = weighted_sums(rows, shapes, resamples=resamples, rng=rng)
        half = np.full((count, 4), PSEUDO_WEIGHT)
        extra = weighted_sums(pseudo_clusters(1, 1.0), half, resamples=resamples, rng=rng)
        sums += size[:, None, None] * extra
    else:  # the pseudo-clusters are further items of the four cells
        sums = weighted_sums(rows, shapes + PSEUDO_WEIGHT, resamples=resamples, rng=rng)
    return sums[..., 0] / sums[..., 2], sums[..., 1] / sums[..., 2], world.n, points


def clusters_of(
    world: World, count: int, rng: np.random.Generator
) -> tuple[FloatArray, np.ndarray]:
    """Kinds of clusters (right of dense, of compressed, items), float64 [m, 3], and counts."""
    if world.kind != "clusters":
        rows = np.asarray([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]], dtype=np.float64)
        return rows, rng.multinomial(world.n, world.cells, size=count)
    kinds: dict[tuple[int, int, int], int] = {}
    for items in range(1, LARGEST + 1):
        for dense in range(items + 1):
            for compressed in range(items + 1):
                kinds[dense, compressed, items] = len(kinds)
    rows = np.asarray(list(kinds), dtype=np.float64)
    right = np.asarray([[1, 1], [1, 0], [0, 1], [0, 0]])
    size = rng.integers(1, LARGEST + 1, (count, world.n))
    first = rng.choice(4, (count, world.n, 1), p=world.cells)
    own = rng.choice(4, (count, world.n, LARGEST), p=world.cells)
    cell = np.where(rng.random(own.shape) < 0.8, first, own)  # most items go with the first
    asked = np.arange(LARGEST) < size[..., None]
    sums = (right[cell] * asked[..., None]).sum(axis=2)
    number = np.zeros((LARGEST + 1,) * 3, dtype=np.int64)
    for kind, index in kinds.items():
        number[kind] = index
    found = number[sums[..., 0], sums[..., 1], size]
    counts = np.stack([np.bincount(one, minlength=len(rows)) for one in found])
    return rows, counts


def items_of(rows: FloatArray, counts: np.ndarray) -> np.ndarray:
    """int64 [count, 4]: the 2 x 2 table of the items, as nested as the sums of clusters allow."""
    both = np.minimum(rows[:, 0], rows[:, 1])
    cells = np.stack([both, rows[:, 0] - both, rows[:, 1] - both], axis=1)
    cells = np.concatenate([cells, (rows[:, 2] - cells.sum(axis=1))[:, None]], axis=1)
    return np.asarray(np.rint(counts @ cells), dtype=np.int64)


def graded_draws(
    world: World, count: int, resamples: int, rng: np.random.Generator, old: bool
) -> Draws:
    """The same of graded scores: Beta(2, .), and a change of .1 (one s.d.) in every item."""
    dense = rng.beta(2.0, 2.0 / world.dense - 2.0, (count, world.n))
    compressed = world.recovery * dense + rng.normal(0, 0.1, dense.shape)
    points = dense.mean(axis=1)
    if old:
        weights = rng.multinomial(world.n, np.full(world.n, 1 / world.n), (count, resamples)) * 1.0
    else:
        weights = rng.standard_gamma(1.0, (count, resamples, world.n))
    weights /= weights.sum(axis=2, keepdims=True)
    factor = 1.0 if old else t_factor(world.n)
    found = []
    for values in (dense, compressed):
        mean = values.mean(axis=1)[:, None]
        found.append(mean + factor * (np.einsum("crn,cn->cr", weights, values) - mean))
    return found[0], found[1], world.n, points


@dataclass(frozen=True, kw_only=True)
class Line:
    """A rule in all worlds of one kind and size.

    Attributes:
        match: Highest P(match) by true recovery.
        power: Lowest and highest P(match) at a recovery of 1.
        fail: Highest P(fail) at a recovery of .975 or more.
        coverage: Over all worlds.
        lowest: Coverage of the world where it is lowest.
        experiments: In each world.
    """

    kind: str
    n: int
    match: dict[float, float]
    power: tuple[float, float]
    fail: float
    coverage: float
    lowest: float
    experiments: int

    @property
    def passes(self) -> bool:
        """Whether the rule keeps its promises here; below 20 clusters there are none."""
        most = MOST_MATCH_LOST if self.kind == "lost" else MOST_MATCH
        right = all(
            self.match[recovery] <= share + 2 * math.sqrt(share * (1 - share) / self.experiments)
            for recovery, share in most.items()
        )
        return self.n < FEWEST or (right and self.coverage >= LEAST_COVERAGE)


def line(
    kind: str,
    n: int,
    *,
    dense: Sequence[float] = DENSE,
    experiments: int,
    resamples: int,
    seed: int = 0,
    old: bool = False,
) -> Line:
    """Simulate a kind of world at one size for every accuracy and recovery."""
    found = {
        (d, r): simulate(
            World(kind=kind, n=n, dense=d, recovery=r),
            experiments=experiments,
            resamples=resamples,
            seed=seed + 1000 * i + j,
            old=old,
        )
        for i, d in enumerate(dense)
        for j, r in enumerate(RECOVERIES)
    }
    same = [found[d, 1.0].match for d in dense]
    return Line(
        kind=kind,
        n=n,
        match={r: max(found[d, r].match for d in dense) for r in RECOVERIES},
        power=(min(same), max(same)),
        fail=max(rates.fail for (_, r), rates in found.items() if r >= 0.975),
        coverage=float(np.mean([rates.coverage for rates in found.values()])),
        lowest=min(rates.coverage for rates in found.values()),
        experiments=experiments,
    )


def worlds() -> Iterator[tuple[str, int, Sequence[float], float]]:
    """Kinds and sizes of the table, the accuracies of each, and a share of the experiments."""
    for kind in ("lost", "churn"):
        for n in SIZES:
            yield kind, n, DENSE, 1.0
    for n in SIZES:
        yield "clusters", n, DENSE[::2], 0.5 if n < 5_000 else 0.1
    for n in GRADED:
        yield "graded", n, (0.25, 0.5), 0.5


_HEADER = (
    "worlds", "n", "P(match) at .90", "at .95", "at 1.0", "P(fail) at .975 and 1.0", "coverage",
    "lowest", "", "old rule: P(match) at .90", "at .95", "coverage",
)  # fmt: skip


def main() -> int:
    """Print the table; the exit status says whether the rule passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.process_time()
    print(f"| {' | '.join(_HEADER)} |\n{'| --- ' * len(_HEADER)}|")
    good = True
    for kind, n, dense, share in worlds():
        new, old = (
            line(
                kind,
                n,
                dense=dense,
                experiments=int(share * args.experiments),
                resamples=args.resamples,
                seed=args.seed,
                old=was,
            )
            for was in (False, True)
        )
        good &= new.passes
        cells = (
            *(kind, f"{n:,}", f"{new.match[0.9]:.3f}", f"{new.match[0.95]:.3f}"),
            *(f"{new.power[0]:.2f} to {new.power[1]:.2f}", f"{new.fail:.3f}"),
            *(f"{new.coverage:.3f}", f"{new.lowest:.3f}", "passes" if new.passes else "FAILS"),
            *(f"{old.match[0.9]:.3f}", f"{old.match[0.95]:.3f}", f"{old.coverage:.3f}"),
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    seconds = time.process_time() - started
    print(f"\n{seconds:.0f} s of processor time; the rule {'passes' if good else 'FAILS'}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
