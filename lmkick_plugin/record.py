# SPDX-License-Identifier: Apache-2.0
"""The ``kick`` record: what a run's weights were, as plain values for ``results["config"]``.

Every compression of a model lands in the same result folder; the record is what tells the runs
apart. A key that does not apply holds None.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmkick_plugin

if TYPE_CHECKING:
    import torch

    from compressors import CompressionReport, LayerReport
    from lmkick_plugin.fingerprint import WeightSurvey
    from lmkick_plugin.recipe import Recipe

__all__ = [
    "best_layer_bytes",
    "build_record",
    "device_name",
    "layer_lines",
    "layer_summary",
    "versions",
    "write_layer_table",
]

LAYER_COLUMNS = (
    "name",
    "out_features",
    "in_features",
    "sparsity",
    "num_bits",
    "error",
    "dampening",
    "tokens",
    "seconds",
    "note",
)


def build_record(
    *,
    recipe: Recipe,
    survey: WeightSurvey,
    report: CompressionReport | None,
    calibration_shape: tuple[int, int] | None,
    base_model: str,
    base_revision: str | None,
    element_bits: int,
    dtype: str,
    device: str,
    chat_template: bool,
    truncated_prompts: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Assemble the record; every key is always there.

    ``layer_summary`` is one row about all matrices. ``layers`` is the whole table, one line of CSV
    a matrix below a line of column names: lm-eval does not tell a model where results are saved, so
    the table travels inside the results file, where it cannot get lost
    (:func:`write_layer_table` unpacks it).

    Args:
        recipe: What was asked for.
        survey: What the evaluated weights are.
        report: What the compression did; None without one.
        calibration_shape: Samples and tokens of each that were really used.
        base_model: Name or path of the dense model.
        base_revision: Its commit, where it came from the Hub.
        element_bits: Bits of a dense weight.
        dtype: The model's dtype.
        device: Name of the device that compressed and evaluated.
        chat_template: Whether prompts went through the chat template.
        truncated_prompts: Cut prompts by task; None where that is unknown because answers came
            from a cache.

    Returns:
        A mapping that ``json.dumps`` takes as it is.
    """
    nsamples, seqlen = calibration_shape or (None, None)
    saved = 0
    if report is not None:
        for layer in report.layers:
            dense = layer.shape[0] * layer.shape[1] * element_bits
            saved += -(-dense // 8) - best_layer_bytes(layer, recipe, element_bits)
    return {
        "compressor": recipe.compressor,
        "pattern": recipe.pattern,
        "requested_sparsity": recipe.requested_sparsity,
        "achieved_sparsity": None if report is None else float(report.sparsity),
        "num_bits": recipe.bits,
        "group_size": recipe.group_size,
        "symmetric": recipe.symmetric,
        "act_order": recipe.act_order,
        "calibration": recipe.calibration,
        "nsamples": nsamples,
        "seqlen": seqlen,
        "seed": recipe.seed,
        "base_model": base_model,
        "base_revision": base_revision,
        "weights_sha256": survey.sha256,
        "total_parameters": survey.total,
        "nonzero_parameters": survey.nonzero,
        "bytes_dense": survey.bytes,
        "bytes_best_format": survey.bytes - saved,
        "seconds": None if report is None else round(float(report.seconds), 3),
        "device": device,
        "dtype": dtype,
        "chat_template": chat_template,
        "truncated_prompts": None if truncated_prompts is None else dict(truncated_prompts),
        "versions": versions(),
        "layer_summary": None if report is None else layer_summary(report),
        "layers": None if report is None else layer_lines(report),
    }


def best_layer_bytes(layer: LayerReport, recipe: Recipe, element_bits: int) -> int:
    """Bytes of one matrix in the smallest of the formats in use for such weights.

    - dense: every weight at ``num_bits`` (``element_bits`` unless quantized);
    - bitmap: one bit a weight says whether it is zero, then the others;
    - CSR: the non-zero weights, a column index each (16 bits up to 65,536 columns, else 32) and
      32 bits a row;
    - N:M: the kept weights, each with its place in the group, ``ceil(log2 M)`` bits.

    A quantized matrix also holds a 16-bit scale for each row and group, a zero point of
    ``num_bits`` beside it if the grid is asymmetric, and 32 bits a column for the group index with
    act-order. It is a size on disk: evaluation uses dense storage, and nothing gets faster.
    """
    rows, columns = layer.shape
    count = rows * columns
    kept = count - round((layer.sparsity or 0.0) * count)
    value_bits = layer.num_bits or element_bits
    sizes = [count * value_bits]
    if kept < count:
        index_bits = 16 if columns <= 1 << 16 else 32
        sizes += [count + kept * value_bits, kept * (value_bits + index_bits) + 32 * (rows + 1)]
    if recipe.pattern is not None and ":" in recipe.pattern:
        every = int(recipe.pattern.split(":")[1])
        sizes.append(kept * (value_bits + math.ceil(math.log2(every))))
    bits: int = min(sizes)
    if layer.num_bits is not None:
        per_row = recipe.group_size in (None, -1)
        groups = 1 if per_row else -(-columns // (recipe.group_size or columns))
        bits += rows * groups * (16 if recipe.symmetric else 16 + layer.num_bits)
        bits += 32 * columns if recipe.act_order else 0
    return -(-bits // 8)


def layer_summary(report: CompressionReport) -> dict[str, Any]:
    """One row about all matrices: number, errors, damping, and what was out of the ordinary."""
    errors = {layer.name: layer.error for layer in report.layers if layer.error is not None}
    dampings = [layer.dampening for layer in report.layers if layer.dampening is not None]
    notes: dict[str, int] = {}
    for layer in report.layers:
        if layer.note:
            notes[layer.note] = notes.get(layer.note, 0) + 1
    worst = max(errors, key=lambda name: errors[name]) if errors else None
    return {
        "matrices": len(report.layers),
        "error_mean": sum(errors.values()) / len(errors) if errors else None,
        "error_max": None if worst is None else errors[worst],
        "error_max_at": worst,
        "dampening_max": max(dampings, default=None),
        "notes": notes,
    }


def layer_lines(report: CompressionReport) -> list[str]:
    """The per-layer table as lines of CSV, the first with :data:`LAYER_COLUMNS`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LAYER_COLUMNS)
    for layer in report.layers:
        rows, columns = layer.shape
        numbers = (layer.sparsity, layer.num_bits, layer.error, layer.dampening, layer.tokens)
        cells = ["" if number is None else f"{number:.6g}" for number in numbers]
        if layer.tokens is not None:
            cells[-1] = str(layer.tokens)
        writer.writerow(
            [layer.name, rows, columns, *cells, f"{layer.seconds or 0.0:.4g}", layer.note or ""]
        )
    return text.getvalue().splitlines()


def write_layer_table(results: Path, target: Path | None = None) -> Path:
    """Unpack the per-layer table of a results file into a CSV file beside it.

    Args:
        results: A ``results_*.json`` that ``lm_eval --model kick`` wrote.
        target: Where to write; by default ``layers_*.csv`` in the same folder.

    Returns:
        The file written.

    Raises:
        SettingsError: The file holds no table (dense, or another ``--model``).
    """
    from lmkick_plugin.values import settings_error

    config = json.loads(results.read_text(encoding="utf-8")).get("config", {})
    lines = (config.get("kick") or {}).get("layers")
    if not lines:
        raise settings_error(
            f"{results} holds no table of layers. Give the results of a run of --model kick with "
            "a compressor."
        )
    stem = results.stem.removeprefix("results_")
    target = target or results.with_name(f"layers_{stem}.csv")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def versions() -> dict[str, str | None]:
    """Versions of everything that results depend on."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "lmkick": lmkick_plugin.__version__,
    }
    for package in ("lm_eval", "torch", "transformers", "datasets"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def device_name(device: torch.device) -> str:
    """The device's product name, such as ``NVIDIA H200``, or the processor's."""
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    if device.type != "cpu":
        return str(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "cpu"
