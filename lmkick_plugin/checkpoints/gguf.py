# SPDX-License-Identifier: Apache-2.0
"""The header of a GGUF file: which tensors it holds, in which of ggml's types."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from compressors.errors import SettingsError
from lmkick_plugin.checkpoints.quantization_config import Scheme

__all__ = ["GgufFile", "read_gguf"]

# ggml's types: name, weights a block, bytes a block.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
# Types of metadata values that have a fixed size; 8 is text, 9 a list.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_DENSE = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a GGUF file holds.

    Attributes:
        path: The file.
        weights: Weights of its decoder blocks' matrices by type.
        parameters: All its parameters.
    """

    path: Path
    weights: Counter[str]
    parameters: int

    @property
    def scheme(self) -> Scheme:
        """How its weights are stored; the type that most weights have names it."""
        kind = self.weights.most_common(1)[0][0] if self.weights else "F32"
        if kind in _DENSE:
            return Scheme(storage="gguf", layout=kind)
        digits = [letter for letter in kind if letter.isdigit()]
        block = next(size for name, size, _ in _TYPES.values() if name == kind)
        return Scheme(
            storage="gguf",
            layout=kind,
            method=f"gguf-{kind.lower()}",
            bits=int(digits[0]),
            group_size=32 if block == 32 else None,
            mixed=len(self.weights) > 1,
        )


def read_gguf(path: Path) -> GgufFile:
    """Read a GGUF file's header.

    Args:
        path: The file.

    Raises:
        SettingsError: It is no GGUF file, is of an unknown version, or is cut short.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, stream)
    except FileNotFoundError as error:
        raise SettingsError(f"gguf_file: {path} is not there. Check its name.") from error
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise _damaged(path, "ends within its header, or is no GGUF file") from error


def _read(path: Path, stream: BinaryIO) -> GgufFile:
    if stream.read(4) != b"GGUF":
        raise _damaged(path, "does not begin as a GGUF file does")
    version, count, pairs = struct.unpack("<IQQ", _take(stream, 20))
    if version not in (2, 3):
        raise SettingsError(f"{path}: GGUF version {version} is not read; 2 and 3 are.")
    alignment = 32
    for _ in range(pairs):
        name = _text(stream)
        (kind,) = struct.unpack("<I", _take(stream, 4))
        if name == "general.alignment" and kind == 4:
            (alignment,) = struct.unpack("<I", _take(stream, 4))
        else:
            _skip(stream, kind)
    weights: Counter[str] = Counter()
    parameters = end = 0
    for _ in range(count):
        name = _text(stream)
        (dimensions,) = struct.unpack("<I", _take(stream, 4))
        shape = struct.unpack(f"<{dimensions}Q", _take(stream, 8 * dimensions))
        number, offset = struct.unpack("<IQ", _take(stream, 12))
        kind, block, size = _TYPES.get(number, (f"type {number}", 1, 0))
        elements = math.prod(shape)
        parameters += elements
        end = max(end, offset + elements // block * size)
        if dimensions > 1 and name.startswith("blk."):
            weights[kind] += elements
    begin = -(-stream.tell() // alignment) * alignment
    found = path.stat().st_size
    if count and found < begin + end:
        raise _damaged(path, f"has {found} bytes, and its header describes {begin + end}")
    return GgufFile(path, weights, parameters)


def _take(stream: BinaryIO, size: int) -> bytes:
    if size > 1 << 30:
        raise OverflowError
    return stream.read(size)


def _text(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _take(stream, 8))
    return _take(stream, length).decode()


def _skip(stream: BinaryIO, kind: int) -> None:
    if kind in _SIZES:
        _take(stream, _SIZES[kind])
    elif kind == 8:
        _text(stream)
    elif kind == 9:
        inner, length = struct.unpack("<IQ", _take(stream, 12))
        if inner in _SIZES:
            stream.seek(_SIZES[inner] * length, 1)
            return
        for _ in range(length):
            _skip(stream, inner)
    else:
        raise OverflowError


def _damaged(path: Path, what: str) -> ValueError:
    return SettingsError(f"{path} {what}: copy or download it again.")
