# SPDX-License-Identifier: Apache-2.0
"""Dense weights swapped into a compressed model and out again.

Only one copy exists beside the model, in main memory, and only while divergences are measured: the
dense weights are read from the checkpoint again when the first request arrives, what compression
left alone is checked and dropped, and the rest changes places with the model's own. On a CPU that
moves nothing at all; on another device, one parameter at a time passes through main memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["DenseWeights"]


class DenseWeights:
    """Dense values of the parameters that compression changed.

    Attributes:
        names: The parameters that are exchanged.
    """

    def __init__(self, model: nn.Module, originals: Mapping[str, Tensor]) -> None:
        """Compare the parameters and keep what compression changed.

        Args:
            model: The evaluated model, whose blocks may be compressed.
            originals: The same model's parameters as they were, in main memory. The tensors are
                used as they are, not copied: they hold the compressed values while the model is
                dense, and the dense ones again afterwards.

        Raises:
            RuntimeError: They differ outside the decoder blocks' matrices, which no method
                changes: the checkpoint is not the one that was compressed.
            UnsupportedModelError: Weights of the evaluated model are offloaded.
        """
        from compressors.blocks.find import find_blocks
        from compressors.errors import UnsupportedModelError

        compressible = {
            id(parameter) for block in find_blocks(model) for _, parameter in block.parameters()
        }
        self.names: list[str] = []
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                raise UnsupportedModelError(
                    f"{name} is offloaded, so dense weights cannot be swapped in. Use more "
                    "devices, or name a dense model as reference=NAME."
                )
            original = originals.get(name)
            if original is not None and _equal(parameter.data, original.data):
                continue
            if original is None or id(parameter) not in compressible:
                raise RuntimeError(
                    f"{name}: checkpoint changed on disk since the model was compressed. Rerun, "
                    "and do not modify it during evaluation."
                )
            self.names.append(name)
            self._pairs.append((parameter, original.data))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Make the model dense within the context; compressed weights are restored on exit."""
        exchanged = 0
        try:
            for index in range(len(self._pairs)):
                self._exchange(index)
                exchanged = index + 1
            yield
        finally:
            for index in range(exchanged):
                self._exchange(index)

    def _exchange(self, index: int) -> None:
        parameter, held = self._pairs[index]
        if parameter.data.device == held.device:
            self._pairs[index] = (parameter, parameter.data)
            parameter.data = held
        else:
            before = parameter.data.to(held.device)
            parameter.data.copy_(held)
            held.copy_(before)


def _equal(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.equal(one, other.to(one.device))
