# SPDX-License-Identifier: Apache-2.0
"""Slow, obvious reference maths, written from the papers' equations.

Nothing here shares code with ``compressors``. Each function is a plain loop that can be read beside
the paper; the tests hold the fast code against it, and the benchmarks are measured against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "awq",
    "column_norm",
    "float_points",
    "float_rtn",
    "gptq",
    "grid",
    "hessian",
    "inverse_factor",
    "magnitude_mask",
    "nm_mask",
    "outlier_share",
    "output_error",
    "owl",
    "round_to_grid",
    "rtn",
    "smallest",
    "sparsegpt",
    "wanda_mask",
    "wanda_variant_mask",
]


# --- statistics ---------------------------------------------------------------------------------


def column_norm(x: Tensor) -> Tensor:
    """Wanda eq. 1: the l2 norm of each input feature over all tokens of ``x`` [tokens, in]."""
    return x.float().square().sum(dim=0).sqrt()


def hessian(x: Tensor) -> Tensor:
    """The mean of x x^T over the tokens of ``x`` [tokens, in], one token at a time."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float32)
    for token in x.float():
        total += torch.outer(token, token)
    return total / len(x)


def output_error(weight: Tensor, compressed: Tensor, x: Tensor) -> float:
    """||X W' - X W||^2 / ||X W||^2 in float64."""
    dense = x.double() @ weight.double().t()
    return float(
        (x.double() @ compressed.double().t() - dense).square().sum() / dense.square().sum()
    )


# --- masks (True = kept) ------------------------------------------------------------------------


