# SPDX-License-Identifier: Apache-2.0
r"""Sparsity by block: uniform, by outlier share (OWL), or given.

OWL prunes blocks with many outliers less. The outlier share of a block is the share of its scores
:math:`|W_{ij}| \cdot \|X_j\|_2` (Wanda's) that exceed a threshold times their mean, over all
matrices of the block, on dense inputs:
:math:`s_l = s - d_l + \bar d`, with d the shares scaled linearly to :math:`[0, 2 \lambda]` and
:math:`\bar d` their mean weighted by parameters. So the weighted mean of the requested sparsities
is s.

References:
    Yin et al., arXiv:2310.05175, section 3.2 (outlier distribution) and 3.3 (OWL).

Differences from the released code:
    1. The mean of d is weighted by parameters, not by block, so the model's sparsity is met where
       blocks differ in size. A block may therefore leave ``[s - lambda, s + lambda]``.
    2. Matrices that calibration never reached (experts) do not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressors.base import Compressor, is_number
from compressors.blocks.capture import capture
from compressors.blocks.find import Block
from compressors.blocks.forward import Passes, keep_hidden
from compressors.blocks.input_hooks import collecting
from compressors.blocks.offload import BlockMover
from compressors.defaults import OWL_LAMBDA, OWL_THRESHOLD
from compressors.errors import SettingsError
from compressors.methods.wanda import wanda_scores
from compressors.patterns import Unstructured
from compressors.statistics import ColumnNorm

__all__ = ["by_block", "check_allocation", "outlier_shares", "owl", "weights_of"]

_ROUNDED = 0.01  # between a mean and the sparsity that it is called


def check_allocation(
    compressor: Compressor,
    blocks: Sequence[Block],
    allocation: str | Mapping[str, float] = "uniform",
    owl_lambda: float = OWL_LAMBDA,
    owl_threshold: float = OWL_THRESHOLD,
) -> float | None:
    """Sparsity to distribute; None where every block gets the method's own.

    Raises:
        SettingsError: The method prunes by N:M or not at all, a block is missing, or a number is
            out of range.
    """
    if allocation == "uniform":
        return None
    if isinstance(allocation, str) and allocation != "owl":
        raise SettingsError(
            f"allocation={allocation!r}: expected 'uniform', 'owl' or a mapping of block names to "
            "sparsities"
        )
    kind = allocation if isinstance(allocation, str) else "a mapping"
    pattern = getattr(compressor, "pattern", None)
    if not isinstance(pattern, Unstructured):
        what = "does not prune" if pattern is None else f"prunes by {pattern} everywhere"
        raise SettingsError(
            f"allocation={kind} goes with unstructured pruning, and {type(compressor).__name__} "
            f"{what}: use Unstructured(sparsity) or allocation='uniform'"
        )
    for name, value in (("owl_lambda", owl_lambda), ("owl_threshold", owl_threshold)):
        if not is_number(value) or not 0 <= value < math.inf:
            raise SettingsError(f"{name}={value!r}: expected a number of at least 0")
    if not isinstance(allocation, str):
        _check_blocks(allocation, blocks, pattern.sparsity)
    return pattern.sparsity


def _check_blocks(
    allocation: Mapping[str, float], blocks: Sequence[Block], sparsity: float
) -> None:
    names = [block.name for block in blocks]
    for name in allocation:
        if name not in names:
            raise SettingsError(
                f"allocation: the model has no block {name}; its blocks are {names[0]} to "
                f"{names[-1]}"
            )
    for name in names:
        if name not in allocation:
            raise SettingsError(
                f"allocation: no sparsity for {name}; give one for each of {len(names)} blocks"
            )
    for name, value in allocation.items():
        if not is_number(value) or not 0 <= value < 1:
            raise SettingsError(
                f"allocation: {name} asks for {value!r}; give a sparsity from 0 to below 1"
            )
    sizes = weights_of(blocks)
    mean = sum(allocation[name] * sizes[name] for name in names) / sum(sizes.values())
    if abs(mean - sparsity) > _ROUNDED:
        raise SettingsError(
            f"allocation: the mean over the weights is {mean:.3f}, but sparsity={sparsity:g}; give "
            f"sparsity={mean:.3f}"
        )


def weights_of(blocks: Sequence[Block]) -> dict[str, int]:
    """Weights of each block's matrices, by its name."""
    return {block.name: sum(matrix.view().numel() for matrix in block.matrices) for block in blocks}


