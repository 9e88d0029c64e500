# SPDX-License-Identifier: Apache-2.0
"""Columns of the tasks' documents: small in-memory tables.

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
    """A ``datasets.Dataset`` in memory with exactly these columns."""
    return datasets.Dataset.from_list(list(rows), features=datasets.Features(columns))


def positive(name: str, value: object) -> int:
    """Read a size from the metadata; the command line delivers it as int, float or text.

    >>> positive("evidence_chars", "3000.0")
    3000
    """
    try:
        number = int(float(str(value)))
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise DataError(f"{name}={value!r}: a number above 0 is needed, as in {name}=6000")
    return number
