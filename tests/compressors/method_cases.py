# SPDX-License-Identifier: Apache-2.0
"""Every method in every mode, and layers to try them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from compressors import AWQ, GPTQ, NM, RTN, Magnitude, Random, SparseGPT, Unstructured, Wanda
from compressors.statistics import Statistic

PATTERNS = [Unstructured(0.5), Unstructured(0.33), NM(2, 4), NM(3, 8)]

PRUNERS: list[Any] = [
    method(pattern=pattern)
    for method in (Magnitude, Random, Wanda, SparseGPT)
    for pattern in PATTERNS
]
PRUNERS.append(Wanda(pattern=Unstructured(0.5), variant=True))
PRUNERS.append(SparseGPT(pattern=Unstructured(0.5), block_size=24))

QUANTIZERS: list[Any] = [
    RTN(num_bits=4, group_size=16),
    RTN(num_bits=2, group_size=None, symmetric=False),
    RTN(num_bits=8, group_size=32, symmetric=False),
    GPTQ(num_bits=4, group_size=16),
    GPTQ(num_bits=4, group_size=16, act_order=False, static_groups=False),
    GPTQ(num_bits=3, group_size=None, act_order=False, static_groups=False, symmetric=False),
    GPTQ(num_bits=4, group_size=32, static_groups=False),
    GPTQ(num_bits=4, group_size=16, act_group_aware=True, static_groups=False),
    GPTQ(num_bits=4, group_size=40, act_group_aware=True, static_groups=False, symmetric=False),
    GPTQ(num_bits=8, group_size=16, block_size=24, act_order=False, static_groups=False),
    GPTQ(num_bits=4, group_size=32, block_size=16, static_groups=False, symmetric=False),
    RTN(num_bits=4, group_size=40),
    GPTQ(num_bits=4, group_size=36, act_order=False, static_groups=False),
    GPTQ(num_bits=4, group_size=40, static_groups=False),
    GPTQ(num_bits=4, group_size=40, symmetric=False),
]

QUANTIZERS += [
    AWQ(group_size=16),
    AWQ(num_bits=3, group_size=None, grid_points=5),
    AWQ(num_bits=4, group_size=40, symmetric=True, clip=False),
    AWQ(num_bits=8, group_size=32, duo_scaling=True),
]

FORMATS = ("fp8", "mxfp4", "nvfp4")
FLOATS: list[Any] = [
    *(RTN(number_format=name) for name in FORMATS),
    *(GPTQ(number_format=name, act_order=True, static_groups=True) for name in FORMATS),
    GPTQ(number_format="nvfp4", block_size=24),
    GPTQ(number_format="nvfp4", act_group_aware=True, static_groups=False),
    GPTQ(number_format="mxfp4", act_order=True),
    *(AWQ(number_format=name) for name in FORMATS),
]
QUANTIZERS += FLOATS

JOINT: list[Any] = [
    SparseGPT(pattern=Unstructured(0.5), quantize=RTN(num_bits=4, group_size=16)),
    SparseGPT(pattern=NM(2, 4), quantize=RTN(num_bits=3, group_size=None, symmetric=False)),
    SparseGPT(pattern=Unstructured(0.5), quantize=RTN(num_bits=4, group_size=40)),
]

METHODS = [*PRUNERS, *QUANTIZERS, *JOINT]

ROWS, COLUMNS = 40, 96


def make_weight(rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> Tensor:
    """A weight of normal entries, float32."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def make_inputs(columns: int = COLUMNS, tokens: int = 400, seed: int = 1) -> Tensor:
    """Inputs with correlated features of unequal size, ``[tokens, columns]`` float32."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    sizes = 0.2 + 2 * torch.rand(columns, generator=generator)
    return torch.randn(tokens, columns, generator=generator) @ mixing * sizes


def make_stats(method: Any, inputs: Tensor) -> Statistic:
    """The statistic ``method`` asks for, having seen ``inputs``."""
    stats: Statistic = method.statistic(inputs.shape[1])
    stats.update(inputs)
    return stats


def compared_together(method: Any, mask: Tensor) -> Sequence[Tensor]:
    """Parts of a mask within which an unstructured pruner compares scores."""
    if isinstance(method, SparseGPT):
        return torch.split(mask, method.block_size, dim=1)
    if isinstance(method, Wanda) and not method.variant:
        return mask.unbind(0)
    return (mask,)


def label(method: Any) -> str:
    """A short test id for a method; other parameters name themselves."""
    if not is_dataclass(method):
        return str(method)
    values = [getattr(method, field.name) for field in fields(method)]
    return f"{type(method).__name__}({','.join(map(str, values))})"
