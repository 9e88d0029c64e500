# SPDX-License-Identifier: Apache-2.0
"""Tensors of a GGUF file: number of weights by ggml type."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from compressors.errors import SettingsError
from lmkick_plugin.checkpoints.quantization_config import Scheme

__all__ = ["GgufFile", "read_gguf"]

_DENSE = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Contents of a GGUF file.

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
        """Storage of its weights, named by the commonest type."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        kind = self.weights.most_common(1)[0][0] if self.weights else "F32"
        if kind in _DENSE:
            return Scheme(storage="gguf", layout=kind)
        digits = [letter for letter in kind if letter.isdigit()]
        block, _ = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        return Scheme(
            storage="gguf",
            layout=kind,
            method=f"gguf-{kind.lower()}",
            bits=int(digits[0]) if digits else None,
            group_size=32 if block == 32 else None,
            mixed=len(self.weights) > 1,
        )


def read_gguf(path: Path) -> GgufFile:
    """Read the tensor list of a GGUF file.

    Args:
        path: The file; the gguf library has to be there.

    Raises:
        SettingsError: It is not there, not a GGUF file, or cut short.
    """
    from gguf import GGUFReader

    if not path.is_file():
        raise SettingsError(f"gguf_file: {path} does not exist. Check its name.")
    try:
        reader = GGUFReader(path)
    # The reader trusts the file, so a damaged one fails wherever its bytes lead to.
    except (ValueError, LookupError, ArithmeticError, TypeError, MemoryError) as error:
        raise SettingsError(
            f"{path} is not a complete GGUF file ({error}). Copy or download it again."
        ) from error
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        if len(tensor.shape) > 1 and tensor.name.startswith("blk."):
            weights[tensor.tensor_type.name] += int(tensor.n_elements)
    return GgufFile(path, weights, sum(int(tensor.n_elements) for tensor in reader.tensors))
