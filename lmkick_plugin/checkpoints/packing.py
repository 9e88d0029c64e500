# SPDX-License-Identifier: Apache-2.0
"""Packing of codes into 32-bit words, as in the GPTQ checkpoint format."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["WORD", "pack_rows"]

#: Bits of a word; rows come in multiples of it, so that every width fills whole words.
WORD = 32


def pack_rows(codes: Tensor, num_bits: int) -> Tensor:
    """Pack along the first dimension: 32 codes into ``num_bits`` words, lowest bits first.

    A code may straddle two words, as those of 3 bits do.

    Args:
        codes: Unsigned integers below ``2**num_bits``, ``[rows, columns]``, rows a multiple of 32.
        num_bits: Bits of a code.

    Returns:
        int32 ``[rows * num_bits / 32, columns]``.

    >>> pack_rows(torch.tensor([[1], [2]] + [[0]] * 30), 4).tolist()
    [[33], [0], [0], [0]]
    """
    groups = codes.reshape(-1, WORD, codes.shape[1])
    words = codes.new_zeros((len(groups), num_bits, codes.shape[1]), dtype=torch.int64)
    for index in range(WORD):
        word, shift = divmod(index * num_bits, WORD)
        code = groups[:, index].to(torch.int64)
        words[:, word] |= code << shift
        if shift + num_bits > WORD:
            words[:, word + 1] |= code >> (WORD - shift)
    words &= 2**WORD - 1
    # The same 32 bits, read as a signed number.
    signed = torch.where(words >= 2 ** (WORD - 1), words - 2**WORD, words)
    return signed.to(torch.int32).reshape(-1, codes.shape[1])
