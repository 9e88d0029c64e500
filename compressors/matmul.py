# SPDX-License-Identifier: Apache-2.0
"""Float32 matrix products: precision, Gram matrices, transposition.

On a GPU, bfloat16 and float16 inputs are multiplied as they are, with a float32 result. Their
products are exact in float32, so nothing is lost against converting them first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["add_gram", "full_precision", "transpose"]

# The Gram matrix is symmetric: this many block rows, each only up to its diagonal block, save
# almost half of the work and still are large products.
_GRAM_BLOCKS = 8
_SMALLEST_BLOCK = 128
# Columns transposed at once.
_STRIP = 128


@contextmanager
def full_precision() -> Iterator[None]:
    """Run float32 products in float32, without TF32 or bfloat16."""
    if not hasattr(torch.backends, "fp32_precision"):  # before torch 2.9
        chosen = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(chosen)
        return
    # By backend: torch refuses to read the one setting once a caller has set these.
    # mypy does not know the second one.
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def transpose(source: Tensor, target: Tensor) -> None:
    """``target.copy_(source.t())`` with dtype conversion; twice as fast on a CPU.

    In strips of columns that stay in its cache, where the jumps from row to row cost little.
    """
    if target.device.type != "cpu":
        target.copy_(source.t())
        return
    strip = target.new_empty(source.shape[0], _STRIP)
    for start in range(0, source.shape[1], _STRIP):
        columns = source[:, start : start + _STRIP]
        strip[:, : columns.shape[1]] = columns
        target[start : start + _STRIP] = strip[:, : columns.shape[1]].t()


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add ``rows.T @ rows`` to the lower block triangle of ``total``, in place.

    Args:
        total: float32 ``[features, features]``; what lies above its diagonal is undefined.
        rows: ``[tokens, features]``, any floating dtype, on ``total``'s device. All sums are taken
            in float32.
    """
    width = rows.shape[1]
    step = max(_SMALLEST_BLOCK, -(-width // _GRAM_BLOCKS))
    mixed = rows.dtype in (torch.bfloat16, torch.float16) and _has_mixed_product(
        rows.device, rows.dtype
    )
    values = rows if mixed else rows.float()
    with full_precision():
        for start in range(0, width, step):
            stop = min(start + step, width)
            left, right = values[:, start:stop].t(), values[:, :stop]
            target = total[start:stop, :stop]
            if mixed:
                target += torch.mm(left, right, out_dtype=torch.float32)
            else:
                target.addmm_(left, right)


@cache
def _has_mixed_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device multiplies 16-bit matrices into float32."""
    if device.type != "cuda":
        return False
    try:
        probe = torch.ones(16, 16, device=device, dtype=dtype)
        return torch.mm(probe, probe, out_dtype=torch.float32).dtype == torch.float32
    except (NotImplementedError, RuntimeError, TypeError):
        return False
