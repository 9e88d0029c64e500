# SPDX-License-Identifier: Apache-2.0
"""Compression report: one row per weight matrix and totals, counted on the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from compressors.base import CompressedWeight
from compressors.errors import SettingsError
from compressors.files import csv_text, write_atomically
from compressors.number_formats import FLOAT_FORMATS

__all__ = ["CompressionReport", "LayerReport", "stored_bytes", "write_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """Result of one weight matrix.

    Attributes:
        name: Qualified name in the model.
        shape: ``(out_features, in_features)``.
        sparsity: Share of zeros among its weights as they now are in the model.
        nonzero: Weights that are not zero.
        requested_sparsity: What the method was asked for; None unless unstructured.
        num_bits: Bits of a code; None unless quantized.
        number_format: ``int``, ``fp8``, ``mxfp4`` or ``nvfp4``; None unless quantized.
        error: Relative output error ``||X W^T - X W'^T||^2 / ||X W^T||^2`` on calibration inputs
            (see :func:`compressors.driver.compress_model`); None without calibration.
        dampening: Damping fraction that was finally used (Hessian methods).
        tokens: Input vectors its statistics were gathered from; None without calibration.
        seconds: Time to compress it: its share, by size, of the solve of the matrices that read
            the same input.
        bytes_dense: Bytes as stored now.
        bytes_best_format: Bytes in the best known format (:func:`stored_bytes`).
        ragged: Whether its last group is shorter than the others.
        note: What was unusual, e.g. ``starved expert (12 tokens): magnitude``.
    """

    name: str
    shape: tuple[int, int]
    sparsity: float
    nonzero: int
    requested_sparsity: float | None = None
    num_bits: int | None = None
    number_format: str | None = None
    error: float | None = None
    dampening: float | None = None
    tokens: int | None = None
    seconds: float
    bytes_dense: int
    bytes_best_format: int
    ragged: bool = False
    note: str | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> LayerReport:
        """Rebuild a row from :meth:`CompressionReport.to_dict`."""
        return cls(**{**row, "shape": tuple(row["shape"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionReport:
    """Result of a model's weight matrices.

    Attributes:
        method: Name of the method, lower case.
        recipe: The method with its settings, as Python would write it.
        layers: One row per matrix, in the order of compression.
        sparsity: Share of zeros in all compressed matrices together.
        parameters: Weights in those matrices.
        nonzero: Those that are not zero.
        bytes_dense: Bytes of those matrices as stored now.
        bytes_best_format: Bytes of those matrices in the best known format.
        tokens: Calibration tokens; 0 where the method needs none.
        seconds: Wall-clock time of the whole call.
        stages: Seconds by stage: ``prepare, capture, statistics, solve, propagate, move``.
        device: Where it was computed.
        blocks: Decoder blocks.
        resumed_blocks: Blocks that were taken from ``resume_dir``.
        from_cache: Whether all of it was taken from ``compress_cache``; all else is then as the run
            reported that made it.
    """

    method: str
    recipe: str
    layers: tuple[LayerReport, ...]
    sparsity: float
    parameters: int
    nonzero: int
    bytes_dense: int
    bytes_best_format: int
    tokens: int
    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    device: str
    blocks: int
    resumed_blocks: int = 0
    from_cache: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain lists, dicts, numbers and strings; None where not measured."""
        content = asdict(self)
        content["layers"] = [{**row, "shape": list(row["shape"])} for row in content["layers"]]
        return content

    def summary(self) -> dict[str, Any]:
        """Return the report without its table: the summary row."""
        content = self.to_dict()
        del content["layers"]
        errors = [row.error for row in self.layers if row.error is not None]
        content["matrices"] = len(self.layers)
        content["mean_error"] = sum(errors) / len(errors) if errors else None
        content["worst_error"] = max(errors, default=None)
        content["notes"] = sum(row.note is not None for row in self.layers)
        return content


def stored_bytes(
    result: CompressedWeight, nonzero: int, pattern: tuple[int, int] | None = None
) -> int:
    """Return the bytes of a matrix in the smallest of the known formats.

    Values take their dtype's size, or ``num_bits`` each when quantized, plus

    - per group a scale: 16 bits; 32 in fp8; 8 in mxfp4 and nvfp4, nvfp4 with 32 per matrix;
    - per group a zero point of ``num_bits``, unless it is the middle of the range everywhere;
    - per column a 16-bit group index, where columns are not grouped in order;
    - per column 16 bits for its factor, where columns were scaled.

    Zeros are left out where that is smaller: one bit per weight marks them, or
    ``ceil(log2(C(m, n)))`` bits per group of an N:M pattern.

    Args:
        result: The compressed matrix.
        nonzero: Its weights that are not zero.
        pattern: ``(n, m)``, if it has that pattern.
    """
    count = result.weight.numel()
    bits = result.num_bits or 8 * result.weight.element_size()
    index = count
    if pattern is not None:
        n, m = pattern
        index = count // m * math.ceil(math.log2(math.comb(m, n)))
        nonzero = max(nonzero, count // m * n)
    total = min(count * bits, nonzero * bits + index)
    if result.num_bits and result.scale is not None:
        own = FLOAT_FORMATS.get(result.number_format)
        total += (16 if own is None else own.scale_bits) * result.scale.numel()
        total += 0 if result.matrix_scale is None else 32
        zero_point = None if own is not None else result.zero_point
        middle = 2 ** (result.num_bits - 1)
        if zero_point is not None and bool((zero_point != middle).any()):
            total += result.num_bits * zero_point.numel()
        if result.g_idx is not None and bool((result.g_idx.diff() < 0).any()):
            total += 16 * result.g_idx.numel()
        if result.input_scale is not None:
            total += 16 * result.input_scale.numel()
    return math.ceil(total / 8)


def write_table(report: CompressionReport, path: str | Path) -> None:
    """Write the report's table: every row to a ``.csv``, or everything to a ``.json``.

    Raises:
        SettingsError: If the file's name ends in neither.
    """
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"
    elif path.suffix == ".csv":
        rows = [
            {**asdict(row), "shape": "x".join(map(str, row.shape))}.values()
            for row in report.layers
        ]
        text = csv_text([[column.name for column in fields(LayerReport)], *rows])
    else:
        raise SettingsError(f"{path}: expected a name ending in .csv or .json; rename it")
    write_atomically(path, text)
