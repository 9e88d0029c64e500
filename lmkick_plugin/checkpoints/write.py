# SPDX-License-Identifier: Apache-2.0
"""Save a compressed model as a folder that Hugging Face's libraries load."""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from compressors import CompressionReport, Compressor
from compressors.blocks.find import find_blocks
from compressors.errors import SettingsError
from lmkick_plugin.checkpoints.format_fit import check_blocks, quantizer_of
from lmkick_plugin.checkpoints.manifest import MANIFEST, Manifest, describe_file
from lmkick_plugin.checkpoints.model_card import model_card
from lmkick_plugin.files import check_space, new_folder
from lmkick_plugin.recipe.formats import FORMATS, require_library
from lmkick_plugin.recipe.readers import read_choice

if TYPE_CHECKING:
    from compressors.quantization_grid import QuantizationGrid

__all__ = ["check_room", "save"]

_log = logging.getLogger(__name__)

#: Largest file of weights.
_SHARD = "5GB"
#: Room for tokenizer, card and record.
_BESIDE_WEIGHTS = 50_000_000


def save(
    model: Any,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    storage: str = "dense",
    grids: Mapping[str, QuantizationGrid] | None = None,
    report: CompressionReport | None = None,
    record: Mapping[str, Any] | None = None,
    extra_files: Sequence[Path] = (),
) -> Path:
    """Save a compressed model.

    Weights go into safetensors of at most 5 GB in the model's dtype, with tokenizer (and chat
    template), configuration, generation configuration, ``kick.json`` and a model card. The folder
    appears under its name when all of it is on the disk.

    Args:
        model: A transformers model after :func:`compressors.compress_model`; not changed.
        folder: Where to; must not exist, or be empty.
        tokenizer: Saved with it.
        storage: ``dense``, or a packed format of quantized weights: ``gptq``,
            ``compressed-tensors``. For these the method has to come from
            :func:`lmkick_plugin.checkpoints.prepare`.
        grids: What ``compress_model(..., grids=grids)`` filled; for packed formats.
        report: What ``compress_model`` returned.
        record: The ``kick`` record; without one, made from ``report``.
        extra_files: Further files to copy, such as those of a multimodal model's processor.

    Returns:
        The folder.

    Raises:
        SettingsError: The folder is not empty or cannot be written, or grids or a library are
            missing.
        NumericalError: Weights are not those that the compression made.
        OSError: The disk is full, or fails; nothing is left then.
    """
    read_choice("storage", storage, FORMATS)
    require_library(storage)
    record = dict(_record(model, report) if record is None else record)
    with new_folder(folder) as partial, _readable_faults(), _whole(model):
        state, quantization = None, None
        if storage != "dense":
            state, quantization = _packed(model, grids or {}, storage)
        with _generation_config(model) as generation:
            model.save_pretrained(partial, state_dict=state, max_shard_size=_SHARD)
        del state
        # Without it the folder does not load: it is the last to get its name.
        config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
        (partial / "config.json").unlink()
        if generation is not None:
            generation.to_json_file(partial / "generation_config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        for file in extra_files:
            shutil.copyfile(file, partial / file.name)
        if quantization is not None:
            config["quantization_config"] = quantization
            if storage == "gptq":
                _write_json(partial / "quantize_config.json", quantization)
        files = {
            path.name: describe_file(path) for path in sorted(partial.glob("model*.safetensors"))
        }
        record |= {"chat_template": None, "truncated_prompts": None}
        manifest = Manifest(storage, record, files)
        (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        size = sum(file.bytes for file in files.values())
        card = model_card(record, storage, size, custom_code="auto_map" in config)
        (partial / "README.md").write_text(card, encoding="utf-8")
        _write_json(partial / "config.json", config)
    path = Path(folder).expanduser().absolute()
    _log.info("Saved the compressed model to %s (%s, %d bytes of weights).", path, storage, size)
    return path


def check_room(model: nn.Module, folder: str | Path, storage: str, compressor: Compressor) -> None:
    """Refuse a disk without room for the saved folder.

    Raises:
        SettingsError: With what is needed and what is left.
    """
    total = sum(
        p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values()
    )
    quantizer = quantizer_of(compressor)
    bits = getattr(quantizer, "num_bits", None)
    if storage != "dense" and bits is not None:
        for matrix in (matrix for block in find_blocks(model) for matrix in block.matrices):
            weight = matrix.view()
            size = getattr(quantizer, "group_size", None) or weight.shape[1]
            groups = -(-weight.shape[1] // size)
            packed = weight.numel() * bits // 8 + 4 * weight.shape[0] * groups + 4 * weight.shape[1]
            total += packed - weight.numel() * weight.element_size()
    check_space(Path(folder).expanduser().absolute(), total + _BESIDE_WEIGHTS)


def _packed(
    model: Any, grids: Mapping[str, QuantizationGrid], storage: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    from lmkick_plugin.checkpoints.packed_tensors import pack_model, stated_group_size

    number_format = next((grid.number_format for grid in grids.values()), "int")
    blocks = find_blocks(model)
    check_blocks(storage, blocks, stated_group_size(grids), number_format)
    matrices = {matrix.name for block in blocks for matrix in block.matrices}
    missing = sorted(matrices - set(grids))
    if missing:
        raise SettingsError(
            f"storage={storage!r} needs the grid of every matrix; {missing[0]} has none. Quantize "
            "with compress_model(..., grids=grids) and pass grids on, or use storage='dense'."
        )
    return pack_model(model, grids, storage)


def _record(model: Any, report: CompressionReport | None) -> dict[str, Any]:
    """Record of a model that was compressed from Python."""
    from lmkick_plugin.recipe.recipe import Recipe
    from lmkick_plugin.record.build import BaseModel, build_record, device_name
    from lmkick_plugin.record.weights import survey_weights

    bits = {row.num_bits for row in report.layers} if report is not None else {None}
    recipe = Recipe(
        compressor="none" if report is None else report.method,
        bits=next(iter(bits)) if len(bits) == 1 else None,
    )
    record = build_record(
        recipe=recipe,
        survey=survey_weights(model),
        report=report,
        calibration_shape=None,
        base=BaseModel(
            name=str(getattr(model.config, "_name_or_path", "") or type(model).__name__),
            commit=getattr(model.config, "_commit_hash", None),
        ),
        dtype=str(model.dtype).removeprefix("torch."),
        device=device_name(torch.device("cpu" if report is None else report.device)),
        chat_template=False,
        truncated_prompts=None,
    )
    return record if report is None else {**record, "recipe": report.recipe}


@contextmanager
def _readable_faults() -> Iterator[None]:
    """Re-raise safetensors' disk errors as OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


@contextmanager
def _whole(model: Any) -> Iterator[None]:
    """Mark a model in main memory as not offloaded for transformers.

    A model with a device map of ``cpu`` counts as offloaded there, and is then saved shard by
    shard, each for itself, which models of experts do not survive.
    """
    device_map = model.__dict__.get("hf_device_map")
    if device_map is None or any(parameter.is_meta for parameter in model.parameters()):
        yield
        return
    del model.__dict__["hf_device_map"]
    try:
        yield
    finally:
        model.__dict__["hf_device_map"] = device_map


@contextmanager
def _generation_config(model: Any) -> Iterator[Any]:
    """Keep a generation configuration that transformers loads but refuses to save."""
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    try:
        if own is not None:
            own.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        try:
            yield own
        finally:
            model.generation_config = own
    else:
        yield None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
