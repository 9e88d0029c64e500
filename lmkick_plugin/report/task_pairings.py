# SPDX-License-Identifier: Apache-2.0
"""One task of every compressed run against the dense one: statistics and draws.

Draws are scores over resamples of the items where the same resample is used for all runs of a task,
so that whatever is computed from draws is paired throughout. Where samples were not logged, draws
are independent between runs: of a share of right answers from its Beta distribution, of any other
score normal with lm-eval's standard error. An error of 0, where all items score alike, gives none.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lmkick_plugin.report.bootstrap import FloatArray, cluster_sums, drawn_ratios
from lmkick_plugin.report.item_pairs import MismatchError, visible_differences
from lmkick_plugin.report.item_values import Key, Measured, measure_task, pool
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.paired_statistics import PairedStatistics, statistics_of_draws
from lmkick_plugin.report.scores import Score, scores_of
from lmkick_plugin.report.scoring import ItemValues, scoring_of
from lmkick_plugin.report.verdict import Rule
from lmkick_plugin.report.why_not import INCOMPLETE, UNSAVED, of_error
from lmkick_plugin.results.results_file import ResultsError, ResultsFile
from lmkick_plugin.results.samples import SamplesError
from lmkick_plugin.results.task_groups import leaves_of
from lmkick_plugin.terminal import plain

__all__ = ["CLAIM_RESAMPLES", "Notes", "Pairing", "Settings", "compare_task"]

CLAIM_RESAMPLES = 4_000
"""Draws behind statements about several runs: ten in each tail of 1 - .05/10."""

_NO_ERROR = "lm-eval's standard error is 0: log the samples (--log_samples)"

_ALSO = (
    "acc_greedy", "jsd", "judge_coherence", "judge_consistency", "judge_fluency",
    "judge_relevance", "judge_score", "rougeL", "token_perplexity", "top1_agreement",
    "unique_words",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Rule):
    """How runs are compared.

    Attributes:
        metrics: Headline metrics that the user chose, by task.
    """

    metrics: Mapping[str, str] = field(default_factory=dict)

    def requested(self, task: str) -> tuple[str, ...]:
        """Headline metric that the user chose for a task."""
        return (self.metrics[task].partition(",")[0],) if task in self.metrics else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One metric of one task: a run against the dense one.

    Attributes:
        statistics: Scores, interval, verdict, flips.
        paired: Whether items were paired; False where standard errors had to do.
        dense_draws, draws: float64 [CLAIM_RESAMPLES], the two scores over resamples.
        files: The two results files.
    """

    statistics: PairedStatistics
    paired: bool
    dense_draws: FloatArray
    draws: FloatArray
    files: tuple[ResultsFile, ResultsFile]


class Notes:
    """Remarks with the runs they apply to, each once.

    Attributes:
        left_out: Why a run is not compared on a task (`why_not`), by cell's name and task.
    """

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {}
        self.left_out: dict[tuple[str, str], str] = {}

    def add(self, line: str, label: str) -> None:
        """Say something of a run."""
        labels = self._said.setdefault(line, [])
        if label not in labels:
            labels.append(label)

    def leave_out(self, cell: Cell, task: str, why: str) -> None:
        """Say why a run is not compared on a task; nothing if it is."""
        if why:
            self.left_out[cell.name, task] = why

    def lines(self) -> list[str]:
        """Everything said, each with its runs."""
        return [
            f"{plain(line, limit=600)} ({plain(', '.join(labels), limit=160)})"
            for line, labels in self._said.items()
        ]


