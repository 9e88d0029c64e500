# SPDX-License-Identifier: Apache-2.0
"""Labels that a user gives to folders of results: a name, or fields of the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmkick_plugin.recipe.readers import suggest
from lmkick_plugin.record.fields import RECIPE
from lmkick_plugin.results.results_file import NULLS, ResultsError
from lmkick_plugin.terminal import plain

__all__ = ["LABEL_FIELDS", "read_labels"]

LABEL_FIELDS = frozenset({*RECIPE, "label", "achieved_sparsity", "bytes_best_format"}) | {
    "bytes_dense",
    "nonzero_parameters",
    "total_parameters",
}
"""Record fields that ``--label FOLDER=field=value,field=value`` can set."""

_NUMBERS = (
    "achieved_sparsity", "bytes_best_format", "bytes_dense", "group_size", "nonzero_parameters",
    "num_bits", "requested_sparsity", "total_parameters",
)  # fmt: skip


def read_labels(labels: Mapping[Path, str] | None) -> dict[Path, dict[str, Any]]:
    """Read the labels that the user gave to folders.

    Args:
        labels: By folder: a name, or ``field=value,field=value`` with fields of `LABEL_FIELDS`.

    Returns:
        By resolved folder, the fields; a name is the field ``label``.

    Raises:
        ResultsError: A folder is not there, or a field is unknown.
    """
    read: dict[Path, dict[str, Any]] = {}
    for folder, text in (labels or {}).items():
        if not folder.exists():
            raise ResultsError(f"label {plain(text)!r}: {folder}: no such file or folder")
        fields: dict[str, Any] = {}
        if "=" not in text:
            fields["label"] = text.strip()
        else:
            for part in text.split(","):
                field, equals, value = (piece.strip() for piece in part.partition("="))
                field = {"sparsity": "requested_sparsity", "bits": "num_bits"}.get(field, field)
                if not equals or field not in LABEL_FIELDS:
                    remedy = suggest(field, LABEL_FIELDS) if equals else ""
                    remedy = remedy or f"Fields: {', '.join(sorted(LABEL_FIELDS))}"
                    raise ResultsError(
                        f"label of {folder}: {plain(part)!r}: write a name, or field=value. "
                        f"{remedy}".rstrip()
                    )
                fields[field] = _value(value)
                if field in _NUMBERS and isinstance(fields[field], str):
                    raise ResultsError(f"label of {folder}: {plain(part)!r}: expected a number")
        if not fields.get("label", "a name"):
            raise ResultsError(f"label of {folder} is empty; write FOLDER=NAME")
        read[folder.resolve()] = fields
    return read


def _value(text: str) -> Any:
    if text.casefold() in NULLS:
        return None
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
