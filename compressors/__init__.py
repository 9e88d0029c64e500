# SPDX-License-Identifier: Apache-2.0
"""Compression of large language models: pruning and quantization, one method a file.

The methods need torch alone. What touches whole models or text (``compress_model``,
``load_calibration`` and the reports) is imported when first asked for.

>>> Wanda(pattern=NM(2, 4))
Wanda(pattern=NM(n=2, m=4), variant=False)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compressors.base import (
    CompressedWeight,
    Compressor,
    NumericalError,
    SettingsError,
    UnsupportedModelError,
)
from compressors.gptq import GPTQ
from compressors.magnitude import Magnitude
from compressors.patterns import NM, Unstructured
from compressors.random import Random
from compressors.rtn import RTN
from compressors.sparsegpt import SparseGPT
from compressors.wanda import Wanda

if TYPE_CHECKING:
    from compressors.calibration import load_calibration
    from compressors.driver import CompressionReport, LayerReport, compress_model

__all__ = [
    "GPTQ",
    "NM",
    "RTN",
    "CompressedWeight",
    "CompressionReport",
    "Compressor",
    "LayerReport",
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

_LAZY = {
    "CompressionReport": "compressors.report",
    "LayerReport": "compressors.report",
    "compress_model": "compressors.driver",
    "load_calibration": "compressors.calibration",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
