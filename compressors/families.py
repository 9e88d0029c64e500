# SPDX-License-Identifier: Apache-2.0
"""Where a model keeps its decoder blocks and their weight matrices, found from the model itself.

No list of model names: the blocks are the one ``ModuleList`` of the classes in
``_no_split_modules``, a matrix is what an ``nn.Linear``, a ``Conv1D`` or an expert of a fused
mixture holds. Embeddings, ``lm_head``, norms and routers are never returned, and a block whose
weights are mostly stored in another way is an error: compressing only its attention would silently
leave most of the model as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compressors.base import UnsupportedModelError
from compressors.experts import is_fused_experts

__all__ = ["Block", "WeightMatrix", "check_supported", "find_blocks"]

_log = logging.getLogger(__name__)

#: A block that keeps more than this share of its weights in matrices we do not know is refused.
_UNKNOWN_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightMatrix:
    """One ``[out_features, in_features]`` weight matrix, however the model stores it.

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
    def feeds_down(self) -> bool:
        """Whether it is the inner projection of a fused expert, which reads the activation."""
        return self.expert is not None and self.parameter is self.module.down_proj


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One decoder block: its qualified name, its module, its matrices in order of registration.

    A matrix shared with an earlier block, or with the embeddings or the head, is not listed.
    """

    name: str
    module: nn.Module
    matrices: tuple[WeightMatrix, ...]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter that holds matrices of this block once, with its name."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for identity in dict.fromkeys(id(matrix.parameter) for matrix in self.matrices):
            yield names[identity], self.module.get_parameter(names[identity])


def check_supported(model: nn.Module) -> None:
    """Refuse models whose weights cannot be read and replaced.

    Raises:
        UnsupportedModelError: The checkpoint is quantized, or the model is an encoder-decoder.
    """
    config = getattr(model, "config", None)
    quantized = getattr(config, "quantization_config", None) or getattr(model, "hf_quantizer", None)
    if quantized:
        kind = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
        raise UnsupportedModelError(
            f"the checkpoint is already quantized ({kind or type(quantized).__name__}); compress "
            "the original checkpoint in float32, bfloat16 or float16, or evaluate this one with "
            "compressor=none"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder; only decoder-only language models can "
            "be compressed"
        )


def find_blocks(model: nn.Module) -> list[Block]:
    """Return the decoder blocks in the order the model keeps them, each with its matrices.

    Raises:
        UnsupportedModelError: No list of decoder blocks, a block without matrices we know, or
            weights that are offloaded, or not floating-point.
    """
    name, modules = _block_list(model)
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    seen = {
        id(parameter)
        for path, module in model.named_modules()
        if not path.startswith(name + ".")
        for parameter in module.parameters(recurse=False)
        if id(parameter) in inside
    }
    blocks, adapters = [], False
    for index, module in enumerate(modules):
        path = f"{name}.{index}"
        matrices = []
        for matrix in _matrices(path, module):
            if id(matrix.parameter) in seen:
                continue
            _check_readable(matrix)
            matrices.append(matrix)
        seen |= {id(matrix.parameter) for matrix in matrices}
        adapters |= any(hasattr(child, "base_layer") for child in module.modules())
        blocks.append(Block(name=path, module=module, matrices=tuple(matrices)))
    if not any(block.matrices for block in blocks):
        raise UnsupportedModelError(
            f"{type(model).__name__}: the blocks at {name!r} hold no Linear, Conv1D or fused "
            "expert weights that could be compressed"
        )
    if adapters:
        _log.warning(
            "the model carries adapters that are not merged: their base layers are compressed, the "
            "adapters themselves stay dense; merge_and_unload() first to compress the sum"
        )
    return blocks


def _block_list(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """Find the ``ModuleList`` of decoder blocks: by ``_no_split_modules``, else the largest one."""
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and next(module.parameters(), None) is not None
    ]
    unsplit = set(getattr(model, "_no_split_modules", None) or ())
    named = [
        (name, module)
        for name, module in lists
        if all(unsplit & {base.__name__ for base in type(block).__mro__} for block in module)
    ]
    found = _in_decoder(model, named) or _in_decoder(model, _outermost(lists))
    if not found:
        raise UnsupportedModelError(
            f"cannot find the decoder blocks of {type(model).__name__}: it has no ModuleList of "
            f"the classes in _no_split_modules ({sorted(unsplit) or 'none named'}), nor another "
            "of which every item holds Linear layers; set model._no_split_modules to the class "
            "name of its blocks"
        )
    name, module = max(found, key=lambda item: _size(item[1]))
    return name, list(module)


def _in_decoder(
    model: nn.Module, lists: list[tuple[str, nn.ModuleList]]
) -> list[tuple[str, nn.ModuleList]]:
    """Prefer the lists of the text decoder over those of a vision or audio tower beside it."""
    if len(lists) > 1 and callable(get_decoder := getattr(model, "get_decoder", None)):
        inside = {id(module) for module in get_decoder().modules()}
        return [item for item in lists if id(item[1]) in inside] or lists
    return lists


def _outermost(lists: list[tuple[str, nn.ModuleList]]) -> list[tuple[str, nn.ModuleList]]:
    """Return the lists that could be blocks by their content: every item holds matrices."""
    outer: list[tuple[str, nn.ModuleList]] = []
    for name, module in lists:
        nested = any(name.startswith(other + ".") for other, _ in outer)
        if not nested and all(any(_is_linear(m) for m in block.modules()) for block in module):
            outer.append((name, module))
    return outer


def _matrices(path: str, block: nn.Module) -> Iterator[WeightMatrix]:
    """Yield the matrices of one block; refuse it when most of its weights are kept elsewhere."""
    modules = dict(block.named_modules())
    skipped = _routers(modules) | _adapters(modules)
    known: set[int] = set()
    found: list[WeightMatrix] = []
    for name, module in modules.items():
        qualified = f"{path}.{name}" if name else path
        if is_fused_experts(module):
            known |= {id(parameter) for parameter in module.parameters()}
            found.extend(_expert_matrices(qualified, module))
        elif _is_linear(module):
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
    if sum(unknown.values()) > _UNKNOWN_SHARE * _size(block):
        raise UnsupportedModelError(
            f"{path}: most weights would be left as they are, because {type(block).__name__} keeps "
            f"{', '.join(unknown)} in a form that is not known here (Linear, Conv1D and the fused "
            "experts of transformers are); nothing was compressed"
        )
    yield from found


def _expert_matrices(name: str, module: Any) -> Iterator[WeightMatrix]:
    """Yield the gate, up and down matrices of every expert of a fused module, expert by expert.

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
    """Name the Linear layers that choose among experts or weigh them.

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
                if _is_linear(layer)
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
    """Return how many experts ``module`` is a collection of; 0 where it is none."""
    if is_fused_experts(module):
        return int(module.get_parameter("down_proj").shape[0])
    if isinstance(module, nn.ModuleList) and len(module) > 1:
        alike = len({type(item) for item in module}) == 1
        holds = all(any(_is_linear(layer) for layer in item.modules()) for item in module)
        return len(module) if alike and holds else 0
    return 0


def _adapters(modules: Mapping[str, nn.Module]) -> set[str]:
    """Name the Linear layers that an adapter adds around a ``base_layer``."""
    return {
        path
        for name, module in modules.items()
        if isinstance(getattr(module, "base_layer", None), nn.Module)
        for path in modules
        if path.startswith(name + ".") and not path.startswith(f"{name}.base_layer")
    }


def _check_readable(matrix: WeightMatrix) -> None:
    parameter = matrix.parameter
    if parameter.is_meta:
        raise UnsupportedModelError(
            f"{matrix.name}: its weights are offloaded (device 'meta') and could not be replaced; "
            "load the model without offloading, for instance device_map='cpu': blocks are moved to "
            "the compute device one after the other here, so the model need not fit on it"
        )
    if not parameter.dtype.is_floating_point or torch.finfo(parameter.dtype).bits < 16:
        raise UnsupportedModelError(
            f"{matrix.name}: weights of dtype {parameter.dtype} are already quantized; compress "
            "the original checkpoint in float32, bfloat16 or float16"
        )


def _is_linear(module: Any) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
