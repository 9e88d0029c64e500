# SPDX-License-Identifier: Apache-2.0
"""Tensors and configuration of quantized models in the two packed formats.

Codes are read off the evaluated weights by their grids (:mod:`compressors.quantization_grid`), one
matrix after the other, and dequantized again as loaders do: what is written stands for the very
weights that were evaluated, or nothing is written.

* GPTQ: ``qweight`` int32 ``[in * bits / 32, out]``, ``qzeros`` int32 ``[groups, out * bits / 32]``,
  ``scales`` float16 ``[groups, out]``, ``g_idx`` int32 ``[in]``. Symmetric models are of version 1,
  which stores zero points less one and is what everybody reads. Asymmetric ones may have a zero
  point of 0, which version 1 cannot hold: they are ``gptq_v2``, which stores them unchanged.
* compressed-tensors, ``pack-quantized``: ``weight_packed``, ``weight_scale``, ``weight_shape``,
  packed by its own library; symmetric alone, for transformers does not load packed zero points.
* compressed-tensors, ``float-quantized`` (fp8): ``weight`` E4M3, ``weight_scale`` ``[out, 1]``.
  ``mxfp4-pack-quantized`` and ``nvfp4-pack-quantized``: ``weight_packed`` uint8 ``[out, in / 2]``,
  the code of the even column in the lower half; ``weight_scale`` ``[out, blocks]``, the exponent
  plus 127 as uint8 or E4M3; for nvfp4 ``weight_global_scale`` float32 ``[1]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import lmkick_plugin
from compressors.blocks.find import WeightMatrix, find_blocks
from compressors.errors import NumericalError
from compressors.float_grid import points
from compressors.quantization_grid import QuantizationGrid
from lmkick_plugin.checkpoints.format_fit import other_linears
from lmkick_plugin.checkpoints.packing import pack_rows

__all__ = ["pack_model", "stated_group_size"]


def pack_model(
    model: nn.Module, grids: Mapping[str, QuantizationGrid], storage: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of a quantized model, and its ``quantization_config``.

    Args:
        model: The compressed model.
        grids: The grid of each of its matrices.
        storage: ``gptq`` or ``compressed-tensors``.

    Raises:
        NumericalError: A matrix is not on its grid, or unpacking would change it.
        KeyError: A matrix has no grid.
    """
    state = dict(model.state_dict())
    symmetric = all(grid.symmetric for grid in grids.values())
    blocks = find_blocks(model)
    for matrix in (matrix for block in blocks for matrix in block.matrices):
        grid = grids[matrix.name]
        del state[f"{matrix.name}.weight"]
        if storage == "gptq":
            packed = _gptq_tensors(matrix, grid, symmetric)
        else:
            packed = (_integers if grid.number_format == "int" else _floats)(matrix, grid)
        state |= {f"{matrix.name}.{name}": tensor for name, tensor in packed.items()}
    grid = next(iter(grids.values()))
    size = stated_group_size(grids)
    if storage == "gptq":
        spread = not all(each.in_order for each in grids.values())
        name = blocks[0].name.rpartition(".")[0]
        return state, _gptq_config(grid.num_bits, size, symmetric, spread, name)
    kept = [name for block in blocks for name in other_linears(block)]
    inside = {id(matrix.module) for block in blocks for matrix in block.matrices}
    kept += [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside and name not in kept
    ]
    return state, _compressed_tensors_config(grid, size, kept)


def stated_group_size(grids: Mapping[str, QuantizationGrid]) -> int:
    """Columns per group as configurations write it: -1 for one group per row."""
    if all(grid.scale.shape[1] == 1 for grid in grids.values()):
        return -1
    # A matrix narrower than a group has one, of its own width.
    return max(grid.group_size for grid in grids.values())


def _gptq_tensors(
    matrix: WeightMatrix, grid: QuantizationGrid, symmetric: bool
) -> dict[str, Tensor]:
    weight = matrix.view()
    codes = grid.encode(weight).cpu()
    scales = grid.scale.half()
    columns = grid.g_idx.long()
    steps = codes.to(torch.int16) - grid.zero_point[:, columns].to(torch.int16)
    _require_same(matrix, scales[:, columns] * steps, weight)
    stored = grid.zero_point - 1 if symmetric else grid.zero_point
    return {
        "qweight": pack_rows(codes.t(), grid.num_bits),
        "qzeros": pack_rows(stored, grid.num_bits).t().contiguous(),
        "scales": scales.t().contiguous(),
        "g_idx": grid.g_idx.clone(),
    }


