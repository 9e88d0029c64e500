# SPDX-License-Identifier: Apache-2.0
"""The block-by-block loop as the papers tell it: one sample at a time, nothing shared or skipped.

It shares no code with ``compressors``. For every block the whole model runs, with all blocks before
it already compressed, and hooks note down what each matrix of the block reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["BLOCKS", "plain_compress", "weights_of"]

#: Family -> where its blocks are; all others keep them in ``model.layers``.
BLOCKS = {
    "opt": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
    "gpt2": "transformer.h",
    "falcon": "transformer.h",
    "falcon_alibi": "transformer.h",
    "bloom": "transformer.h",
}
#: Linear layers that are routers or gates of shared experts.
_ROUTERS = ("shared_expert_gate", "router", "gate")


def weights_of(family: str, model: nn.Module) -> dict[str, Tensor]:
    """Every matrix that is to be compressed, [out, in], by name; views that can be written to."""
    found = {}
    for path, module in model.get_submodule(BLOCKS.get(family, "model.layers")).named_modules():
        if path.split(".")[-1] in _ROUTERS:
            continue
        if isinstance(module, nn.Linear):
            found[path] = module.weight.data
        elif isinstance(module, Conv1D):
            found[path] = module.weight.data.t()
        elif hasattr(module, "gate_up_proj") and isinstance(module.gate_up_proj, nn.Parameter):
            for expert in range(len(module.gate_up_proj)):
                fused, down = module.gate_up_proj.data[expert], module.down_proj.data[expert]
                if module.is_transposed:
                    fused, down = fused.t(), down.t()
                half = len(fused) // 2
                gate, up = fused[:half], fused[half:]
                if not module.is_concatenated:
                    gate, up = fused[::2], fused[1::2]
                found[f"{path}.{expert}.gate_proj"] = gate
                found[f"{path}.{expert}.up_proj"] = up
                found[f"{path}.{expert}.down_proj"] = down
    return found


@torch.no_grad()
def plain_compress(
    family: str,
    model: nn.Module,
    samples: Tensor,
    solve: Callable[[Tensor, Tensor], Tensor],
    stages: list[tuple[str, ...]] | None = None,
) -> None:
    """Compress ``model`` in place.

    ``solve(weight [out, in], inputs [tokens, in])`` returns the new weight. ``stages`` (endings of
    names) compresses a block in several rounds, each on fresh inputs; None does all in one.
    """
    blocks = model.get_submodule(BLOCKS.get(family, "model.layers"))
    for index in range(len(blocks)):
        for endings in stages or [("",)]:
            inputs = _inputs_of(blocks[index], model, samples)
            for name, weight in weights_of(family, model).items():
                inside = name.partition(".")[2]
                if name.startswith(f"{index}.") and inside.endswith(endings):
                    read = torch.cat(inputs[inside]) if inside in inputs else torch.empty(0)
                    weight.copy_(solve(weight.clone(), read))


def _inputs_of(block: nn.Module, model: nn.Module, samples: Tensor) -> dict[str, list[Tensor]]:
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for path, module in block.named_modules():

        def hook(module: nn.Module, args: tuple[Any, ...], path: str = path) -> None:
            if isinstance(module, nn.Linear | Conv1D):
                seen.setdefault(path, []).append(args[0].reshape(-1, args[0].shape[-1]).clone())
            elif isinstance(getattr(module, "gate_up_proj", None), nn.Parameter):
                for name, x in _read_by_experts(module, args[0], args[1]):
                    seen.setdefault(f"{path}.{name}", []).append(x)

        handles.append(module.register_forward_pre_hook(hook))
    for sample in samples:
        model(input_ids=sample[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def _read_by_experts(module: Any, hidden: Tensor, chosen: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What every expert's matrices read: the tokens sent to it, and what becomes of them inside."""
    for expert in range(len(module.gate_up_proj)):
        rows = [hidden[token] for token in range(len(hidden)) if expert in chosen[token].tolist()]
        if not rows:
            continue
        x = torch.stack(rows)
        fused = module.gate_up_proj[expert]
        projected = x @ (fused if module.is_transposed else fused.t())
        if module.has_bias:
            projected = projected + module.gate_up_proj_bias[expert]
        yield f"{expert}.gate_proj", x
        yield f"{expert}.up_proj", x
        yield f"{expert}.down_proj", module._apply_gate(projected)
