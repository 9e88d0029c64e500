# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of the column pass of :mod:`compressors.obs.columns_torch`: one launch per block.

Rows are independent, so each program takes a few of them and holds the whole block in registers,
``[columns, a few rows]``: column after column is rounded or pruned, and its error fed forward to
those after it, without a launch or a trip to memory in between. A column is read out of registers
as a masked sum.

Rounding is to the nearest even, by the addition of 1.5 * 2**23: the same in every compiler, and in
Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from compressors.obs.buffers import ColumnBuffers

__all__ = ["LARGEST_BLOCK", "compress_fused"]

#: Columns of a block that fit in a program's registers; larger ones go to torch.
LARGEST_BLOCK = 256

# Rows a program takes: 4,096 rows make enough programs for every processor of a GPU, and a block of
# 128 columns 16 values a thread.
_ROWS = 16
_WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def _column_kernel(  # type: ignore[no-untyped-def]
    values_ptr,
    feedback_ptr,
    kept_ptr,
    importance_ptr,
    scale_ptr,
    zero_point_ptr,
    group_ptr,
    columns,
    rows,
    feedback_stride,
    top,
    PRUNE: tl.constexpr,
    KEEP_N: tl.constexpr,
    OF_M: tl.constexpr,
    ROUND: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    column = tl.arange(0, BLOCK)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = column[:, None] * rows + row[None, :]
    inside = (column[:, None] < columns) & (row[None, :] < rows)
    values = tl.load(values_ptr + here, mask=inside, other=0.0)
    if OF_M:
        importance = tl.load(importance_ptr + column, mask=column < columns, other=0.0)
        scores = tl.abs(values) * importance[:, None]
    for index in range(columns):
        is_this = column[:, None] == index
        value = tl.sum(tl.where(is_this, values, 0.0), axis=0)
        result = value
        if ROUND:
            at = tl.load(group_ptr + index) * rows + row
            scale = tl.load(scale_ptr + at, mask=row < rows, other=1.0)
            low = -tl.load(zero_point_ptr + at, mask=row < rows, other=0.0)
            steps = tl.minimum(tl.maximum(tl.div_rn(value, scale), low), low + top)
            result = ((steps + 12582912.0) - 12582912.0) * scale
        if OF_M:
            # Scores are those of the moment at which the pass reaches a group.
            if index % OF_M == 0:
                scores = tl.abs(values) * importance[:, None]
            score = tl.sum(tl.where(is_this, scores, 0.0), axis=0)
            ahead = (scores < score[None, :]) | (
                (scores == score[None, :]) & (column[:, None] < index)
            )
            in_group = column[:, None] // OF_M == index // OF_M
            before = tl.sum((in_group & ahead).to(tl.int32), axis=0)
            kept = (before >= OF_M - KEEP_N).to(tl.float32)
            tl.store(kept_ptr + index * rows + row, kept, mask=row < rows)
            result = result * kept
        elif PRUNE:
            kept = tl.load(kept_ptr + index * rows + row, mask=row < rows, other=1.0)
            result = result * kept
        feedback = tl.load(
            feedback_ptr + column * feedback_stride + index,
            mask=(column > index) & (column < columns),
            other=0.0,
        )
        values -= feedback[:, None] * (value - result)[None, :]
        # Adding 0 clears the sign of -0.
        values = tl.where(is_this, result[None, :] + 0.0, values)
    tl.store(values_ptr + here, values, mask=inside)


def compress_fused(buffers: ColumnBuffers, columns: int) -> None:
    """Compress the first ``columns`` columns in place.

    Args:
        buffers: They have to be where Triton runs: on a GPU, or anywhere under
            ``TRITON_INTERPRET=1``.
        columns: ``LARGEST_BLOCK`` at most.
    """
    rows = buffers.values.shape[1]
    grids, pattern = buffers.grids, buffers.pattern
    # Where nothing is rounded, any tensor will do for what is not read.
    groups = torch.tensor(buffers.groups, dtype=torch.int64, device=buffers.values.device)
    _column_kernel[(triton.cdiv(rows, _ROWS),)](
        buffers.values,
        buffers.feedback,
        buffers.kept,
        buffers.importance,
        buffers.values if grids is None else grids.scale,
        buffers.values if grids is None else grids.zero_point,
        groups,
        columns,
        rows,
        buffers.feedback.stride(0),
        0.0 if grids is None else float(grids.grid.top),
        PRUNE=buffers.prunes,
        KEEP_N=0 if pattern is None else pattern.n,
        OF_M=0 if pattern is None else pattern.m,
        ROUND=grids is not None,
        BLOCK=triton.next_power_of_2(columns),
        ROWS=_ROWS,
        num_warps=_WARPS,
        enable_fp_fusion=True,  # said, because the default changes between versions of Triton
    )
