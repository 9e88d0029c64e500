# SPDX-License-Identifier: Apache-2.0
"""MMLU: questions with four choices from 57 subjects.

References:
    Hendrycks et al., "Measuring Massive Multitask Language Understanding", arXiv:2009.03300.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lmkick_plugin.data.columns import INTEGER, TEXT, TEXTS, positive, table
from lmkick_plugin.data.sources import DataError, HubFiles, Origin, Source, locate

__all__ = ["DEV", "LETTERS", "TEST", "load", "load_released"]

LETTERS = "ABCD"
_FIELDS = ("question", "subject", "choices", "answer")
TEST = Source("mmlu/test.jsonl", _FIELDS, HubFiles("cais/mmlu", "all/test-*"))
DEV = Source("mmlu/dev.jsonl", _FIELDS, HubFiles("cais/mmlu", "all/dev-*"))


def load(*, subject: str, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Test questions of one subject, and its dev questions as examples."""
    return {
        "test": _subject(locate(TEST, data_dir), subject),
        "dev": _subject(locate(DEV, data_dir), subject),
    }


def _subject(origin: Origin, subject: str) -> Any:
    tables = _subjects(origin)
    if subject not in tables:
        raise DataError(f"{origin}: no row has {subject!r} in its field 'subject'")
    return tables[subject]


@lru_cache(maxsize=4)
def _subjects(origin: Origin) -> dict[str, Any]:
    """Tables of all subjects; the file is read once for 57 tasks."""
    docs: dict[str, list[dict[str, Any]]] = {}
    for where, row in origin.rows():
        choices, answer = row["choices"], row["answer"]
        if not isinstance(choices, list) or len(choices) != len(LETTERS):
            raise DataError(
                f"{where}: field 'choices' must be a list of four texts, not {choices!r:.60}"
            )
        if isinstance(answer, bool) or answer not in range(len(LETTERS)):
            raise DataError(f"{where}: field 'answer' must be 0, 1, 2 or 3, not {answer!r}")
        docs.setdefault(row["subject"], []).append({field: row[field] for field in _FIELDS})
    return {
        subject: table(rows, question=TEXT, subject=TEXT, choices=TEXTS, answer=INTEGER)
        for subject, rows in docs.items()
    }


def load_released(
    *, subject: str, data_dir: str | None = None, prompt_chars: object = 8_192, **_: Any
) -> dict[str, Any]:
    """Whole prompts of one subject with up to five shots, and the gold letters.

    Args:
        subject: as in the data.
        data_dir: the data directory.
        prompt_chars: shots are dropped, the last first, until the prompt is not longer.
        **_: other metadata.

    """
    limit = positive("prompt_chars", prompt_chars)
    splits = load(subject=subject, data_dir=data_dir)
    # The released code puts a space before each word of the subject, hence two before the first.
    head = (
        "The following are multiple choice questions (with answers) about "
        f" {subject.replace('_', ' ')}.\n\n"
    )
    shots = [f"{_ask(row)} {LETTERS[row['answer']]}\n\n" for row in splits["dev"]][:5]
    docs = []
    for row in splits["test"]:
        end = _ask(row)
        kept = len(shots)
        while kept and len(head) + sum(map(len, shots[:kept])) + len(end) > limit:
            kept -= 1
        prompt = head + "".join(shots[:kept]) + end
        docs.append({"prompt": prompt, "answer": LETTERS[row["answer"]], "shots": kept})
    return {"test": table(docs, prompt=TEXT, answer=TEXT, shots=INTEGER)}


def _ask(row: Mapping[str, Any]) -> str:
    choices = "".join(
        f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True)
    )
    return f"{row['question']}{choices}\nAnswer:"
