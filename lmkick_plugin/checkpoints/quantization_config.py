# SPDX-License-Identifier: Apache-2.0
"""Compression scheme of a checkpoint, read from its config and its tool's files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmkick_plugin.files import parse_json
from lmkick_plugin.recipe.readers import suggest

__all__ = ["Scheme", "read_scheme"]

#: llm-compressor's modifiers by what the papers call the method; the first that is there counts.
_MODIFIERS = {
    "SparseGPTModifier": "sparsegpt",
    "WandaPruningModifier": "wanda",
    "MagnitudePruningModifier": "magnitude",
    "ConstantPruningModifier": "pruned",
    "AWQModifier": "awq",
    "GPTQModifier": "gptq",
    "AutoRoundModifier": "autoround",
    "QuantizationModifier": "rtn",
}
_PRUNED_BY = ("sparsegpt", "wanda", "magnitude", "pruned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the weights are stored and were made; None where it is not stated.

    Attributes:
        storage: ``dense``, ``gguf`` or transformers' name of the format: ``gptq``, ``awq``,
            ``bitsandbytes``, ``compressed-tensors``, ``torchao``, ...
        layout: The variant of the format, such as ``pack-quantized`` or ``gptq_v2``.
        method: What compressed the weights: ``gptq``, ``awq``, ``bnb-nf4``, ``sparsegpt``, ...
        bits: Bits of a weight; None where matrices differ.
        group_size: Input columns that share a scale; -1: one group a row.
        symmetric: Whether the grid is symmetric.
        act_order: Whether columns were quantized in order of their activations.
        act_group_aware: Whether that order kept groups together; None where it is not said.
        activation_bits: Bits that activations are rounded to.
        mixed: The config gives different settings to different matrices.
        made_by: Tools and versions, or the steps of a recipe.
        requested_sparsity: Share of zeros that the recipe asked for.
        requested_pattern: ``N:M`` that the recipe asked for.
    """

    storage: str = "dense"
    layout: str | None = None
    method: str | None = None
    bits: int | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    act_order: bool | None = None
    act_group_aware: bool | None = None
    activation_bits: int | None = None
    mixed: bool = False
    made_by: tuple[str, ...] = ()
    requested_sparsity: float | None = None
    requested_pattern: str | None = None


def read_scheme(quantization: Mapping[str, Any] | None, folder: Path | None = None) -> Scheme:
    """Read the scheme of a checkpoint.

    Args:
        quantization: ``quantization_config`` of the model's config; None where it has none.
        folder: The model's folder, whose ``recipe.yaml`` and ``quantize_config.json`` are read.

    Returns:
        The scheme.

    Raises:
        UnsupportedModelError: The quantization method is unknown to transformers.
    """
    scheme = Scheme() if quantization is None else _from_config(quantization)
    if folder is not None:
        scheme = _from_recipe(scheme, folder / "recipe.yaml")
        if scheme.storage in ("gptq", "awq") and not scheme.made_by:
            said = _read_json(folder / "quantize_config.json")
            scheme = replace(scheme, made_by=_quantizers(said))
    return scheme


def _from_config(config: Mapping[str, Any]) -> Scheme:
    from compressors.errors import UnsupportedModelError

    method = config.get("quant_method") or ("bitsandbytes" if _bnb_bits(config) else None)
    method = str(getattr(method, "value", method))
    if method in ("gptq", "awq"):
        return _gptq_or_awq(method, config)
    if method == "bitsandbytes":
        return _bitsandbytes(config)
    if method == "compressed-tensors":
        return _compressed_tensors(config)
    if method == "torchao":
        return _torchao(config)
    known = _known_methods()
    if method not in known:
        raise UnsupportedModelError(
            f"quantization_config in config.json names the method {method!r}, unknown to this "
            f"transformers. {suggest(method, known)}Known: {', '.join(sorted(known))}. Update "
            "transformers, or use another checkpoint."
        )
    bits = config.get("bits", config.get("nbits", 8 if method == "fp8" else None))
    return Scheme(storage=method, method=method, bits=_whole(bits))


def _known_methods() -> set[str]:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    return set(AUTO_QUANTIZATION_CONFIG_MAPPING)


def _gptq_or_awq(method: str, config: Mapping[str, Any]) -> Scheme:
    layout = config.get("checkpoint_format") or config.get("format") or config.get("version")
    symmetric = config.get("sym")
    if symmetric is None and "zero_point" in config:  # AutoAWQ's name
        symmetric = not config["zero_point"]
    # GPTQModel's order by groups, which its desc_act=false does not deny.
    aware = True if _meta(config).get("act_group_aware") is True else None
    return Scheme(
        storage=method,
        layout=None if layout is None else str(layout).lower(),
        method=method,
        bits=_whole(config.get("bits", config.get("w_bit"))),
        group_size=_whole(config.get("group_size", config.get("q_group_size"))),
        symmetric=symmetric,
        act_order=True if aware else config.get("desc_act"),
        act_group_aware=aware,
        mixed=bool(config.get("dynamic")),
        made_by=_quantizers(config),
    )