def owl(
    shares: Mapping[str, float],
    parameters: Mapping[str, int],
    sparsity: float,
    owl_lambda: float = OWL_LAMBDA,
) -> dict[str, float]:
    """Sparsity of each block by its outlier share.

    Args:
        shares: Outlier share of each block.
        parameters: Weights of each of these blocks; others do not count.
        sparsity: Of the whole model.
        owl_lambda: Half of the spread between blocks.

    Raises:
        SettingsError: A block would get a sparsity outside [0, 1).

    >>> owl({"a": 0.01, "b": 0.03}, {"a": 100, "b": 100}, sparsity=0.5)
    {'a': 0.58, 'b': 0.42}
    """
    low, high = min(shares.values()), max(shares.values())
    span = high - low
    less = {
        name: 2 * owl_lambda * (share - low) / span if span else 0.0
        for name, share in shares.items()
    }
    total = sum(parameters[name] for name in less)
    mean = math.fsum(less[name] * parameters[name] for name in less) / total
    found = {name: sparsity - less[name] + mean for name in less}
    for name, value in found.items():
        if not 0 <= value < 1:
            raise SettingsError(
                f"allocation=owl: {name} would get sparsity {value:.3f}; lower owl_lambda "
                f"({owl_lambda:g}) or the sparsity ({sparsity:g})"
            )
    return found


@torch.no_grad()
def outlier_shares(
    model: nn.Module,
    blocks: Sequence[Block],
    batches: Sequence[Tensor],
    device: torch.device | None,
    threshold: float = 5.0,
) -> dict[str, float]:
    """Outlier share of each block, from one dense pass over the calibration text.

    Args:
        model: The dense model.
        blocks: Its blocks.
        batches: Token ids, int64 ``[samples, seqlen]`` each.
        device: Where to compute; None where each block is.
        threshold: Multiple of the mean score above which a score is an outlier.

    Returns:
        By block name; without blocks that were not called, or that another block's matrices serve.
    """
    inputs = capture(model, [block.module for block in blocks], batches)
    keep_hidden(inputs, device)
    shares = {}
    mover = BlockMover([blocks[index] for index in inputs.order], device)
    try:
        for step, index in enumerate(inputs.order):
            block = blocks[index]
            with mover.visiting(step) as here:
                with collecting(block.matrices, ColumnNorm) as collector:
                    Passes(inputs, step, block, here).propagate(collector)
                scored = [
                    (matrix.view(), group.statistic.norm)
                    for group in collector.groups
                    if isinstance(group.statistic, ColumnNorm)
                    for matrix in group.matrices
                ]
                if scored:
                    shares[block.name] = _share(scored, threshold)
    finally:
        mover.close()
    return shares


def _share(scored: Sequence[tuple[Tensor, Tensor]], threshold: float) -> float:
    """Share of scores above a multiple of their common mean."""
    count = sum(weight.numel() for weight, _ in scored)
    total = sum(wanda_scores(*pair).sum(dtype=torch.float64).item() for pair in scored)
    limit = threshold * total / count
    return sum(int((wanda_scores(*pair) > limit).sum()) for pair in scored) / count


def by_block(compressor: Any, sparsities: Mapping[str, float]) -> dict[str, Compressor]:
    """The method with each block's sparsity."""
    return {
        name: replace(compressor, pattern=Unstructured(sparsity))
        for name, sparsity in sparsities.items()
    }
