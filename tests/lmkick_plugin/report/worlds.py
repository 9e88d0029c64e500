# SPDX-License-Identifier: Apache-2.0
"""Result folders with known scores, in lm-eval's own schema: a benchmark's whole grid in a second.

An item has a difficulty that is the same in every run, and a run answers the easiest ones: scores
are exact, and runs are paired as real ones are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lmkick_plugin.run_files import Writer, text_item

SUBJECTS = {
    "stem": ("astronomy", "college_physics"),
    "humanities": ("philosophy", "world_religions"),
    "social_sciences": ("econometrics", "sociology"),
    "other": ("nutrition", "virology"),
}
GROUPS = {
    "kick_mmlu": [f"mmlu_kick_{category}" for category in SUBJECTS],
    **{
        f"mmlu_kick_{category}": [f"mmlu_kick_{subject}" for subject in subjects]
        for category, subjects in SUBJECTS.items()
    },
}
DIRECTIONS = dict.fromkeys(("contains", "rougeL", "unique_words", "judge_score"), True)


def quiz(metric: str, share: float, *, n: int = 200) -> list[dict[str, Any]]:
    """Items of which the easiest are right: a score of ``round(share * n) / n``."""
    right = round(share * n)
    return [
        text_item(i, "yes" if i < right else "no", {metric: float(i < right)}) for i in range(n)
    ]


def graded(
    values: Mapping[str, float], *, n: int = 60, spread: float = 0.2
) -> list[dict[str, Any]]:
    """Items whose mean is each value, spread evenly about it."""
    items = []
    for i in range(n):
        factor = 1 + spread * ((i * 37 % n) - (n - 1) / 2) / n
        items.append(text_item(i, f"text {i}", {m: v * factor for m, v in values.items()}))
    return items


def windows(perplexity: float, *, n: int = 60) -> list[dict[str, Any]]:
    """The one item of ``kickonly_perplexity``, with the losses of its windows."""
    losses = [math.log(perplexity) + 0.1 * ((i * 17 % n) - (n - 1) / 2) / n for i in range(n)]
    item = text_item(0, "", {"token_perplexity": {"window_losses": losses}})
    return [item]


def distances(jsd: float, agreement: float, *, n: int = 40) -> list[dict[str, Any]]:
    """Items of ``kickonly_divergence``: sums over positions, and how many there were."""
    items = []
    for i in range(n):
        factor = 1 + 0.1 * ((i * 7 % n) - (n - 1) / 2) / n
        items.append(
            text_item(
                i,
                "",
                {"jsd": [jsd * factor * 50, 50.0], "top1_agreement": [agreement * 50, 50.0]},
            )
        )
    return items


def mmlu(shares: Mapping[str, float], *, n: int = 50) -> dict[str, list[dict[str, Any]]]:
    """All subjects; the accuracy of each is its category's."""
    return {
        f"mmlu_kick_{subject}": [
            {**item, "acc_greedy": item["acc"], "metrics": ["acc", "acc_greedy"]}
            for item in quiz("acc", shares[category], n=n)
        ]
        for category, subjects in SUBJECTS.items()
        for subject in subjects
    }


def record(compressor: str = "none", *, base: str = "big-7b", **fields: Any) -> dict[str, Any]:
    """A ``kick`` record with sizes that follow from the recipe."""
    sparsity, bits = fields.get("requested_sparsity") or 0.0, fields.get("num_bits")
    total = fields.pop("total", 1_000_000)
    share = (bits or 16) / 16 * (1 - sparsity) + (1 / 16 if sparsity and not bits else 0.0)
    return {
        "compressor": compressor,
        "pattern": "unstructured" if sparsity else None,
        "requested_sparsity": None,
        "achieved_sparsity": sparsity or None,
        "num_bits": None,
        "group_size": 128 if bits else None,
        "calibration": "c4" if compressor in ("wanda", "sparsegpt", "gptq") else None,
        "nsamples": 128 if compressor in ("wanda", "sparsegpt", "gptq") else None,
        "seqlen": 2048 if compressor in ("wanda", "sparsegpt", "gptq") else None,
        "seed": 0,
        "base_model": base,
        "weights_sha256": f"{compressor}-{sparsity}-{bits}".encode().hex().ljust(64, "0"),
        "total_parameters": total,
        "nonzero_parameters": round(total * (1 - sparsity)),
        "bytes_dense": 2 * total,
        "bytes_best_format": round(2 * total * share),
        "dtype": "bfloat16",
        "truncated_prompts": {},
        "versions": {"lmkick": "0.1.0", "lm_eval": "0.4.13", "torch": "2.13.0"},
        **fields,
    }


