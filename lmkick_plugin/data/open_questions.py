# SPDX-License-Identifier: Apache-2.0
"""Open questions: Vicuna-bench (one turn) and MT-bench (two turns), from FastChat.

References:
    Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lmkick_plugin.data.columns import TEXT, TEXTS, table
from lmkick_plugin.data.sources import DataError, Origin, Source, WebFile, locate

__all__ = ["MT_BENCH", "VICUNA_BENCH", "load", "load_turns"]

_FOLDER = (
    "https://raw.githubusercontent.com/lm-sys/FastChat/"
    "0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
)
_FIELDS = ("question_id", "category", "turns")
VICUNA_BENCH = Source(
    "instruct/vicuna_bench.jsonl",
    _FIELDS,
    WebFile(f"{_FOLDER}/vicuna_bench/question.jsonl", rows=80),
)
MT_BENCH = Source(
    "instruct/mt_bench.jsonl", _FIELDS, WebFile(f"{_FOLDER}/mt_bench/question.jsonl", rows=80)
)


def load(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """The questions of Vicuna-bench."""
    return {"test": _questions(locate(VICUNA_BENCH, data_dir))}


@lru_cache(maxsize=2)
def _questions(origin: Origin) -> Any:
    docs = [{**_common(row), "question": _turns(row, where, 1)[0]} for where, row in origin.rows()]
    return table(docs, question_id=TEXT, category=TEXT, question=TEXT)


def load_turns(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Questions of MT-bench, with reference solutions where given."""
    return {"test": _conversations(locate(MT_BENCH, data_dir))}


@lru_cache(maxsize=2)
def _conversations(origin: Origin) -> Any:
    docs = []
    for where, row in origin.rows():
        solutions = row.get("reference") or []
        if not _are_texts(solutions) or len(solutions) not in (0, 2):
            raise DataError(
                f"{where}: field 'reference' must be a list of two texts, or absent, not "
                f"{solutions!r:.60}"
            )
        docs.append({**_common(row), "turns": _turns(row, where, 2), "solutions": solutions})
    return table(docs, question_id=TEXT, category=TEXT, turns=TEXTS, solutions=TEXTS)


def _common(row: Mapping[str, Any]) -> dict[str, str]:
    return {"question_id": str(row["question_id"]), "category": str(row["category"])}


def _turns(row: Mapping[str, Any], where: str, count: int) -> list[str]:
    turns = row["turns"]
    if not _are_texts(turns) or len(turns) != count or not all(turn.strip() for turn in turns):
        wanted = "one text" if count == 1 else f"{count} texts"
        raise DataError(f"{where}: field 'turns' must be a list of {wanted}")
    return list(turns)


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
