# SPDX-License-Identifier: Apache-2.0
"""Detect how a checkpoint was compressed, from its files and weights.

Three sources, the weights themselves before all: zeros and N:M patterns are counted on them. Then
our own ``kick.json``, then what other tools wrote (``quantization_config``, ``recipe.yaml``,
``quantize_config.json``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.errors import SettingsError
from lmkick_plugin.checkpoints.base_model import stated_base
from lmkick_plugin.checkpoints.manifest import Manifest, read_manifest
from lmkick_plugin.checkpoints.packed_matrices import plain_parameters, stored_matrices
from lmkick_plugin.checkpoints.quantization_config import Scheme, read_scheme
from lmkick_plugin.checkpoints.safetensors_headers import Shards, weight_files
from lmkick_plugin.record.fields import RECIPE
from lmkick_plugin.record.zero_pattern import ZeroCount

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Recognised", "inspect_folder", "local_folder", "recognise", "recognise_model"]

logger = logging.getLogger(__name__)

#: An unpruned model has hardly any zeros among its matrices' weights ...
_PRUNED = 0.01
#: ... unless they were rounded to a grid, whose zeros are up to about a third of 3 bits.
_PRUNED_THOUGH_ROUNDED = 0.4
#: What ``kick.json`` says of how the weights came about.
_MADE = (
    *(name for name in RECIPE if name not in ("save_format", "dtype")),
    *("calibration_sources", "seconds", "layer_summary", "layers"),
)
#: What a later compression's record keeps of an earlier one.
_STEP = (
    "compressor", "pattern", "requested_sparsity", "achieved_sparsity", "num_bits", "group_size",
    "symmetric", "calibration", "nsamples", "seqlen", "seed", "save_format",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A compressed checkpoint.

    Attributes:
        scheme: What its config and its tool's files say.
        zeros: What was counted on its matrices; None where their format cannot be read here.
        parameters: All parameters, each of a packed matrix counted; None where that is unknown.
        bytes_stored: Size of its tensors; None where that is unknown.
        bytes_on_disk: Size of its files of weights; None where they are not at hand.
        manifest: Its ``kick.json``.
        base: The dense model that it says it was made of, and the file that says so.
        rounded: Whether weights stored dense are on a grid of few values, as after dequantization.
        notes: What could not be found out, and why.
    """

    scheme: Scheme
    zeros: ZeroCount | None = None
    parameters: int | None = None
    bytes_stored: int | None = None
    bytes_on_disk: int | None = None
    manifest: Manifest | None = None
    base: tuple[str, str] | None = None
    rounded: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def is_compressed(self) -> bool:
        """Whether the weights are compressed."""
        if self.scheme.storage != "dense":
            return True
        if self.manifest is not None:
            return self.manifest.record.get("compressor") not in (None, "none")
        return self._is_pruned

    @property
    def _is_pruned(self) -> bool:
        """Whether the zeros alone tell of pruning."""
        if self.zeros is None:
            return False
        if self.zeros.pattern is not None or self.scheme.storage != "dense":
            return self.zeros.pattern is not None
        least = _PRUNED_THOUGH_ROUNDED if self.rounded else _PRUNED
        return self.zeros.sparsity >= least

    def facts(self) -> dict[str, Any]:
        """Facts about the checkpoint as plain values: ``checkpoint`` in the record."""
        zeros, scheme = self.zeros, self.scheme
        return {
            "storage": scheme.storage,
            "layout": scheme.layout,
            "method": scheme.method,
            "made_by": list(scheme.made_by) or None,
            "bits": scheme.bits,
            "group_size": scheme.group_size,
            "symmetric": scheme.symmetric,
            "act_order": scheme.act_order,
            "act_group_aware": scheme.act_group_aware,
            "activation_bits": scheme.activation_bits,
            "matrices": None if zeros is None else zeros.matrices,
            "sparsity": None if zeros is None else zeros.sparsity,
            "pattern": None if zeros is None else zeros.pattern,
            "bytes_on_disk": self.bytes_on_disk,
            "saved_by_lmkick": self.manifest is not None,
            "base_model_from": None if self.base is None else self.base[1],
            "notes": list(self.notes),
        }

    @property
    def base_model(self) -> str | None:
        """Name of the dense model it was made from, where it is stated."""
        if self.manifest is not None:
            return self.manifest.record.get("base_model")
        return None if self.base is None else self.base[0]

    def steps(self) -> list[dict[str, Any]]:
        """Compressions it went through, oldest first, for the record of a later one."""
        made = self._recipe()
        if self.zeros is not None:
            made["achieved_sparsity"] = self.zeros.sparsity
        return [*(made.get("earlier") or ()), {key: made.get(key) for key in _STEP}]

    def complete(self, record: Mapping[str, Any], *, element_size: int) -> dict[str, Any]:
        """Fill a run's record with what is known of the checkpoint.

        Args:
            record: Of a run that compressed nothing.
            element_size: Bytes of a weight in the dtype the model computes in.

        Returns:
            The record, with ``checkpoint`` filled.
        """
        merged = dict(record) | self._recipe()
        zeros = self.zeros
        if zeros is not None:
            merged["achieved_sparsity"] = zeros.sparsity
        if self.parameters is not None and self.scheme.storage != "dense":
            merged["total_parameters"] = self.parameters
            merged["bytes_dense"] = self.parameters * element_size
            merged["nonzero_parameters"] = None if zeros is None else self.parameters - zeros.zeros
        if self.bytes_stored is not None and self.scheme.storage != "dense":
            merged["bytes_best_format"] = self.bytes_stored
        elif zeros is not None and self.scheme.storage == "dense":
            merged["bytes_best_format"] = record["bytes_dense"] - _saved(zeros, element_size)
        if self.manifest is not None and self.scheme.storage == "dense":
            saved = self.manifest.record
            if saved.get("weights_sha256") == record.get("weights_sha256"):
                merged["bytes_best_format"] = saved.get("bytes_best_format")
        facts = self.facts() | {"bytes_in_memory": record["bytes_dense"]}
        return merged | {"checkpoint": facts}

    def _recipe(self) -> dict[str, Any]:
        if self.manifest is not None:
            saved = self.manifest.record
            return {key: saved[key] for key in _MADE if saved.get(key) is not None}
        scheme, zeros = self.scheme, self.zeros
        pruned = self._is_pruned
        pattern = None
        if pruned or scheme.requested_sparsity is not None:
            pattern = (None if zeros is None else zeros.pattern) or "unstructured"
        return {
            "compressor": scheme.method or ("pruned" if pruned else scheme.storage),
            "pattern": pattern,
            "requested_sparsity": scheme.requested_sparsity,
            "num_bits": scheme.bits,
            "group_size": scheme.group_size,
            "symmetric": scheme.symmetric,
            "act_order": scheme.act_order,
            "act_group_aware": scheme.act_group_aware,
            **({} if self.base is None else {"base_model": self.base[0], "base_revision": None}),
        }


