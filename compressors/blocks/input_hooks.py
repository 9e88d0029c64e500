# SPDX-License-Identifier: Apache-2.0
"""Hooks on a block's weight matrices that feed one statistic per distinct input.

Matrices that are given the very same tensor (q, k and v; gate and up; in parallel blocks the
attention and the MLP) are found as the forward pass goes and share one statistic. A matrix of a
fused expert sees the tokens that the router really sends to that expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressors.blocks.capture import Stop
from compressors.blocks.experts import inner_activation, is_fused_experts, routed_inputs
from compressors.blocks.find import WeightMatrix
from compressors.statistics import Statistic

__all__ = ["SAMPLE_SIZE", "Collector", "InputGroup", "collecting"]

#: Input vectors kept to measure the output error of methods that gather no Hessian.
SAMPLE_SIZE = 256


@dataclass(slots=True, eq=False)
class InputGroup:
    """Matrices that read one input, and its statistic.

    Attributes:
        matrices: In the order of their execution; the first one's hook feeds the statistic.
        statistic: Of all tokens seen.
        sample: Some of the input vectors, evenly spread: ``[n, in_features]`` each.
    """

    matrices: list[WeightMatrix]
    statistic: Statistic
    sample: list[Tensor] = field(default_factory=list)
    _passed: int = 0
    _stride: int = 1

    def add(self, x: Tensor, sampled: bool) -> None:
        """Feed inputs ``[..., in_features]``, and keep some of them if ``sampled``."""
        self.statistic.update(x)
        if sampled:
            self._keep(x.detach().reshape(-1, x.shape[-1]))

    def _keep(self, rows: Tensor) -> None:
        """Keep every 3^k-th vector, k such that at most ``SAMPLE_SIZE`` are kept of all so far.

        A power of 3 has no common factor with the usual sequence lengths, so all positions get
        their turn; with a power of 2 the first token of a sequence, whose activations are often
        huge, would come up again and again.
        """
        total = self._passed + len(rows)
        while -(-total // self._stride) > SAMPLE_SIZE:
            self._stride *= 3
            self.sample = [torch.cat(self.sample)[::3].clone()] if self.sample else []
        kept = rows[-self._passed % self._stride :: self._stride]
        if len(kept):
            self.sample.append(kept.clone())
        self._passed = total


class Collector:
    """Collects inputs of a block's matrices during its forward pass.

    Attributes:
        groups: One for each distinct input, in order of first execution.
        executed: The modules whose inputs were seen in the latest pass, in order.
        stop_after: A pass ends with :class:`Stop` once this module's input was seen.
    """

    def __init__(
        self,
        matrices: Iterable[WeightMatrix],
        statistic: type[Statistic],
        sampled: bool,
        stop_after: nn.Module | None,
    ) -> None:
        self.groups: list[InputGroup] = []
        self.executed: list[nn.Module] = []
        self._by_module: dict[nn.Module, list[WeightMatrix]] = {}
        for matrix in matrices:
            self._by_module.setdefault(matrix.module, []).append(matrix)
        self._statistic = statistic
        self._sampled = sampled
        self.stop_after = stop_after
        self._group_of: dict[WeightMatrix, InputGroup] = {}
        self._new: dict[tuple[Any, ...], tuple[InputGroup, Tensor]] = {}

    @property
    def modules(self) -> Iterable[nn.Module]:
        """The modules to hook."""
        return self._by_module

    def next_batch(self) -> None:
        """Start another forward pass: forget which tensors were seen."""
        self._new.clear()
        self.executed.clear()

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook; raises :class:`Stop` where nothing more needs to be computed."""
        self.executed.append(module)
        matrices = self._by_module[module]
        if is_fused_experts(module):
            self._see_experts(module, matrices, args, kwargs)
        else:
            self._see(matrices, args[0] if args else kwargs["input"])
        if module is self.stop_after:
            raise Stop

    def _see_experts(
        self,
        module: nn.Module,
        matrices: list[WeightMatrix],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        outer: dict[int | None, list[WeightMatrix]] = {}
        inner: dict[int | None, list[WeightMatrix]] = {}
        for matrix in matrices:
            (inner if matrix.feeds_down else outer).setdefault(matrix.expert, []).append(matrix)
        for expert, tokens in routed_inputs(module, args, kwargs):
            if expert in outer:
                self._see(outer[expert], tokens)
            if expert in inner:
                self._see(inner[expert], inner_activation(module, expert, tokens))

    def _see(self, matrices: list[WeightMatrix], x: Tensor) -> None:
        if not x.numel():
            # An expert that this batch sent no token to. Empty tensors share one address, so that
            # they are the same says nothing.
            return
        first = matrices[0]
        group = self._group_of.get(first)
        if group is None:
            key = _identity(x)
            known = self._new.get(key)
            if known is not None:
                # The same tensor as an earlier matrix got: its statistic has these tokens already.
                self._join(known[0], matrices)
                return
            group = InputGroup([], self._statistic(x.shape[-1], x.device))
            self.groups.append(group)
            self._join(group, matrices)
            # Keeping ``x`` keeps its address from being given to another tensor in this pass.
            self._new[key] = (group, x)
        if group.matrices[0] is first:
            group.add(x, self._sampled)

    def _join(self, group: InputGroup, matrices: list[WeightMatrix]) -> None:
        group.matrices.extend(matrices)
        self._group_of.update(dict.fromkeys(matrices, group))


@contextmanager
def collecting(
    matrices: Iterable[WeightMatrix],
    statistic: type[Statistic],
    *,
    sampled: bool = False,
    stop_after: nn.Module | None = None,
) -> Iterator[Collector]:
    """Hook the matrices' modules within the context.

    Args:
        matrices: Of one block.
        statistic: Class of :mod:`compressors.statistics` to make for each distinct input.
        sampled: Keep some of the input vectors too.
        stop_after: End a pass with :class:`Stop` once this module's input was seen.
    """
    collector = Collector(matrices, statistic, sampled, stop_after)
    handles = []
    try:
        for module in collector.modules:
            # mypy does not know that the hook's second form takes keyword arguments.
            handles.append(module.register_forward_pre_hook(collector.hook, with_kwargs=True))
        yield collector
    finally:
        for handle in handles:
            handle.remove()


def _identity(x: Tensor) -> tuple[Any, ...]:
    """Identity of a tensor by memory and version: views of one tensor are one input."""
    contiguous = x.is_contiguous()
    layout = None if contiguous else (x.shape, x.stride())
    # Under inference mode there is no version; the driver never runs there.
    return (
        x.data_ptr(),
        x.numel(),
        x.shape[-1],
        x.dtype,
        layout,
        x._version,
        torch.device(x.device),
    )