def _integers(matrix: WeightMatrix, grid: QuantizationGrid) -> dict[str, Tensor]:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    weight = matrix.view()
    codes = grid.encode(weight).cpu()
    scale = grid.scale.to(weight.dtype)
    columns = grid.g_idx.long()
    middle = 2 ** (grid.num_bits - 1)
    # The library's integers are signed: less the middle of ours.
    signed = (codes.to(torch.int16) - middle).to(torch.int8)
    _require_same(matrix, signed.to(scale.dtype) * scale[:, columns], weight)
    return {
        "weight_packed": pack_to_int32(signed, grid.num_bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
    }


def _floats(matrix: WeightMatrix, grid: QuantizationGrid) -> dict[str, Tensor]:
    weight = matrix.view()
    codes = grid.encode(weight).cpu()
    if grid.number_format == "fp8":
        scale = grid.scale.to(weight.dtype)
        stored = codes.view(torch.float8_e4m3fn)
        _require_same(matrix, stored.to(scale.dtype) * scale, weight)
        return {"weight": stored, "weight_scale": scale}
    packed = {"weight_packed": codes[:, ::2] | (codes[:, 1::2] << 4)}
    if grid.matrix_scale is None:
        exponents = torch.frexp(grid.scale).exponent + 126
        packed["weight_scale"] = exponents.to(torch.uint8)
        scale = torch.exp2(packed["weight_scale"].float() - 127)
    else:
        packed["weight_scale"] = (grid.scale * grid.matrix_scale).to(torch.float8_e4m3fn)
        packed["weight_global_scale"] = grid.matrix_scale.reshape(1)
        scale = packed["weight_scale"].float() / grid.matrix_scale
    _require_same(matrix, points(codes, grid.num_bits) * scale[:, grid.g_idx.long()], weight)
    return packed


def _require_same(matrix: WeightMatrix, dequantized: Tensor, weight: Tensor) -> None:
    if not torch.equal(dequantized.to(weight.dtype), weight.cpu()):
        raise NumericalError(
            f"{matrix.name}: unpacking would change its weights, because its scales were not "
            "rounded to their stored dtype before compression "
            "(lmkick_plugin.checkpoints.prepare). Save it dense (save_format=dense; --format "
            "dense)."
        )


def _gptq_config(
    bits: int, group_size: int, symmetric: bool, spread: bool, blocks: str
) -> dict[str, Any]:
    version = "gptq" if symmetric else "gptq_v2"
    return {
        "quant_method": "gptq",
        "checkpoint_format": version,
        "format": version,
        "bits": bits,
        "group_size": group_size,
        "sym": symmetric,
        "desc_act": spread,
        "lm_head": False,
        "pack_dtype": "int32",
        "block_name_to_quantize": blocks,
        "meta": {"quantizer": [f"lmkick:{lmkick_plugin.__version__}"]},
    }


def _compressed_tensors_config(
    grid: QuantizationGrid, group_size: int, kept: list[str]
) -> dict[str, Any]:
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
    )

    own = {
        "int": ("pack-quantized", "int", None),
        "fp8": ("float-quantized", "float", None),
        "mxfp4": ("mxfp4-pack-quantized", "float", torch.uint8),
        "nvfp4": ("nvfp4-pack-quantized", "float", torch.float8_e4m3fn),
    }
    layout, kind, scale_dtype = own[grid.number_format]
    groups = "group" if grid.matrix_scale is None else "tensor_group"
    weights = QuantizationArgs(
        num_bits=grid.num_bits,
        type=kind,
        symmetric=True,
        strategy="channel" if group_size == -1 else groups,
        group_size=None if group_size == -1 else group_size,
        scale_dtype=scale_dtype,
    )
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        quantization_status=QuantizationStatus.COMPRESSED,
        format=layout,
        ignore=kept,
    )
    stated: dict[str, Any] = config.to_dict()
    return {**stated, "quant_method": "compressed-tensors"}
