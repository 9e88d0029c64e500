# SPDX-License-Identifier: Apache-2.0
"""Build the ``kick`` record: a run's weights as plain values for ``results["config"]``.

Every compression of a model lands in the same result folder; the record is what tells the runs
apart. A key that does not apply holds None.
"""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmkick_plugin
from lmkick_plugin.recipe.methods import OWN_SETTINGS

if TYPE_CHECKING:
    import torch

    from compressors import CompressionReport
    from lmkick_plugin.recipe.recipe import Recipe
    from lmkick_plugin.record.weights import WeightSurvey

__all__ = [
    "BaseModel",
    "build_record",
    "device_name",
    "layer_lines",
    "layer_summary",
    "versions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """Identity of the model that was compressed or evaluated.

    Attributes:
        name: Name or path of the dense model.
        commit: Its commit, where it came from the Hub.
        revision: The branch, tag or commit that was asked for; None for the default.
        subfolder: Its folder within the repository; None for the top.
        adapter: Name or path of the adapter or delta weights on top; None without.
    """

    name: str
    commit: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    adapter: str | None = None


def build_record(
    *,
    recipe: Recipe,
    survey: WeightSurvey,
    report: CompressionReport | None,
    calibration_shape: tuple[int, int] | None,
    base: BaseModel,
    earlier: Sequence[Mapping[str, Any]] = (),
    calibration_sources: Sequence[Mapping[str, Any]] | None = None,
    dtype: str,
    device: str,
    chat_template: bool,
    truncated_prompts: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Assemble the record; every key is always there.

    ``bytes_dense`` is the size of all parameters as evaluated. ``bytes_best_format`` is what they
    would take with each compressed matrix in the smallest of the known formats
    (:func:`compressors.report.stored_bytes`): a size on disk, for evaluation uses dense storage.

    ``layer_summary`` is one row about all matrices. ``layers`` is the whole table, one line of CSV
    a matrix below a line of column names: lm-eval does not tell a model where results are saved, so
    the table travels inside the results file, where it cannot get lost
    (``lmkick layers`` unpacks it).

    ``save_format`` decides weights too: packed formats have scales of 16 bits. ``from_cache`` tells
    that ``compress_cache`` held the weights; all else is then as the run had it that made them.

    ``ragged_matrices`` counts the quantized matrices whose last group is shorter than the others.

    ``checkpoint`` says what was found about a checkpoint that somebody else has compressed
    (:meth:`lmkick_plugin.checkpoints.detect.Recognised.complete` fills it).

    ``profile`` is measured speed and memory (:mod:`lmkick_plugin.profile`), where a sweep asked
    for it.

    Args:
        recipe: What was asked for.
        survey: What the evaluated weights are.
        report: What the compression did; None without one.
        calibration_shape: Samples and tokens of each that were really used.
        base: The dense model.
        earlier: Compressions that the checkpoint had gone through before, oldest first.
        calibration_sources: The texts that calibration read, as resolved.
        dtype: The model's dtype.
        device: Name of the device that compressed and evaluated.
        chat_template: Whether prompts went through the chat template.
        truncated_prompts: Cut prompts by task; None where that is unknown because answers came
            from a cache.

    Returns:
        A mapping for ``json.dumps``.
    """
    nsamples, seqlen = calibration_shape or (None, None)
    saved = 0 if report is None else report.bytes_dense - report.bytes_best_format
    return {
        "compressor": recipe.compressor,
        "pattern": recipe.pattern,
        "requested_sparsity": recipe.requested_sparsity,
        "achieved_sparsity": None if report is None else float(report.sparsity),
        "num_bits": recipe.bits,
        "group_size": recipe.group_size,
        "symmetric": recipe.symmetric,
        "calibration": recipe.calibration,
        "nsamples": nsamples,
        "seqlen": seqlen,
        "seed": recipe.seed,
        "base_model": base.name,
        "base_revision": base.commit,
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
        "number_format": recipe.number_format,
        **{name: getattr(recipe, name) for name in OWN_SETTINGS},
        "true_sequential": recipe.true_sequential,
        "allocation": recipe.allocation,
        "owl_lambda": recipe.owl_lambda,
        "owl_threshold": recipe.owl_threshold,
        "prefix_reuse": recipe.prefix_reuse,
        "bos": recipe.bos,
        "revision": base.revision,
        "subfolder": base.subfolder,
        "adapter": base.adapter,
        "earlier": [dict(step) for step in earlier] or None,
        "calibration_sources": (
            None if calibration_sources is None else [dict(one) for one in calibration_sources]
        ),
        "save_format": recipe.save_format,
        "from_cache": None if report is None else report.from_cache,
        "ragged_matrices": None if report is None else _ragged_matrices(report),
        "layer_summary": None if report is None else layer_summary(report),
        "layers": None if report is None else layer_lines(report),
        "checkpoint": None,
        "profile": None,
    }


def _ragged_matrices(report: CompressionReport) -> int | None:
    """Quantized matrices whose last group is shorter than the others; None without quantization."""
    quantized = [layer.ragged for layer in report.layers if layer.num_bits is not None]
    return sum(quantized) if quantized else None


def layer_summary(report: CompressionReport) -> dict[str, Any]:
    """One row about all matrices: errors, damping, and how many have a note in the table."""
    errors = {layer.name: layer.error for layer in report.layers if layer.error is not None}
    worst = max(errors, key=lambda name: errors[name]) if errors else None
    return {
        "matrices": len(report.layers),
        "tokens": report.tokens,
        "error_mean": sum(errors.values()) / len(errors) if errors else None,
        "error_max": None if worst is None else errors[worst],
        "error_max_at": worst,
        "dampening_max": max(
            (layer.dampening for layer in report.layers if layer.dampening is not None),
            default=None,
        ),
        "notes": sum(layer.note is not None for layer in report.layers),
    }


def layer_lines(report: CompressionReport) -> list[str]:
    """The per-layer table as lines of CSV, the first one with the names of the columns.

    The columns are the attributes of :class:`compressors.LayerReport`; the shape is written as
    ``out_features x in_features``, and a value that does not apply is empty.
    """
    columns = [column.name for column in fields(report.layers[0])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for layer in report.layers:
        writer.writerow([_cell(getattr(layer, column)) for column in columns])
    return text.getvalue().splitlines()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
