# SPDX-License-Identifier: Apache-2.0
"""Find a model's decoder blocks.

No list of model names: the blocks are the one ``ModuleList`` of the classes in
``_no_split_modules``, and :mod:`compressors.blocks.matrices` finds what they hold. Embeddings,
``lm_head``, norms and routers are never returned.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from compressors.blocks.matrices import WeightMatrix, block_matrices, is_linear, size
from compressors.errors import UnsupportedModelError

__all__ = ["Block", "WeightMatrix", "check_supported", "find_blocks"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One decoder block: its qualified name, its module, its matrices in order of registration.

    A matrix shared with an earlier block, or with the embeddings or the head, is not listed.
    """

    name: str
    module: nn.Module
    matrices: tuple[WeightMatrix, ...]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter with matrices of this block once, with its name."""
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
            "the unquantized checkpoint, or evaluate this one with compressor=none"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder; only decoder-only language models can "
            "be compressed"
        )


def find_blocks(model: nn.Module, *, with_weights: bool = True) -> list[Block]:
    """Decoder blocks in the model's order, each with its matrices.

    Args:
        model: The model.
        with_weights: Whether the weights have to be there; without, shapes alone are asked for.

    Raises:
        UnsupportedModelError: No list of decoder blocks or several, a block without matrices we
            know, or weights that are offloaded, or not floating-point.
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
        for matrix in block_matrices(path, module):
            if id(matrix.parameter) in seen:
                continue
            if with_weights:
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
            "the model has unmerged adapters: base layers are compressed, adapters stay dense; "
            "call merge_and_unload() first to compress the sum"
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
    chosen = _in_decoder(model, named)
    found = chosen or _in_decoder(model, _outermost(lists))
    if not found:
        raise UnsupportedModelError(
            f"cannot find the decoder blocks of {type(model).__name__}: no ModuleList of the "
            f"classes in _no_split_modules ({sorted(unsplit) or 'none named'}), nor one of which "
            "every item holds Linear layers; set model._no_split_modules to the class name of its "
            "blocks"
        )
    name, module = max(found, key=lambda item: size(item[1]))
    beside = chosen or [item for item in found if _are_siblings(item, (name, module))]
    if len(beside) > 1:
        names = ", ".join(repr(other) for other, _ in beside)
        raise UnsupportedModelError(
            f"{type(model).__name__} has several lists of decoder blocks ({names}), and only one "
            "can be compressed: the others would stay dense. Use a model whose blocks are one list"
        )
    return name, list(module)


def _are_siblings(one: tuple[str, nn.ModuleList], other: tuple[str, nn.ModuleList]) -> bool:
    """Whether two lists may hold the parts of the same blocks: of one module, and equally long."""
    same_parent = one[0].rpartition(".")[0] == other[0].rpartition(".")[0]
    return same_parent and len(one[1]) == len(other[1])


def _in_decoder(
    model: nn.Module, lists: list[tuple[str, nn.ModuleList]]
) -> list[tuple[str, nn.ModuleList]]:
    """Prefer lists of the text decoder over those of a vision or audio tower."""
    if len(lists) > 1 and callable(get_decoder := getattr(model, "get_decoder", None)):
        inside = {id(module) for module in get_decoder().modules()}
        return [item for item in lists if id(item[1]) in inside] or lists
    return lists


def _outermost(lists: list[tuple[str, nn.ModuleList]]) -> list[tuple[str, nn.ModuleList]]:
    """Lists of which every item holds matrices."""
    outer: list[tuple[str, nn.ModuleList]] = []
    for name, module in lists:
        nested = any(name.startswith(other + ".") for other, _ in outer)
        if not nested and all(any(is_linear(m) for m in block.modules()) for block in module):
            outer.append((name, module))
    return outer


def _check_readable(matrix: WeightMatrix) -> None:
    parameter = matrix.parameter
    if parameter.is_meta:
        raise UnsupportedModelError(
            f"{matrix.name}: weights on device 'meta' cannot be replaced; load without offloading, "
            "for instance device_map='cpu' (blocks visit the compute device one by one, so the "
            "model need not fit on it)"
        )
    if not parameter.dtype.is_floating_point or torch.finfo(parameter.dtype).bits < 16:
        raise UnsupportedModelError(
            f"{matrix.name}: weights of dtype {parameter.dtype} are already quantized; compress "
            "the unquantized checkpoint"
        )
