# SPDX-License-Identifier: Apache-2.0
"""Placement: merge adapters, refuse offloaded weights, spread over devices."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from compressors.errors import SettingsError

__all__ = ["merge_adapter", "refuse_offloaded", "spread", "whole_adapter"]

logger = logging.getLogger(__name__)


def merge_adapter(model: Any) -> nn.Module:
    """Merge a LoRA adapter into the weights.

    Args:
        model: A ``peft.PeftModel``.

    Returns:
        The model below it, changed in place.

    Raises:
        UnsupportedModelError: The adapter is of a kind that cannot be folded in.
    """
    from compressors.errors import UnsupportedModelError

    merge = getattr(model.base_model, "merge_and_unload", None)
    if merge is None:
        kinds = sorted({str(config.peft_type) for config in model.peft_config.values()})
        raise UnsupportedModelError(
            f"Adapter type {', '.join(kinds)} cannot be merged into the weights before "
            "compression. Use a LoRA adapter, or compressor=none."
        )
    logger.info("Merging the adapter into the weights before compression.")
    merged: nn.Module = merge()
    return merged


@contextmanager
def whole_adapter(name: object) -> Iterator[None]:
    """Refuse an adapter that lacks tensors: peft warns, and leaves those layers as they were.

    Args:
        name: Of the adapter, for the message.

    Raises:
        SettingsError: Tensors are missing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            yield
        except UserWarning as warning:
            if "missing adapter keys" not in str(warning):  # another, which is an error elsewhere
                raise
            names = (
                str(warning).rpartition("checkpoint: ")[2].strip("[].").replace("'", "").split(", ")
            )
            raise SettingsError(
                f"peft={name}: {len(names)} tensors are missing from its files ({names[0]}"
                f"{', ...' if len(names) > 1 else ''}), so those layers would be without it. Copy "
                "the adapter again, or correct adapter_config.json."
            ) from warning


def refuse_offloaded(model: nn.Module) -> None:
    """Refuse a model with offloaded weights.

    Raises:
        UnsupportedModelError: Some are placeholders, whose values wait on disk or elsewhere.
    """
    from compressors.errors import UnsupportedModelError

    offloaded = [name for name, weight in model.named_parameters() if weight.is_meta]
    if offloaded:
        raise UnsupportedModelError(
            f"{len(offloaded)} weights are offloaded ({offloaded[0]}, ...) and cannot be "
            "compressed in place. Use parallelize=true without a device_map: it compresses in "
            "main memory, then spreads the model."
        )


def spread(
    model: nn.Module,
    accelerate_args: Callable[..., dict[str, Any]],
    arguments: Mapping[str, Any],
) -> nn.Module:
    """Spread a model from main memory over the devices, as ``from_pretrained`` would.

    Args:
        model: The model, all of it on the CPU.
        accelerate_args: lm-eval's ``HFLM._get_accelerate_args``, which knows the memory limits.
        arguments: What the model was loaded with: ``parallelize``, ``max_memory_per_gpu``, ...

    Returns:
        The same model, with accelerate's hooks where it is spread.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    wanted = ("parallelize", "device_map", "max_memory_per_gpu", "max_cpu_memory", "gpus")
    placed = accelerate_args(
        **{name: arguments.get(name) for name in wanted},
        offload_folder=arguments.get("offload_folder"),
    )
    if placed["device_map"] is None or not placed["max_memory"]:
        return model  # nothing but the CPU, where it is
    # The blocks' class names: accelerate wants a list, transformers holds a set or a list.
    whole = list(getattr(model, "_no_split_modules", None) or ())
    memory = get_balanced_memory(model, placed["max_memory"], no_split_module_classes=whole)
    device_map = infer_auto_device_map(model, memory, no_split_module_classes=whole)
    spread_model: nn.Module = dispatch_model(
        model, device_map, offload_dir=placed["offload_folder"]
    )
    return spread_model
