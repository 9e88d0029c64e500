# SPDX-License-Identifier: Apache-2.0
"""Error rates and coverage of the matching rule, by simulation.

    python -m benchmarks.verdict_coverage            # minutes on one core
    python -m benchmarks.verdict_coverage --experiments 500 --resamples 500
    python -m benchmarks.verdict_coverage --added 0.5 1

Pairs of models of known accuracy answer the same items; the rule judges every experiment. It passes
where, for every n of 20 or more, P(match) is at most .065 at a true recovery of .95 and .02 at
.90 in every world, and the interval of the difference covers the truth in at least 93 % of the
experiments of all worlds together. Beside it stands the rule that was used before: percentile
intervals over resampled items. ``--added`` shows instead, without simulation, what other amounts
added to each cell of right/wrong by right/wrong would give.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmkick_plugin.report.bootstrap import (
    FloatArray,
    t_factor,
    weighted_sums,
    with_pseudo_clusters,
)
from lmkick_plugin.report.verdict import FEWEST, margin_of, slack_of

TOLERANCE = 0.05
RECOVERIES = (0.90, 0.95, 0.975, 1.0)
DENSE = (0.05, 0.25, 0.5, 0.8, 0.95)
SIZES = (20, 100, 1_000, 14_000)
GRADED = (3, 6, 10, 20, 50, 100)
LUMPY = (20, 50, 100)
LARGEST = 4  # items of a cluster
_BATCH = 4_000_000  # numbers held at a time

Counts: TypeAlias = NDArray[np.int64]

#: What a rule has to keep.
MOST_MATCH = {0.95: 0.065, 0.90: 0.02}
LEAST_COVERAGE = 0.93


@dataclass(frozen=True, kw_only=True)
class World:
    """Two models whose answers are known in distribution.

    Attributes:
        kind: ``lost`` (nothing is won), ``churn`` (3 % of the items are won), ``clusters``
            (the same in clusters of 1 to 4 items that mostly go together), ``graded`` (every item
            changes a little), ``lumpy`` (graded; a few items lose all).
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
        return self.dense * (self.recovery - 1) if self.graded else float(won - lost)

    @property
    def graded(self) -> bool:
        """Whether items have scores between 0 and 1."""
        return self.kind in ("graded", "lumpy")


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
    rows: FloatArray | None = None
    found: NDArray[Any]
    if world.graded:
        found = graded_scores(world, experiments, rng)
    else:
        rows, found = clusters_of(world, experiments, rng)
    # Experiments with the same answers are judged once.
    found, times = np.unique(found, axis=0, return_counts=True)
    matched = failed = covered = 0
    batch = max(1, _BATCH // (resamples * max(4, found[0].size if rows is None or old else 4)))
    for start in range(0, len(found), batch):
        some, count = found[start : start + batch], times[start : start + batch]
        dense, compressed, points = (
            answer_draws(rows, some, resamples, rng, old)
            if rows is not None
            else graded_draws(some, resamples, rng, old)
        )
        ends = [2.5, 97.5]
        margin = margin_of(dense, compressed, TOLERANCE, "at_least")
        margin = np.percentile(margin, ends, axis=1, overwrite_input=True)
        np.subtract(compressed, dense, out=compressed)
        low, high = np.percentile(compressed, ends, axis=1, overwrite_input=True)
        can = (points > 0) & (old or world.n >= FEWEST)
        slack = slack_of(1.0)
        matched += int(count @ (can & (margin[0] >= -slack)))
        failed += int(count @ (can & (margin[1] < -slack)))
        covered += int(
            count @ ((low - 1e-9 <= world.difference) & (world.difference <= high + 1e-9))
        )
    return Rates(
        match=matched / experiments, fail=failed / experiments, coverage=covered / experiments
    )


#: Dense and compressed scores over draws, [experiments, draws] each, and dense's own [experiments].
Draws = tuple[FloatArray, FloatArray, FloatArray]


def answer_draws(
    rows: FloatArray, counts: Counts, resamples: int, rng: np.random.Generator, old: bool
) -> Draws:
    """Draws of the two scores from how often each kind of cluster occurs.

    Args:
        rows: float64 [kinds, 3]: right answers of dense, of compressed, items.
        counts: int64 [experiments, kinds].
        resamples: Draws.
        rng: Generator.
        old: Whether items are resampled one by one.
    """
    totals = counts @ rows
    points = totals[:, 0] / totals[:, 2]
    if old:
        cells = items_of(rows, counts)
        n = cells.sum(axis=1, keepdims=True)
        shape = (len(cells), resamples)
        drawn = rng.multinomial(n, (cells / n)[:, None], size=shape)
        return (
            (drawn[..., 0] + drawn[..., 1]) / n,
            (drawn[..., 0] + drawn[..., 2]) / n,
            points,
        )
    shapes = counts.astype(np.float64)
    if len(rows) == 4:  # the pseudo-clusters are further items of the four cells
        sums = weighted_sums(rows, shapes + 1, resamples=resamples, rng=rng)
    else:
        used = counts.any(axis=0)
        sums = weighted_sums(rows[used], shapes[:, used], resamples=resamples, rng=rng)
        added = with_pseudo_clusters(np.ones((1, 3)), binary=True)[1:]
        extra = weighted_sums(added, np.ones((len(counts), 4)), resamples=resamples, rng=rng)
        sums += (totals[:, 2] / counts.sum(axis=1))[:, None, None] * extra
    return sums[..., 0] / sums[..., 2], sums[..., 1] / sums[..., 2], points


def clusters_of(world: World, count: int, rng: np.random.Generator) -> tuple[FloatArray, Counts]:
    """Kinds of clusters (right of dense, of compressed, items), float64 [kinds, 3], and counts."""
    right = ((1, 1), (1, 0), (0, 1), (0, 0))
    if world.kind != "clusters":
        rows = np.asarray([(*cell, 1) for cell in right], dtype=np.float64)
        return rows, rng.multinomial(world.n, world.cells, size=count)
    shares: dict[tuple[int, int, int], float] = {}
    for first, p in enumerate(world.cells):  # 1 to 4 items, most of which go with the first
        cells = 0.2 * world.cells
        cells[first] += 0.8
        kinds = {(0, 0, 0): p / LARGEST}
        for _ in range(LARGEST):
            grown: dict[tuple[int, int, int], float] = {}
            for (dense, compressed, items), share in kinds.items():
                for (d, c), q in zip(right, cells, strict=True):
                    kind = (dense + d, compressed + c, items + 1)
                    grown[kind] = grown.get(kind, 0.0) + share * q
            kinds = grown
            for kind, share in kinds.items():
                shares[kind] = shares.get(kind, 0.0) + share
    counts = rng.multinomial(world.n, list(shares.values()), size=count)
    return np.asarray(list(shares), dtype=np.float64), counts


def items_of(rows: FloatArray, counts: Counts) -> Counts:
    """int64 [experiments, 4]: the 2 x 2 table of the items, as nested as the sums allow."""
    both = np.minimum(rows[:, 0], rows[:, 1])
    cells = np.stack([both, rows[:, 0] - both, rows[:, 1] - both], axis=1)
    cells = np.concatenate([cells, (rows[:, 2] - cells.sum(axis=1))[:, None]], axis=1)
    return np.asarray(np.rint(counts @ cells), dtype=np.int64)


def graded_scores(world: World, count: int, rng: np.random.Generator) -> FloatArray:
    """float64 [count, 2, n]: Beta(2, .); a change of .1 (one s.d.) in all items, or 0 in some."""
    dense = rng.beta(2.0, 2.0 / world.dense - 2.0, (count, world.n))
    if world.kind == "lumpy":
        return np.stack([dense, dense * (rng.random(dense.shape) < world.recovery)], axis=1)
    return np.stack([dense, world.recovery * dense + rng.normal(0, 0.1, dense.shape)], axis=1)


def graded_draws(scores: FloatArray, resamples: int, rng: np.random.Generator, old: bool) -> Draws:
    """Draws of the two means of graded scores, float64 [experiments, 2, n]."""
    n = scores.shape[2]
    shape = (len(scores), resamples)
    if old:
        weights = rng.multinomial(n, np.full(n, 1 / n), shape) * 1.0
    else:
        weights = rng.standard_exponential((*shape, n + 2))
    means = scores.mean(axis=2)
    centre = means
    if not old:  # the pseudo-clusters
        score, nothing = means[:, :1], np.zeros((len(scores), 1))
        added = np.stack([np.hstack([score, nothing]), np.hstack([nothing, score])], axis=1)
        scores = np.concatenate([scores, added], axis=2)
        centre = scores.mean(axis=2)
    drawn = weights @ scores.transpose(0, 2, 1) / weights.sum(axis=2, keepdims=True)
    drawn = means[:, None] + (1.0 if old else t_factor(n)) * (drawn - centre[:, None])
    return drawn[..., 0].copy(), drawn[..., 1].copy(), means[:, 0]


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

    def passes(self, *, errors: float = 0.0) -> bool:
        """Whether the rule keeps its promises here; below 20 clusters there are none.

        Args:
            errors: Standard errors of the simulation to allow for.
        """
        right = all(
            self.match[recovery]
            <= share + errors * math.sqrt(share * (1 - share) / self.experiments)
            for recovery, share in MOST_MATCH.items()
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


def worlds() -> Iterator[tuple[str, int, Sequence[float]]]:
    """Kinds and sizes of the table, and the accuracies of each."""
    for kind in ("lost", "churn", "clusters"):
        for n in SIZES:
            yield kind, n, DENSE if kind != "clusters" else DENSE[::2]
    for n in GRADED:
        yield "graded", n, (0.25, 0.5)
    for n in LUMPY:
        yield "lumpy", n, (0.25, 0.5)


def matching_tables(n: int, added: float, most_won: int) -> Counts:
    """Every 2 x 2 table of n items that matches, with ``added`` in each cell.

    The margin of a draw is below 0 where p11 / (p10 + p01) < ((2 - e0) B - 1) / e0 with
    B = p10 / (p10 + p01). The two are independent under a Dirichlet distribution: the share of such
    draws is the mean of a Beta distribution function over quantiles of B.

    Args:
        n: Items.
        added: To each cell.
        most_won: Items won in the tables that are looked at.

    Returns:
        int64 [tables, 4], cells in the order of `World.cells`.
    """
    from scipy.special import betainc, betaincinv

    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    found: list[tuple[int, int, int, int]] = []
    for won in range(most_won + 1):
        for lost in range(n - won + 1):
            right = np.arange(n - won - lost + 1)
            never = betainc(lost + added, won + added, 1 / (2 - TOLERANCE))  # share of odds below 0
            drawn = betaincinv(lost + added, won + added, never + (1 - never) * shares)
            odds = ((2 - TOLERANCE) * drawn - 1) / TOLERANCE
            below = betainc(right[:, None] + added, lost + won + 2 * added, odds / (1 + odds))
            good = right[((1 - never) * below.mean(axis=1) <= 0.025) & (right + lost > 0)]
            found += [(int(r), lost, won, n - int(r) - lost - won) for r in good]
    return np.asarray(found, dtype=np.int64).reshape(-1, 4)


def share_of(tables: Counts, world: World) -> float:
    """Probability that the answers of a world make one of these tables."""
    from scipy.special import gammaln, xlogy

    logs = gammaln(world.n + 1) - gammaln(tables + 1).sum(axis=1)
    return float(np.exp(logs + xlogy(tables, world.cells).sum(axis=1)).sum())


def amounts(added: Sequence[float]) -> None:
    """Print P(match) and power with other amounts added to each cell."""
    print(f"| {' | '.join(_AMOUNTS_HEADER)} |\n{'| --- ' * len(_AMOUNTS_HEADER)}|")
    for amount in added:
        cells = [f"{amount:g}"]
        for kind, n, most_won in (("lost", 100, 0), ("lost", 200, 0), ("churn", 100, 15)):
            tables = matching_tables(n, amount, most_won)
            rates = {
                r: [share_of(tables, World(kind=kind, n=n, dense=d, recovery=r)) for d in _FINE]
                for r in (0.90, 0.95, 1.0)
            }
            if (kind, n) == ("lost", 100):
                cells.append(str(tables[tables[:, 1] == 0, 0].min()))
            cells += [f"{max(rates[0.90]):.3f}", f"{max(rates[0.95]):.3f}"]
            cells.append(f"{np.mean(rates[1.0]):.2f}")
        print(f"| {' | '.join(cells)} |", flush=True)


_AMOUNTS_HEADER = (
    "added to each cell", "right answers that match where none of 100 is lost",
    *(f"{world}{what}" for world in ("lost, n = 100: ", "lost, n = 200: ", "churn, n = 100: ")
      for what in ("P(match) at .90", "at .95", "mean power at 1.0")),
)  # fmt: skip
_FINE = np.arange(5, 96, 2) / 100  # accuracies of the dense model
_QUANTILES = 100

_HEADER = (
    "worlds", "n", "P(match) at .90", "at .95", "at 1.0", "P(fail) at .975 and 1.0", "coverage",
    "lowest", "", "old rule: P(match) at .90", "at .95", "coverage",
)  # fmt: skip
_FEWER_OLD = 4  # experiments of the old rule: its rates are far off, and multinomials are slow


def main() -> int:
    """Print the table; the exit status says whether the rule passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--added", type=float, nargs="+", metavar="ITEMS")
    args = parser.parse_args()
    started = time.process_time()
    if args.added:
        amounts(args.added)
        print(f"\n{time.process_time() - started:.0f} s of processor time")
        return 0
    print(f"| {' | '.join(_HEADER)} |\n{'| --- ' * len(_HEADER)}|")
    good = True
    for kind, n, dense in worlds():
        new, old = (
            line(
                kind,
                n,
                dense=dense,
                experiments=args.experiments // (_FEWER_OLD if was else 1),
                resamples=args.resamples,
                seed=args.seed,
                old=was,
            )
            for was in (False, True)
        )
        passed = new.passes()
        good &= passed
        cells = (
            *(kind, f"{n:,}", f"{new.match[0.9]:.3f}", f"{new.match[0.95]:.3f}"),
            *(f"{new.power[0]:.2f} to {new.power[1]:.2f}", f"{new.fail:.3f}"),
            *(f"{new.coverage:.3f}", f"{new.lowest:.3f}", "passes" if passed else "FAILS"),
            *(f"{old.match[0.9]:.3f}", f"{old.match[0.95]:.3f}", f"{old.coverage:.3f}"),
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    seconds = time.process_time() - started
    print(f"\n{seconds:.0f} s of processor time; the rule {'passes' if good else 'FAILS'}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
