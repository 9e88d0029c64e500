# SPDX-License-Identifier: Apache-2.0
"""Compressed models as folders: save, load, detect.

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

from lmkick_plugin.checkpoints.manifest import MANIFEST, Manifest, read_manifest
from lmkick_plugin.recipe.formats import FORMATS

if TYPE_CHECKING:
    from lmkick_plugin.checkpoints.format_fit import prepare
    from lmkick_plugin.checkpoints.read import load
    from lmkick_plugin.checkpoints.write import save

__all__ = ["FORMATS", "MANIFEST", "Manifest", "load", "prepare", "read_manifest", "save"]

_LAZY = {
    "load": "lmkick_plugin.checkpoints.read",
    "prepare": "lmkick_plugin.checkpoints.format_fit",
    "save": "lmkick_plugin.checkpoints.write",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