def _meta(config: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = config.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def _quantizers(config: Mapping[str, Any]) -> tuple[str, ...]:
    made_by = _meta(config).get("quantizer")
    made_by = [made_by] if isinstance(made_by, str) else made_by
    return tuple(str(tool) for tool in made_by) if isinstance(made_by, list) else ()


def _bnb_bits(config: Mapping[str, Any]) -> int | None:
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        return 4
    return 8 if config.get("load_in_8bit") or config.get("_load_in_8bit") else None


def _bitsandbytes(config: Mapping[str, Any]) -> Scheme:
    if _bnb_bits(config) == 4:
        kind = str(config.get("bnb_4bit_quant_type", "fp4"))
        return Scheme(
            storage="bitsandbytes", layout=kind, method=f"bnb-{kind}", bits=4, group_size=64
        )
    return Scheme(
        storage="bitsandbytes", layout="int8", method="bnb-int8", bits=8, group_size=-1,
        symmetric=True,
    )  # fmt: skip


def _torchao(config: Mapping[str, Any]) -> Scheme:
    said = json.dumps(config.get("quant_type"), default=str)
    kinds = [kind for kind in ("int8", "int4", "float8") if kind in said.lower()]
    kind = kinds[0] if len(kinds) == 1 else None
    return Scheme(
        storage="torchao",
        method=f"torchao-{kind}" if kind else "torchao",
        bits={"int8": 8, "int4": 4, "float8": 8}.get(kind or ""),
    )


def _compressed_tensors(config: Mapping[str, Any]) -> Scheme:
    layout = str(config.get("format") or "dense")
    sparse = config.get("sparsity_config") or {}
    if sparse.get("format") not in (None, "dense"):
        layout = str(sparse["format"]) if layout == "dense" else f"{layout}+{sparse['format']}"
    groups = [
        group
        for group in (config.get("config_groups") or {}).values()
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping)
    ]
    weights = [group["weights"] for group in groups]
    floats = {str(each.get("type")) for each in weights} == {"float"}
    bits = _same(each.get("num_bits") for each in weights)
    sizes = _same(-1 if each.get("group_size") is None else each["group_size"] for each in weights)
    orders = _same(each.get("actorder") not in (None, False) for each in weights)
    activations = [group.get("input_activations") or {} for group in groups]
    return Scheme(
        storage="compressed-tensors",
        layout=layout,
        method=f"fp{bits}" if floats and bits else "compressed-tensors",
        bits=_whole(bits),
        group_size=_whole(sizes),
        symmetric=_same(each.get("symmetric") for each in weights),
        act_order=orders,
        activation_bits=_whole(_same(each.get("num_bits") for each in activations)),
        mixed=len(weights) > 1,
        requested_sparsity=_share(sparse.get("global_sparsity")),
        requested_pattern=_pattern(sparse.get("sparsity_structure")),
    )


def _from_recipe(scheme: Scheme, path: Path) -> Scheme:
    """Add the facts of llm-compressor's recipe."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return scheme
    steps = dict(_modifiers(content))
    if not steps:
        return scheme
    method = next((name for step, name in _MODIFIERS.items() if step in steps), None)
    if method == "rtn" and (scheme.method or "").startswith("fp"):
        method = scheme.method
    scheme = replace(scheme, method=method or scheme.method, made_by=tuple(steps))
    for step, settings in steps.items():
        if _MODIFIERS.get(step) in _PRUNED_BY:
            scheme = replace(
                scheme,
                requested_sparsity=_share(settings.get("sparsity")),
                requested_pattern=_pattern(settings.get("mask_structure")),
            )
    return scheme


def _modifiers(content: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(content, Mapping):
        for name, inner in content.items():
            if str(name).endswith("Modifier") and isinstance(inner, Mapping):
                yield str(name), inner
            else:
                yield from _modifiers(inner)
    elif isinstance(content, Sequence) and not isinstance(content, str):
        for inner in content:
            yield from _modifiers(inner)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _same(values: Iterator[Any]) -> Any:
    """The one value shared by all; None where they differ."""
    found = list(values)
    return found[0] if found and all(value == found[0] for value in found) else None


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _share(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < 1 else None


def _pattern(value: object) -> str | None:
    """``2:4``; llm-compressor writes 0:0 for no pattern."""
    kept, colon, every = str(value).partition(":")
    if not colon or not kept.isdigit() or not every.isdigit() or int(every) == 0:
        return None
    return f"{int(kept)}:{int(every)}"
