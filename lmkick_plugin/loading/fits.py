# SPDX-License-Identifier: Apache-2.0
"""Checks of a recipe against the model's config: shapes, memory for calibration."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from compressors.errors import SettingsError

if TYPE_CHECKING:
    import torch

    from lmkick_plugin.recipe.recipe import Recipe

__all__ = ["check_calibration_size", "check_shapes"]

# Of a token id as Python holds it while samples are made.
_BYTES_PER_TOKEN = 40


def check_shapes(
    recipe: Recipe, config: Any, storage: str | None, dtype: torch.dtype
) -> tuple[str, ...]:
    """Refuse a pattern, group, packed format or allocation that does not fit the model.

    The model is built without memory for its weights. Where that cannot be done (code of the
    checkpoint's own, kinds that only loading knows), the compression itself checks.

    Args:
        recipe: What is to be done.
        config: The model's config.
        storage: Format of the folder to save; None saves nothing.
        dtype: Of the weights.

    Returns:
        Other packed formats that can hold the outcome.

    Raises:
        UnsupportedModelError: The first matrix that does not fit, and what would fit all.
        SettingsError: The allocation leaves a block out, or names one that is not there.
    """
    compressor = recipe.build_compressor()
    if compressor is None:
        return ()
    import torch
    from transformers import AutoModelForCausalLM

    from compressors.allocation import check_allocation
    from compressors.blocks.find import find_blocks
    from compressors.blocks.preconditions import check_shapes as check
    from compressors.methods.rtn import Quantizer
    from lmkick_plugin.checkpoints.format_fit import check_blocks, other_formats, quantizer_of

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        blocks = find_blocks(model, with_weights=False)
    except Exception:  # noqa: BLE001 - loading finds out what is wrong, with the right message
        return ()
    check(compressor, blocks)
    check_allocation(compressor, blocks, **recipe.build_allocation())
    quantizer = quantizer_of(compressor)
    if storage in (None, "dense") or not isinstance(quantizer, Quantizer):
        return ()
    others = other_formats(storage, quantizer, dtype, blocks)
    check_blocks(storage, blocks, quantizer.group_size, quantizer.number_format, others)
    return others


def check_calibration_size(recipe: Recipe, config: Any) -> None:
    """Refuse more calibration than this machine's memory holds.

    Args:
        recipe: What is to be done.
        config: The model's config.

    Raises:
        SettingsError: It says how many samples would fit.
    """
    if recipe.nsamples is None or recipe.seqlen is None or recipe.calibration is None:
        return
    inner = getattr(config, "text_config", None) or config
    hidden = getattr(inner, "hidden_size", None) or getattr(inner, "n_embd", None) or 0
    context = getattr(inner, "max_position_embeddings", None) or recipe.seqlen
    # Hidden states in two bytes, as in bfloat16, beside the tokens.
    sample = min(recipe.seqlen, int(context)) * (2 * int(hidden) + _BYTES_PER_TOKEN)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if recipe.nsamples * sample > memory:
        raise SettingsError(
            f"nsamples={recipe.nsamples}: calibration would take "
            f"{recipe.nsamples * sample / 1e9:,.0f} GB, and this machine has "
            f"{memory / 1e9:,.0f}. At most {memory // sample:,} samples of this length "
            "fit; 128 is usual."
        )
