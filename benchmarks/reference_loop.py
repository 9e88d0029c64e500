# SPDX-License-Identifier: Apache-2.0
"""The plain block loop that the fast one is measured against, as research code writes it.

One sample at a time; every Linear gathers its own statistic; a block's whole forward pass runs
twice for every sample, the last block's too; the solves are the oracles of the tests, a Python loop
over columns. No copy of anybody's code: it is written from the papers, and shares nothing with
``compressors``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests import oracles

__all__ = ["SOLVES", "reference_compress"]


class _CaughtError(Exception):
    """The first block's inputs are known; the rest of the model need not run."""


def _wanda(weight: Tensor, norm: Tensor) -> Tensor:
    # One stable sort of the whole matrix, as the released code has it.
    order = torch.sort(weight.float().abs() * norm, dim=-1, stable=True).indices
    keep = torch.ones_like(weight, dtype=torch.bool)
    keep.scatter_(1, order[:, : weight.shape[1] // 2], False)
    return weight * keep


def _sparsegpt(weight: Tensor, hessian: Tensor) -> Tensor:
    return oracles.sparsegpt(weight, hessian, sparsity=0.5)[0]


def _gptq(weight: Tensor, hessian: Tensor) -> Tensor:
    return oracles.gptq(weight, hessian, num_bits=4, group_size=128)


def _square_sum(total: Tensor | None, x: Tensor) -> Tensor:
    addition = x.float().norm(p=2, dim=0) ** 2
    return addition if total is None else total + addition


def _gram(total: Tensor | None, x: Tensor) -> Tensor:
    addition = x.float().t() @ x.float()
    return addition if total is None else total + addition


def _norm(total: Tensor, _: int) -> Tensor:
    return total.sqrt()


def _mean(total: Tensor, tokens: int) -> Tensor:
    return total / tokens


#: Method -> (what a sample adds to the statistic, the statistic of so many tokens, the solve).
SOLVES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]] = {
    "wanda": (_square_sum, _norm, _wanda),
    "sparsegpt": (_gram, _mean, _sparsegpt),
    "gptq": (_gram, _mean, _gptq),
}


@torch.no_grad()
def reference_compress(
    model: nn.Module, blocks: nn.ModuleList, samples: Tensor, method: str, at_once: int = 1
) -> dict[str, float]:
    """Compress ``model`` in place; returns the seconds by stage.

    ``at_once`` above 1 takes so many samples together: the same sums in another order, to see how
    much of a difference between two implementations is rounding.
    """
    gather, finish, solve = SOLVES[method]
    seconds = {"statistics": 0.0, "solve": 0.0, "propagate": 0.0}
    hidden, arguments = _first_inputs(model, blocks, samples.split(at_once))
    for block in blocks:
        totals: dict[nn.Module, Tensor] = {}
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]

        def hook(
            module: nn.Module, args: tuple[Any, ...], totals: dict[nn.Module, Tensor] = totals
        ) -> None:
            totals[module] = gather(totals.get(module), args[0].reshape(-1, args[0].shape[-1]))

        started = time.perf_counter()
        handles = [module.register_forward_pre_hook(hook) for module in linears]
        for sample in hidden:
            block(sample, **arguments)
        for handle in handles:
            handle.remove()
        seconds["statistics"] += time.perf_counter() - started
        started = time.perf_counter()
        for module in linears:
            statistic = finish(totals[module], samples.numel())
            module.weight.data.copy_(solve(module.weight.data, statistic))
        seconds["solve"] += time.perf_counter() - started
        started = time.perf_counter()
        hidden = [block(sample, **arguments) for sample in hidden]
        seconds["propagate"] += time.perf_counter() - started
    return seconds


def _first_inputs(
    model: nn.Module, blocks: nn.ModuleList, batches: Sequence[Tensor]
) -> tuple[list[Tensor], dict[str, Any]]:
    hidden: list[Tensor] = []
    arguments: dict[str, Any] = {}

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(args[0])
        arguments.update(kwargs)
        raise _CaughtError

    handle = blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
    for batch in batches:
        try:
            model(input_ids=batch, use_cache=False)
        except _CaughtError:
            continue
    handle.remove()
    return hidden, arguments