def smallest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` smallest of a vector; of equal ones the lower index is first."""
    return scores.sort(stable=True).indices[:count]


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Prune floor(sparsity * count) weights of the whole matrix."""
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    keep[smallest(weight.float().abs().flatten(), math.floor(sparsity * len(keep)))] = False
    return keep.view(weight.shape)


def wanda_mask(weight: Tensor, norm: Tensor, sparsity: float) -> Tensor:
    """Wanda eq. 1: scores |W_ij| * ||X_j||, compared within each output row."""
    scores = weight.float().abs() * norm
    keep = torch.ones(weight.shape, dtype=torch.bool)
    for row in range(weight.shape[0]):
        keep[row, smallest(scores[row], math.floor(sparsity * weight.shape[1]))] = False
    return keep


def wanda_variant_mask(weight: Tensor, norm: Tensor, sparsity: float) -> Tensor:
    """Wanda's appendix: one share alpha of every row's total score goes, lowest scores first.

    A weight goes if the scores of its row up to and including it sum to at most alpha of the row's
    total; alpha is the one for which floor(sparsity * count) weights of the matrix go.
    """
    scores = weight.double().abs() * norm.double()
    share = torch.zeros_like(scores)
    for row in range(weight.shape[0]):
        total, running = float(scores[row].sum()), 0.0
        for column in smallest(scores[row], weight.shape[1]).tolist():
            running += float(scores[row, column])
            share[row, column] = running / total
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    keep[smallest(share.flatten(), math.floor(sparsity * weight.numel()))] = False
    return keep.view(weight.shape)


def nm_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep the n highest of every m consecutive scores of a row."""
    keep = torch.ones(scores.shape, dtype=torch.bool)
    for start in range(0, scores.shape[1], m):
        ascending = scores[:, start : start + m].sort(dim=1, stable=True).indices
        for position in range(m - n):
            keep[range(len(keep)), start + ascending[:, position]] = False
    return keep


# --- sparsity by block --------------------------------------------------------------------------


def outlier_share(matrices: list[tuple[Tensor, Tensor]], threshold: float) -> float:
    """OWL: share of a block's Wanda scores above ``threshold`` times their mean over the block.

    ``matrices`` are pairs of a weight [out, in] and its inputs [tokens, in].
    """
    scores = torch.cat(
        [(weight.abs().double() * column_norm(x).double()).flatten() for weight, x in matrices]
    )
    return float((scores > threshold * scores.mean()).double().mean())


def owl(shares: list[float], sizes: list[int], sparsity: float, owl_lambda: float) -> list[float]:
    """OWL: block l's sparsity is s - d_l + mean(d), d the shares scaled to [0, 2 lambda]."""
    low, high = min(shares), max(shares)
    d = [2 * owl_lambda * (share - low) / (high - low) for share in shares]
    mean = sum(each * size for each, size in zip(d, sizes, strict=True)) / sum(sizes)
    return [sparsity - each + mean for each in d]


# --- quantization grids -------------------------------------------------------------------------


def grid(values: Tensor, num_bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row of ``values`` [rows, group], float32 [rows]."""
    top = 2**num_bits - 1
    low = values.float().amin(dim=1).clamp(max=0)
    high = values.float().amax(dim=1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    flat = low == high
    low[flat], high[flat] = -1, 1
    scale = (high - low) / top
    if symmetric:
        return scale, torch.full_like(scale, 2 ** (num_bits - 1))
    return scale, (-low / scale).round()


def round_to_grid(column: Tensor, scale: Tensor, zero_point: Tensor, num_bits: int) -> Tensor:
    """The nearest value of each row's grid."""
    codes = ((column / scale).round() + zero_point).clamp(0, 2**num_bits - 1)
    return scale * (codes - zero_point)


def rtn(weight: Tensor, num_bits: int, group_size: int | None, symmetric: bool) -> Tensor:
    """Round to nearest, group by group; float32."""
    result = weight.float().clone()
    size = group_size or weight.shape[1]
    for start in range(0, weight.shape[1], size):
        scale, zero_point = grid(result[:, start : start + size], num_bits, symmetric)
        for column in range(start, min(start + size, weight.shape[1])):
            result[:, column] = round_to_grid(result[:, column], scale, zero_point, num_bits)
    return result


def float_points(num_bits: int) -> list[float]:
    """All points of E2M1 (4 bits) or E4M3 (8 bits) from 0 up, by their bits; code by code."""
    exponents, mantissas, bias = (2, 1, 1) if num_bits == 4 else (4, 3, 7)
    found = []
    for code in range(2 ** (num_bits - 1)):
        exponent, mantissa = code >> mantissas, code % 2**mantissas
        fraction = mantissa / 2**mantissas
        if exponent == 0:
            found.append(fraction * 2.0 ** (1 - bias))
        else:
            found.append((1 + fraction) * 2.0 ** (exponent - bias))
    # The last code of E4M3 is NaN.
    return found if exponents == 2 else found[:-1]


def nearest_point(value: float, num_bits: int) -> float:
    """The nearest point; of two that are as near, that of the even code."""
    found = float_points(num_bits)
    code = min(range(len(found)), key=lambda code: (abs(found[code] - abs(value)), code % 2))
    return math.copysign(found[code], value)


def float_scale(block: list[float], number_format: str, matrix_scale: float) -> float:
    """The scale of one block, in float64."""
    amax = max(abs(value) for value in block)
    if amax == 0:
        return 1 / matrix_scale
    if number_format == "fp8":
        return amax / 448
    if number_format == "mxfp4":
        mantissa, exponent = math.frexp(amax)  # amax = mantissa * 2^exponent, mantissa from 0.5
        return 2.0 ** (exponent - 1 + (2 * mantissa >= 1.75) - 2)
    return max(nearest_point(min(matrix_scale * amax / 6, 448.0), 8), 2.0**-9) / matrix_scale


def float_rtn(weight: Tensor, number_format: str) -> Tensor:
    """Round to nearest in a floating-point format, weight by weight; float32."""
    num_bits = 8 if number_format == "fp8" else 4
    size = {"fp8": weight.shape[1], "mxfp4": 32, "nvfp4": 16}[number_format]
    amax = float(weight.abs().max())
    matrix_scale = 448 * 6 / amax if number_format == "nvfp4" and amax else 1.0
    rows = []
    for row in weight.tolist():
        rounded = []
        for start in range(0, len(row), size):
            block = row[start : start + size]
            scale = float_scale(block, number_format, matrix_scale)
            rounded += [nearest_point(value / scale, num_bits) * scale for value in block]
        rows.append(rounded)
    return torch.tensor(rows)


def awq(
    weights: list[Tensor],
    x: Tensor,
    *,
    num_bits: int,
    group_size: int | None,
    symmetric: bool,
    clip: list[bool],
    grid_points: int = 20,
    duo_scaling: bool = False,
) -> list[Tensor]:
    """AWQ eq. 4 and 5, and its released code's clipping, on the inputs themselves; float32.

    ``weights`` all read ``x`` [tokens, in] and share their scales; ``clip`` says which are clipped.
    """
    x = x.float()
    size = group_size or x.shape[1]
    starts = range(0, x.shape[1], size)
    magnitude = x.abs().mean(dim=0).clamp(min=1e-4)
    shares = []
    for weight in weights:
        groups = [weight[:, start : start + size].abs() for start in starts]
        shares.append(torch.cat([group / group.amax(dim=1, keepdim=True) for group in groups], 1))
    weight_size = torch.cat(shares).mean(dim=0).clamp(min=1e-4)
    best, least = torch.ones_like(magnitude), math.inf
    for point in range(grid_points):
        scale = magnitude ** (point / grid_points)
        if duo_scaling:
            scale = scale / weight_size ** (1 - point / grid_points)
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = 0.0
        for weight in weights:
            rounded = rtn(weight * scale, num_bits, group_size, symmetric) / scale
            error += float((x @ (rounded - weight).t()).double().square().sum())
        if error < least:
            best, least = scale, error
    results = []
    for weight, clipped in zip(weights, clip, strict=True):
        scaled = weight.float() * best
        for start in starts if clipped else ():
            group, part = scaled[:, start : start + size].clone(), x[:, start : start + size]
            least_of_row = torch.full((len(weight),), math.inf, dtype=torch.float64)
            for step in range(10):
                limit = group.abs().amax(dim=1, keepdim=True) * (1 - step / 20)
                candidate = torch.maximum(torch.minimum(group, limit), -limit)
                change = rtn(candidate, num_bits, None, symmetric) - group
                errors = (part / best[start : start + size] @ change.t()).double().square().sum(0)
                chosen = errors < least_of_row
                least_of_row[chosen] = errors[chosen]
                scaled[chosen, start : start + size] = candidate[chosen]
        results.append(rtn(scaled, num_bits, group_size, symmetric) / best)
    return results


# --- optimal brain surgeon ----------------------------------------------------------------------


def inverse_factor(h: Tensor, dampening_frac: float, counted: Tensor | None = None) -> Tensor:
    """GPTQ step 3: the upper Cholesky factor of the damped inverse Hessian.

    ``counted`` [in] of bool says which inputs count in the mean of the diagonal, the others as 0.
    """
    diagonal = h.diagonal() if counted is None else h.diagonal() * counted
    damped = h.clone()
    damped += dampening_frac * diagonal.mean() * torch.eye(len(h), dtype=h.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _with_live_diagonal(h: Tensor, diagonal: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """A diagonal for inputs that were always zero, which those are, and which inputs count.

    None counts dead inputs as 0 in the damping and last in the order; with a number they count like
    any other, as in the released codes, whose H is 2 / samples times the sum of x x^T over all
    tokens and whose number is 1.
    """
    dead = h.diagonal() == 0
    counted = ~dead if diagonal is None else torch.ones_like(dead)
    return h + torch.diag(dead.to(h.dtype)) * (1 if diagonal is None else diagonal), dead, counted


def sparsegpt(
    weight: Tensor,
    h: Tensor,
    *,
    sparsity: float | None = None,
    nm: tuple[int, int] | None = None,
    dampening_frac: float = 0.01,
    block_size: int = 128,
    quantize: tuple[int, int | None, bool] | None = None,
    dead_diagonal: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """SparseGPT, algorithm 1, a column at a time; joint with ``quantize``.

    ``quantize`` is (bits, group size or None, symmetric). Dead inputs are the first to be pruned;
    those that exact counts leave over keep their weights. Returns the float32 weight and the mask.
    """
    h, dead, counted = _with_live_diagonal(h.to(dtype), dead_diagonal)
    factor = inverse_factor(h, dampening_frac, counted)
    w = weight.to(dtype).clone()
    rows, columns = w.shape
    keep = torch.ones(w.shape, dtype=torch.bool)
    scale = zero_point = torch.zeros(rows)
    if quantize and quantize[1] is None:
        scale, zero_point = grid(w, quantize[0], quantize[2])
    for start in range(0, columns, block_size):
        stop = min(start + block_size, columns)
        block = w[:, start:stop].clone()
        errors = torch.zeros_like(block)
        diagonal = factor.diagonal()[start:stop]
        live = (~dead[start:stop]).to(dtype)
        if sparsity is not None:
            scores = (block * live / diagonal).square().flatten()
            selected = torch.ones(len(scores), dtype=torch.bool)
            selected[smallest(scores, math.floor(sparsity * len(scores)))] = False
            keep[:, start:stop] = selected.view(block.shape)
        for i in range(stop - start):
            column = start + i
            if nm is not None and column % nm[1] == 0:
                part = slice(i, i + nm[1])
                scores = (block[:, part] * live[part] / diagonal[part]).square()
                keep[:, column : column + nm[1]] = nm_mask(scores, *nm)
            if quantize and quantize[1] and column % quantize[1] == 0:
                group = w[:, column : column + quantize[1]].clone()
                scale, zero_point = grid(group, quantize[0], quantize[2])
            new = block[:, i].clone()
            if quantize:
                new = round_to_grid(new.float(), scale, zero_point, quantize[0]).to(dtype)
            new[~keep[:, column]] = 0
            error = (block[:, i] - new) / factor[column, column]
            block[:, i:] -= torch.outer(error, factor[column, column:stop])
            block[:, i] = new
            errors[:, i] = error
        w[:, start:stop] = block
        w[:, stop:] -= errors @ factor[start:stop, stop:]
    return w.float(), keep


def gptq(
    weight: Tensor,
    h: Tensor,
    *,
    num_bits: int,
    group_size: int | None = None,
    symmetric: bool = True,
    act_order: bool = False,
    act_group_aware: bool = False,
    static_groups: bool = False,
    dampening_frac: float = 0.01,
    block_size: int = 128,
    dead_diagonal: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """GPTQ, algorithm 1 and its released conventions, a column at a time; float32."""
    h, dead, counted = _with_live_diagonal(h.to(dtype), dead_diagonal)
    w = weight.to(dtype).clone()
    w[:, dead] = 0
    columns = w.shape[1]
    static = []
    if group_size and static_groups:
        static = [
            grid(w[:, start : start + group_size], num_bits, symmetric)
            for start in range(0, columns, group_size)
        ]
    scale, zero_point = grid(w, num_bits, symmetric)
    order = list(range(columns))
    if act_order:
        importance = h.diagonal().masked_fill(~counted, 0)
        falling = [-value for value in importance.tolist()]
        order.sort(key=lambda column: falling[column])
        if act_group_aware and group_size:
            starts = list(range(0, columns - columns % group_size, group_size))
            whole = [range(start, start + group_size) for start in starts]
            whole.sort(key=lambda group: min(falling[column] for column in group))
            rest = range(columns - columns % group_size, columns)
            order = [c for group in (*whole, rest) for c in sorted(group, key=falling.__getitem__)]
        w, h, counted = w[:, order], h[order][:, order], counted[order]
    factor = inverse_factor(h, dampening_frac, counted)
    for start in range(0, columns, block_size):
        stop = min(start + block_size, columns)
        block = w[:, start:stop].clone()
        errors = torch.zeros_like(block)
        for i in range(stop - start):
            column = start + i
            if static:
                scale, zero_point = static[order[column] // (group_size or 1)]
            elif group_size and column % group_size == 0:
                # From `w`, which holds the updates of the finished blocks only.
                group = w[:, column : column + group_size]
                scale, zero_point = grid(group, num_bits, symmetric)
            new = round_to_grid(block[:, i].float(), scale, zero_point, num_bits).to(dtype)
            error = (block[:, i] - new) / factor[column, column]
            block[:, i:] -= torch.outer(error, factor[column, column:stop])
            block[:, i] = new
            errors[:, i] = error
        w[:, start:stop] = block
        w[:, stop:] -= errors @ factor[start:stop, stop:]
    result = torch.empty_like(w)
    result[:, order] = w
    return result.float()
