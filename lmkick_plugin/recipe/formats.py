# SPDX-License-Identifier: Apache-2.0
"""Save formats of compressed models, and the recipes each can hold."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec

from compressors.errors import SettingsError
from lmkick_plugin.recipe.methods import QUANTIZERS
from lmkick_plugin.recipe.readers import read_choice

__all__ = ["FORMATS", "QUANTIZE", "check_recipe", "read_quantize", "remedies", "require_library"]

#: ``dense`` holds everything; the others hold quantized weights packed.
FORMATS = ("dense", "gptq", "compressed-tensors")

_GPTQ_BITS = (2, 3, 4, 8)
#: What the kernels that load the format know; -1 is a group a row.
GPTQ_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
_DENSE = "save it dense (save_format=dense)"

#: Values of the argument ``quantize``, with the extra that has the library.
QUANTIZE = {
    "bnb-int8": "bitsandbytes",
    "bnb-nf4": "bitsandbytes",
    "torchao-int8": "torchao",
}


def read_quantize(name: str, value: object) -> str:
    """Read the argument ``quantize``."""
    return read_choice(name, value, QUANTIZE)


def check_recipe(
    storage: str,
    *,
    bits: int | None,
    group_size: int | None,
    number_format: str = "int",
    symmetric: bool = True,
    torn_groups: bool = False,
    scales_columns: bool = False,
    offer: bool = True,
) -> None:
    """Refuse a recipe that a format cannot hold; needs neither model nor torch.

    Args:
        storage: One of :data:`FORMATS`.
        bits: Bits of a weight; None where nothing is quantized.
        group_size: Columns that share a scale; -1 or None: a row.
        number_format: ``int``, or a floating-point format.
        symmetric: The grid is symmetric.
        torn_groups: Groups are not runs of columns (act-order of single columns).
        scales_columns: Columns have factors while they are rounded.
        offer: Offer the other packed format where that one can hold the recipe.

    Raises:
        SettingsError: The message says what would do.
    """
    if read_choice("save_format", storage, FORMATS) == "dense":
        return
    if bits is None:
        raise SettingsError(
            f"save_format={storage} stores integers, but this recipe does not quantize. Add bits=4 "
            f"to a method that does ({', '.join(QUANTIZERS)}), or {_DENSE}."
        )
    if scales_columns:
        raise SettingsError(
            f"save_format={storage} cannot store AWQ's column factors; folding them into the "
            "layers before would change the weights. Set grid_points=1 (clipping alone), or "
            f"{_DENSE}."
        )
    packed = ""
    if offer:
        other = "compressed-tensors" if storage == "gptq" else "gptq"
        with suppress(SettingsError):
            check_recipe(
                other, bits=bits, group_size=group_size, number_format=number_format,
                symmetric=symmetric, torn_groups=torn_groups, offer=False,
            )  # fmt: skip
            packed = f"save_format={other}"
    group = -1 if group_size is None else group_size
    if storage == "gptq":
        _check_gptq(bits, group, number_format, packed)
    elif not symmetric:
        raise SettingsError(
            "save_format=compressed-tensors does not go with symmetric=false: transformers does "
            f"not load packed zero points. {remedies('symmetric=true', packed)}"
        )
    elif torn_groups and group != -1:
        raise SettingsError(
            "save_format=compressed-tensors needs groups of consecutive columns, which "
            "act_order=true with act_group_aware=false and static_groups=false does not make. "
            f"{remedies('static_groups=true', packed)}"
        )
    require_library(storage)


def _check_gptq(bits: int, group: int, number_format: str, other: str) -> None:
    if number_format != "int":
        raise SettingsError(
            f"save_format=gptq stores integers, but number_format={number_format}. "
            f"{remedies(other)}"
        )
    if bits not in _GPTQ_BITS:
        raise SettingsError(
            f"save_format=gptq stores {_listed(_GPTQ_BITS)} bits, but bits={bits}. "
            f"{remedies('one of these', other)}"
        )
    if group not in GPTQ_GROUPS:
        raise SettingsError(
            f"save_format=gptq needs group_size {_listed(GPTQ_GROUPS)}, but group_size={group}. "
            f"{remedies('one of these', other)}"
        )


def require_library(storage: str) -> None:
    """Refuse a format whose library is not installed.

    GPTQ checkpoints are packed by ourselves; only loading them needs ``gptqmodel``.

    Raises:
        SettingsError: With the line that installs it.
    """
    if storage == "compressed-tensors" and find_spec("compressed_tensors") is None:
        raise SettingsError(
            "save_format=compressed-tensors needs the package compressed-tensors: pip install "
            f"'lmkick[compressed-tensors]'. Or {_DENSE}."
        )


def remedies(*ways: str) -> str:
    """Ways out, the dense format the last of them; empty ones are left out.

    >>> remedies("dtype=float16", "")
    'Use dtype=float16, or save it dense (save_format=dense).'
    """
    given = ", ".join(filter(None, ways))
    text = f"Use {given}, or {_DENSE}." if given else f"{_DENSE}."
    return text[0].upper() + text[1:]


def _listed(values: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
