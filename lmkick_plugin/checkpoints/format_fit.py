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
from collections.abc import Sequence
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
from lmkick_plugin.recipe.formats import FORMATS, check_recipe, remedies

__all__ = [
    "check_blocks",
    "check_dtype",
    "other_formats",
    "other_linears",
    "prepare",
    "quantizer_of",
]

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
    check_recipe(storage, **_recipe_of(quantizer))
    if storage == "dense":
        return compressor
    dtype = getattr(model, "dtype", None) or next(model.parameters()).dtype
    blocks = find_blocks(model)
    others = other_formats(storage, quantizer, dtype, blocks)
    number_format = quantizer.number_format
    scale_dtype = check_dtype(
        storage, dtype, quantizer.grid.num_bits, quantizer.symmetric, number_format, others
    )
    check_blocks(storage, blocks, quantizer.group_size, number_format, others)
    if number_format != "fp8":  # which keeps the name
        _check_weight_reads(storage, model, blocks)
    rounded = replace(quantizer, scale_dtype=scale_dtype)
    joint: Any = compressor
    return rounded if quantizer is compressor else replace(joint, quantize=rounded)


def quantizer_of(compressor: Compressor) -> object:
    """The method itself, or its ``quantize`` if it prunes too (None: it prunes only)."""
    return getattr(compressor, "quantize", compressor)


def _recipe_of(quantizer: Quantizer) -> dict[str, Any]:
    return {
        "bits": quantizer.num_bits,
        "group_size": quantizer.group_size,
        "number_format": quantizer.number_format,
        "symmetric": quantizer.symmetric,
        "torn_groups": isinstance(quantizer, GPTQ) and quantizer.torn_groups,
        "scales_columns": quantizer.scales_columns,
    }


def other_formats(
    storage: str, quantizer: Quantizer, dtype: torch.dtype, blocks: list[Block]
) -> tuple[str, ...]:
    """Packed formats beside one that can hold the same, for messages to offer.

    Args:
        storage: The one that was asked for.
        quantizer: The method.
        dtype: The model's.
        blocks: The model's, with weights or without (on the meta device).
    """
    found = []
    for other in FORMATS[1:]:
        try:
            check_recipe(other, **_recipe_of(quantizer), offer=False)
            grid = quantizer.grid
            check_dtype(other, dtype, grid.num_bits, grid.symmetric, quantizer.number_format)
            check_blocks(other, blocks, quantizer.group_size, quantizer.number_format)
        except (SettingsError, UnsupportedModelError):
            continue
        found.append(other)
    return tuple(other for other in found if other != storage)


def check_dtype(
    storage: str,
    dtype: torch.dtype,
    bits: int,
    symmetric: bool,
    number_format: str = "int",
    others: Sequence[str] = (),
) -> torch.dtype | None:
    """Dtype that scales are rounded to; None keeps float32.

    ``others`` are offered in the message, as those of :func:`check_blocks`.

    Raises:
        SettingsError: No scale makes dequantization exact.
    """
    name = str(dtype).removeprefix("torch.")
    if number_format in ("mxfp4", "nvfp4") and dtype != torch.bfloat16:
        raise SettingsError(
            f"compressed-tensors unpacks {number_format} to bfloat16 whatever the model's dtype "
            f"({name}). {remedies('dtype=bfloat16')}"
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
            f"model would be rounded differently. {remedies('dtype=float16', *_named(others))}"
        )
    return torch.bfloat16


def check_blocks(
    storage: str,
    blocks: list[Block],
    group_size: int | None,
    number_format: str = "int",
    others: Sequence[str] = (),
) -> None:
    """Refuse matrices that a packed format cannot hold.

    GPTQ checkpoints hold a last group that is shorter than the others (``ceil(columns / group)``
    groups, which gptqmodel's torch kernel reads); compressed-tensors refuses to load one.

    Args:
        storage: ``gptq`` or ``compressed-tensors``.
        blocks: The model's, with weights or without (on the meta device).
        group_size: Columns that share a scale; None or -1: a row.
        number_format: ``int``, or a floating-point format, whose groups are its own.
        others: Formats that can hold it (:func:`other_formats`), for the message to offer.

    Raises:
        UnsupportedModelError: Naming the first of them.
    """
    for block in blocks:
        for matrix in block.matrices:
            problem, sizes = _misfit(storage, matrix), ""
            if problem is None:
                problem, sizes = _short_group(storage, matrix, group_size, number_format, blocks)
            if problem is not None:
                raise UnsupportedModelError(
                    f"{matrix.name} {problem}, which format {storage} cannot hold. "
                    f"{remedies(sizes, *_named(others))}"
                )
        left = other_linears(block)
        if storage == "gptq" and left:
            raise UnsupportedModelError(
                f"{left[0]} is not compressed, but loaders of format gptq take every linear "
                f"layer of a block as packed. {remedies(*_named(others))}"
            )


def _named(formats: Sequence[str]) -> list[str]:
    return [f"save_format={name}" for name in formats]


def _check_weight_reads(storage: str, model: nn.Module, blocks: list[Block]) -> None:
    """Refuse a model that would not load, or not run, without its layers' ``weight``."""
    names = [matrix.name for block in blocks for matrix in block.matrices]
    found = find_weight_read(storage, model, names)
    if found is not None:
        raise UnsupportedModelError(
            f"{found} is a layer whose weight the code of {type(model).__name__} reads, which "
            f"format {storage} cannot hold. {remedies()}"
        )


def _misfit(storage: str, matrix: WeightMatrix) -> str | None:
    """Why a format cannot hold a matrix; None where it can."""
    rows, columns = matrix.view().shape
    if matrix.expert is not None:
        return "is one of several experts in one parameter"
    if matrix.transposed:
        return "is stored transposed (Conv1D)"
    if storage == "gptq" and (rows % WORD or columns % WORD):
        return f"is {rows} x {columns}, and {WORD} has to divide both"
    if storage == "gptq" and not _fits_float16(getattr(matrix.module, "bias", None)):
        return "has a bias that float16 rounds (with dtype=float16 it would not)"
    return None


def _short_group(
    storage: str,
    matrix: WeightMatrix,
    group_size: int | None,
    number_format: str,
    blocks: list[Block],
) -> tuple[str | None, str]:
    """Why a format cannot hold a matrix's last group, and sizes that fit; None where it can."""
    columns = matrix.view().shape[1]
    whole = group_size in (None, -1) or columns % (group_size or 1) == 0
    if storage != "compressed-tensors" or whole:
        return None, ""
    if number_format != "int":
        return f"is {columns} wide, with a last block shorter than {group_size}", ""
    fitting = ", ".join([*map(str, _dividing_sizes(blocks)), "-1"])
    problem = f"is {columns} wide, with a shorter last group of group_size={group_size}"
    return problem, f"group_size={fitting}"


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
