# SPDX-License-Identifier: Apache-2.0
"""Fit of a model's matrices to a storage format, with scales that dequantize exactly.

Dequantized weights have to be those that were evaluated, bit for bit, with any loader. A loader
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
mxfp4, nvfp4       bfloat16            8 bits, of the format's own
=================  ==================  =============================================
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressors import GPTQ, Compressor
from compressors.blocks.find import Block, WeightMatrix, find_blocks
from compressors.blocks.matrices import is_linear
from compressors.errors import SettingsError, UnsupportedModelError
from compressors.methods.rtn import Quantizer
from lmkick_plugin.checkpoints.packing import WORD
from lmkick_plugin.checkpoints.weight_reads import find_weight_read
from lmkick_plugin.recipe.formats import GPTQ_GROUPS, check_recipe

__all__ = ["check_blocks", "check_dtype", "other_linears", "prepare", "quantizer_of"]

#: Significant bits of float16 and of bfloat16.
_FLOAT16_BITS, _BFLOAT16_BITS = 11, 8


def prepare(compressor: Compressor, model: nn.Module, storage: str) -> Compressor:
    """Check that a format can store the outcome; return the method with scales it can store.

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
    quantizer = quantizer_of(compressor)
    if not isinstance(quantizer, Quantizer):
        check_recipe(storage, bits=None, group_size=None)
        return compressor
    check_recipe(
        storage,
        bits=quantizer.num_bits,
        group_size=quantizer.group_size,
        number_format=quantizer.number_format,
        symmetric=quantizer.symmetric,
        torn_groups=isinstance(quantizer, GPTQ) and quantizer.torn_groups,
        scales_columns=quantizer.scales_columns,
    )
    if storage == "dense":
        return compressor
    dtype = getattr(model, "dtype", None) or next(model.parameters()).dtype
    scale_dtype = check_dtype(
        storage, dtype, quantizer.grid.num_bits, quantizer.symmetric, quantizer.number_format
    )
    blocks = find_blocks(model)
    check_blocks(storage, blocks, quantizer.group_size, quantizer.number_format)
    if quantizer.number_format != "fp8":  # which keeps the name
        _check_weight_reads(storage, model, blocks)
    rounded = replace(quantizer, scale_dtype=scale_dtype)
    joint: Any = compressor
    return rounded if quantizer is compressor else replace(joint, quantize=rounded)


def quantizer_of(compressor: Compressor) -> object:
    """The method itself, or its ``quantize`` if it prunes too (None: it prunes only)."""
    return getattr(compressor, "quantize", compressor)


def check_dtype(
    storage: str, dtype: torch.dtype, bits: int, symmetric: bool, number_format: str = "int"
) -> torch.dtype | None:
    """Dtype that scales are rounded to; None keeps float32.

    Raises:
        SettingsError: No scale makes dequantization exact.
    """
    name = str(dtype).removeprefix("torch.")
    if number_format in ("mxfp4", "nvfp4") and dtype != torch.bfloat16:
        raise SettingsError(
            f"compressed-tensors unpacks {number_format} to bfloat16 whatever the model's dtype "
            f"({name}). Use dtype=bfloat16, or save it dense (save_format=dense; --format dense)."
        )
    if storage == "compressed-tensors":
        return None if dtype == torch.float32 else dtype
    if dtype == torch.float16:
        return torch.float16
    # Bits of a code's distance from its zero point; the lowest symmetric one is a power of 2.
    steps = bits - 1 if symmetric else bits
    if _BFLOAT16_BITS + steps > _FLOAT16_BITS:
        kind = "" if symmetric else " asymmetric"
        raise SettingsError(
            f"save_format=gptq is read in float16, where{kind} weights of {bits} bits of a {name} "
            "model would be rounded differently. Use dtype=float16, "
            "save_format=compressed-tensors, or save it dense (save_format=dense; --format dense)."
        )
    return torch.bfloat16


