# SPDX-License-Identifier: Apache-2.0
"""AWQ: scale columns by the size of their inputs, then round to nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from compressors.base import CompressedWeight, is_integer, require_finite_weight
from compressors.errors import SettingsError
from compressors.matmul import full_precision
from compressors.methods.rtn import Quantizer, round_to_nearest
from compressors.statistics import HessianAndMagnitude

__all__ = ["AWQ"]

#: Least mean magnitude of an input, and of a weight in proportion to its group's largest.
_LEAST = 1e-4
#: Ranges tried in the search for clipping: 1, 0.95 ... 0.55 of a group's largest magnitude.
_SHRINKS = tuple(1 - step / 20 for step in range(10))


@dataclass(frozen=True, slots=True, kw_only=True)
class AWQ(Quantizer):
    r"""Round to nearest with the columns of large inputs scaled up, and groups clipped.

    Columns are multiplied by :math:`s = s_X^\alpha`, rounded, and divided by s again; matrices that
    read the same input share s. :math:`s_X(j)` is the mean of :math:`|x_j|`, and :math:`\alpha` the
    one of ``grid_points`` values 0, 1 / ``grid_points`` ... whose output error is least. Then each
    group is clipped to the range, of 1, 0.95 ... 0.55 times its largest magnitude, whose output
    error is least; matrices that make queries and keys are not.

    Args:
        num_bits, group_size, symmetric, number_format, scale_dtype: As in :class:`.Quantizer`.
        grid_points: Values of :math:`\alpha` tried; 1: no scaling.
        clip: Whether to clip.
        duo_scaling: Divide s by :math:`s_W^{1-\alpha}`, where :math:`s_W(j)` is the mean over the
            output rows of a weight's magnitude in proportion to the largest of its group.

    Raises:
        SettingsError: If a setting is out of range.

    References:
        Lin et al., arXiv:2306.00978, eq. 4 and 5; normalisation of s, groups and clipping as in its
        released code. ``duo_scaling`` as in AutoAWQ and llm-compressor.

    Differences from the released code:
        1. The error is that of the matrices' own outputs, for q, k and v and for gate and up too,
           whose error the code takes behind the attention and the MLP.
        2. It is that of all calibration tokens, by the Hessian: :math:`\operatorname{tr}(D H
           D^\top)`. The code clips by 512 of them.
        3. Inputs came through the blocks that are already compressed, as for the other methods;
           in the code, through dense ones.
        4. s is not folded into the layer before, so ``o_proj`` is scaled with any shape.
        5. Means below 1e-4 are raised to it before the power, not after.
        6. Grids are this package's: an asymmetric one is widened to hold 0, a symmetric one has
           its zero point in the middle of the codes (:mod:`compressors.grid`).
    """

    statistic: ClassVar[type[HessianAndMagnitude]] = HessianAndMagnitude
    num_bits: int | None = 4
    symmetric: bool = False
    grid_points: int = 20
    clip: bool = True
    duo_scaling: bool = False

    def __post_init__(self) -> None:
        Quantizer.__post_init__(self)
        if not is_integer(self.grid_points) or self.grid_points < 1:
            raise SettingsError(
                f"grid_points={self.grid_points!r}: expected an integer of at least 1, the number "
                "of exponents tried (20 as published)"
            )

    @property
    def scales_columns(self) -> bool:
        """Whether columns have factors: with a single exponent, 0, they are all 1."""
        return self.grid_points > 1 or self.duo_scaling

    def compress(self, weight: Tensor, stats: HessianAndMagnitude) -> CompressedWeight:
        """Quantize one matrix.

        Args:
            weight: ``[out_features, in_features]``, float32, bfloat16 or float16.
            stats: Hessian and mean magnitude of its inputs.

        Returns:
            The rounded weight, its codes and grid, and the factors of its columns.

        Raises:
            NumericalError: If weight or statistics are not finite.
            SettingsError: If the statistics are empty.
        """
        return self.compress_together([weight], stats)[0]

    def compress_together(
        self,
        weights: Sequence[Tensor],
        stats: HessianAndMagnitude,
        feeds_scores: Sequence[bool] = (),
    ) -> list[CompressedWeight]:
        """Quantize matrices that read the same input, with common column factors.

        Those of ``feeds_scores`` are not clipped: attention multiplies what they make, so the error
        of their own output says too little.
        """
        for weight in weights:
            require_finite_weight(weight)
        stats.require_tokens()
        with full_precision(), torch.no_grad():
            device = weights[0].device
            hessian = stats.matrix.to(device)
            dense = [weight.detach().float() for weight in weights]
            scale = self._search_scale(dense, hessian, stats.magnitude.to(device))
            scaled_hessian = hessian / scale / scale[:, None]
            fixed = feeds_scores or [False] * len(weights)
            return [
                self._round(weight, values * scale, scale, None if kept else scaled_hessian)
                for weight, values, kept in zip(weights, dense, fixed, strict=True)
            ]

    def _round(
        self, weight: Tensor, scaled: Tensor, scale: Tensor, hessian: Tensor | None
    ) -> CompressedWeight:
        """Clip where there is a Hessian, round, and undo the scaling."""
        matrix_scale = self.grid.matrix_scale(scaled)
        if self.clip and hessian is not None:
            scaled = self._clip(scaled, hessian, matrix_scale)
        result = round_to_nearest(scaled, self.grid, matrix_scale)
        if bool((scale == 1).all()):
            return replace(result, weight=result.weight.to(weight.dtype))
        return replace(
            result, weight=(result.weight / scale).to(weight.dtype), input_scale=scale.clone()
        )

    def _search_scale(
        self, weights: Sequence[Tensor], hessian: Tensor, magnitude: Tensor
    ) -> Tensor:
        """Column factors with the least total output error."""
        inputs = _normalised(magnitude.clamp(min=_LEAST))
        columns = self._weight_scale(torch.cat(list(weights))) if self.duo_scaling else None
        best, least = torch.ones_like(inputs), float("inf")
        for point in range(self.grid_points):
            alpha = point / self.grid_points
            scale = inputs**alpha
            if columns is not None:
                scale = scale / columns ** (1 - alpha)
            scale = _normalised(scale)
            error = sum(self._output_error(weight, scale, hessian) for weight in weights)
            if error < least:
                best, least = scale, error
        return best

    def _output_error(self, weight: Tensor, scale: Tensor, hessian: Tensor) -> float:
        """tr(D H D^T), D the rounding error under these factors."""
        lost = weight - round_to_nearest(weight * scale, self.grid).weight / scale
        return float(torch.dot((lost @ hessian).flatten(), lost.flatten()))

    def _weight_scale(self, weight: Tensor) -> Tensor:
        """Mean over the rows of a weight's magnitude in proportion to its group's largest."""
        means = []
        for grouped in self.grid.split(weight.abs(), dim=1):
            largest = grouped.amax(dim=2, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
            means.append((grouped / largest).mean(dim=0).flatten())
        return torch.cat(means).clamp_(min=_LEAST)

    def _clip(self, weight: Tensor, hessian: Tensor, matrix_scale: Tensor | None) -> Tensor:
        """Clip each group of each row to the range with the least output error of that group."""
        group_of = self.grid.group_of_columns(weight.shape[1], weight.device)
        parts = self.grid.split(weight.abs(), dim=1)
        largest = torch.cat([part.amax(dim=2) for part in parts], dim=1)
        best = largest.clone()
        least = torch.full_like(largest, float("inf"))
        for shrink in _SHRINKS:
            limit = largest * shrink
            spread = limit[:, group_of]
            clipped = weight.clamp(-spread, spread)
            lost = weight - round_to_nearest(clipped, self.grid, matrix_scale).weight
            error = self._group_errors(lost, hessian)
            better = error < least
            best = torch.where(better, limit, best)
            least = torch.where(better, error, least)
        spread = best[:, group_of]
        return weight.clamp(-spread, spread)

    def _group_errors(self, lost: Tensor, hessian: Tensor) -> Tensor:
        """Output error of each group by its block of the Hessian alone: ``[out, groups]``."""
        size = self.group_size or lost.shape[1]
        errors = []
        for start in range(0, lost.shape[1], size):
            part = lost[:, start : start + size]
            block = hessian[start : start + size, start : start + size]
            errors.append(((part @ block) * part).sum(dim=1))
        return torch.stack(errors, dim=1)


def _normalised(scale: Tensor) -> Tensor:
    """Divide by the geometric mean of largest and smallest: a power of 2 in all cancels exactly."""
    return scale / (scale.max() * scale.min()).sqrt()
