# SPDX-License-Identifier: Apache-2.0
"""Already compressed checkpoints: checks, loading arguments, detection."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.errors import SettingsError
from lmkick_plugin import bundled
from lmkick_plugin.checkpoints.base_model import stated_base
from lmkick_plugin.checkpoints.checked_loader import check_files
from lmkick_plugin.checkpoints.detect import (
    Recognised,
    inspect_folder,
    local_folder,
    recognise,
    recognise_model,
)
from lmkick_plugin.checkpoints.gguf import read_gguf
from lmkick_plugin.checkpoints.quantization_config import read_scheme
from lmkick_plugin.checkpoints.read import check_weights
from lmkick_plugin.loading.checks import which_files
from lmkick_plugin.loading.model_checks import readable_weights
from lmkick_plugin.loading.quantize_on_load import (
    check_can_load,
    check_quantize,
    load_time_scheme,
    quantization_config,
)
from lmkick_plugin.recipe.readers import is_unset

if TYPE_CHECKING:
    from torch import nn

    from lmkick_plugin.recipe.recipe import Recipe

__all__ = [
    "check_before_load",
    "check_gguf",
    "check_stored_weights",
    "detect_compression",
    "loading_arguments",
    "without_repeated_config",
]

logger = logging.getLogger(__name__)


def check_gguf(pretrained: object, passed: Mapping[str, Any]) -> None:
    """Check a GGUF file, from which transformers reads the model's config.

    Args:
        pretrained: As given.
        passed: The arguments for lm-eval's ``hf`` model.

    Raises:
        SettingsError: Its library is missing, or the file is not there or damaged.
    """
    name = passed.get("gguf_file")
    if is_unset(name):
        if str(pretrained).endswith(".gguf"):
            folder, _, file = str(pretrained).rpartition("/")
            raise SettingsError(
                f"pretrained={pretrained} is a GGUF file. Give its folder and its name: "
                f"pretrained={folder or '.'},gguf_file={file}."
            )
        if isinstance(pretrained, str) and (found := _only_gguf(Path(pretrained).expanduser())):
            raise SettingsError(
                f"pretrained={pretrained}: its weights are in GGUF files. Name one: gguf_file="
                f"{found[0]}{' (of ' + str(len(found)) + ')' if len(found) > 1 else ''}."
            )
        return
    check_can_load("gguf", device=str(passed.get("device") or ""))
    if isinstance(pretrained, str) and Path(pretrained).is_dir():
        read_gguf(_subfolder(pretrained, passed) / str(name))


def _only_gguf(folder: Path) -> list[str]:
    """GGUF files of a folder that holds no other weights."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        return []
    return sorted(path.name for path in folder.glob("*.gguf"))


def check_before_load(
    recipe: Recipe, pretrained: object, config: Any, passed: Mapping[str, Any], *, prebuilt: bool
) -> None:
    """Refuse a checkpoint that cannot be loaded, or would be loaded as another format.

    Args:
        recipe: What is to be done.
        pretrained: As given.
        config: The model's config.
        passed: The arguments for lm-eval's ``hf`` model.
        prebuilt: The model was given as an object.

    Raises:
        SettingsError: A file is damaged, a library is missing, arguments contradict each other.
        UnsupportedModelError: The checkpoint's format cannot be loaded.
    """
    stored = None if prebuilt else _quantization(config)
    storage = None if stored is None else read_scheme(stored).storage
    if recipe.quantize is not None:
        check_quantize(recipe.quantize, storage, passed, prebuilt)
    if prebuilt or not is_unset(passed.get("gguf_file")):
        return
    if Path(str(pretrained)).is_dir():
        revision = passed.get("revision")
        changed = passed.get("peft") or passed.get("delta")  # whose revision it is as well
        if not is_unset(revision) and revision != "main" and not changed:
            raise SettingsError(
                f"revision={revision}: pretrained={pretrained} is a folder, which has no "
                "revisions. Leave revision out, or give the model's name on the Hub."
            )
        _inspect(str(pretrained), config, passed)
    if storage is not None:
        check_can_load(storage, device=str(passed.get("device") or ""))


def check_stored_weights(pretrained: str, config: Any, passed: Mapping[str, Any]) -> None:
    """Look into the weights of a model of this machine that is loaded only later, or often.

    Args:
        pretrained: Its name.
        config: Its config.
        passed: The arguments for lm-eval's ``hf`` model.

    Raises:
        SettingsError: Files are damaged, or tensors missing.
        NumericalError: Weights are NaN or infinite.
    """
    folder = bundled.model_folder(pretrained)
    if not Path(folder).is_dir() or not is_unset(passed.get("gguf_file")):
        return
    _inspect(folder, config, passed)
    if _quantization(config) is None:
        with readable_weights(pretrained):
            check_files(Path(folder), **which_files(passed))


def _inspect(pretrained: str, config: Any, passed: Mapping[str, Any]) -> None:
    inner = getattr(config, "text_config", None) or config
    layers = getattr(inner, "num_hidden_layers", None)
    inspect_folder(_subfolder(pretrained, passed), _quantization(config), layers=layers)