def compare_task(
    model: Model,
    task: str,
    keys: Mapping[str, Key],
    children: Mapping[str, Sequence[str]],
    settings: Settings,
    said: Notes,
) -> dict[tuple[str, str, Key], Pairing]:
    """Compare one task, and the parts of a group, of all runs of a model with its dense one.

    Args:
        model: The model.
        task: A task or group.
        keys: Headline metric and filter of each task.
        children: Members of groups.
        settings: How.
        said: What a reader should know is added here.

    Returns:
        By cell's name, task and key; what cannot be compared is left out.
    """
    dense = model.dense
    if dense is None or task not in keys:
        return {}
    wanted = sorted({keys[task][0], *_ALSO})
    leaves = leaves_of(task, children)
    cells = _with_all(model, dense, task, leaves, said)
    files = {c.name: (dense.run.tasks[leaves[0]], c.run.tasks[leaves[0]]) for c in cells}
    measured: dict[str, dict[str, dict[Key, Measured]]] = {cell.name: {} for cell in cells}
    unpaired: list[Cell] = []
    for leaf in leaves:  # outermost, so that the dense run's samples of it are read once
        for cell in cells:
            if cell.name not in measured:
                continue
            left_out: dict[Key, str] = {}
            found = _measure(cell, dense, leaf, wanted, said, settings.requested(task), left_out)
            why = left_out.get(keys[task], "") if isinstance(found, dict) else found
            said.leave_out(cell, task, why)
            if isinstance(found, dict):
                measured[cell.name][leaf] = found
                continue
            del measured[cell.name]
            if found == UNSAVED:
                unpaired.append(cell)
    pairings: dict[tuple[str, str, Key], Pairing] = {}
    for name in [task, *(child for child in children.get(task, []) if child in children)]:
        members = leaves_of(name, children)
        pooled = {cell: _pooled(parts, members) for cell, parts in measured.items()}
        pairings |= _pairings(name, pooled, files, settings)
        for cell in unpaired:
            pairings |= _by_errors(name, cell, dense, files[cell.name], wanted, settings)
    _say_no_verdict(pairings, task, keys[task], dense, said)
    return pairings


def _say_no_verdict(
    pairings: Mapping[tuple[str, str, Key], Pairing], task: str, key: Key, dense: Cell, said: Notes
) -> None:
    for (_, name, metric), pairing in pairings.items():
        one = pairing.statistics
        if (name, metric) == (task, key) and one.can_have_verdict and one.verdict is None:
            said.add(f"{task}: no verdict: {one.reason}", dense.label)


def _with_all(
    model: Model, dense: Cell, task: str, leaves: Sequence[str], said: Notes
) -> list[Cell]:
    """Runs with a whole task, if the dense one has it."""
    cells = []
    for cell in model.cells:
        if not any(leaf in cell.run.tasks for leaf in leaves):
            continue
        for run in (dense, cell):
            missing = [leaf for leaf in leaves if leaf not in run.run.tasks]
            if missing:
                names = plain(", ".join(missing), limit=80)
                said.add(f"{task}: not compared: {names} was not evaluated", run.label)
                said.leave_out(cell, task, INCOMPLETE)
                break
        else:
            cells.append(cell)
    return cells


def _measure(
    cell: Cell,
    dense: Cell,
    leaf: str,
    wanted: Sequence[str],
    said: Notes,
    requested: Sequence[str],
    left_out: dict[Key, str],
) -> dict[Key, Measured] | str:
    """Items of a task, or why there are none (`why_not`); `UNSAVED` if errors may do instead."""
    first, second = dense.run.tasks[leaf], cell.run.tasks[leaf]
    notes: list[str] = []
    try:
        if not (first.samples_path(leaf).is_file() and second.samples_path(leaf).is_file()):
            differing = visible_differences(leaf, first, second)
            if differing:
                raise MismatchError(f"{leaf}: {'; '.join(differing)}")
            said.add(
                f"{_root(leaf)}: samples were not logged (--log_samples): intervals from"
                " lm-eval's standard errors, without pairing items",
                cell.label,
            )
            return UNSAVED
        measured, _ = measure_task(
            leaf, first, second, wanted, notes, requested=requested, left_out=left_out
        )
    except (MismatchError, ResultsError, SamplesError, OSError) as error:
        said.add(f"not compared: {error}", cell.label)
        return of_error(error)
    for note in notes:
        said.add(note, cell.label)
    return measured


def _root(leaf: str) -> str:
    return "MMLU" if leaf.startswith("mmlu_") else leaf


def _pooled(
    parts: Mapping[str, Mapping[Key, Measured]], members: Sequence[str]
) -> dict[Key, Measured]:
    if not all(member in parts for member in members):
        return {}
    shared = [k for k in parts[members[0]] if all(k in parts[member] for member in members)]
    return {
        key: parts[members[0]][key]
        if len(members) == 1
        else pool([parts[member][key] for member in members])
        for key in shared
    }


def _pairings(
    task: str,
    pooled: Mapping[str, Mapping[Key, Measured]],
    files: Mapping[str, tuple[ResultsFile, ResultsFile]],
    settings: Settings,
) -> dict[tuple[str, str, Key], Pairing]:
    found: dict[tuple[str, str, Key], Pairing] = {}
    keys = dict.fromkeys(key for metrics in pooled.values() for key in metrics)
    for key in keys:
        cells = {name: metrics[key] for name, metrics in pooled.items() if key in metrics}
        for together in _aligned(cells):
            draws = _draws(task, list(together.values()), settings.seed)
            for (name, one), own in zip(together.items(), draws[1:], strict=True):
                found[name, task, key] = Pairing(
                    statistics=one.statistics(settings),
                    paired=True,
                    dense_draws=draws[0],
                    draws=own,
                    files=files[name],
                )
    return found


