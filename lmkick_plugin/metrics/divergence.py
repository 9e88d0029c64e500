# SPDX-License-Identifier: Apache-2.0
"""Divergence of a compressed model's next-token distributions from the dense model's.

P is the dense model's distribution over the whole vocabulary at a position of teacher-forced text,
Q the compressed model's, M = (P + Q) / 2. Logarithms have base 2, so everything is in bits:

    jsd = (KL(P || M) + KL(Q || M)) / 2, between 0 and 1
    kl = KL(P || Q), 0 or more, infinite where Q excludes what P (in float32) allows

Results are per position; means over positions (not over documents) are the caller's.

References:
    Khanal and Capone, arXiv:2409.11233, which proposes the Jensen-Shannon divergence for
    comparing compressed models. It publishes neither base, positions nor vocabulary.
    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37 (1991).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.errors import LmkickError
from lmkick_plugin.metrics.rows import rows_at_once

__all__ = ["Divergence", "DivergenceError", "divergence", "first_divergent_token"]

_LOG_2 = math.log(2)
_FAR = 100.0  # exp(-100) is 0 beside 1


class DivergenceError(LmkickError, ValueError):
    """Logits that give no distribution."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Divergences at each position.

    Attributes:
        jsd: float32 [positions], bits, in [0, 1].
        kl: float32 [positions], bits, KL(P || Q).
        top1_agreement: bool [positions], whether both put the same token first (of equals, the
            one with the lowest index).
    """

    jsd: Tensor
    kl: Tensor
    top1_agreement: Tensor


def divergence(dense: Tensor, compressed: Tensor, *, chunk: int | None = None) -> Divergence:
    """Divergences between two models' next-token distributions.

    Computed in float32 a chunk of positions at a time, so memory does not grow with the length of
    the text. Identical logits give exactly 0, 0 and True.

    Args:
        dense: [positions, vocabulary] logits of P, any float dtype; -inf excludes a token.
        compressed: Logits of Q, of the same shape and device.
        chunk: Positions at a time; by default :func:`.rows.rows_at_once`.

    Returns:
        One value a position, on the logits' device.

    Raises:
        DivergenceError: For shapes that differ or are not two-dimensional, an empty vocabulary,
            logits that are NaN or +inf, or a position at which every token is excluded.
    """
    if dense.shape != compressed.shape or dense.dim() != 2:
        raise DivergenceError(
            f"logits of shapes {tuple(dense.shape)} and {tuple(compressed.shape)}: both must be "
            "[positions, vocabulary], of models with one tokenizer"
        )
    positions, vocabulary = dense.shape
    if vocabulary == 0:
        raise DivergenceError("the vocabulary is empty")
    step = chunk or rows_at_once(vocabulary, dense.device)
    jsd = torch.empty(positions, dtype=torch.float32, device=dense.device)
    kl = torch.empty_like(jsd)
    agreement = torch.empty(positions, dtype=torch.bool, device=dense.device)
    for start in range(0, positions, step):
        part = slice(start, start + step)
        p, q = dense[part].float(), compressed[part].float()
        agreement[part] = p.argmax(dim=-1) == q.argmax(dim=-1)
        log_p = _log_softmax(p, "dense", start)
        log_q = _log_softmax(q, "compressed", start)
        jsd[part], kl[part] = _bits(log_p, log_q)
    return Divergence(jsd, kl, agreement)


def _log_softmax(logits: Tensor, whose: str, start: int) -> Tensor:
    """Float32 log-probabilities; refuses rows that are not a distribution."""
    bad = ~logits.amax(dim=-1).isfinite()  # NaN, too: it is its row's maximum
    if bool(bad.any()):
        position = start + int(bad.nonzero()[0])
        raise DivergenceError(
            f"the {whose} model's logits at position {position} are NaN, +inf, or all -inf"
        )
    return logits.log_softmax(dim=-1)


def _bits(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Jensen-Shannon divergence and KL(P || Q) of rows of log-probabilities.

    With d = log p - log q, x = |d|, a the larger of p and q, and e = exp(-x) - 1, so that the
    smaller is a (1 + e):

        2 x JSD = sum -a (l + (1 + e) (x + l))    with l = log((p + q) / 2a) = log1p(e / 2)
        KL      = sum p d - p + q                 where q - p, whose sum is 0, is added
                = sum a (d (1 + e [d < 0]) - sign(d) |e|)

    No term is negative, and an error in a normaliser cancels to first order; in the plain sums it
    would not, and 1e-7 of float32 would drown the divergence of an 8-bit model. There is no
    torch.where, which takes as long as four exponentials on a CPU.
    """
    # NaN: both exclude it. -inf: P alone does; from -_FAR on p is nothing beside q.
    d = (log_p - log_q).nan_to_num_(nan=0.0, posinf=math.inf, neginf=-_FAR)
    larger = torch.maximum(log_p, log_q).exp_()
    x = d.abs().clamp_(max=_FAR)
    e = x.neg().expm1_()
    log_mean = (e / 2).log1p_()
    kl = (e * (d < 0)).add_(1).mul_(d).sub_(torch.copysign(e, d)).clamp_(min=0)
    jsd = x.add_(log_mean).mul_(e.add_(1)).add_(log_mean).neg_().clamp_(min=0)
    kl = kl.mul_(larger).nan_to_num_(nan=0.0, posinf=math.inf)  # 0 x inf: p is 0 in float32
    return (
        (jsd.mul_(larger).sum(dim=-1) / (2 * _LOG_2)).clamp(max=1),
        kl.sum(dim=-1) / _LOG_2,
    )


def first_divergent_token(dense: Sequence[int], compressed: Sequence[int]) -> int:
    """Number of leading tokens that two greedy generations share.

    Args:
        dense: Token ids that the dense model generated.
        compressed: Token ids that the compressed model generated from the same prompt.

    Returns:
        Index of the first token that differs. Where one generation is the beginning of the other,
        the length of the shorter; so for equal ones their length: they agreed as long as they
        were observed, and a mean over generations is a lower bound where some never part.

    >>> first_divergent_token([5, 6, 7], [5, 6, 8, 9])
    2
    >>> first_divergent_token([5, 6], [5, 6])
    2
    """
    shorter = min(len(dense), len(compressed))
    return next((i for i in range(shorter) if dense[i] != compressed[i]), shorter)
