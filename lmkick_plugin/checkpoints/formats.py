# SPDX-License-Identifier: Apache-2.0
"""The formats a compressed model can be saved in, and what each of them can hold."""

from __future__ import annotations

__all__ = ["FORMATS"]

#: ``dense`` holds everything; the others hold quantized weights packed.
FORMATS = ("dense", "gptq", "compressed-tensors")
