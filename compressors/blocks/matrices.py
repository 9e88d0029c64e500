# SPDX-License-Identifier: Apache-2.0
"""Weight matrices of a block: linear layers and the experts of fused mixtures.

A block that stores more than a tenth of its weights in another way is an error: compressing the
rest would silently leave them dense.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compressors.blocks.experts import is_fused_experts
from compressors.errors import UnsupportedModelError

__all__ = ["WeightMatrix", "block_matrices", "is_linear", "size"]

#: A block that keeps more than this share of its weights in matrices we do not know is refused.
_UNKNOWN_SHARE = 0.1
#: Names of the layers that make queries and keys: q_proj, key, Wqkv, query_key_value, c_attn ...
_SCORES = re.compile(r"(^|_)w?(q|k|kv|qkv|query|key)(_|$)|^c_attn$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightMatrix:
    """One ``[out_features, in_features]`` weight matrix, in any storage form.

    Attributes:
        name: Qualified name, e.g. ``model.layers.0.self_attn.q_proj`` or
            ``model.layers.0.mlp.experts.3.up_proj``.
        module: The module whose call shows the matrix's input.
        parameter: The parameter that holds it, perhaps together with other matrices.
        transposed: Whether it is stored as ``[in_features, out_features]``.
        expert: Index in the first dimension of a fused 3-D parameter; None for an ordinary layer.
        rows: The output rows of a fused gate/up pair that are this matrix's; None means all.
    """

    name: str
    module: nn.Module
    parameter: nn.Parameter
    transposed: bool = False
    expert: int | None = None
    rows: slice | None = None

    def view(self) -> Tensor:
        """Return the matrix as ``[out_features, in_features]``, sharing memory with the model."""
        weight: Tensor = self.parameter.data
        if self.expert is not None:
            weight = weight[self.expert]
        if self.transposed:
            weight = weight.t()
        return weight if self.rows is None else weight[self.rows]

    def write(self, weight: Tensor) -> None:
        """Store ``weight`` ``[out_features, in_features]`` in the model's own parameter."""
        self.view().copy_(weight)

    @property
    def feeds_scores(self) -> bool:
        """Whether its name says that it makes queries or keys."""
        return _SCORES.search(self.name.rpartition(".")[2]) is not None

    @property
    def feeds_down(self) -> bool:
        """Whether it is the inner projection of a fused expert, which reads the activation."""
        return self.expert is not None and self.parameter is self.module.down_proj


def block_matrices(path: str, block: nn.Module) -> Iterator[WeightMatrix]:
    """Yield the matrices of one block; refuse it if too many weights are kept elsewhere."""
    modules = dict(block.named_modules())
    skipped = _routers(modules) | _adapters(modules)
    known: set[int] = set()
    found: list[WeightMatrix] = []
    for name, module in modules.items():
        qualified = f"{path}.{name}" if name else path
        if is_fused_experts(module):
            known |= {id(parameter) for parameter in module.parameters()}
            found.extend(_expert_matrices(qualified, module))
        elif is_linear(module):
            known.add(id(module.weight))
            if name not in skipped:
                found.append(
                    WeightMatrix(
                        name=qualified.removesuffix(".base_layer"),
                        module=module,
                        parameter=module.weight,
                        transposed=isinstance(module, Conv1D),
                    )
                )
        elif type(module).__module__.startswith("torch.nn."):
            known |= {id(parameter) for parameter in module.parameters(recurse=False)}
    unknown = {
        name: parameter.numel()
        for name, parameter in block.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in known
    }
    share = sum(unknown.values()) / max(size(block), 1)
    if share > _UNKNOWN_SHARE:
        raise UnsupportedModelError(
            f"{path}: {type(block).__name__} keeps {share:.0%} of its weights "
            f"({', '.join(unknown)}) in an unsupported form; supported are Linear, Conv1D and the "
            "fused experts of transformers. Nothing was compressed"
        )
    yield from found


def _expert_matrices(name: str, module: Any) -> Iterator[WeightMatrix]:
    """Yield gate, up and down matrices of a fused module, expert by expert.

    A fused gate/up pair is two matrices, as its checkpoint and the papers have it: a comparison
    group of weights must not span both.
    """
    fused = module.gate_up_proj if module.has_gate else module.up_proj
    width = fused.shape[2 if module.is_transposed else 1]
    parts: dict[str, slice | None] = {"up_proj": None}
    if module.has_gate and module.is_concatenated:
        parts = {"gate_proj": slice(0, width // 2), "up_proj": slice(width // 2, width)}
    elif module.has_gate:
        parts = {"gate_proj": slice(0, width, 2), "up_proj": slice(1, width, 2)}
    for expert in range(fused.shape[0]):
        common: dict[str, Any] = {
            "module": module, "transposed": module.is_transposed, "expert": expert
        }  # fmt: skip
        for part, rows in parts.items():
            yield WeightMatrix(name=f"{name}.{expert}.{part}", parameter=fused, rows=rows, **common)
        yield WeightMatrix(name=f"{name}.{expert}.down_proj", parameter=module.down_proj, **common)


def _routers(modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the Linear layers that route to experts.

    Beside a collection of E experts, a child whose last Linear has E outputs is a router, and a
    Linear with a single output is the gate of a shared expert.
    """
    routers: set[str] = set()
    for name, module in modules.items():
        count = _expert_count(module)
        parent = name.rpartition(".")[0]
        if not count or not name:
            continue
        for child_name, child in modules[parent].named_children():
            path = f"{parent}.{child_name}" if parent else child_name
            linears = {
                f"{path}.{sub}" if sub else path: layer
                for sub, layer in child.named_modules()
                if is_linear(layer)
            }
            if child is module or not linears:
                continue
            last = list(linears.values())[-1]
            outputs = last.weight.shape[1 if isinstance(last, Conv1D) else 0]
            if outputs == count and (last is child or count not in last.weight.shape[1:]):
                routers |= set(linears)
            elif outputs == 1 and last is child:
                routers.add(path)
    return routers


def _expert_count(module: nn.Module) -> int:
    """Number of experts in ``module``; 0 where it has none."""
    if is_fused_experts(module):
        return int(module.get_parameter("down_proj").shape[0])
    if isinstance(module, nn.ModuleList) and len(module) > 1:
        alike = len({type(item) for item in module}) == 1
        holds = all(any(is_linear(layer) for layer in item.modules()) for item in module)
        return len(module) if alike and holds else 0
    return 0


def _adapters(modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the Linear layers that an adapter adds around a ``base_layer``."""
    return {
        path
        for name, module in modules.items()
        if isinstance(getattr(module, "base_layer", None), nn.Module)
        for path in modules
        if path.startswith(name + ".") and not path.startswith(f"{name}.base_layer")
    }


def is_linear(module: Any) -> bool:
    """Whether ``module`` is a linear layer (Linear or Conv1D)."""
    return isinstance(module, nn.Linear | Conv1D)


def size(module: nn.Module) -> int:
    """Count its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