def _aligned(cells: Mapping[str, Measured]) -> list[dict[str, Measured]]:
    """Cells with the same dense items, which can share resamples."""
    groups: dict[bytes, dict[str, Measured]] = {}
    for name, one in cells.items():
        groups.setdefault(one.dense.values.tobytes(), {})[name] = one
    return list(groups.values())


def _draws(task: str, members: Sequence[Measured], seed: int) -> list[FloatArray]:
    """Scores over resamples: of the dense model, then of each member."""
    first = members[0]
    items: list[ItemValues] = [first.dense, *(one.compressed for one in members)]
    weights = first.dense.weights
    below = np.ones(len(first.dense.values)) if weights is None else weights
    columns = np.stack([*(item.values for item in items), below], axis=1)
    metric = first.scoring.metric
    binary = all(one.scoring.metric.binary for one in members)
    ratios = drawn_ratios(
        cluster_sums(columns, first.clusters),
        binary=binary,
        graded=replace(metric, binary=binary).graded,
        resamples=CLAIM_RESAMPLES,
        seed=_seed(task, seed),
    )
    with np.errstate(all="ignore"):  # inf and nan are results here
        return [r if metric.transform is None else metric.transform(r) for r in ratios]


def _seed(text: str, seed: int) -> int:
    return seed + zlib.crc32(text.encode())


def _by_errors(
    task: str,
    cell: Cell,
    dense: Cell,
    files: tuple[ResultsFile, ResultsFile],
    wanted: Sequence[str],
    settings: Settings,
) -> dict[tuple[str, str, Key], Pairing]:
    """Pairings from scores and standard errors where items are unknown."""
    of_dense = {(s.metric, s.filter): s for s in scores_of(dense) if s.task == task}
    found: dict[tuple[str, str, Key], Pairing] = {}
    for score in scores_of(cell):
        key = (score.metric, score.filter)
        other = of_dense.get(key)
        if score.task != task or score.metric not in wanted or other is None:
            continue
        if score.stderr is None or other.stderr is None or score.n is None:
            continue
        scoring = scoring_of(
            score.metric,
            higher_is_better=files[0].higher_is_better(task, score.metric),
            floor=score.facts.floors.get(score.metric, 0.0),
            requested=score.metric in settings.requested(task),
        )
        countable = scoring.metric.direction == "at_least" and scoring.is_binary()
        shares = [countable and _is_share(one) for one in (other, score)]
        unknown = any(not s and not o.stderr for s, o in zip(shares, (other, score), strict=True))
        drawn = [
            _drawn(one, share=share, seed=_seed(f"{who}/{task}/{key}", settings.seed))
            for who, one, share in zip((dense.name, cell.name), (other, score), shares, strict=True)
        ]
        found[cell.name, task, key] = Pairing(
            statistics=statistics_of_draws(
                n=score.n,
                clusters=score.n,
                dense=other.value,
                compressed=score.value,
                dense_draws=drawn[0],
                draws=drawn[1],
                metric=replace(scoring.metric, binary=all(shares)),
                rule=settings,
                unknown=_NO_ERROR if unknown else "",
            ),
            paired=False,
            dense_draws=drawn[0],
            draws=drawn[1],
            files=files,
        )
    return found


def _is_share(score: Score) -> bool:
    """Whether a score is a share of right answers: its error is that of zeros and ones.

    No other values between 0 and 1 have a variance as large as p (1 - p). The members of a group
    have a common error that is less, unless all items are right, or none.
    """
    if score.n is None or score.n < 2 or score.stderr is None or not 0 <= score.value <= 1:
        return False
    expected = math.sqrt(score.value * (1 - score.value) / (score.n - 1))
    return math.isclose(score.stderr, expected, rel_tol=0.01, abs_tol=1e-9)


def _drawn(score: Score, *, share: bool, seed: int) -> FloatArray:
    """Draws of a score: Beta(right + 1, wrong + 1) of a share; NaN without a standard error.

    With a normal of width 0 no wrong item among 20 would be no loss at all.
    """
    rng = np.random.default_rng(seed)
    if share and score.n is not None:
        right = score.value * score.n
        return rng.beta(right + 1, score.n - right + 1, CLAIM_RESAMPLES)
    if not score.stderr:
        return np.full(CLAIM_RESAMPLES, math.nan)
    return rng.normal(score.value, score.stderr, CLAIM_RESAMPLES)
