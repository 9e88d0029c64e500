# SPDX-License-Identifier: Apache-2.0
"""A data directory in small, and sweeps over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]


def rows(path: Path, found: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the benchmark's layout: a few questions, instructions and lines of text."""
    folder = tmp_path_factory.mktemp("data")
    questions = [
        {
            "Question-ID": str(number),
            "RawQuestion": f"what does the {word} do {number}?",
            "Parses": [{"Answers": [{"AnswersName": [word]}]}],
        }
        for number, word in enumerate(WORDS)
    ]
    rows(folder / "freebase_qa" / "eval.jsonl", questions)
    lines = [" = One = \n", "", *(f" {' '.join(WORDS)} {n} . \n" for n in range(20))]
    rows(folder / "wikitext" / "test.jsonl", [{"text": line} for line in lines])
    orders = [
        {"instruction": f"Say {word}.", "input": "", "output": word} for word in WORDS for _ in "ab"
    ]
    rows(folder / "alpaca" / "train.jsonl", orders)
    return folder


@pytest.fixture
def small_sweep(
    tiny_model_dir: Path, small_data: Path, calibration_file: str, tmp_path: Path
) -> dict[str, Any]:
    """One model, the dense one and two recipes, two tasks: some seconds."""
    wanda = {"compressor": "wanda", "calibration": calibration_file, "nsamples": 2, "seqlen": 32}
    return {
        "models": [str(tiny_model_dir)],
        "tasks": ["kick_freebaseqa", "kickonly_perplexity"],
        "recipes": [{"compressor": "magnitude", "sparsity": 0.5}, {**wanda, "pattern": "2:4"}],
        "data_dir": str(small_data),
        "limit": 3,
        "batch_size": 2,
        "max_gen_toks": 4,
        "device": "cpu",
        "metadata": {"max_window": 64},
        "output": str(tmp_path / "out"),
    }
