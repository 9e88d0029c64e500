# SPDX-License-Identifier: Apache-2.0
"""Parser of lm-eval's flat arguments into a frozen :class:`Recipe`; contradictions are errors.

Nothing here imports torch at module level, so a command line can be checked before anything heavy
is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressors.errors import SettingsError
from compressors.number_formats import FLOAT_FORMATS
from lmkick_plugin.recipe import allocation
from lmkick_plugin.recipe.argument_table import ARGUMENTS, PASSED
from lmkick_plugin.recipe.formats import check_recipe
from lmkick_plugin.recipe.methods import JOINT, METHODS, PRUNERS, QUANTIZERS
from lmkick_plugin.recipe.readers import is_unset, suggest
from lmkick_plugin.recipe.recipe import Recipe, split_pattern

__all__ = ["parse_arguments"]

#: Arguments of from_pretrained that carry a secret; true and false only switch a stored one.
_TOKENS = ("token", "use_auth_token")


def parse_arguments(arguments: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Split lm-eval's flat arguments into our recipe and what lm-eval's ``hf`` model takes.

    Args:
        arguments: Everything given with ``--model_args`` (and ``batch_size``, ``device``).

    Returns:
        The recipe, and the remaining arguments; numbers, switches and the device among them as
        read, the others as they came. Whether those are known is checked by
        :func:`lmkick_plugin.loading.checks.check_hf_arguments`.

    Raises:
        SettingsError: A value is malformed or out of range, or an argument does not go with the
            chosen compressor.
    """
    _refuse_secrets(arguments)
    given = {
        name: arguments[name]
        for name in ARGUMENTS
        if name in arguments and not is_unset(arguments[name])
    }
    compressor = ARGUMENTS["compressor"].read("compressor", given.get("compressor", "none"))
    others = [name for name in arguments if name not in ARGUMENTS]
    for name in given:
        if compressor not in ARGUMENTS[name].goes_with:
            hint = _misspelt(others, *(each for each in ARGUMENTS if each not in given))
            raise SettingsError(hint or _mismatch(name, given[name], compressor))
    settings = {name: ARGUMENTS[name].read(name, value) for name, value in given.items()}
    settings |= _own_grid(settings)
    if "bits" in settings and "group_size" in arguments:
        settings.setdefault("group_size", -1)  # None, as in Python: one group a row
    allocation.check_allocation(compressor, settings, given)
    _check_together(compressor, settings, others)
    joint = compressor not in PRUNERS or "bits" in settings
    for name, argument in ARGUMENTS.items():
        applies = compressor in argument.goes_with and (
            joint or name not in ("group_size", "symmetric")
        )
        applies = applies and allocation.applies(compressor, name, settings)
        default = _default(compressor, name)
        if applies and default is not None:
            settings.setdefault(name, default)
    if compressor in PRUNERS:
        settings.setdefault("pattern", "unstructured")
    if settings.get("allocation") == "owl":
        settings = {**allocation.OWL_DEFAULTS, **settings}
    elif settings.get("allocation") == "uniform":
        del settings["allocation"]
    if not settings.get("act_group_aware"):
        settings.pop("act_group_aware", None)  # as in records made before there was one
    settings["seeds"] = settings.pop("seed", None)
    return Recipe(**settings), {name: _read_passed(name, arguments[name]) for name in others}


