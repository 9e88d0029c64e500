# SPDX-License-Identifier: Apache-2.0
"""Zeros of a quantized checkpoint's weights, read from its packed tensors.

No quantization library is needed: a weight is zero where its code is the zero point's. Every
function takes the stored tensors of one matrix and yields blocks ``[rows, in_features]`` of bool,
rows being output features, so that a large matrix is never unpacked as a whole.

Differences between formats that matter here:

1. GPTQ packs ``[in, out]`` along the inputs, 32 codes into ``bits`` words, lowest bit first; it
   stores zero points less one (``checkpoint_format: gptq_v2`` does not).
2. AWQ packs ``[in, out]`` along the outputs, in its own order. That order is the same for
   zero points, and pruning patterns run along the inputs, so it need not be undone.
3. compressed-tensors packs ``[out, in]`` along the inputs; codes are offset by ``2^(bits-1)``.
4. bitsandbytes packs two 4-bit codes per byte, indices into a table of 16 values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["READERS", "Zeros", "unpack_words"]

Zeros = Iterator["Tensor"]
_BLOCK = 1 << 22


def unpack_words(words: Tensor, bits: int, count: int) -> Tensor:
    """Undo dense packing along the first dimension, lowest bit first.

    Args:
        words: int32 ``[ceil(count * bits / 32), columns]``.
        bits: Bits of a code, 1 to 8.
        count: Codes a column.

    Returns:
        uint8 ``[count, columns]``.
    """
    import torch

    unsigned = words.to(torch.int64) & 0xFFFFFFFF
    offsets = torch.arange(count) * bits
    at, shift = offsets // 32, (offsets % 32).unsqueeze(1)
    codes = unsigned[at] >> shift
    across = (offsets % 32 + bits > 32).nonzero().flatten()
    if across.numel():
        codes[across] |= unsigned[at[across] + 1] << (32 - shift[across])
    found: Tensor = (codes & (2**bits - 1)).to(torch.uint8)
    return found


def gptq_zeros(read: Callable[[str], Tensor], settings: Mapping[str, Any]) -> Zeros:
    """GPTQ's format: ``qweight qzeros scales g_idx``."""
    import torch

    bits = settings["bits"]
    qweight, qzeros, scales = read("qweight"), read("qzeros"), read("scales")
    outputs = qweight.shape[1]
    inputs = qweight.shape[0] * 32 // bits
    zero_points = unpack_words(qzeros.T.contiguous(), bits, outputs).T
    if settings.get("version") != 2:
        zero_points = (zero_points + 1) & (2**bits - 1)
    groups = zero_points.shape[0]
    if settings.get("g_idx", True):
        group_of = read("g_idx").long()
    else:
        group_of = torch.arange(inputs) // -(-inputs // groups)
    step = max(1, _BLOCK // inputs)
    for begin in range(0, outputs, step):
        part = slice(begin, begin + step)
        codes = unpack_words(qweight[:, part], bits, inputs)
        zero = (codes == zero_points[group_of, part]) | (scales[group_of, part] == 0)
        yield zero.T


def awq_zeros(read: Callable[[str], Tensor], settings: Mapping[str, Any]) -> Zeros:
    """AWQ's ``gemm`` format: ``qweight qzeros``, eight 4-bit codes per word."""
    import torch

    qweight, qzeros = read("qweight"), read("qzeros")
    inputs, groups = qweight.shape[0], qzeros.shape[0]
    group_of = torch.arange(inputs) // -(-inputs // groups)
    bits = settings["bits"]
    shifts = torch.arange(0, 32, bits).view(1, 1, -1)
    step = max(1, _BLOCK // (inputs * 32 // bits))
    for begin in range(0, qweight.shape[1], step):
        part = slice(begin, begin + step)
        differ = (qweight[:, part] ^ qzeros[group_of, part]).to(torch.int64) & 0xFFFFFFFF
        zero = (differ.unsqueeze(-1) >> shifts) & (2**bits - 1) == 0
        yield zero.flatten(1).T


def packed_zeros(read: Callable[[str], Tensor], settings: Mapping[str, Any]) -> Zeros:
    """``pack-quantized`` of compressed-tensors: ``weight_packed``, its shape and zero points."""
    import torch

    bits = settings["bits"]
    packed = read("weight_packed")
    outputs, inputs = (int(size) for size in read("weight_shape"))
    middle = 2 ** (bits - 1)
    if settings.get("zero_point"):
        points = unpack_words(read("weight_zero_point"), bits, outputs)
        groups = points.shape[1]
    else:
        points, groups = torch.full((outputs, 1), middle, dtype=torch.uint8), 1
    if settings.get("g_idx"):
        group_of = read("weight_g_idx").long()
    else:
        group_of = torch.arange(inputs) // -(-inputs // groups)
    step = max(1, _BLOCK // inputs)
    for begin in range(0, outputs, step):
        part = slice(begin, begin + step)
        codes = unpack_words(packed[part].T.contiguous(), bits, inputs).T
        yield codes == points[part][:, group_of]


def plain_zeros(read: Callable[[str], Tensor], settings: Mapping[str, Any]) -> Zeros:
    """One number per weight: int8, FP8 or another; with or without a zero point."""
    import torch

    weight = read(settings.get("codes", "weight"))
    if weight.dtype.is_floating_point and weight.element_size() == 1:
        yield (weight.view(torch.uint8) & 0x7F) == 0
        return
    point: Any = 0
    if settings.get("zero_point"):
        point = read(settings["zero_point"])
        if point.ndim == 2 and point.shape[1] not in (1, weight.shape[1]):
            point = point.repeat_interleave(weight.shape[1] // point.shape[1], dim=1)
    yield weight == point


def nibble_zeros(read: Callable[[str], Tensor], settings: Mapping[str, Any]) -> Zeros:  # noqa: ARG001
    """NVFP4 and MXFP4 of compressed-tensors: two 4-bit floats per byte, lower one first."""
    import torch

    packed = read("weight_packed").view(torch.uint8)
    zero = torch.stack([packed & 0x07, (packed >> 4) & 0x07], dim=-1) == 0
    yield zero.flatten(1)


def bitsandbytes_zeros(read: Callable[[str], Tensor], settings: Mapping[str, Any]) -> Zeros:
    """4-bit bitsandbytes: ``weight``, its code table, and a state with the shape."""
    import torch

    state = json.loads(bytes(read(settings["state"]).tolist()))
    packed = read("weight").flatten()
    means_zero = read("weight.quant_map") == 0
    outputs, inputs = (int(size) for size in state["shape"])
    codes = torch.stack([packed >> 4, packed & 0x0F], dim=-1).flatten()
    codes = codes[: math.prod((outputs, inputs))].view(outputs, inputs)
    step = max(1, _BLOCK // inputs)
    for piece in torch.split(codes, step):
        yield means_zero[piece.long()]


#: How each layout of a matrix is read.
READERS: dict[str, Callable[[Callable[[str], Tensor], Mapping[str, Any]], Zeros]] = {
    "gptq": gptq_zeros,
    "awq": awq_zeros,
    "packed": packed_zeros,
    "plain": plain_zeros,
    "nibbles": nibble_zeros,
    "bitsandbytes": bitsandbytes_zeros,
}
