# SPDX-License-Identifier: Apache-2.0
"""Published findings that a user's own runs can confirm or refute.

Each claim is a pure function of the evidence and a model. *confirmed* and *refuted* need an
interval that lies wholly on one side; *open* is one that does not, and what fewer than 20
independent items give; *not tested* names the runs that are missing. A claim of k parts is refuted
where one part fails at 1 - .05/k.

References:
    Jaiswal et al., arXiv:2310.01382 (claims 1 to 12); Khanal and Capone, arXiv:2409.11233 (13, 14);
    "The Benchmark Illusion", arXiv:2606.17609 (15, 16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lmkick_plugin.report.claims.calibration import own_text_beats_c4, samples_help_sparsegpt
from lmkick_plugin.report.claims.divergence import divergence_ranks_better
from lmkick_plugin.report.claims.findings import Finding, Outcome, Part
from lmkick_plugin.report.claims.generation import long_stories_fall_more, unique_words_fall
from lmkick_plugin.report.claims.knowledge import (
    categories_differ,
    eight_bits_match,
    freebaseqa_before_mmlu,
    knowledge_before_perplexity,
    magnitude_is_enough,
    open_book_outlasts_closed,
    patterns_fail,
)
from lmkick_plugin.report.claims.quantities import KNOWLEDGE
from lmkick_plugin.report.claims.recall import most_are_out_of_reach, quantization_loses_fewer
from lmkick_plugin.report.claims.sizes import (
    large_sparse_against_small_dense,
    quantization_keeps_more,
)
from lmkick_plugin.report.evidence import Evidence
from lmkick_plugin.report.models import Model

__all__ = ["CLAIMS", "Claim", "Finding", "Outcome", "Part", "evaluate"]


@dataclass(frozen=True)
class Claim:
    """A published finding.

    Attributes:
        number: Of the protocol's list.
        statement: What it says.
        test: What decides it for a model.
    """

    number: int
    statement: str
    test: Callable[[Evidence, Model], Finding]


CLAIMS: Sequence[Claim] = (
    Claim(
        1,
        "At some sparsity of at most 35 % every pruner fails on FreebaseQA while perplexity stays"
        " within 1.25 times the dense model's.",
        knowledge_before_perplexity,
    ),
    Claim(2, "Every N:M pattern fails on FreebaseQA, MMLU and TriviaQA.", patterns_fail),
    Claim(3, "8-bit quantization matches on MMLU and open-book TriviaQA.", eight_bits_match),
    Claim(
        4,
        "The largest matching sparsity is higher with the book open than closed.",
        open_book_outlasts_closed,
    ),
    Claim(
        5,
        "At 40 % sparsity and more FreebaseQA falls relatively more than MMLU (Wanda).",
        freebaseqa_before_mmlu,
    ),
    Claim(
        6,
        "Inside the matching range magnitude is not worse than Wanda or SparseGPT.",
        magnitude_is_enough,
    ),
    Claim(7, "Humanities and social sciences fall more than STEM.", categories_differ),
    Claim(
        8,
        "A large sparse model is no better than a small dense one with as many non-zero"
        " parameters.",
        large_sparse_against_small_dense,
    ),
    Claim(
        9,
        "SparseGPT improves with the number of calibration samples, Wanda hardly does.",
        samples_help_sparsegpt,
    ),
    Claim(10, "Unique words fall with sparsity.", unique_words_fall),
    Claim(
        11,
        "Long stories fall more than short ones, on stories that fit the context.",
        long_stories_fall_more,
    ),
    Claim(12, "Quantization keeps more than pruning at equal bytes.", quantization_keeps_more),
    Claim(
        13,
        "Divergence ranks compressions closer to their task losses than perplexity does.",
        divergence_ranks_better,
    ),
    Claim(14, "Calibration on a task's own text beats C4 on that task.", own_text_beats_c4),
    Claim(
        15,
        "Of the facts no longer said at the highest sparsity, most are out of reach, not lost.",
        most_are_out_of_reach,
    ),
    Claim(
        16,
        "At equal loss of said facts, quantization loses fewer for good than pruning.",
        quantization_loses_fewer,
    ),
)


def evaluate(evidence: Evidence, model: Model) -> list[tuple[Claim, Finding]]:
    """Test every claim on a model's runs.

    Args:
        evidence: What is known.
        model: The model.

    Returns:
        A finding for each claim, in their order.
    """
    empty = sorted(
        {
            task
            for (cell, task, key), pairing in evidence.pairings.items()
            if pairing.statistics.can_have_verdict
            and pairing.statistics.verdict is None
            and not math.isnan(pairing.statistics.dense)
            and key == evidence.keys.get(task)
            and any(cell == other.name for other in model.cells)
        }
    )
    knowledge = {task for cell in model.cells for task in evidence.knowledge(cell)}
    found = []
    for claim in CLAIMS:
        one = claim.test(evidence, model)
        named = [
            task
            for task in empty
            if task in one.reason or (task in knowledge and KNOWLEDGE in one.reason)
        ]
        if named and one.outcome == "not tested":
            added = f" (no evidence where dense is not above its floor: {', '.join(named)})"
            one = replace(one, reason=one.reason + added)
        found.append((claim, one))
    return found
