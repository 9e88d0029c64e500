# SPDX-License-Identifier: Apache-2.0
"""2:4 weights as torch's semi-structured tensors, which sparse tensor cores multiply.

References:
    Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from compressors.blocks.find import find_blocks
from compressors.blocks.matrices import WeightMatrix
from compressors.errors import SettingsError, UnsupportedModelError

__all__ = ["check_semi_structured", "to_semi_structured"]

_DTYPES = ("float16", "bfloat16")
#: Rows and columns have to be multiples of these for either of torch's two kernels.
_ROWS, _COLUMNS = 32, 64


def check_semi_structured(device: str, dtype: str) -> None:
    """Refuse devices and dtypes without sparse kernels, before weights are loaded.

    Args:
        device: As torch names it.
        dtype: Of the weights; ``auto`` is known once they are loaded.

    Raises:
        SettingsError: It is not a GPU of CUDA, or not 16 bits.
    """
    if torch.device(device).type != "cuda":
        raise SettingsError(
            f"--semi_structured: torch multiplies 2:4 weights on GPUs of CUDA only, not on "
            f"{device}. Leave the option out, or use --device cuda on a machine with one."
        )
    if dtype != "auto":
        _check_dtype(dtype)


def to_semi_structured(model: nn.Module) -> tuple[int, int]:
    """Replace the weights of linear layers that are 2:4, in place.

    Args:
        model: In float16 or bfloat16, on a GPU of CUDA. Layers of other shapes or with other zeros
            stay as they are.

    Returns:
        Matrices that were replaced, and matrices of the decoder blocks.

    Raises:
        SettingsError: The model has another dtype.
        UnsupportedModelError: No matrix can be replaced.
    """
    matrices = [matrix for block in find_blocks(model) for matrix in block.matrices]
    _check_dtype(str(matrices[0].parameter.dtype).removeprefix("torch."))
    fitting = [matrix for matrix in matrices if _fits(matrix)]
    if not fitting:
        raise UnsupportedModelError(
            f"--semi_structured: none of {len(matrices)} matrices is 2:4 with {_ROWS} x {_COLUMNS} "
            "dividing its sizes. Name a folder saved by `lmkick compress --pattern 2:4`."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor")
        for matrix in fitting:
            sparse = to_sparse_semi_structured(matrix.parameter.data)
            matrix.module.weight = nn.Parameter(sparse, requires_grad=False)
    return len(fitting), len(matrices)


def _check_dtype(dtype: str) -> None:
    if dtype not in _DTYPES:
        raise SettingsError(f"--semi_structured: the weights are {dtype}. Use --dtype bfloat16.")


def _fits(matrix: WeightMatrix) -> bool:
    module, weight = matrix.module, matrix.parameter.data
    plain = isinstance(module, nn.Linear) and module.weight is matrix.parameter
    return plain and not (weight.shape[0] % _ROWS or weight.shape[1] % _COLUMNS) and _is_24(weight)


def _is_24(weight: Tensor) -> bool:
    """Whether at most two of every four neighbours of a row are not zero."""
    return int((weight != 0).view(-1, 4).sum(dim=1).max()) <= 2
