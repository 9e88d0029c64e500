# SPDX-License-Identifier: Apache-2.0
"""One block of the optimal-brain-surgeon sweep: column after column, each error fed forward.

The matrix stands transposed here, ``[columns, rows]``: the rows of a weight do not know of each
other, so a column is one contiguous vector and every step one operation on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from compressors.patterns import NM

__all__ = ["Block", "Rounding", "Selection", "sweep", "sweep_plain"]

# Columns that are swept before their errors are fed forward in one product.
_SUB_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Rounding:
    """The grid of each weight of a block: float32 ``[columns, rows]`` each, contiguous.

    Attributes:
        scale: Distance between two points.
        low: The lowest point, in steps from 0.
        high: The highest.
    """

    scale: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, slots=True)
class Selection:
    """How to choose the weights that stay when the sweep reaches a group of M columns.

    Attributes:
        pattern: N of M; M divides the block's columns.
        importance: float32 ``[columns]``: a weight's score is its magnitude times this.
    """

    pattern: NM
    importance: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What a sweep over one block of columns works on.

    Attributes:
        values: float32 ``[columns, rows]``, contiguous: the block's weights, with the errors of all
            earlier blocks allowed for. The sweep overwrites them with the compressed weights.
        feedback: float32 ``[columns, columns]``, contiguous, strictly lower triangular: how much of
            column i's error column j > i takes on.
        keep: Bool ``[columns, rows]``, contiguous, True where a weight stays; None if nothing is
            pruned. The sweep fills it in if there is a ``selection``.
        selection: What is left to choose during the sweep.
        rounding: None if nothing is quantized.
    """

    values: Tensor
    feedback: Tensor
    keep: Tensor | None = None
    selection: Selection | None = None
    rounding: Rounding | None = None


def sweep(block: Block) -> None:
    """Compress a block in place: fused on a GPU that has Triton, in torch operations elsewhere."""
    if block.values.is_cuda and _has_triton():
        # Imported here: Triton is optional, and takes its time.
        from compressors.obs_triton import LARGEST_BLOCK, sweep_fused

        if len(block.values) <= LARGEST_BLOCK:
            sweep_fused(block)
            return
    sweep_plain(block)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def sweep_plain(block: Block) -> None:
    """Compress a block in place, with torch operations: any device, any block size."""
    values, feedback = block.values, block.feedback
    errors, results = torch.empty_like(values), torch.empty_like(values)
    step = _SUB_BLOCK
    if block.selection is not None:
        step = block.selection.pattern.m * max(1, _SUB_BLOCK // block.selection.pattern.m)
    for start in range(0, len(values), step):
        stop = min(start + step, len(values))
        if start:
            values[start:stop].addmm_(feedback[start:stop, :start], errors[:start], alpha=-1)
        _sweep_part(block, start, stop, errors[start:stop], results[start:stop])
    values.copy_(results)


def _sweep_part(block: Block, start: int, stop: int, errors: Tensor, results: Tensor) -> None:
    """Sweep a few columns, whose values allow for the errors of all columns before them."""
    values, feedback = block.values[start:stop], block.feedback[start:stop, start:stop]
    keep = None if block.keep is None else block.keep[start:stop]
    kept = None if keep is None else keep.float()
    rounding, selection = block.rounding, block.selection
    first = 0
    for index, (column, error, result) in enumerate(zip(values, errors, results, strict=True)):
        if selection is not None and keep is not None and index % selection.pattern.m == 0:
            first, group = index, slice(index, index + selection.pattern.m)
            if index:
                values[group].addmm_(feedback[group, :index], errors[:index], alpha=-1)
            importance = selection.importance[start:stop][group]
            scores = values[group].abs() * importance[:, None]
            torch.stack(selection.pattern.keep_of_group(scores.unbind(0)), out=keep[group])
            kept = keep[index : index + selection.pattern.m].float()
        if index > first:
            column.addmv_(errors[first:index].t(), feedback[index, first:index], alpha=-1)
        if rounding is not None:
            at = start + index
            torch.div(column, rounding.scale[at], out=result).round_()
            torch.clamp(result, rounding.low[at], rounding.high[at], out=result)
            result.mul_(rounding.scale[at])
        else:
            result.copy_(column)
        if kept is not None:
            result.mul_(kept[index - first])
        torch.sub(column, result, out=error)
