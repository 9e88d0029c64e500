# SPDX-License-Identifier: Apache-2.0
"""Fixtures and helpers of the tests of the lm-eval side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.lmkick_plugin.run_files import (
    pair,
    paper,
    paper_evidence,
    paper_report,
    real_runs,
    write,
)

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["pair", "paper", "paper_evidence", "paper_report", "real_runs", "write"]

SENTENCE = "The quick brown fox jumps over the lazy dog. A B C D. "


def make_requests(
    kind: str, arguments: Sequence[tuple[Any, ...]], task: str = "task"
) -> list[Instance]:
    """One lm-eval request for each tuple of arguments, each of a document of its own."""
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=0, metadata=(task, number, 1))
        for number, given in enumerate(arguments)
    ]


@pytest.fixture(scope="session")
def calibration_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Text for the tiny tokenizer, one token per character."""
    import random

    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    words = [*SENTENCE.split(), "what", "is", "this?"]
    draw = random.Random(0)
    lines = [" ".join(draw.choices(words, k=120)) for _ in range(40)]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading weights fails."""
    import transformers

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
