# SPDX-License-Identifier: Apache-2.0
"""States of facts asked in several ways, and the changes of those that the dense model said.

- *said*: the answer stands in the first line of a greedy closed-book answer;
- *out of reach*: not said, but chosen among four answers, reached by one of ten samples, or said
  once solved examples were shown;
- *readable only*: none of these, but read from a text that holds it;
- *lost*: none.

References:
    "The Benchmark Illusion", arXiv:2606.17609: pruned models recognise what they no longer say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmkick_plugin.report.bootstrap import FloatArray, Interval, percentile_interval
from lmkick_plugin.report.formatting import interval, percent
from lmkick_plugin.report.item_pairs import MismatchError, pair_items, visible_differences
from lmkick_plugin.report.verdict import FEWEST, Rule
from lmkick_plugin.results.results_file import ResultsError, ResultsFile
from lmkick_plugin.results.runs import Run
from lmkick_plugin.results.samples import SamplesError
from lmkick_plugin.terminal import render_table

__all__ = ["FORMS", "SETS", "STATES", "Asked", "Recall", "compare_recall", "recall_of", "state_of"]

FORMS = {
    "say": "contains", "choose": "acc_norm", "try": "reached", "shown": "contains",
    "read": "contains",
}  # fmt: skip
"""Ways of asking, and the metric that says whether the answer was right."""

STATES = ("said", "out of reach", "readable only", "lost")
SETS = {"TriviaQA": "recall_kick_", "FreebaseQA": "recall_kick_freebase_"}
"""Where facts are from, and how the names of their tasks begin."""

_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
_CHOICES = 4
_PRIOR = 0.5  # so that what was not seen among few facts is not taken for impossible

Asked: TypeAlias = Mapping[str, bool]
"""Whether a fact was right, by way of asking; without those in which it was not asked."""


def state_of(asked: Asked) -> str:
    """The state of a fact, one of `STATES`.

    >>> state_of({"say": False, "choose": True, "read": True})
    'out of reach'
    """
    if asked.get("say"):
        return "said"
    if any(asked.get(form) for form in ("choose", "try", "shown")):
        return "out of reach"
    return "readable only" if asked.get("read") else "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Changes of facts' states from one run to another.

    Attributes:
        source: Where the facts are from.
        forms: Ways of asking that both runs have.
        table: int64 [4, 4], facts by state in the first run and in the second, chance included.
        without_evidence: Facts that could not be readable only: they were not asked with evidence.
        said: Facts that the first run said.
        shares: float64 [4], shares of these that the second run says, has out of reach, reads only,
            has lost; chance taken off. NaN where the first run said none.
        draws: float64 [draws, 4], the same resampled.
    """

    source: str
    forms: tuple[str, ...]
    table: NDArray[np.int64]
    without_evidence: int
    said: int
    shares: FloatArray
    draws: FloatArray

    def interval(self, state: str) -> Interval:
        """The 95 % interval of a state's share."""
        return percentile_interval(self.draws[:, STATES.index(state)])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, for JSON."""
        known = self.said >= FEWEST
        return {
            "source": self.source,
            "forms": list(self.forms),
            "states": list(STATES),
            "table": self.table.tolist(),
            "facts": int(self.table.sum()),
            "without_evidence": self.without_evidence,
            "said_by_dense": self.said,
            "shares": {s: float(self.shares[i]) for i, s in enumerate(STATES)} if known else None,
            "intervals": {s: list(self.interval(s)) for s in STATES} if known else None,
        }

    def rows(self) -> list[list[str]]:
        """The table as text, its header first."""
        return [
            [f"{self.source}: dense", *STATES, "in all"],
            *(
                [state, *map(str, row), str(row.sum())]
                for state, row in zip(STATES, self.table, strict=True)
            ),
        ]

    def to_text(self) -> str:
        """Table and sentence for a terminal."""
        header, *rows = self.rows()
        return "\n".join([render_table(header, rows), *self.remarks()])

    def remarks(self) -> list[str]:
        """The sentence, and what bounds it."""
        lines = [self.sentence()]
        missing = [form for form in FORMS if form not in self.forms]
        if missing:
            lines.append(f"Not asked: {', '.join(missing)}.")
        if self.without_evidence and "read" in self.forms:
            lines.append(
                "Facts that were not asked with evidence, and cannot be readable only:"
                f" {self.without_evidence} of {self.table.sum()}."
            )
        return lines

    def sentence(self) -> str:
        """What became of the facts that dense said."""
        if not self.said:
            return "Dense says none of these facts, so none can be lost."
        if self.said < FEWEST:
            return f"Dense says {self.said} of these facts: too few for shares."
        parts = [
            f"{name} {percent(float(share))} {interval(self.interval(name), shares=True)}"
            for name, share in zip(STATES, self.shares, strict=True)
        ]
        return (
            f"Of the {self.said} facts that dense says: {', '.join(parts)} "
            "(95 % intervals; right choices by chance taken off)."
        )


def recall_of(
    source: str,
    dense: Mapping[str, Asked],
    compressed: Mapping[str, Asked],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Recall:
    """Compare two runs' facts.

    Choosing is right by chance in a quarter of the cases. Of the facts that dense said and the
    model neither says, reaches by trying nor says once shown how, r are chosen rightly and w
    wrongly: about max(0, r - w / 3) are recognised. The rest of r is readable only or lost in the
    proportion of the w. Draws are Dirichlet(counts + 1/2) over these groups.

    Args:
        source: Where the facts are from.
        dense: Answers of the first run by fact.
        compressed: Of the second, to the same facts.
        resamples: Number of draws.
        seed: Of the draws.

    Raises:
        ValueError: The facts differ.
    """
    if dense.keys() != compressed.keys():
        raise ValueError("the runs answered other facts")
    table = np.zeros((4, 4), dtype=np.int64)
    for fact, asked in dense.items():
        before, after = state_of(asked), state_of(compressed[fact])
        table[STATES.index(before), STATES.index(after)] += 1
    said = [compressed[fact] for fact, asked in dense.items() if asked["say"]]
    counts = np.bincount([_group(asked) for asked in said], minlength=5).astype(np.float64)
    chance = np.random.default_rng(seed)
    with np.errstate(invalid="ignore"):
        shares = _corrected(counts / counts.sum())
    return Recall(
        source=source,
        forms=tuple(form for form in FORMS if any(form in asked for asked in dense.values())),
        table=table,
        without_evidence=sum("read" not in asked for asked in dense.values()),
        said=len(said),
        shares=shares,
        draws=_corrected(chance.dirichlet(counts + _PRIOR, size=resamples)),
    )


def _group(asked: Asked) -> int:
    """Said; out of reach for sure; else chosen; else readable only; else lost."""
    if asked["say"]:
        return 0
    if asked.get("try") or asked.get("shown"):
        return 1
    if asked.get("choose"):
        return 2
    return 3 if asked.get("read") else 4


def _corrected(groups: FloatArray) -> FloatArray:
    """Shares of the four states from shares [..., 5] of the groups of `_group`."""
    said, tried, chosen, readable, lost = np.moveaxis(groups, -1, 0)
    wrong = readable + lost
    recognised = np.maximum(0.0, chosen - wrong / (_CHOICES - 1))
    by_chance = chosen - recognised  # 0 where nothing was chosen wrongly
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(wrong > 0, readable / wrong, 0.0)
    return np.stack(
        [said, tried + recognised, readable + part * by_chance, lost + (1 - part) * by_chance],
        axis=-1,
    )


def compare_recall(
    dense: Run, compressed: Run, *, tasks: Sequence[str] | None = None, rule: Rule | None = None
) -> tuple[list[Recall], list[str]]:
    """Compare two runs on the facts that both were asked.

    Args:
        dense: The reference.
        compressed: The other.
        tasks: Only these; all by default.
        rule: Resamples and seed.

    Returns:
        One comparison per source of facts, and why there is none of another.
    """
    rule = rule or Rule()
    found, notes = [], []
    for source, prefix in SETS.items():
        both = [
            form
            for form in FORMS
            if prefix + form in dense.tasks
            and prefix + form in compressed.tasks
            and (tasks is None or prefix + form in tasks)
        ]
        if "say" not in both or len(both) < 2:
            continue
        pairs = {
            form: (dense.tasks[prefix + form], compressed.tasks[prefix + form]) for form in both
        }
        answers: tuple[dict[str, dict[str, bool]], ...] = ({}, {})
        problems: list[str] = []
        for form, files in pairs.items():
            problems += _fill(prefix + form, form, files, answers)
        if problems:
            notes.append(f"recall of {source} is not compared: {'; '.join(problems)}")
            continue
        needed = [form for form in both if form != "read"]  # limits can differ by task
        kept = [fact for fact, asked in answers[0].items() if all(f in asked for f in needed)]
        if not kept:
            notes.append(f"recall of {source} is not compared: no fact was asked in every form")
            continue
        found.append(
            recall_of(
                source,
                {fact: answers[0][fact] for fact in kept},
                {fact: answers[1][fact] for fact in kept},
                resamples=rule.resamples,
                seed=rule.seed,
            )
        )
    return found, notes


def _fill(
    task: str,
    form: str,
    files: tuple[ResultsFile, ResultsFile],
    answers: tuple[dict[str, dict[str, bool]], ...],
) -> list[str]:
    """Add one form's answers; returns why they cannot be compared."""
    problems = visible_differences(task, *files)
    if form == "try":
        seeds = [[file.mapping("config").get(name) for name in _SEEDS] for file in files]
        if seeds[0] != seeds[1]:
            problems.append(f"{task}: seeds {seeds[0]} against {seeds[1]}")
    try:
        paired = pair_items(task, *files)
    except (MismatchError, ResultsError, SamplesError) as error:
        return [*problems, *str(error).splitlines()]
    metric = FORMS[form]
    pairs = next(iter(paired.values()))
    if any(metric not in sample.values for pair in pairs for sample in pair):
        # Not wrong but unscored: read as wrong, every fact would be lost.
        return [*problems, f"{task}: no {metric}: made with --predict_only?"]
    for pair in pairs:
        for side, sample in zip(answers, pair, strict=True):
            side.setdefault(str(sample.cluster), {})[form] = sample.values[metric] == 1.0
    return problems