def _own_grid(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bits, groups and symmetry that a floating-point format fixes; empty otherwise."""
    name = settings.get("number_format", "int")
    if name == "int":
        return {}
    own = FLOAT_FORMATS[name]
    size = -1 if own.group_size is None else own.group_size
    fixed = {"bits": own.num_bits, "group_size": size, "symmetric": True}
    for argument in fixed:
        if argument in settings:
            raise SettingsError(
                f"{argument}={settings[argument]} does not go with number_format={name}, which "
                f"fixes bits ({own.num_bits}) and groups ({size}). Leave bits, group_size and "
                "symmetric out, or use number_format=int."
            )
    return fixed


def _read_passed(name: str, value: Any) -> Any:
    read = PASSED.get(name)
    return value if read is None or is_unset(value) else read(name, value)


def _default(compressor: str, name: str) -> Any:
    """Default of an argument with this compressor."""
    own = {} if compressor == "none" else METHODS[compressor].defaults
    return own.get(name, ARGUMENTS[name].default)


def _refuse_secrets(arguments: Mapping[str, Any]) -> None:
    for name in _TOKENS:
        value = arguments.get(name)
        if isinstance(value, str) and not (
            is_unset(value) or value.strip().lower() in {"true", "false"}
        ):
            raise SettingsError(
                f"{name} holds a token, which lm-eval would write into log and results. Set "
                "HF_TOKEN in the environment instead."
            )


def _mismatch(name: str, value: object, compressor: str) -> str:
    if name == "bits" and compressor in PRUNERS:
        return (
            f"bits={value!r} does not go with compressor={compressor}: only {', '.join(JOINT)} "
            f"prunes and quantizes in one pass. Use compressor={JOINT[0]}, or leave bits out."
        )
    partners = [method for method in ARGUMENTS[name].goes_with if method != "none"]
    if not partners:
        return (
            f"{name}={value!r} does not go with compressor={compressor}, which needs the dense "
            "weights. Leave one of the two out."
        )
    if compressor == "none":
        # Neither random, the control, nor sparsegpt, which bits alone do not satisfy.
        usual = next((each for each in ("wanda", "gptq") if each in partners), partners[0])
        return (
            f"{name}={value!r} needs a compressor. Add compressor={usual} (it goes with "
            f"{', '.join(partners)}), or leave {name} out."
        )
    return (
        f"{name}={value!r} does not go with compressor={compressor}. Leave it out, or use one of: "
        f"{', '.join(partners)}."
    )


def _misspelt(others: Sequence[str], *wanted: str) -> str:
    """Hint at a misspelt argument; empty where none is close."""
    hints = ((name, suggest(name, wanted)) for name in others)
    return "".join(f"{name} is not an argument of lmkick. {hint}" for name, hint in hints if hint)


def _check_together(compressor: str, settings: Mapping[str, Any], others: Sequence[str]) -> None:
    """Refuse arguments that contradict each other.

    Args:
        compressor: The method.
        settings: Our arguments, as read.
        others: Names of the remaining arguments; a missing one may be among them, misspelt.
    """
    sparsity, pattern = settings.get("sparsity"), settings.get("pattern")
    if pattern not in (None, "unstructured") and sparsity is not None:
        kept, every = split_pattern(pattern)
        raise SettingsError(
            f"sparsity={sparsity:g} contradicts pattern={pattern}, which fixes the sparsity at "
            f"{1 - kept / every:g}. Leave one of the two out."
        )
    if compressor in PRUNERS and sparsity is None and pattern in (None, "unstructured"):
        hint = _misspelt(others, "sparsity", "pattern")
        raise SettingsError(
            f"compressor={compressor} needs a sparsity or a pattern. {hint}Add sparsity=0.5 or "
            "pattern=2:4."
        )
    if compressor in QUANTIZERS and "bits" not in settings:
        if compressor not in PRUNERS:
            hint = _misspelt(others, "bits")
            raise SettingsError(
                f"compressor={compressor} needs bits. {hint}Add bits=4 (2 to 8), or number_format="
                "nvfp4."
            )
        for name in ("group_size", "symmetric"):
            if name in settings:
                raise SettingsError(
                    f"{name}={settings[name]} goes with compressor={compressor} only when it also "
                    "quantizes. Add bits=4, or leave it out."
                )
    _check_kept(compressor, settings)


def _torn(settings: Mapping[str, Any]) -> bool:
    """As `GPTQ.torn_groups`, without torch."""
    order, together, static = (
        settings.get(name, ARGUMENTS[name].default)
        for name in ("act_order", "act_group_aware", "static_groups")
    )
    return order and not (together or static)


def _check_kept(compressor: str, settings: Mapping[str, Any]) -> None:
    """Refuse caches and save formats that contradict each other."""
    for name, partner in (
        ("save_format", "save_compressed"),
        ("compress_cache_gb", "compress_cache"),
    ):
        if name in settings and partner not in settings:
            raise SettingsError(
                f"{name}={settings[name]} needs {partner}=FOLDER. Add that, or leave it out."
            )
    if "compress_cache" in settings and "resume_dir" in settings:
        raise SettingsError(
            "resume_dir and compress_cache were both given, but compress_cache keeps finished "
            "blocks too. Leave resume_dir out."
        )
    if "save_format" in settings:
        check_recipe(
            settings["save_format"],
            bits=settings.get("bits"),
            group_size=settings.get("group_size", 128),
            number_format=settings.get("number_format", "int"),
            symmetric=settings.get("symmetric", _default(compressor, "symmetric")),
            torn_groups=_torn(settings),
            scales_columns=compressor in ARGUMENTS["grid_points"].goes_with
            and (
                settings.get("grid_points", _default(compressor, "grid_points")) > 1
                or settings.get("duo_scaling", False)
            ),
        )