def check_blocks(
    storage: str, blocks: list[Block], group_size: int | None, number_format: str = "int"
) -> None:
    """Refuse matrices that a packed format cannot hold.

    GPTQ checkpoints hold a last group that is shorter than the others (``ceil(columns / group)``
    groups, which gptqmodel's torch kernel reads); compressed-tensors refuses to load one.

    Args:
        storage: ``gptq`` or ``compressed-tensors``.
        blocks: The model's, with weights or without (on the meta device).
        group_size: Columns that share a scale; None or -1: a row.
        number_format: ``int``, or a floating-point format, whose groups are its own.

    Raises:
        UnsupportedModelError: Naming the first of them.
    """
    for block in blocks:
        for matrix in block.matrices:
            problem, remedy = _misfit(storage, matrix)
            if problem is None:
                problem, remedy = _short_group(storage, matrix, group_size, number_format, blocks)
            if problem is not None:
                raise UnsupportedModelError(
                    f"{matrix.name} {problem}, which format {storage} cannot hold. {remedy} "
                    "(save_format=dense; --format dense)."
                )
        others = other_linears(block)
        if storage == "gptq" and others:
            raise UnsupportedModelError(
                f"{others[0]} is not compressed, but loaders of format gptq take every linear "
                "layer of a block as packed. Use save_format=compressed-tensors, or save it dense "
                "(save_format=dense; --format dense)."
            )


def _check_weight_reads(storage: str, model: nn.Module, blocks: list[Block]) -> None:
    """Refuse a model that would not load, or not run, without its layers' ``weight``."""
    names = [matrix.name for block in blocks for matrix in block.matrices]
    found = find_weight_read(storage, model, names)
    if found is not None:
        raise UnsupportedModelError(
            f"{found} is a layer whose weight the code of {type(model).__name__} reads, which "
            f"format {storage} cannot hold. Save it dense (save_format=dense; --format dense)."
        )


def _misfit(storage: str, matrix: WeightMatrix) -> tuple[str | None, str]:
    """Why a format cannot hold a matrix, with the remedy; None where it can."""
    rows, columns = matrix.view().shape
    other = "Use save_format=compressed-tensors, or save it dense"
    if matrix.expert is not None:
        return "is one of several experts in one parameter", "Save it dense"
    if matrix.transposed:
        return "is stored transposed (Conv1D)", "Save it dense"
    if storage == "gptq" and (rows % WORD or columns % WORD):
        return f"is {rows} x {columns}, and {WORD} has to divide both", other
    if storage == "gptq" and not _fits_float16(getattr(matrix.module, "bias", None)):
        return "has a bias that float16 rounds (with dtype=float16 it would not)", other
    return None, ""


def _short_group(
    storage: str,
    matrix: WeightMatrix,
    group_size: int | None,
    number_format: str,
    blocks: list[Block],
) -> tuple[str | None, str]:
    """Why a format cannot hold a matrix's last group, with the remedy; None where it can."""
    columns = matrix.view().shape[1]
    whole = group_size in (None, -1) or columns % (group_size or 1) == 0
    if storage != "compressed-tensors" or whole:
        return None, ""
    if number_format != "int":
        return f"is {columns} wide, with a last block shorter than {group_size}", "Save it dense"
    fitting = ", ".join([*map(str, _dividing_sizes(blocks)), "-1"])
    other = "save_format=gptq, " if group_size in GPTQ_GROUPS else ""
    return (
        f"is {columns} wide, with a shorter last group of group_size={group_size}",
        f"Use group_size={fitting}, {other}or save it dense",
    )


def _dividing_sizes(blocks: list[Block]) -> list[int]:
    """Group sizes from 16 to 1,024 that divide every matrix, else the largest that does."""
    widths = [matrix.view().shape[1] for block in blocks for matrix in block.matrices]
    common = math.gcd(*widths)
    usual = [size for size in range(16, 1025) if common % size == 0]
    return usual or [common] * (common > 1)


def _fits_float16(bias: Tensor | None) -> bool:
    """Whether a bias survives float16, in which loaders keep it."""
    return bias is None or bias.is_meta or torch.equal(bias.half().to(bias.dtype), bias)


def other_linears(block: Block) -> list[str]:
    """Names of the linear layers of a block that are not among its matrices."""
    known = {id(matrix.module) for matrix in block.matrices}
    modules: list[tuple[str, Any]] = list(block.module.named_modules())
    return [
        f"{block.name}.{name}"
        for name, module in modules
        if is_linear(module) and id(module) not in known
    ]
