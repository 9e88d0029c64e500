# SPDX-License-Identifier: Apache-2.0
"""The argument ``allocation``: distribution of an unstructured sparsity over blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressors.defaults import OWL_LAMBDA, OWL_THRESHOLD
from compressors.errors import SettingsError
from lmkick_plugin.files import parse_json, read_settings
from lmkick_plugin.recipe.methods import METHODS
from lmkick_plugin.recipe.readers import check_path, read_float, read_text, suggest

__all__ = [
    "FILE", "OWL_DEFAULTS", "applies", "check_allocation", "needs_calibration", "read_allocation",
    "read_not_negative", "read_sparsities",
]  # fmt: skip

OWL_DEFAULTS = {"owl_lambda": OWL_LAMBDA, "owl_threshold": OWL_THRESHOLD}
"""Arguments that go with ``allocation=owl`` alone."""
FILE = "file:"
"""Prefix of the path of a file of sparsities."""
_CALIBRATION = ("calibration", "nsamples", "seqlen", "seed")


def read_allocation(name: str, value: object) -> str:
    """Read ``uniform``, ``owl`` or ``file:PATH``, including the file."""
    text = read_text(name, value)
    if text.lower() in ("uniform", "owl"):
        return text.lower()
    if text.startswith(FILE):
        path = check_path(name, text.removeprefix(FILE))
        read_sparsities(path)
        return FILE + path
    hint = suggest(text, ("uniform", "owl"))
    raise SettingsError(f"{name}={text}: expected uniform, owl or file:PATH. {hint}".rstrip())


def read_not_negative(name: str, value: object) -> float:
    """Read a number of at least 0."""
    number = read_float(name, value)
    if number < 0:
        raise SettingsError(f"{name}={value!r}: expected a number of at least 0.")
    return number


def read_sparsities(path: str) -> dict[str, float]:
    """Read a JSON object of block names and sparsities.

    Raises:
        SettingsError: It cannot be read, or a sparsity is outside [0, 1).
    """
    try:
        content: Any = parse_json(read_settings(Path(path)), once=True)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"allocation=file:{path} cannot be read ({error}). Give JSON, such as "
            '{"model.layers.0": 0.6}.'
        ) from error
    if not isinstance(content, dict) or not content:
        raise SettingsError(
            f"allocation=file:{path}: expected an object of block names and sparsities, such as "
            '{"model.layers.0": 0.6}.'
        )
    for block, value in content.items():
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if not number or not 0 <= value < 1:
            raise SettingsError(
                f"allocation=file:{path}: {block:.60} asks for {value!r:.40}. Give a "
                "sparsity from 0 to below 1."
            )
    return {block: float(value) for block, value in content.items()}


def needs_calibration(compressor: str, settings: Mapping[str, Any]) -> bool:
    """Whether the calibration arguments apply."""
    calibrated = compressor != "none" and METHODS[compressor].calibrated
    return calibrated or settings.get("allocation") == "owl"


def check_allocation(
    compressor: str, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Refuse arguments that do not go with the allocation.

    Args:
        compressor: The method.
        settings: Our arguments that were given, as read.
        given: The same as they came.

    Raises:
        SettingsError: The message says what would do.
    """
    allocation, pattern = settings.get("allocation"), settings.get("pattern")
    if allocation not in (None, "uniform") and pattern not in (None, "unstructured"):
        raise SettingsError(
            f"allocation={allocation} distributes an unstructured sparsity, but pattern={pattern} "
            "prunes every block alike. Use sparsity=0.5, or leave allocation out."
        )
    for name in OWL_DEFAULTS:
        if name in settings and allocation != "owl":
            raise SettingsError(
                f"{name}={settings[name]:g} goes with allocation=owl. Add that, or leave it out."
            )
    if needs_calibration(compressor, settings) or compressor == "none":
        return
    for name in _CALIBRATION:
        if name in given and name not in METHODS[compressor].arguments:
            raise SettingsError(
                f"{name}={given[name]!r} does not go with compressor={compressor} without "
                "allocation=owl. Add that, or leave it out."
            )


def applies(compressor: str, name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the allocation lets an argument apply."""
    if name in _CALIBRATION and name not in METHODS[compressor].arguments:
        return needs_calibration(compressor, settings)
    return True
