# SPDX-License-Identifier: Apache-2.0
"""The big float32 matrix operations, each on the fastest road this machine has.

* On AMD processors the default product of torch's wheel reaches half of what oneDNN does. Torch
  offers no public switch, so the operator is looked up there, compared with the default once a
  process, and used if it is right; else everything takes the default. Which road is taken follows
  from the processor, never from a measured time: the roads differ in the last bits, and the same
  machine has to give the same weights in every process.
* On a GPU, bfloat16 and float16 inputs are multiplied as they are, with a float32 result. Their
  products are exact in float32, so nothing is lost against converting them first.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["add_gram", "add_product", "full_precision", "linear_road", "transpose"]

# The Gram matrix is symmetric: this many block rows, each only up to its diagonal block, save
# almost half of the work and still are large products.
_GRAM_BLOCKS = 8
_SMALLEST_BLOCK = 128
# The product on which the two roads are compared.
_PROBE_SIZE = 256
# Products with less work than this (multiplications) always take the default.
_LARGE = 1 << 24
# Columns transposed at once.
_STRIP = 128


@contextmanager
def full_precision() -> Iterator[None]:
    """Run float32 products in float32, whatever the caller allows for its own (TF32, bfloat16)."""
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


def add_product(target: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1, beta: float = 1) -> None:
    """``target = beta * target + alpha * a @ b``, for float32 matrices on one device.

    With ``beta`` 0, what ``target`` held does not matter.
    """
    large = a.shape[0] * a.shape[1] * b.shape[1] >= _LARGE
    if large and target.device.type == "cpu" and _prefers_onednn():
        if beta == 0:
            target.zero_()
        elif beta != 1:
            target.mul_(beta)
        target.add_(_onednn_product(a, b), alpha=alpha)
    else:
        target.addmm_(a, b, alpha=alpha, beta=beta)


def transpose(source: Tensor, target: Tensor) -> None:
    """``target.copy_(source.t())`` for matrices, converting dtypes: twice as fast on a CPU.

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
                add_product(target, left, right)


def linear_road() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """The fastest float32 ``x @ weight.T + bias`` on this CPU; None where that is torch's own."""
    return _onednn_linear if _prefers_onednn() else None


@cache
def _prefers_onednn() -> bool:
    """Whether oneDNN's product is faster than the default on this processor, there, and right."""
    if _processor_vendor() != "AuthenticAMD":
        return False
    a = torch.randn(_PROBE_SIZE, _PROBE_SIZE, generator=torch.Generator().manual_seed(0))
    try:
        return torch.allclose(torch.mm(a, a), _onednn_product(a, a), rtol=1e-3, atol=1e-2)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False  # no such operator here, or not with this signature


def _processor_vendor() -> str:
    """What the processor calls its maker, such as ``AuthenticAMD``; empty where that is unknown."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    # Windows: "AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD".
    return platform.processor().rpartition(", ")[2]


def _onednn_product(a: Tensor, b: Tensor) -> Tensor:
    return _onednn_linear(a, b.t(), None)


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


@cache
def _has_mixed_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device multiplies 16-bit matrices into a float32 one."""
    if device.type != "cuda":
        return False
    try:
        probe = torch.ones(16, 16, device=device, dtype=dtype)
        return torch.mm(probe, probe, out_dtype=torch.float32).dtype == torch.float32
    except (NotImplementedError, RuntimeError, TypeError):
        return False