def evaluate(
    write: Writer,
    name: str,
    kick: Mapping[str, Any] | None,
    *,
    facts: float = 0.65,
    categories: Sequence[float] = (0.47, 0.47, 0.47, 0.47),
    closed: float = 0.6,
    open_book: float = 0.75,
    perplexity: float = 5.0,
    jsd: float = 0.0,
    words: float = 80.0,
    short: float = 0.3,
    long: float = 0.25,
    judged: bool = False,
    stamp: str = "2026-01-02T03-04-05.678901",
    **top: Any,
) -> Path:
    """Write one run with every task."""
    shares = dict(zip(SUBJECTS, categories, strict=True))
    tasks: dict[str, list[dict[str, Any]]] = {
        "kick_freebaseqa": quiz("contains", facts),
        "kick_triviaqa_closed": quiz("exact_match", closed),
        "kick_triviaqa_open": quiz("exact_match", open_book),
        "kickonly_perplexity": windows(perplexity),
        "kickonly_divergence": distances(jsd, 1 - jsd),
        "kick_instruct": graded(
            {"unique_words": words} | ({"judge_score": words / 10} if judged else {})
        ),
        "kick_summarization_small": graded({"rougeL": short}, n=200),
        "kick_summarization_large": graded({"rougeL": long}, n=200),
        **mmlu(shares),
    }
    accuracies = {f"mmlu_kick_{c}": round(50 * share) / 50 for c, share in shares.items()}
    scores = {
        "kickonly_perplexity": {"token_perplexity,none": _exp_mean(tasks["kickonly_perplexity"])},
        "kickonly_divergence": {
            "jsd,none": _ratio(tasks["kickonly_divergence"], "jsd"),
            "top1_agreement,none": _ratio(tasks["kickonly_divergence"], "top1_agreement"),
        },
        **{group: {"acc,none": value} for group, value in accuracies.items()},
        "kick_mmlu": {"acc,none": sum(accuracies.values()) / len(accuracies)},
    }
    return write(
        name,
        tasks,
        record=kick,
        groups=GROUPS,
        scores=scores,
        directions=DIRECTIONS,
        stamp=stamp,
        **{"model_name": (kick or {}).get("base_model", name), **top},
    )


def _exp_mean(items: Sequence[Mapping[str, Any]]) -> float:
    losses = [x for item in items for x in item["token_perplexity"]["window_losses"]]
    return math.exp(sum(losses) / len(losses))


def _ratio(items: Sequence[Mapping[str, Any]], metric: str) -> float:
    return sum(i[metric][0] for i in items) / sum(i[metric][1] for i in items)


# Roughly the paper's Table 3 (Vicuna-7B): share kept of FreebaseQA, of MMLU, of the closed and the
# open book, and how perplexity grows.
PAPER = {
    "magnitude": {
        0.1: (0.99, 0.99, 0.99, 1.0, 1.02),
        0.3: (0.8, 0.90, 0.8, 0.98, 1.14),
        0.5: (0.21, 0.4, 0.3, 0.6, 2.9),
    },
    "wanda": {
        0.1: (0.99, 0.99, 0.99, 1.0, 1.01),
        0.3: (0.82, 0.97, 0.8, 0.99, 1.07),
        0.5: (0.5, 0.82, 0.6, 0.85, 1.25),
    },
    "sparsegpt": {
        0.1: (0.99, 1.0, 0.99, 1.0, 1.01),
        0.3: (0.81, 0.93, 0.8, 0.98, 1.08),
        0.5: (0.58, 0.66, 0.62, 0.86, 1.27),
    },
}


def kept(
    facts: float, reasoning: float, closed: float, reading: float, growth: float
) -> dict[str, Any]:
    """Scores that keep these shares of the dense run's; STEM keeps more than other subjects."""
    loss = 1 - reasoning
    categories = [0.48 * (1 - share * loss) for share in (0.5, 1.3, 1.2, 1.0)]
    return {
        "facts": 0.65 * facts,
        "categories": categories,
        "closed": 0.6 * closed,
        "open_book": 0.75 * reading,
        "perplexity": 5.0 * growth,
        "jsd": 0.5 * (1 - facts),
        "words": 80.0 * reasoning,
        "short": 0.3 * (0.5 + 0.5 * reading),
        "long": 0.25 * (0.2 + 0.8 * reasoning),
    }


def paper_like(write: Writer, folder: str = "grid", *, judged: bool = False) -> Path:
    """A grid like the paper's, one folder per cell, and a smaller model's dense run."""
    evaluate(write, f"{folder}/dense", record(), categories=[0.48] * 4, judged=judged)
    small = record(base="small-3b", total=500_000)
    evaluate(write, f"{folder}/small", small, judged=judged, **kept(0.8, 0.95, 0.8, 0.9, 1.3))
    number = 10
    for method, levels in PAPER.items():
        for sparsity, shares in levels.items():
            number += 1
            evaluate(
                write,
                f"{folder}/{method}-{sparsity}",
                record(method, requested_sparsity=sparsity),
                judged=judged,
                stamp=f"2026-01-02T03-{number}-05.678901",
                **kept(*shares),
            )
        for pattern in ("2:4", "4:8") if method == "wanda" else ("2:4",):
            number += 1
            evaluate(
                write,
                f"{folder}/{method}-{pattern.replace(':', 'of')}",
                record(method, requested_sparsity=0.5, pattern=pattern),
                judged=judged,
                stamp=f"2026-01-02T03-{number}-05.678901",
                **kept(0.4, 0.6, 0.4, 0.7, 2.0),
            )
    for method in ("gptq", "rtn"):
        for bits, share in ((8, 1.0), (4, 0.9)):
            number += 1
            evaluate(
                write,
                f"{folder}/{method}-{bits}",
                record(method, num_bits=bits),
                judged=judged,
                stamp=f"2026-01-02T03-{number}-05.678901",
                **kept(share, share, share, share, 2 - share),
            )
    return write.folder / folder
