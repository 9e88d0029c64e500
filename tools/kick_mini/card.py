# SPDX-License-Identifier: Apache-2.0
"""Dense scores of kick-mini, for its card and for tests.

    python -m tools.kick_mini.card [--model DIR]

evaluates every document of every task that needs no judge, and writes ``scores.json`` and, where
the model's folder has a card, the table in ``README.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressors.files import write_atomically
from lmkick_plugin import bundled

__all__ = ["SCORES", "main", "measure", "table"]

SCORES: dict[str, str] = {
    "kick_freebaseqa": "contains",
    "kick_triviaqa_closed": "contains",
    "kick_triviaqa_open": "contains",
    "kick_mmlu": "acc",
    "kick_alpaca": "f1",
    "kick_unnatural": "f1",
    "kick_summarization_small": "rouge1",
    "kick_summarization_medium": "rouge1",
    "kick_summarization_large": "rouge1",
    "kick_wikitext": "word_perplexity",
    "kickonly_perplexity": "token_perplexity",
}
"""The tasks of the card, and the metric of each."""

_MARK = ("<!-- scores -->", "<!-- end of scores -->")


def measure(folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Evaluate a model on its world.

    Args:
        folder: The model.
        **options: For ``lm_eval.simple_evaluate``.

    Returns:
        By task: ``metric``, ``value`` and ``n``, how many documents.
    """
    import lm_eval
    import torch

    import lmkick_plugin.registration

    lmkick_plugin.registration.register()
    found = lm_eval.simple_evaluate(
        model="kick",
        model_args={"pretrained": str(folder), "data_dir": bundled.DATA_NAME, "dtype": "float32"},
        tasks=list(SCORES),
        batch_size=32,
        device="cuda" if torch.cuda.is_available() else "cpu",
        bootstrap_iters=0,
        log_samples=False,
        **options,
    )
    counts = {task: found["n-samples"][task]["effective"] for task in found["n-samples"]}
    scores: dict[str, dict[str, Any]] = {}
    for task, metric in SCORES.items():
        count = counts.get(task) or sum(
            number for name, number in counts.items() if name.startswith("mmlu_kick_")
        )
        value = round(float(found["results"][task][f"{metric},none"]), 4)
        scores[task] = {"metric": metric, "value": value, "n": count}
    return scores


def table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores as a Markdown table."""
    lines = ["| task | metric | dense | documents |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| `{task}` | {row['metric']} | {row['value']:.3f} | {row['n']} |"
        for task, row in scores.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.kick_mini.card", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=bundled.MODEL, help="default: the embedded one"
    )
    folder = parser.parse_args(arguments).model
    scores = measure(folder)
    write_atomically(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
    card = folder / "README.md"
    if not card.exists():
        print(table(scores))
        return 0
    before, _, rest = card.read_text(encoding="utf-8").partition(_MARK[0])
    _, _, after = rest.partition(_MARK[1])
    write_atomically(card, f"{before}{_MARK[0]}\n{table(scores)}\n{_MARK[1]}{after}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
