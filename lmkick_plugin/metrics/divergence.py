# SPDX-License-Identifier: Apache-2.0
"""Divergence of a compressed model's next-token distributions from the dense model's.

P is the dense model's distribution over the whole vocabulary at a position of teacher-forced text,
Q the compressed model's, M = (P + Q) / 2. Logarithms have base 2, so everything is in bits:

    jsd = (KL(P || M) + KL(Q || M)) / 2, between 0 and 1
    kl = KL(P || Q), 0 or more, infinite where Q excludes what P allows

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
    top = logits.amax(dim=-1)
    bad = ~top.isfinite() | logits.isnan().any(dim=-1)
    if bool(bad.any()):
        position = start + int(bad.nonzero()[0])
        raise DivergenceError(
            f"the {whose} model's logits at position {position} are NaN, +inf, or all -inf"
        )
    return logits.log_softmax(dim=-1)


def _bits(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Jensen-Shannon divergence and KL(P || Q) of rows of log-probabilities.

    With d = log p - log q and, for every token, zero added as q - p (which sums to 0):

        KL      = sum p d - p + q             = sum p (exp(-d) - 1 + d)
        2 x JSD = sum -p log1p(u) - q log1p(v)  with u = (exp(-d) - 1) / 2, v = (exp(d) - 1) / 2

    No term is negative, and an error in a normaliser cancels to first order; in the plain sums it
    would not, and 1e-7 of float32 would drown the divergence of an 8-bit model. The second forms
    lose nothing where d is small (there p u + q v = 0 is added to the JSD's), the first cannot
    overflow where it is large.
    """
    p, q = log_p.exp(), log_q.exp()
    d = (log_p - log_q).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)  # both excluded: 0
    near = d.abs() <= 1
    close = d.where(near, 0)
    kl = torch.where(near, p * (torch.expm1(-close) + close), _times(p, d) - p + q)
    far = d.clamp(-80, 80)  # exp stays finite; beyond, the smaller probability adds nothing
    u, v = torch.expm1(-far) / 2, torch.expm1(far) / 2
    log_u, log_v = torch.log1p(u), torch.log1p(v)
    jsd = torch.where(near, p * (u - log_u) + q * (v - log_v), -(p * log_u + q * log_v))
    return (
        (jsd.clamp(min=0).sum(dim=-1) / (2 * _LOG_2)).clamp(max=1),
        kl.clamp(min=0).sum(dim=-1) / _LOG_2,
    )


def _times(p: Tensor, d: Tensor) -> Tensor:
    """Product with 0 x inf = 0."""
    return torch.where(p > 0, p * d, 0)


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