def loading_arguments(recipe: Recipe, config: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for ``from_pretrained``.

    Args:
        recipe: What is to be done.
        config: The model's config.
        arguments: As lm-eval's ``hf`` model would give them.

    Returns:
        The same, with the quantization that ``quantize`` asks for.
    """
    changed = dict(arguments)
    if recipe.quantize is not None:
        dtype = _dtype(config, arguments)
        changed["quantization_config"] = quantization_config(recipe.quantize, dtype)
    elif _unpacks_early(_quantization(config)):
        given = changed.get("quantization_config")
        if given is not None:
            given.dequantize = True
    return changed


def _unpacks_early(stored: Mapping[str, Any] | None) -> bool:
    """Whether weights have to be unpacked while loading, not at first use.

    Asymmetric packed weights of compressed-tensors can be loaded in no other way: its version 0.20
    expects their zero points unpacked where transformers 5 prepares the model. The values are the
    same, and where nothing unpacks in between they would be dense from the first use on anyway.
    """
    if stored is None or stored.get("quant_method") != "compressed-tensors":
        return False
    groups = [group for group in (stored.get("config_groups") or {}).values() if group]
    weights = [group.get("weights") or {} for group in groups]
    packed = "pack-quantized" in {stored.get("format"), *(group.get("format") for group in groups)}
    return packed and any(each.get("symmetric") is False for each in weights)


@contextmanager
def without_repeated_config() -> Iterator[None]:
    """Suppress transformers' warning about a quantization config given twice.

    lm-eval hands transformers the checkpoint's own quantization config, and
    transformers warns that it was given twice. None in its place would not be the same: the weights
    would be loaded as if they were dense, which leaves them random.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        yield


def detect_compression(
    model: nn.Module,
    recipe: Recipe,
    pretrained: object,
    config: Any,
    passed: Mapping[str, Any],
    *,
    sha256: str | None,
) -> Recognised | None:
    """Detect how a model that was not compressed here had been compressed.

    Args:
        model: As loaded.
        recipe: What was done: nothing, or quantization while loading.
        pretrained: As given: a name, a folder or a model.
        config: The model's config.
        passed: The arguments for lm-eval's ``hf`` model.
        sha256: The hash of the loaded weights.

    Returns:
        None where it had not been.

    Raises:
        SettingsError: The weights are not those that the folder's ``kick.json`` names.
    """
    folder = None
    if isinstance(pretrained, str):
        folder = local_folder(
            pretrained,
            revision=str(passed.get("revision") or "main"),
            subfolder=str(passed.get("subfolder") or ""),
            cache_dir=passed.get("cache_dir"),
        )
    name = passed.get("gguf_file")
    stored = _quantization(config)
    if recipe.quantize is not None:
        found = recognise_model(model, scheme=load_time_scheme(recipe.quantize), folder=folder)
    elif not is_unset(name):
        found = _recognise_gguf(model, folder, str(name))
    elif stored is not None and folder is not None:
        _require_quantized(model, stored, passed)
        found = recognise(folder, stored)
    elif stored is not None:
        note = "the model was given as an object, or its files are not at hand"
        found = Recognised(scheme=read_scheme(stored), notes=(note,))
    else:
        found = recognise_model(model, folder=folder)
        if found.rounded and found.zeros is not None and not found.is_compressed:
            logger.warning(
                "%.1f %% of the weights are zero and neighbours repeat, as in a dequantized "
                "checkpoint: taken for the dense model.",
                100 * found.zeros.sparsity,
            )
    changed = passed.get("peft") or passed.get("delta")
    if found.manifest is not None and folder is not None and not changed:
        dtype = str(getattr(model, "dtype", "")).removeprefix("torch.")
        check_weights(folder, found.manifest, sha256, dtype)
    return found if found.is_compressed else None


def _require_quantized(
    model: nn.Module, stored: Mapping[str, Any], passed: Mapping[str, Any]
) -> None:
    """Stop where packed weights were loaded as dense, which leaves them random."""
    by_others = passed.get("autogptq") or passed.get("gptqmodel") or _unpacks_early(stored)
    if not by_others and getattr(model, "hf_quantizer", None) is None:
        raise RuntimeError(
            f"The checkpoint is quantized ({stored.get('quant_method')}), but transformers loaded "
            "it as dense, so its weights are random. Please report the model and the versions of "
            "transformers and lm-eval."
        )


def _recognise_gguf(model: nn.Module, folder: Path | None, name: str) -> Recognised:
    from lmkick_plugin.record.quantized_weights import count_zeros

    zeros, note = count_zeros(model)
    notes = () if note is None else (note,)
    if folder is None:
        # The Hub's cache has the file, but no config.json by which its folder is found.
        return Recognised(scheme=read_scheme({"quant_method": "gguf"}), zeros=zeros, notes=notes)
    file = read_gguf(folder / name)
    size = file.path.stat().st_size
    return Recognised(
        scheme=file.scheme,
        zeros=zeros,
        parameters=file.parameters,
        bytes_stored=size,
        bytes_on_disk=size,
        base=stated_base(folder),
        notes=notes,
    )


def _quantization(config: Any) -> dict[str, Any] | None:
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        # Of a model with a vision tower, the language model's config may hold it.
        stored = getattr(getattr(config, "text_config", None), "quantization_config", None)
    if stored is None or isinstance(stored, dict):
        return stored
    return dict(stored.to_dict())


def _dtype(config: Any, arguments: Mapping[str, Any]) -> Any:
    import torch

    asked = arguments.get("dtype")
    if isinstance(asked, torch.dtype):
        return asked
    if isinstance(asked, str) and asked != "auto":
        return getattr(torch, asked)
    own = getattr(config, "dtype", None)
    return own if isinstance(own, torch.dtype) else torch.float32


def _subfolder(pretrained: str, passed: Mapping[str, Any]) -> Path:
    return Path(pretrained) / str(passed.get("subfolder") or "")