def inspect_folder(
    folder: Path, quantization: Mapping[str, Any] | None, *, layers: object = None
) -> None:
    """Check a folder before its weights are loaded; reads headers only.

    Args:
        folder: A local folder with a model.
        quantization: ``quantization_config`` of its config.
        layers: ``num_hidden_layers`` of its config, where it says so.

    Raises:
        SettingsError: A file is missing, cut short or damaged, or contradicts the config.
        UnsupportedModelError: The quantization method is unknown, or its format was given up.
    """
    from compressors.errors import UnsupportedModelError

    manifest = read_manifest(folder)
    if manifest is not None:
        manifest.check_sizes(folder)
    scheme = read_scheme(quantization, folder)
    shards = Shards.open(folder)
    if shards is None:
        return
    # Before as many are made: a layer has at least one tensor.
    if isinstance(layers, int) and not 0 < layers <= len(shards.tensors):
        raise SettingsError(
            f"{folder}: config.json says num_hidden_layers={layers}, and its files hold "
            f"{len(shards.tensors)} tensors in all. Correct config.json, or copy the files again."
        )
    if any(kind in (scheme.layout or "") for kind in ("sparse-", "marlin-24")):
        raise UnsupportedModelError(
            f"{folder} is in the compressed-tensors format {scheme.layout}, which that library no "
            "longer reads (weights would be random). Decompress it with compressed-tensors 0.12 "
            "and save it, or make it again with llm-compressor."
        )
    packed = next((name for name in shards.tensors if name.endswith(".qweight")), None)
    if packed is not None and scheme.storage == "dense":
        raise SettingsError(
            f"{folder}: {packed} is a packed tensor of GPTQ or AWQ, but config.json has no "
            "quantization_config (weights would be random). Copy the content of "
            'quantize_config.json into config.json as quantization_config, with "quant_method": '
            '"gptq" (or "awq") added.'
        )
    for _ in stored_matrices(shards, scheme):
        pass


