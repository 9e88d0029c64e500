# SPDX-License-Identifier: Apache-2.0
"""Column pass of one block: fused on a GPU where Triton can compile, else by torch."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from subprocess import SubprocessError

import torch

from compressors.obs.buffers import ColumnBuffers
from compressors.obs.columns_torch import TorchColumns

__all__ = ["ColumnPass", "can_fuse"]

_log = logging.getLogger(__name__)


class ColumnPass:
    """Compresses the columns of a block in place.

    Args:
        buffers: The block.
    """

    def __init__(self, buffers: ColumnBuffers) -> None:
        self.buffers = buffers
        self._torch: TorchColumns | None = None

    def run(self, columns: int) -> None:
        """Compress the first ``columns`` columns."""
        grids = self.buffers.grids
        uniform = grids is None or grids.grid.uniform
        if uniform and self.buffers.values.is_cuda and can_fuse(self.buffers.values.device):
            # Imported here: Triton is optional, and slow to import.
            from compressors.obs.columns_triton import LARGEST_BLOCK, compress_fused

            if columns <= LARGEST_BLOCK:
                compress_fused(self.buffers, columns)
                return
        if self._torch is None:
            self._torch = TorchColumns(self.buffers)
        self._torch.run(columns)


@cache
def can_fuse(device: torch.device) -> bool:
    """Whether Triton is here, and can compile: what starts its kernels is built by a C compiler.

    Anything else that goes wrong is raised: the choice must follow from what is installed,
    never from what the machine is busy with.
    """
    if find_spec("triton") is None:
        return False
    try:
        from compressors.obs.columns_triton import compress_fused

        compress_fused(ColumnBuffers(16, 16, device, prunes=True, pattern=None, grids=None), 16)
    except (ImportError, OSError, SubprocessError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "C compiler" not in str(error):
            raise
        _log.warning(
            "Triton cannot compile here (%s), so torch runs the column pass, which takes longer; "
            "install a C compiler and Python's headers",
            error,
        )
        return False
    return True
