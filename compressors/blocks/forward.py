# SPDX-License-Identifier: Apache-2.0
"""Forward passes of one block over all calibration batches: gather statistics, propagate."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from compressors.blocks.capture import BlockInputs, Stop, run_block
from compressors.blocks.find import Block, WeightMatrix
from compressors.blocks.input_hooks import Collector, collecting
from compressors.statistics import NoStatistic

__all__ = ["Passes", "keep_hidden"]

#: Hidden states stay on the device while they need no more than this share of its free memory.
_HIDDEN_SHARE = 0.4


def keep_hidden(inputs: BlockInputs, device: torch.device | None) -> None:
    """Move hidden states to where they are kept between blocks.

    Args:
        inputs: What was captured; changed in place.
        device: The compute device; None keeps them wherever they are computed.
    """
    if device is None:
        return
    size = sum(hidden.numel() * hidden.element_size() for hidden in inputs.hidden)
    fits = device.type != "cuda" or size <= _HIDDEN_SHARE * torch.cuda.mem_get_info(device)[0]
    inputs.storage = device if fits else torch.device("cpu")
    inputs.hidden = [hidden.to(inputs.storage) for hidden in inputs.hidden]


class Passes:
    """Forward passes of one block, in the model's order of calls.

    Args:
        inputs: Hidden states before this block, and its other arguments.
        step: Which call it is.
        block: The block.
        device: Where its weights are now.
    """

    def __init__(self, inputs: BlockInputs, step: int, block: Block, device: torch.device) -> None:
        self.device = device
        self._inputs = inputs
        self._step = step
        self.block = block

    def matrices(self) -> dict[str, WeightMatrix]:
        """Matrices of the block by their names within it."""
        prefix = self.block.name + "."
        return {matrix.name.removeprefix(prefix): matrix for matrix in self.block.matrices}

    def gather(self, collector: Collector, stop_after: str | None) -> str:
        """Run all batches for the collector's hooks.

        Args:
            collector: Already hooked.
            stop_after: Module, by its name within the block, whose input is the last that is
                wanted; None where that is not known yet, "" where it differs from pass to pass.

        Returns:
            ``stop_after`` for blocks of the same structure.
        """
        names = {module: name for name, module in self.block.module.named_modules()}
        for batch in range(len(self._inputs.hidden)):
            if stop_after:
                collector.stop_after = self.block.module.get_submodule(stop_after)
            collector.next_batch()
            try:
                self._run(batch)
            except Stop:
                continue
            if stop_after is None:
                last = names[collector.executed[-1]] if collector.executed else ""
                # One of a list of experts may get no tokens in another batch, when another expert
                # comes last: such a pass has to run to its end.
                stop_after = "" if re.search(r"(^|\.)\d+(\.|$)", last) else last
        return stop_after or ""

    def stages(self) -> list[list[str]]:
        """Groups of matrices for true_sequential: each reads inputs through the former ones.

        Returns:
            The names within the block, stage by stage in order of execution. The experts of a
            mixture advance together; matrices that one batch did not reach come last.
        """
        matrices = self.matrices()
        with collecting(matrices.values(), NoStatistic) as collector:
            collector.next_batch()
            self._run(0)
        within = {matrix: name for name, matrix in matrices.items()}
        roles: list[set[str]] = []
        for group in collector.groups:
            role = {_role(within[matrix]) for matrix in group.matrices}
            known = next((other for other in roles if other & role), None)
            if known is None:
                roles.append(role)
            else:
                known |= role
        stages = [[name for name in matrices if _role(name) in role] for role in roles]
        placed = {name for stage in stages for name in stage}
        rest = [name for name in matrices if name not in placed]
        return [*stages, rest] if rest else stages

    def propagate(self, collector: Collector | None = None) -> None:
        """Replace the hidden states by the block's outputs; hooked collectors see the inputs."""
        storage = self._inputs.storage
        for batch in range(len(self._inputs.hidden)):
            if collector is not None:
                collector.next_batch()
            output = self._run(batch)
            self._inputs.hidden[batch] = output if storage is None else output.to(storage)

    def _run(self, batch: int) -> Tensor:
        hidden = self._inputs.hidden[batch].to(self.device, non_blocking=True)
        args, kwargs = self._inputs.arguments(self._step, batch, hidden, self.device)
        return run_block(self.block.module, args, kwargs)


def _role(name: str) -> str:
    """Name of a matrix by its place, equal for all experts of a list."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
