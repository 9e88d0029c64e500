# SPDX-License-Identifier: Apache-2.0
"""Layers whose ``weight`` a model's own code reads, instead of calling them.

A loader of packed weights keeps other tensors in its place, so such code fails, in one of two
places: ``_init_weights``, which transformers runs while it loads, and the forward pass.
compressed-tensors unpacks the whole model before the first forward pass; GPTQ's layers stay packed.

Both are run on a copy of the model without weights (meta device): the model itself is not touched.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["find_weight_read"]

_log = logging.getLogger(__name__)


def find_weight_read(storage: str, model: nn.Module, names: Iterable[str]) -> str | None:
    """Find a layer that has to keep its ``weight`` for the model to load and run.

    Args:
        storage: ``gptq`` or ``compressed-tensors``.
        model: Of transformers; of another, nothing is known.
        names: Of the linear layers that would be packed.

    Returns:
        The name of the first such layer that is come across; None if there is none, or if the code
        cannot run without weights.
    """
    source: Any = model
    layers: dict[str, Any] = {}
    try:
        with torch.device("meta"):
            copied: Any = type(source)(copy.deepcopy(source.config))
        layers |= {name: copied.get_submodule(name) for name in names}
        for layer in layers.values():
            _pack(layer, storage)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copied.initialize_weights()
            if storage == "gptq":
                tokens = torch.ones(1, 2, dtype=torch.long, device="meta")
                copied.eval()(input_ids=tokens)
    except Exception as error:  # noqa: BLE001 - other models' code; all but one error is no matter
        if isinstance(error, AttributeError) and error.name == "weight":
            return next((name for name, layer in layers.items() if layer is error.obj), None)
        _log.debug("Not known whether the model reads packed weights: %r", error)
    return None


class _Packed(nn.Module):
    """A layer without a weight; only the shape of its output is right."""

    out_features: int

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_empty(*inputs.shape[:-1], self.out_features)


def _pack(layer: nn.Module, storage: str) -> None:
    """Make a linear layer what loaders make of it."""
    del layer.weight
    if storage == "gptq":  # compressed-tensors leaves the class
        layer.__class__ = _Packed
