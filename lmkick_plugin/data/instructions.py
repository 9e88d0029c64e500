# SPDX-License-Identifier: Apache-2.0
"""Instructions with answers: Alpaca and Unnatural Instructions, split for scoring and calibration.

One part is scored, the other is for calibration. An instruction in both is left out of
the second.

References:
    Taori et al., "Stanford Alpaca", 2023.
    Honovich et al., "Unnatural Instructions", arXiv:2212.09689.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lmkick_plugin.data.columns import TEXT, table
from lmkick_plugin.data.sources import DataError, HubFiles, Origin, Source, locate

__all__ = [
    "ALPACA",
    "UNNATURAL",
    "UNNATURAL_TRAIN",
    "alpaca_training",
    "is_scored",
    "load_alpaca",
    "load_unnatural",
    "prompt",
    "unnatural_training",
]

_FIELDS = ("instruction", "input", "output")
_EVERY = 10


def is_scored(index: int) -> bool:
    """Whether the row of this index (from 0) is scored; others are for calibration."""
    return index % _EVERY == 0


@dataclass(frozen=True)
class _Instances(HubFiles):
    """Rows of Unnatural Instructions' core data, one per instance of an instruction.

    Attributes:
        scored: which part is wanted.
    """

    scored: bool = True

    def read(self, fields: Iterable[str]) -> Iterator[Mapping[str, Any]]:  # noqa: ARG002
        """Yield the rows for scoring or for calibration.

        Raises:
            FetchError: They could not be loaded.
        """
        for index, row in enumerate(super().read(("instruction", "instances"))):
            if is_scored(index) == self.scored:
                for instance in row["instances"]:
                    yield {
                        "instruction": row["instruction"],
                        "input": instance["input"],
                        "output": instance["output"],
                    }


ALPACA = Source("alpaca/train.jsonl", _FIELDS, HubFiles("tatsu-lab/alpaca", "data/train-*"))
_UNNATURAL_REPOSITORY = ("mrm8488/unnatural-instructions-core", "data/train-*")
UNNATURAL = Source(
    "unnatural_instructions/test.jsonl", _FIELDS, _Instances(*_UNNATURAL_REPOSITORY, scored=True)
)
UNNATURAL_TRAIN = Source(
    "unnatural_instructions/train.jsonl", _FIELDS, _Instances(*_UNNATURAL_REPOSITORY, scored=False)
)


def load_alpaca(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Scored rows: every tenth."""
    return {"test": _table(_alpaca(locate(ALPACA, data_dir))[0])}


def load_unnatural(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Scored rows: all of a local file; of the Hub's data, every tenth instruction's."""
    return {"test": _table(_rows(locate(UNNATURAL, data_dir)))}


def alpaca_training(data_dir: str | None = None) -> list[dict[str, str]]:
    """Calibration rows, without duplicates of scored questions."""
    scored, others = _alpaca(locate(ALPACA, data_dir))
    return _without(others, scored)


def unnatural_training(data_dir: str | None = None) -> list[dict[str, str]]:
    """Calibration rows, without duplicates of scored questions."""
    others = _rows(locate(UNNATURAL_TRAIN, data_dir))
    return _without(others, _rows(locate(UNNATURAL, data_dir)))


def prompt(row: Mapping[str, str]) -> str:
    """Instruction, blank line, input; the instruction alone where there is no input."""
    given = row["input"].strip()
    return f"{row['instruction']}\n\n{row['input']}" if given else row["instruction"]


@lru_cache(maxsize=1)
def _alpaca(origin: Origin) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    rows = _rows(origin)
    parts: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    for index, row in enumerate(rows):
        parts[0 if is_scored(index) else 1].append(row)
    return parts


@lru_cache(maxsize=2)
def _rows(origin: Origin) -> list[dict[str, str]]:
    found = []
    for where, row in origin.rows():
        for field in _FIELDS:
            if not isinstance(row[field], str):
                raise DataError(f"{where}: field {field!r} must be text, not {row[field]!r:.60}")
        found.append({field: row[field] for field in _FIELDS})
    return found


def _without(
    rows: Iterable[dict[str, str]], scored: Iterable[Mapping[str, str]]
) -> list[dict[str, str]]:
    asked = {_key(row) for row in scored}
    return [row for row in rows if _key(row) not in asked]


def _key(row: Mapping[str, str]) -> str:
    return " ".join(prompt(row).split()).casefold()


def _table(rows: Iterable[Mapping[str, str]]) -> Any:
    docs = ({**row, "prompt": prompt(row)} for row in rows)
    return table(docs, prompt=TEXT, instruction=TEXT, input=TEXT, output=TEXT)
