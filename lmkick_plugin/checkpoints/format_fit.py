# SPDX-License-Identifier: Apache-2.0
"""Whether a model's matrices fit a format, and which scales keep its dequantization exact.

Dequantized weights have to be those that were evaluated, bit for bit, whoever loads them. A loader
multiplies in the dtype it keeps scales in: float16 for the GPTQ format in transformers, the model's
own in gptqmodel and for compressed-tensors. So scales are rounded to 16 bits *before* weights are
rounded to their grid, and products that would be rounded once more on their way are refused:

=================  ==================  =============================================
format             dtype of the model  scales
=================  ==================  =============================================
gptq               float16             float16
gptq               bfloat16, float32   bfloat16, where scale times code fits float16
compressed-tensors float16, bfloat16   the model's
compressed-tensors float32             float32, nothing is rounded
=================  ==================  =============================================
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressors import GPTQ, Compressor, SparseGPT
from compressors.blocks.find import Block, find_blocks
from compressors.blocks.matrices import is_linear
from compressors.errors import SettingsError, UnsupportedModelError
from compressors.methods.rtn import Quantizer
from lmkick_plugin.checkpoints.packing import WORD
from lmkick_plugin.recipe.formats import check_recipe

__all__ = ["check_dtype", "check_model", "other_linears", "prepare"]

#: Significant bits of float16 and of bfloat16.
_FLOAT16_BITS, _BFLOAT16_BITS = 11, 8


def prepare(compressor: Compressor, model: nn.Module, storage: str) -> Compressor:
    """Check that the outcome can be saved, and return the method with scales that a format keeps.

    Args:
        compressor: The method.
        model: The model that is going to be compressed.
        storage: One of :data:`lmkick_plugin.checkpoints.FORMATS`.

    Returns:
        The same method; for packed formats its scales are rounded to what they are stored in.

    Raises:
        SettingsError: The format cannot hold what the settings make, or its library is missing.
        UnsupportedModelError: It cannot hold this model's matrices.
    """
    quantizer = compressor.quantize if isinstance(compressor, SparseGPT) else compressor
    if not isinstance(quantizer, Quantizer):
        check_recipe(storage, bits=None, group_size=None)
        return compressor
    check_recipe(
        storage,
        bits=quantizer.num_bits,
        group_size=quantizer.group_size,
        symmetric=quantizer.symmetric,
        act_order=isinstance(quantizer, GPTQ) and quantizer.act_order,
        static_groups=isinstance(quantizer, GPTQ) and quantizer.static_groups,
        scales_columns=quantizer.scales_columns,
    )
    if storage == "dense":
        return compressor
    dtype = getattr(model, "dtype", None) or next(model.parameters()).dtype
    scale_dtype = check_dtype(storage, dtype, quantizer.grid.num_bits, quantizer.symmetric)
    check_model(storage, model, quantizer.group_size)
    if isinstance(compressor, SparseGPT) and compressor.quantize is not None:
        grid = replace(compressor.quantize, scale_dtype=scale_dtype)
        return replace(compressor, quantize=grid)
    return replace(quantizer, scale_dtype=scale_dtype)


def check_dtype(storage: str, dtype: torch.dtype, bits: int, symmetric: bool) -> torch.dtype | None:
    """The dtype that scales are rounded to; None leaves them in float32.

    Raises:
        SettingsError: No scale makes dequantization exact.
    """
    if storage == "compressed-tensors":
        return None if dtype == torch.float32 else dtype
    if dtype == torch.float16:
        return torch.float16
    # Bits of a code's distance from its zero point; the lowest symmetric one is a power of 2.
    steps = bits - 1 if symmetric else bits
    if _BFLOAT16_BITS + steps > _FLOAT16_BITS:
        name = str(dtype).removeprefix("torch.")
        kind = "" if symmetric else " asymmetric"
        raise SettingsError(
            f"save_format=gptq is read in float16, where{kind} weights of {bits} bits of a {name} "
            "model would come out rounded differently. Use dtype=float16, save_format="
            "compressed-tensors, or save it dense (save_format=dense; --format dense)."
        )
    return torch.bfloat16


def check_model(storage: str, model: nn.Module, group_size: int | None) -> None:
    """Refuse matrices that a packed format cannot hold.

    GPTQ checkpoints hold a last group that is shorter than the others (``ceil(columns / group)``
    groups, which gptqmodel's torch kernel reads); compressed-tensors refuses to load one.

    Args:
        storage: ``gptq`` or ``compressed-tensors``.
        model: The model.
        group_size: Columns that share a scale; None or -1: a row.

    Raises:
        UnsupportedModelError: Naming the first of them.
    """
    blocks = find_blocks(model)
    size = None if group_size == -1 else group_size
    for block in blocks:
        for matrix in block.matrices:
            rows, columns = matrix.view().shape
            problem, remedy = None, "Save it dense"
            if matrix.expert is not None:
                problem = "is one of several experts in one parameter"
            elif matrix.transposed:
                problem = "is stored transposed (Conv1D)"
            elif storage == "gptq" and (rows % WORD or columns % WORD):
                problem = f"is {rows} x {columns}, and {WORD} has to divide both"
                remedy = "Use save_format=compressed-tensors, or save it dense"
            elif storage == "gptq" and not _fits_float16(getattr(matrix.module, "bias", None)):
                problem = "has a bias that float16 rounds (with dtype=float16 it would not)"
                remedy = "Use save_format=compressed-tensors, or save it dense"
            elif storage == "compressed-tensors" and size is not None and columns % size:
                problem = f"is {columns} wide, with a shorter last group of group_size={size}"
                fitting = ", ".join(map(str, _dividing_sizes(blocks)))
                remedy = f"Use group_size={fitting} or -1, save_format=gptq, or save it dense"
            if problem is not None:
                raise UnsupportedModelError(
                    f"{matrix.name} {problem}, which the format {storage} cannot hold. "
                    f"{remedy} (save_format=dense; --format dense)."
                )
        others = other_linears(block)
        if storage == "gptq" and others:
            raise UnsupportedModelError(
                f"{others[0]} is not compressed, and what loads the format gptq takes every linear "
                "layer of a block for packed. Use save_format=compressed-tensors, or save it dense "
                "(save_format=dense; --format dense)."
            )


def _dividing_sizes(blocks: list[Block]) -> list[int]:
    """Group sizes from 16 to 1,024 that divide every matrix."""
    widths = [matrix.view().shape[1] for block in blocks for matrix in block.matrices]
    common = math.gcd(*widths)
    return [size for size in range(16, 1025) if common % size == 0]


def _fits_float16(bias: Tensor | None) -> bool:
    """Whether a bias, which loaders keep in float16, comes back as it was."""
    return bias is None or torch.equal(bias.half().to(bias.dtype), bias)


def other_linears(block: Block) -> list[str]:
    """Names of the linear layers of a block that are not among its matrices."""
    known = {id(matrix.module) for matrix in block.matrices}
    modules: list[tuple[str, Any]] = list(block.module.named_modules())
    return [
        f"{block.name}.{name}"
        for name, module in modules
        if is_linear(module) and id(module) not in known
    ]
