# SPDX-License-Identifier: Apache-2.0
"""Columns of the tasks' documents, as in-memory tables.

The functions that task files name as ``custom_dataset`` are called by lm-eval with the task's
``metadata`` (which holds what ``--metadata`` and ``--model_args`` say) and its ``dataset_kwargs``
as keyword arguments, and return ``{split: datasets.Dataset}``. A table has only the columns that
prompts and scores need: they are what ``--log_samples`` writes of each document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import datasets

from lmkick_plugin.data.sources import DataError

__all__ = ["INTEGER", "TEXT", "TEXTS", "positive", "table"]

TEXT = datasets.Value("string")
TEXTS = datasets.List(TEXT)
INTEGER = datasets.Value("int64")


def table(rows: Iterable[Mapping[str, Any]], **columns: Any) -> Any:
    """In-memory ``datasets.Dataset`` with exactly these columns.

    Raises:
        DataError: A value of a column is not of its type.
    """
    found = list(rows)
    for name, kind in columns.items():
        for number, row in enumerate(found):
            if not _fits(row[name], kind):
                raise DataError(
                    f"row {number + 1}: {name} is {row[name]!r:.60}, expected "
                    f"{_EXPECTED.get(str(kind), str(kind))}"
                )
    return datasets.Dataset.from_list(found, features=datasets.Features(columns))


_EXPECTED = {str(TEXT): "text", str(TEXTS): "a list of texts", str(INTEGER): "a whole number"}


def _fits(value: object, kind: Any) -> bool:
    if value is None or str(kind) not in _EXPECTED:
        return True
    if kind == TEXTS:
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    return isinstance(value, str if kind == TEXT else int)


def positive(name: str, value: object) -> int:
    """Read a size from the metadata: int, float or text.

    >>> positive("evidence_chars", "3000.0")
    3000
    """
    try:
        number = int(float(str(value)))
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise DataError(f"{name}={value!r}: expected a number above 0, as in {name}=6000")
    return number
