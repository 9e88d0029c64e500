# SPDX-License-Identifier: Apache-2.0
"""What ``--model kick`` does for ``save_compressed`` and ``compress_cache``: before, and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmkick_plugin.recipe.readers import is_unset

if TYPE_CHECKING:
    from compressors import Compressor
    from compressors.quantization_grid import QuantizationGrid
    from lmkick_plugin.recipe.recipe import Recipe

__all__ = ["check_before_load", "driver_settings", "fit", "keep", "storage_of"]

#: GB that a cache may take where nothing was said.
_CACHE_GB = 100


def storage_of(recipe: Recipe) -> str | None:
    """How the model is to be saved; None where it is not."""
    return None if recipe.save_compressed is None else recipe.save_format or "dense"


def check_before_load(recipe: Recipe, config: Any, passed: Mapping[str, Any]) -> None:
    """Refuse what a format cannot hold in the dtype that the model will be loaded in.

    Args:
        recipe: What is to be done.
        config: The model's config.
        passed: The arguments for lm-eval's ``hf`` model.

    Raises:
        SettingsError: The message says what would do.
    """
    storage = storage_of(recipe)
    if storage in (None, "dense") or recipe.bits is None:
        return
    import torch

    from lmkick_plugin.checkpoints.format_fit import check_dtype

    dtype: Any = passed.get("dtype")
    if is_unset(dtype) or dtype == "auto":
        inner = getattr(config, "text_config", None) or config
        dtype = getattr(config, "dtype", None) or getattr(inner, "dtype", None) or torch.float32
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    check_dtype(str(storage), dtype, recipe.bits, bool(recipe.symmetric))


def fit(recipe: Recipe, compressor: Compressor, model: Any) -> Compressor:
    """The method whose outcome can be saved as asked; what cannot be is refused.

    Args:
        recipe: What is to be done.
        compressor: Its method.
        model: The model, loaded and still dense.

    Raises:
        SettingsError: The settings do not go with the format, or the disk has no room.
        UnsupportedModelError: The model does not go with the format.
    """
    storage = storage_of(recipe)
    if storage is None or recipe.save_compressed is None:
        return compressor
    from lmkick_plugin.checkpoints.format_fit import prepare
    from lmkick_plugin.checkpoints.write import check_room

    fitted = prepare(compressor, model, storage)
    check_room(model, recipe.save_compressed, storage, fitted)
    return fitted


def driver_settings(recipe: Recipe, main_process: bool) -> dict[str, Any]:
    """What ``compress_model`` is told of caches, and of grids where they will be needed."""
    settings: dict[str, Any] = {"resume_dir": recipe.resume_dir}
    if recipe.compress_cache is not None:
        settings["compress_cache"] = recipe.compress_cache
        settings["compress_cache_gb"] = recipe.compress_cache_gb or _CACHE_GB
    if main_process and storage_of(recipe) not in (None, "dense"):
        settings["grids"] = {}
    return settings


def keep(
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    grids: Mapping[str, QuantizationGrid] | None,
    record: Mapping[str, Any],
) -> None:
    """Save the compressed model where that was asked for.

    Raises:
        SettingsError: The folder was filled meanwhile.
        OSError: It cannot be written; nothing is left then.
    """
    storage = storage_of(recipe)
    if storage is None or recipe.save_compressed is None:
        return
    from lmkick_plugin.checkpoints.write import save

    save(
        model,
        recipe.save_compressed,
        tokenizer=tokenizer,
        storage=storage,
        grids=grids,
        record=record,
    )
