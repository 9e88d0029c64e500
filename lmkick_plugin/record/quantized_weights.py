# SPDX-License-Identifier: Apache-2.0
"""Quantized weights in memory: the tensors they consist of, and their zeros."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor

from lmkick_plugin.record.zero_pattern import ZeroCount

__all__ = ["are_rounded", "count_zeros", "packed_buffers", "parameters", "parts"]

_ROWS = 1 << 22
#: Neighbouring weights of a row that share a scale in most formats, and rows looked at per matrix.
_GROUP, _SAMPLE = 32, 64
#: Share of non-zero weights with an equal in their group: about .05 for bfloat16 weights that were
#: never quantized, .5 and more after rounding to 6 bits or fewer.
_REPEATED = 0.25


def parts(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a parameter consists of.

    Args:
        name: The parameter's name.
        weight: The parameter; perhaps one of torchao's or bitsandbytes', or semi-structured.

    Yields:
        Names and tensors; for a plain parameter, itself.
    """
    state = getattr(weight, "quant_state", None)
    scales = getattr(weight, "SCB", None)
    if state is not None:
        yield name, weight.data
        for part, tensor in state.as_dict(packed=True).items():
            yield f"{name}.{part}", tensor
    elif isinstance(scales, Tensor):
        yield name, weight.data
        yield f"{name}.SCB", scales
    elif _is_torchao(weight) or isinstance(weight, SparseSemiStructuredTensor):
        names, _ = weight.__tensor_flatten__()  # type: ignore[attr-defined]
        for part in names:
            yield from parts(f"{name}.{part}", getattr(weight, part))
    else:
        yield name, weight


def packed_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that hold a module's packed weights (gptqmodel); empty for others."""
    buffers = dict(module.named_buffers(recurse=False))
    return buffers if "qweight" in buffers else {}


def count_zeros(model: nn.Module) -> tuple[ZeroCount | None, str | None]:
    """Count the zeros of the decoder blocks' matrices, one matrix at a time.

    Args:
        model: Dense, or quantized by bitsandbytes or torchao.

    Returns:
        The counts, and why there are none.
    """
    from compressors.blocks.find import find_blocks
    from compressors.errors import UnsupportedModelError

    if hasattr(model, "peft_config"):
        return None, "zeros were not counted: an adapter is applied on top of the weights"
    if any(hasattr(weight, "to_local") for weight in model.parameters()):
        return None, "zeros were not counted: each process holds part of every matrix"
    count = ZeroCount()
    quantized = [module for module in model.modules() if _is_quantized(module)]
    for module in quantized:
        count.add_matrix(_zeros_of(module.weight))
    if quantized:
        return count, None
    try:
        for block in find_blocks(model):
            for matrix in block.matrices:
                view = matrix.view()
                rows = max(1, _ROWS // max(1, view.shape[1]))
                count.add_matrix(piece == 0 for piece in torch.split(view, rows))
    except UnsupportedModelError as error:
        return None, f"zeros were not counted: {error}"
    return count, None


def are_rounded(model: nn.Module) -> bool:
    """Whether dense weights were rounded to a grid of few values, as in a dequantized checkpoint.

    Args:
        model: Dense, with blocks that :func:`count_zeros` can read.
    """
    from compressors.blocks.find import find_blocks

    repeated = nonzero = 0
    for block in find_blocks(model):
        for matrix in block.matrices:
            rows = matrix.view()[:_SAMPLE].float()
            group = min(_GROUP, rows.shape[1])
            groups = rows[:, : rows.shape[1] // group * group].reshape(-1, group)
            ordered = groups.sort(dim=1).values
            equal = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)
            repeated += int(equal.sum())
            nonzero += int((groups != 0).sum())
    return repeated >= _REPEATED * nonzero > 0


def parameters(model: nn.Module) -> int:
    """Number of parameters; packed ones counted unpacked, tied ones once."""
    seen: dict[int, int] = {}
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        seen[id(weight)] = weight.numel() if state is None else int(state.shape.numel())
    return sum(seen.values())


def _is_torchao(weight: Tensor) -> bool:
    flattens = hasattr(weight, "__tensor_flatten__") and not hasattr(weight, "to_local")
    return flattens and type(weight).__module__.startswith("torchao.")


def _is_quantized(module: nn.Module) -> bool:
    weight: Any = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and (
        getattr(weight, "quant_state", None) is not None
        or isinstance(getattr(weight, "SCB", None), Tensor)
        or _is_torchao(weight)
    )


def _zeros_of(weight: Any) -> Iterator[Tensor]:
    if getattr(weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        yield dequantize_4bit(weight.data, weight.quant_state) == 0
    elif isinstance(getattr(weight, "SCB", None), Tensor):
        yield weight.data == 0
    else:
        with torch.no_grad():
            yield weight.dequantize() == 0