def recognise(folder: Path, quantization: Mapping[str, Any] | None) -> Recognised:
    """Read a checkpoint's compression from its files; needs no quantization library.

    Args:
        folder: A local folder with a model.
        quantization: ``quantization_config`` of its config.

    Returns:
        What was found. The zeros of a dense checkpoint are not counted here: see
        :func:`recognise_model`.
    """
    scheme = read_scheme(quantization, folder)
    shards = Shards.open(folder)
    manifest = read_manifest(folder)
    if shards is None:
        size = sum(file.stat().st_size for file in weight_files(folder))
        note = "the weights are not in safetensors files, so zeros were not counted"
        return Recognised(
            scheme=scheme,
            bytes_on_disk=size or None,
            manifest=manifest,
            base=_base(folder, manifest),
            notes=(note,),
        )
    matrices = list(stored_matrices(shards, scheme))
    zeros = parameters = None
    notes: tuple[str, ...] = ()
    if all(matrix.shape is not None for matrix in matrices):
        weights = sum(math.prod(matrix.shape or ()) for matrix in matrices)
        parameters = weights + plain_parameters(shards, matrices)
    unread = [matrix for matrix in matrices if matrix.layout is None]
    if unread or (not matrices and scheme.storage != "dense"):
        what = f"{scheme.storage} {scheme.layout or ''}".strip()
        notes = (f"zeros were not counted: unknown layout of {what}",)
        parameters = parameters if matrices else None
    elif matrices:
        zeros = ZeroCount()
        for matrix in matrices:
            zeros.add_matrix(matrix.zeros(shards))
    return Recognised(
        scheme=scheme,
        zeros=zeros,
        parameters=parameters,
        bytes_stored=shards.bytes_of_tensors,
        bytes_on_disk=shards.bytes_on_disk,
        manifest=manifest,
        base=_base(folder, manifest),
        notes=notes,
    )


def recognise_model(
    model: nn.Module, *, scheme: Scheme | None = None, folder: Path | None = None
) -> Recognised:
    """Count the zeros of a loaded model, one matrix at a time.

    Args:
        model: Dense, or quantized while it was loaded.
        scheme: How it was quantized while it was loaded; None for a dense model.
        folder: Where it came from, if that is a local folder.

    Returns:
        What was found.
    """
    from lmkick_plugin.record.quantized_weights import are_rounded, count_zeros, parameters

    manifest = None if folder is None or scheme is not None else read_manifest(folder)
    zeros, note = count_zeros(model)
    size = sum(file.stat().st_size for file in weight_files(folder)) if folder else 0
    few = scheme is None and zeros is not None and zeros.sparsity >= _PRUNED
    return Recognised(
        rounded=few and are_rounded(model),
        scheme=scheme or read_scheme(None, folder),
        zeros=zeros,
        parameters=None if scheme is None else parameters(model),
        bytes_on_disk=size or None,
        manifest=manifest,
        base=None if scheme is not None else _base(folder, manifest),
        notes=() if note is None else (note,),
    )


def local_folder(
    pretrained: str, *, revision: str = "main", subfolder: str = "", cache_dir: str | None = None
) -> Path | None:
    """Folder of a model's files: its own, or the Hub's cache; None where neither exists."""
    path = Path(pretrained) / subfolder
    if Path(pretrained).exists():
        return path if path.is_dir() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = f"{subfolder}/config.json" if subfolder else "config.json"
    try:
        cached = try_to_load_from_cache(pretrained, name, revision=revision, cache_dir=cache_dir)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _base(folder: Path | None, manifest: Manifest | None) -> tuple[str, str] | None:
    """Base model stated outside ``kick.json``."""
    return None if folder is None or manifest is not None else stated_base(folder)


def _saved(zeros: ZeroCount, element_size: int) -> int:
    """Bytes saved by leaving out zeros: a mask of one bit per weight, fewer bits for a pattern."""
    index = zeros.total
    if zeros.pattern is not None:
        kept, every = (int(part) for part in zeros.pattern.split(":"))
        index = zeros.total // every * math.ceil(math.log2(math.comb(every, kept)))
    return max(0, zeros.zeros * element_size - math.ceil(index / 8))
