# SPDX-License-Identifier: Apache-2.0
"""Compression of large language models: pruning and quantization, one file per method.

Everything public is imported when first asked for, so that ``import compressors`` loads no torch.

>>> from compressors import NM, Wanda
>>> Wanda(pattern=NM(2, 4))
Wanda(pattern=NM(n=2, m=4), variant=False)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressors.base import CompressedWeight, Compressor
    from compressors.calibration import load_calibration
    from compressors.driver import compress_model
    from compressors.errors import (
        LmkickError,
        NumericalError,
        SettingsError,
        UnsupportedModelError,
    )
    from compressors.methods.awq import AWQ
    from compressors.methods.gptq import GPTQ
    from compressors.methods.magnitude import Magnitude
    from compressors.methods.random import Random
    from compressors.methods.rtn import RTN
    from compressors.methods.sparsegpt import SparseGPT
    from compressors.methods.wanda import Wanda
    from compressors.patterns import NM, Unstructured
    from compressors.report import CompressionReport, LayerReport

__all__ = [
    "AWQ",
    "GPTQ",
    "NM",
    "RTN",
    "CompressedWeight",
    "CompressionReport",
    "Compressor",
    "LayerReport",
    "LmkickError",
    "Magnitude",
    "NumericalError",
    "Random",
    "SettingsError",
    "SparseGPT",
    "Unstructured",
    "UnsupportedModelError",
    "Wanda",
    "compress_model",
    "load_calibration",
]

_MODULES = {
    "compressors.base": ("CompressedWeight", "Compressor"),
    "compressors.calibration": ("load_calibration",),
    "compressors.driver": ("compress_model",),
    "compressors.errors": (
        "LmkickError", "NumericalError", "SettingsError", "UnsupportedModelError",
    ),
    "compressors.methods.awq": ("AWQ",),
    "compressors.methods.gptq": ("GPTQ",),
    "compressors.methods.magnitude": ("Magnitude",),
    "compressors.methods.random": ("Random",),
    "compressors.methods.rtn": ("RTN",),
    "compressors.methods.sparsegpt": ("SparseGPT",),
    "compressors.methods.wanda": ("Wanda",),
    "compressors.patterns": ("NM", "Unstructured"),
    "compressors.report": ("CompressionReport", "LayerReport"),
}  # fmt: skip
_LAZY = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
