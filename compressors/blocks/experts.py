# SPDX-License-Identifier: Apache-2.0
"""Fused experts of transformers: 3-D parameters, one slice per expert, and their inputs.

``transformers.integrations.moe.use_experts_implementation`` marks such modules and fixes their
meaning: ``(hidden_states, top_k_index, top_k_weights)`` in, ``gate_up_proj`` (or ``up_proj``) and
``down_proj`` of shape ``[experts, out, in]`` (``[experts, in, out]`` where ``is_transposed``),
optional biases, ``_apply_gate`` between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["inner_activation", "is_fused_experts", "routed_inputs"]


def is_fused_experts(module: Any) -> bool:
    """Whether ``module`` keeps experts in 3-D parameters as transformers defines them."""
    fused = ("gate_up_proj" if getattr(module, "has_gate", True) else "up_proj", "down_proj")
    return (
        isinstance(module, nn.Module)
        and hasattr(module, "is_transposed")
        and hasattr(module, "_apply_gate")
        and all(getattr(getattr(module, name, None), "ndim", 0) == 3 for name in fused)
    )


def routed_inputs(
    module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(expert, tokens)`` for every expert with at least one token.

    Args:
        module: A fused-experts module.
        args: The positional arguments of its call: hidden states ``[tokens, in_features]`` and the
            chosen experts ``[tokens, top_k]``, unless they are in ``kwargs``.
        kwargs: The keyword arguments of its call.
    """
    hidden = args[0] if args else kwargs["hidden_states"]
    chosen = args[1] if len(args) > 1 else kwargs["top_k_index"]
    hidden = hidden.reshape(-1, hidden.shape[-1])
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    tokens = order // chosen.shape[-1]
    # A single transfer of the counts, instead of one synchronisation an expert.
    counts = torch.bincount(flat, minlength=int(module.num_experts)).tolist()
    start = 0
    for expert, count in enumerate(counts[: int(module.num_experts)]):
        if count:
            yield expert, hidden[tokens[start : start + count]]
        start += count


def inner_activation(module: Any, expert: int, tokens: Tensor) -> Tensor:
    """Input ``[n, inner]`` of ``expert``'s ``down_proj`` for ``[n, in_features]``."""
    name = "gate_up_proj" if module.has_gate else "up_proj"
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    projected = nn.functional.linear(tokens, weight.t() if module.is_transposed else weight, bias)
    inner: Tensor = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
    return inner
