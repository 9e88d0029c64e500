# SPDX-License-Identifier: Apache-2.0
"""Compressed models as folders: saved, described, kept, and recognised again.

From Python::

    from compressors import GPTQ, compress_model
    from lmkick_plugin import checkpoints

    method = checkpoints.prepare(GPTQ(num_bits=4), model, "gptq")
    grids = {}
    report = compress_model(model, method, calibration=token_ids, grids=grids)
    checkpoints.save(
        model, "folder", tokenizer=tokenizer, storage="gptq", grids=grids, report=report
    )

Nothing here imports torch before a function is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lmkick_plugin.checkpoints.formats import FORMATS
from lmkick_plugin.checkpoints.manifest import MANIFEST, Manifest, read_manifest

if TYPE_CHECKING:
    from lmkick_plugin.checkpoints.fitting import prepare
    from lmkick_plugin.checkpoints.loading import load
    from lmkick_plugin.checkpoints.saving import save

__all__ = ["FORMATS", "MANIFEST", "Manifest", "load", "prepare", "read_manifest", "save"]

_LAZY = {
    "load": "lmkick_plugin.checkpoints.loading",
    "prepare": "lmkick_plugin.checkpoints.fitting",
    "save": "lmkick_plugin.checkpoints.saving",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
