# SPDX-License-Identifier: Apache-2.0
"""Compress the matrices that read one input, write the new weights, report on each."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from compressors.base import CompressedWeight, Compressor, all_finite
from compressors.blocks.find import WeightMatrix
from compressors.blocks.input_hooks import InputGroup
from compressors.blocks.offload import synchronize
from compressors.errors import NumericalError
from compressors.patterns import NM, Unstructured
from compressors.quantization_grid import QuantizationGrid
from compressors.report import LayerReport, stored_bytes
from compressors.statistics import Hessian, NoStatistic

__all__ = ["STARVED_BELOW", "Solver"]

_log = logging.getLogger(__name__)

#: An expert that saw fewer tokens than this is compressed without calibration.
STARVED_BELOW = 64
#: Output rows of a matrix on which a Hessian's quadratic form is evaluated.
_ERROR_ROWS = 128


class Solver:
    """Compresses matrices in the model and reports on each.

    Args:
        tokens: Calibration tokens in all; 0 where the method needs none.
        keep_grids: Whether :meth:`take_grids` is asked for grids.
    """

    def __init__(self, tokens: int, *, keep_grids: bool) -> None:
        self._tokens = tokens
        self._keep_grids = keep_grids
        self._warned: set[int] = set()
        self._grids: dict[str, QuantizationGrid] = {}

    def take_grids(self) -> dict[str, QuantizationGrid]:
        """Grids by name of the matrices quantized since the last call."""
        taken, self._grids = self._grids, {}
        return taken

    def without_inputs(
        self, matrices: Iterable[WeightMatrix], method: Compressor
    ) -> Iterator[LayerReport]:
        """Compress each matrix by a calibration-free method."""
        for matrix in matrices:
            if self._tokens:
                yield self._starved(matrix, method, 0)
            else:
                yield self._alone(method, matrix, tokens=None, note=None)

    def group(self, group: InputGroup, method: Compressor) -> list[LayerReport]:
        """Compress the matrices that read one input, together.

        Raises:
            NumericalError: With the names of the layers, where inputs or Hessian are not usable.
        """
        tokens = group.statistic.tokens
        expert = any(matrix.expert is not None for matrix in group.matrices)
        if tokens < STARVED_BELOW and (expert or tokens < self._tokens):
            return [self._starved(matrix, method, tokens) for matrix in group.matrices]
        self._warn_of_rank(group)
        weights = [matrix.view() for matrix in group.matrices]
        started = time.perf_counter()
        with _named(group.matrices):
            results = method.compress_together(
                weights, group.statistic, [matrix.feeds_scores for matrix in group.matrices]
            )
        synchronize(weights[0].device)
        seconds = time.perf_counter() - started
        with _named(group.matrices):
            errors = _output_errors(group, weights, results)
        share = seconds / sum(weight.numel() for weight in weights)
        return [
            self._store(matrix, result, tokens, share * weight.numel(), None, error, method)
            for matrix, weight, result, error in zip(
                group.matrices, weights, results, errors, strict=True
            )
        ]

    def _starved(self, matrix: WeightMatrix, method: Compressor, tokens: int) -> LayerReport:
        fallback = method.fallback()
        kind = "starved expert" if tokens or matrix.expert is not None else "never reached"
        name = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(fallback).__name__).lower()
        note = f"{kind} ({tokens} tokens): {name}"
        return self._alone(fallback, matrix, tokens=tokens, note=note)

    def _alone(
        self, method: Compressor, matrix: WeightMatrix, *, tokens: int | None, note: str | None
    ) -> LayerReport:
        weight = matrix.view()
        started = time.perf_counter()
        with _named([matrix]):
            result = method.compress(weight, NoStatistic(weight.shape[1], weight.device))
        synchronize(weight.device)
        seconds = time.perf_counter() - started
        return self._store(matrix, result, tokens, seconds, note, None, method)

    def _store(
        self,
        matrix: WeightMatrix,
        result: CompressedWeight,
        tokens: int | None,
        seconds: float,
        note: str | None,
        error: float | None,
        method: Compressor,
    ) -> LayerReport:
        """Write the new weights into the model and count on the stored values.

        Raises:
            NumericalError: What came out does not fit the weight's dtype.
        """
        if not all_finite(result.weight):
            raise NumericalError(
                f"{matrix.name}: the compressed weight overflows {result.weight.dtype}; load the "
                "model in bfloat16 or float32, or raise dampening_frac where the method has one"
            )
        matrix.write(result.weight)
        grid = QuantizationGrid.of(result) if self._keep_grids else None
        if grid is not None:
            self._grids[matrix.name] = grid
        weight = matrix.view()
        nonzero = int(torch.count_nonzero(weight))
        pattern = getattr(method, "pattern", None)
        return LayerReport(
            name=matrix.name,
            shape=(weight.shape[0], weight.shape[1]),
            sparsity=1 - nonzero / weight.numel(),
            nonzero=nonzero,
            requested_sparsity=pattern.sparsity if isinstance(pattern, Unstructured) else None,
            num_bits=result.num_bits,
            number_format=None if result.num_bits is None else result.number_format,
            error=error,
            dampening=result.dampening,
            tokens=tokens,
            seconds=seconds,
            bytes_dense=weight.numel() * weight.element_size(),
            bytes_best_format=stored_bytes(
                result, nonzero, (pattern.n, pattern.m) if isinstance(pattern, NM) else None
            ),
            ragged=result.g_idx is not None and _is_ragged(result.g_idx),
            note=note,
        )

    def _warn_of_rank(self, group: InputGroup) -> None:
        tokens, width = group.statistic.tokens, group.statistic.in_features
        if isinstance(group.statistic, Hessian) and tokens < width and width not in self._warned:
            self._warned.add(width)
            _log.warning(
                "%s: %d calibration tokens for in_features=%d, so the Hessian has at most rank "
                "%d; raise nsamples or seqlen (damping fills the rest)",
                group.matrices[0].name, tokens, width, tokens,
            )  # fmt: skip


def _is_ragged(g_idx: Tensor) -> bool:
    """Whether the last group has fewer columns than the first."""
    return bool((g_idx == g_idx.max()).sum() < (g_idx == 0).sum())


def _output_errors(
    group: InputGroup, weights: Sequence[Tensor], results: Sequence[CompressedWeight]
) -> list[float | None]:
    r"""Relative output error of each matrix: :math:`\|X(W-W')^\top\|^2 / \|XW^\top\|^2`.

    With a Hessian, over all tokens and at most 128 evenly spaced output rows, by
    :math:`\|X D^\top\|^2 = \operatorname{tr}(D H D^\top)`; otherwise over all rows and the at most
    256 evenly spaced input vectors that were kept. Both in float32; None where the dense output is
    zero.

    Raises:
        NumericalError: The inputs were not finite.
    """
    hessian = group.statistic.matrix if isinstance(group.statistic, Hessian) else None
    sample = torch.cat(group.sample).float() if group.sample else None

    def energy(rows: Tensor) -> Tensor:
        if hessian is not None:
            return torch.dot((rows @ hessian).flatten(), rows.flatten())
        return rows.new_zeros(()) if sample is None else (sample @ rows.t()).square().sum()

    errors: list[float | None] = []
    for weight, result in zip(weights, results, strict=True):
        step = max(1, -(-weight.shape[0] // _ERROR_ROWS)) if hessian is not None else 1
        dense = weight[::step].float()
        whole, lost = energy(dense).item(), energy(dense - result.weight[::step].float()).item()
        # Rounding can leave a quadratic form a hair below zero.
        errors.append(max(lost, 0.0) / whole if whole > 0 else None)
    return errors


@contextmanager
def _named(matrices: Sequence[WeightMatrix]) -> Iterator[None]:
    """Prefix a method's numerical errors with the layers' names."""
    try:
        yield
    except NumericalError as error:
        names = ", ".join(matrix.name for matrix in matrices)
        raise NumericalError(f"{names}: {error}") from error
