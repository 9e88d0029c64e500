# SPDX-License-Identifier: Apache-2.0
"""Claims on what is lost first: knowledge and its categories, and what perplexity does not show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmkick_plugin.report.claims.findings import (
    Finding,
    Part,
    Quantity,
    any_of,
    at_least,
    finding,
    missing,
    not_tested,
)
from lmkick_plugin.report.claims.quantities import (
    CLOSED,
    CONTROLS,
    FREEBASEQA,
    MMLU,
    OPEN,
    PAPER_PRUNERS,
    PERPLEXITY,
    by_level,
    mean_of,
    recovery_of,
    unstructured,
    verdict_part,
)
from lmkick_plugin.report.curves import level_name
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Cell, Model
from lmkick_plugin.report.verdict import matches

__all__ = [
    "categories_differ",
    "eight_bits_match",
    "freebaseqa_before_mmlu",
    "knowledge_before_perplexity",
    "magnitude_is_enough",
    "open_book_outlasts_closed",
    "patterns_fail",
]

_LEAST_KEPT = 1 / 1.25  # of dense token perplexity over compressed, in claim 1
_MOST = 0.35  # sparsity of claim 1
_LEAST = 0.40  # sparsity of claim 5


def knowledge_before_perplexity(evidence: Evidence, model: Model) -> Finding:
    """Claim 1: at some s <= 35 % every pruner fails on FreebaseQA, perplexity stays low.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding. A level at which one of the paper's pruners was not run can refute nothing and
        confirm nothing, and is left out where another level is complete.
    """
    needs = (
        f"needs {', '.join(PAPER_PRUNERS)} at one sparsity of at most 35 %, with {FREEBASEQA} and"
        f" {PERPLEXITY}"
    )
    levels = {s: cells for s, cells in by_level(unstructured(model)).items() if s <= _MOST + 1e-9}
    by_s: dict[float, list[Part]] = {}
    for s, cells in levels.items():
        parts = []
        for cell in cells:
            parts.append(verdict_part(evidence, cell, FREEBASEQA, "fail"))
            kept = recovery_of(evidence, cell, PERPLEXITY)
            what = f"dense perplexity over that of {cell.label}"
            if kept is None:
                parts.append(missing(f"{what} is missing"))
            else:
                room = at_least(what, kept, cells=[cell], bound=_LEAST_KEPT, or_equal=True)
                parts.append(room)
        absent = [m for m in PAPER_PRUNERS if m not in {cell.compressor for cell in cells}]
        parts += [missing(f"{method} at {100 * s:g} % is missing") for method in absent]
        by_s[s] = parts
    complete = {s: p for s, p in by_s.items() if all(x.outcome != "not tested" for x in p)}
    by_s = complete or by_s
    k = len(by_s)  # any of so many levels would do
    found = {
        s: finding([replace(p, outcome=p.among(k, "confirmed")) for p in parts], needs=needs)
        for s, parts in by_s.items()
    }
    outcome = any_of(one.outcome for one in found.values())
    if outcome == "not tested":
        return not_tested(needs, [part for one in found.values() for part in one.parts])
    chosen = next(s for s, one in found.items() if one.outcome == outcome)
    names = ", ".join(f"{100 * s:g} %" for s in by_s)
    tried = "" if k == 1 else f", one of {k} levels tried ({names})"
    return Finding(
        outcome=outcome,
        reason=f"At {100 * chosen:g} %{tried}: {found[chosen].reason}",
        parts=tuple(part for one in found.values() for part in one.parts),
        deciding=found[chosen].deciding,
    )


def patterns_fail(evidence: Evidence, model: Model) -> Finding:
    """Claim 2: every N:M pattern with every method fails on FreebaseQA, MMLU and TriviaQA."""
    cells = [c for c in model.cells if c.pruned and c.pattern and c.compressor not in CONTROLS]
    tasks = (FREEBASEQA, MMLU, CLOSED, OPEN)
    parts = [verdict_part(evidence, cell, task, "fail") for cell in cells for task in tasks]
    return finding(parts, needs=f"needs N:M runs with {', '.join(tasks)}")


def eight_bits_match(evidence: Evidence, model: Model) -> Finding:
    """Claim 3: 8-bit quantization matches on MMLU and open-book TriviaQA."""
    cells = [cell for cell in model.cells if cell.quantized and cell.bits == 8]
    parts = [verdict_part(evidence, cell, task, "match") for cell in cells for task in (MMLU, OPEN)]
    return finding(parts, needs=f"needs an 8-bit run with {MMLU} and {OPEN}")


def open_book_outlasts_closed(evidence: Evidence, model: Model) -> Finding:
    """Claim 4: the largest matching sparsity is higher open-book than closed-book."""
    parts = []
    for method in PAPER_PRUNERS:
        cells = unstructured(model, methods=[method])
        both = [c for c in cells if all(recovery_of(evidence, c, t) for t in (CLOSED, OPEN))]
        if not both:
            continue
        levels = [
            _largest_matching(evidence, both, OPEN),
            _largest_matching(evidence, both, CLOSED),
        ]
        gap = levels[0] - levels[1]
        parts.append(
            at_least(
                f"largest matching sparsity, open minus closed book, {method}", gap, cells=both
            )
        )
    return finding(parts, needs=f"needs pruned runs with {CLOSED} and {OPEN}")


def _largest_matching(evidence: Evidence, cells: list[Cell], task: str) -> Quantity:
    """The largest sparsity whose score is within the tolerance; 0, the dense model, always is."""
    kept = 1 - evidence.settings.tolerance
    value, draws, clusters = 0.0, np.zeros(1), []
    for s, level in by_level(cells).items():
        pairings = [p for p in (evidence.pairing(cell, task) for cell in level) if p is not None]
        if not pairings:
            continue
        point = all(
            matches(
                p.statistics.dense,
                p.statistics.compressed,
                tolerance=evidence.settings.tolerance,
            )
            for p in pairings
        )
        clusters += [p.statistics.clusters for p in pairings]
        value = s if point else value
        drawn = np.all([p.draws >= kept * p.dense_draws for p in pairings], axis=0)
        draws = np.where(drawn, s, draws)
    return Quantity(value, np.asarray(draws, dtype=np.float64), min(clusters, default=None))


def freebaseqa_before_mmlu(evidence: Evidence, model: Model) -> Finding:
    """Claim 5: at 40 % and more FreebaseQA falls relatively more than MMLU (Wanda)."""
    parts = []
    for cell in unstructured(model, methods=["wanda"]):
        if (cell.sparsity or 0) < _LEAST - 1e-9:
            continue
        mmlu, facts = (recovery_of(evidence, cell, task) for task in (MMLU, FREEBASEQA))
        if mmlu is not None and facts is not None:
            gap = mmlu - facts
            what = f"recovery of {MMLU} minus that of {FREEBASEQA}, {cell.label}"
            parts.append(at_least(what, gap, cells=[cell]))
    return finding(parts, needs=f"needs wanda at 40 % or more with {FREEBASEQA} and {MMLU}")


def magnitude_is_enough(evidence: Evidence, model: Model) -> Finding:
    """Claim 6: inside the matching range magnitude is not worse than Wanda or SparseGPT.

    Args:
        evidence: What is known.
        model: The model in question.

    Returns:
        The finding. The range of a task is where Wanda or SparseGPT scores within the tolerance;
        *not worse* is: by less than the tolerance of the dense score.
    """
    parts = []
    for task in (FREEBASEQA, MMLU, CLOSED, OPEN):
        for s, cells in by_level(unstructured(model)).items():
            plain = [cell for cell in cells if cell.compressor == "magnitude"]
            for other in (cell for cell in cells if cell.compressor != "magnitude"):
                theirs = recovery_of(evidence, other, task)
                if theirs is None or theirs.value < 1 - evidence.settings.tolerance:
                    continue
                for cell in plain:
                    ours = recovery_of(evidence, cell, task)
                    if ours is None:
                        continue
                    gap = ours - theirs
                    what = f"{task} at {100 * s:g} %: magnitude minus {other.compressor}"
                    parts.append(
                        at_least(
                            what,
                            gap,
                            cells=[cell, other],
                            bound=-evidence.settings.tolerance,
                            or_equal=True,
                        )
                    )
    return finding(
        parts,
        needs="needs magnitude beside wanda or sparsegpt at a sparsity where these match",
    )


def categories_differ(evidence: Evidence, model: Model) -> Finding:
    """Claim 7: humanities and social sciences fall more than STEM."""
    stem = "mmlu_kick_stem"
    parts = []
    for method in PAPER_PRUNERS:
        cells = unstructured(model, methods=[method])
        for category in ("humanities", "social_sciences"):
            gaps, used = [], []
            for cell in cells:
                first = recovery_of(evidence, cell, stem)
                second = recovery_of(evidence, cell, f"mmlu_kick_{category}")
                if first is not None and second is not None:
                    gaps.append(first - second)
                    used.append(cell)
            if gaps:
                mean = mean_of(gaps)
                levels = ", ".join(level_name(cell) for cell in used)
                what = f"recovery of STEM minus {category.replace('_', ' ')}, {method} ({levels})"
                parts.append(at_least(what, mean, cells=used))
    return finding(parts, needs=f"needs pruned runs with {MMLU} by category")
