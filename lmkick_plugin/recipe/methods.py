# SPDX-License-Identifier: Apache-2.0
"""The compression methods: one row each, read by arguments, recipe, report and demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "CALIBRATED", "COMPRESSORS", "JOINT", "METHODS", "OWN_SETTINGS", "PRUNERS", "QUANTIZERS",
    "ROUNDERS", "Method",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        class_name: Of the method in :mod:`compressors`.
        prunes: Whether ``sparsity`` and ``pattern`` go with it.
        quantizes: Whether ``bits``, ``group_size`` and ``symmetric`` go with it. A method that
            also prunes does both in one column pass (its ``quantize`` setting).
        calibrated: Whether it needs calibration text.
        control: A baseline that published claims are not about.
        arguments: Its own arguments, and the settings of the class they map to.
        defaults: Its defaults of shared arguments, where they differ from the others'.
        color: Of its lines in figures, after Okabe and Ito: safe for colour-blind readers.
        marker: Of its points, as matplotlib names it; no two methods share one.
        dash: Of its lines, likewise.
    """

    class_name: str
    prunes: bool = False
    quantizes: bool = False
    calibrated: bool = False
    control: bool = False
    arguments: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    color: str
    marker: str
    dash: Any


_HESSIAN = {"dampening_frac": "dampening_frac", "block_size": "block_size"}
_ORDER = {name: name for name in ("act_order", "act_group_aware", "static_groups")}

#: In the order of tables and figures.
METHODS: dict[str, Method] = {
    "random": Method(
        class_name="Random", prunes=True, control=True, arguments={"seed": "seed"},
        color="#5f6774", marker="x", dash=(0, (1, 2)),
    ),
    "magnitude": Method(
        class_name="Magnitude", prunes=True, color="#0072b2", marker="o", dash="-"
    ),
    "wanda": Method(
        class_name="Wanda", prunes=True, calibrated=True, arguments={"wanda_variant": "variant"},
        color="#c24e00", marker="s", dash="--",
    ),
    "sparsegpt": Method(
        class_name="SparseGPT", prunes=True, quantizes=True, calibrated=True, arguments=_HESSIAN,
        color="#00795a", marker="^", dash=":",
    ),
    "rtn": Method(
        class_name="RTN", quantizes=True, control=True,
        color="#7d6200", marker="v", dash=(0, (4, 1.5)),
    ),
    "gptq": Method(
        class_name="GPTQ", quantizes=True, calibrated=True, arguments=_HESSIAN | _ORDER,
        color="#a8447f", marker="D", dash="-.",
    ),
    "awq": Method(
        class_name="AWQ", quantizes=True, calibrated=True, defaults={"symmetric": False},
        arguments={"grid_points": "grid_points", "clip": "clip", "duo_scaling": "duo_scaling"},
        color="#7a4a2b", marker="P", dash=(0, (8, 3)),
    ),
}  # fmt: skip

COMPRESSORS = ("none", *METHODS)
"""Values of the argument ``compressor``."""
PRUNERS = tuple(name for name, method in METHODS.items() if method.prunes)
QUANTIZERS = tuple(name for name, method in METHODS.items() if method.quantizes)
JOINT = tuple(name for name in QUANTIZERS if name in PRUNERS)
"""Methods that prune, and quantize in the same pass if ``bits`` is given."""
ROUNDERS = tuple(name for name in QUANTIZERS if name not in PRUNERS)
"""Quantizers that do nothing else: ``number_format`` goes with them."""
CALIBRATED = tuple(name for name, method in METHODS.items() if method.calibrated)
OWN_SETTINGS = tuple(
    dict.fromkeys(
        name for method in METHODS.values() for name in method.arguments if name != "seed"
    )
)
"""Arguments of single methods, each a field of the record."""
