# SPDX-License-Identifier: Apache-2.0
"""Preconditions of a compression, checked before any forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compressors.base import Compressor, is_integer
from compressors.blocks.find import Block, WeightMatrix
from compressors.errors import NumericalError, SettingsError, UnsupportedModelError
from compressors.statistics import NoStatistic

__all__ = [
    "check_arguments", "check_batch_size", "check_calibration", "check_finite", "check_shapes",
    "in_evaluation", "memory_advice", "require_calibration",
]  # fmt: skip

#: What else tells of it: the CPU's allocator, pinned memory and CUDA's libraries have no exception
#: class of their own for this.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "ALLOC_FAILED")


def check_arguments(model: object, compressor: object) -> None:
    """Refuse a name in place of a model, and a class or name in place of a method.

    Raises:
        SettingsError: Naming what was received.
    """
    if not isinstance(model, nn.Module):
        raise SettingsError(
            f"model={model!r:.80}: expected a loaded model. Load it first, as with "
            "AutoModelForCausalLM.from_pretrained"
        )
    if not isinstance(compressor, Compressor):
        raise SettingsError(
            f"compressor={compressor!r:.80}: expected a method with its settings, such as "
            "Wanda(pattern=NM(2, 4))"
        )


def check_batch_size(batch_size: object) -> None:
    """Refuse anything but a number of samples.

    Raises:
        SettingsError: Naming what was received.
    """
    if batch_size is not None and not (is_integer(batch_size) and batch_size >= 1):
        raise SettingsError(
            f"batch_size={batch_size!r:.80}: expected samples per forward pass, an integer of at "
            "least 1, or None"
        )


def check_calibration(
    model: nn.Module, compressor: Compressor, calibration: Tensor | None
) -> Tensor | None:
    """Token ids for the method; None for one that reads weights alone.

    Raises:
        SettingsError: They are missing, empty, of the wrong kind, or not of this model.
    """
    if compressor.statistic is NoStatistic:
        return None
    return require_calibration(model, type(compressor).__name__, calibration)


def require_calibration(model: nn.Module, method: str, calibration: Tensor | None) -> Tensor:
    """Checked token ids; ``method`` names what needs them.

    Raises:
        SettingsError: They are missing, empty, of the wrong kind, or not of this model.
    """
    if calibration is None:
        raise SettingsError(
            f"{method} needs calibration data: pass calibration=token_ids, int64 [samples, seqlen] "
            "(load_calibration makes them from text)"
        )
    if not isinstance(calibration, Tensor):
        raise SettingsError(
            f"calibration={calibration!r:.60}: expected token ids, an int64 tensor [samples, "
            "seqlen]; load_calibration makes them from text"
        )
    shape = tuple(calibration.shape)
    if calibration.dtype not in (torch.int64, torch.int32) or len(shape) != 2:
        raise SettingsError(
            f"calibration must be token ids, int64 [samples, seqlen]; got "
            f"{calibration.dtype} {shape}"
        )
    if 0 in shape:
        raise SettingsError(
            f"{method} needs calibration data, but it is empty {shape}: raise nsamples and seqlen "
            "above 0"
        )
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    vocabulary = getattr(embeddings, "num_embeddings", None)
    low, high = int(calibration.min()), int(calibration.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        raise SettingsError(
            f"calibration holds token ids {low}..{high}, but the model's vocabulary has "
            f"{vocabulary}: tokenize the text with the model's own tokenizer"
        )
    context = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(context, int) and 0 < context < shape[1]:
        raise SettingsError(
            f"calibration samples have {shape[1]} tokens, more than the model's context of "
            f"{context} (max_position_embeddings): lower seqlen, or use load_calibration with "
            "max_length"
        )
    return calibration.long()


def check_shapes(compressor: Compressor, blocks: Sequence[Block]) -> None:
    """Refuse settings that do not go with the shape of a matrix.

    Raises:
        UnsupportedModelError: Naming the first such layer and what would fit all of them: sizes
            that fit one layer only would send the user from error to error.
    """
    shapes = {m.name: tuple(m.view().shape) for block in blocks for m in block.matrices}
    for name, shape in shapes.items():
        try:
            compressor.check(name, *shape)
        except UnsupportedModelError as error:
            common = math.gcd(*(columns for _, columns in shapes.values()))
            raise UnsupportedModelError(
                f"{error}. A size that fits every matrix of this model divides {common}"
            ) from error


def check_finite(blocks: Sequence[Block]) -> None:
    """Refuse NaN or infinite weights, by layer name.

    Raises:
        NumericalError: Naming the first such layer.
    """
    matrices = {id(matrix.parameter): matrix for block in blocks for matrix in block.matrices}
    # A sum is finite only if all terms are; one transfer tells for the whole model.
    sums = [m.parameter.data.sum(dtype=torch.float32).cpu() for m in matrices.values()]
    for matrix, total in zip(matrices.values(), sums, strict=True):
        if not torch.isfinite(total):
            _name_non_finite(matrix, blocks)


def _name_non_finite(suspect: WeightMatrix, blocks: Sequence[Block]) -> None:
    """Find the non-finite matrices of a parameter (a sum of finite weights may overflow)."""
    for matrix in (matrix for block in blocks for matrix in block.matrices):
        if matrix.parameter is suspect.parameter:
            bad = int((~torch.isfinite(matrix.view())).sum())
            if bad:
                raise NumericalError(
                    f"{matrix.name}: {bad} weights are NaN or infinite; the checkpoint is damaged "
                    "or its dtype too narrow: load it in bfloat16 or float32"
                )


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; each module's own mode is restored."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def memory_advice() -> Iterator[None]:
    """Add a remedy to out-of-memory errors."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not out and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise torch.OutOfMemoryError(
            "out of memory while compressing: lower batch_size (samples per forward pass), then "
            "seqlen or nsamples; with resume_dir, the next run continues after the finished "
            f"blocks. Cause: {error}"
        ) from error
