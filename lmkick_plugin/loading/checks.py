# SPDX-License-Identifier: Apache-2.0
"""Checks of a model's name and arguments, before its weights are loaded."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.files import parse_json
from lmkick_plugin.recipe.argument_table import ARGUMENTS
from lmkick_plugin.recipe.pretrained import is_path
from lmkick_plugin.recipe.readers import is_unset, suggest

__all__ = [
    "base_revision",
    "check_adapter",
    "check_device",
    "check_hf_arguments",
    "check_placement",
    "config_error",
    "plain_path",
    "shortened",
    "which_files",
]

# Keyword arguments that transformers' from_pretrained takes itself (it passes the rest to the
# model's config). Those that lm-eval's hf model sets are in its own signature.
_FROM_PRETRAINED = frozenset(
    {
        "adapter_kwargs",
        "adapter_name",
        "allow_all_kernels",
        "attn_implementation",
        "cache_dir",
        "code_revision",
        "device_map",
        "device_mesh",
        "disable_mmap",
        "distributed_config",
        "experts_implementation",
        "force_download",
        "fusion_config",
        "generation_config",
        "ignore_mismatched_sizes",
        "kernel_config",
        "key_mapping",
        "load_in_4bit",
        "load_in_8bit",
        "local_files_only",
        "low_cpu_mem_usage",
        "max_memory",
        "offload_buffers",
        "proxies",
        "quantization_config",
        "state_dict",
        "token",
        "torch_dtype",
        "tp_size",
        "use_kernels",
        "use_safetensors",
        "variant",
        "weights_only",
    }
)


@cache
def _hf_arguments() -> frozenset[str]:
    """The arguments that the installed lm-eval's ``hf`` model names in its signature."""
    from lm_eval.models.huggingface import HFLM

    return frozenset(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"}


def check_hf_arguments(passed: Mapping[str, Any], config: Any, *, prebuilt: bool) -> None:
    """Refuse argument names unknown to lmkick, lm-eval's ``hf`` model, transformers and the config.

    Args:
        passed: Arguments left over by :func:`lmkick_plugin.recipe.arguments.parse_arguments`.
        config: The model's config; its attributes may be set by arguments of the same name.
        prebuilt: The model was given as an object, so nothing reaches ``from_pretrained``.

    Raises:
        SettingsError: A name is unknown; the nearest known one is suggested.
    """
    known = _hf_arguments() if prebuilt else _hf_arguments() | _FROM_PRETRAINED
    for name in sorted(set(passed) - known):
        attribute = getattr(config, name, None)
        if hasattr(config, name) and not callable(attribute) and not prebuilt:
            continue
        hint = suggest(name, {*ARGUMENTS, *known})
        where = (
            "The model was given as an object, so loading arguments have no effect."
            if prebuilt
            else "Not an argument of lmkick, lm-eval's hf model or from_pretrained, nor an "
            f"attribute of the model's config ({type(config).__name__})."
        )
        raise SettingsError(
            f"Unknown model argument {name}={passed[name]!r}. {hint}{where} Correct it or leave it "
            "out."
        )


def check_placement(passed: Mapping[str, Any]) -> None:
    """Refuse a device that does not exist here, and a dtype that is not floating.

    Args:
        passed: Arguments left over by :func:`lmkick_plugin.recipe.arguments.parse_arguments`.

    Raises:
        SettingsError: The message says which device or dtype would do.
    """
    import torch

    device = str(passed.get("device") or "")
    # With several devices or processes, lm-eval ignores device.
    placed = bool(passed.get("parallelize")) or "LOCAL_RANK" in os.environ
    # cuda:0 is the default of lm-eval's command line; it means the CPU where
    # there is no GPU.
    if device and device != "cuda:0" and not placed:
        check_device(device)
    for name in ("dtype", "softmax_dtype", "mixed_precision_dtype"):
        dtype = passed.get(name)
        none = dtype == "auto" if name == "dtype" else is_unset(dtype)
        if none or dtype is None or isinstance(dtype, torch.dtype):
            continue
        found = getattr(torch, str(dtype), None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise SettingsError(
                f"{name}={dtype}: not a floating dtype. Use "
                f"{'auto, ' if name == 'dtype' else ''}float32, bfloat16 or float16."
            )


def check_device(device: str) -> None:
    """Refuse a device that torch does not see here.

    Args:
        device: As :func:`lmkick_plugin.recipe.readers.read_device` returns it.

    Raises:
        SettingsError: The message says how many there are.
    """
    import torch

    kind, _, number = device.partition(":")
    if kind == "cpu":
        return
    backend = getattr(torch, kind, None)
    available = backend is not None and getattr(backend, "is_available", lambda: True)()
    if kind == "mps":
        available = torch.backends.mps.is_available()
    count = int(backend.device_count()) if backend is not None and available else 0
    if int(number or 0) >= count:
        remedy = f"{kind}:0 to {kind}:{count - 1}" if count else "device=cpu"
        raise SettingsError(
            f"device={device}: torch {torch.__version__} sees {count or 'no'} {kind} "
            f"device{'s' if count != 1 else ''}. Use {remedy}."
        )


def check_adapter(passed: Mapping[str, Any]) -> None:
    """Refuse a folder without an adapter or delta weights, before weights are loaded.

    Args:
        passed: Arguments left over by :func:`lmkick_plugin.recipe.arguments.parse_arguments`.

    Raises:
        SettingsError: The folder is not there, or holds none.
    """
    for argument, config in (("peft", "adapter_config.json"), ("delta", "config.json")):
        name = passed.get(argument)
        if is_unset(name):
            continue
        path = Path(str(name))
        if not path.is_dir():
            problem = "no such folder" if is_path(str(name)) else None
        elif not (path / config).is_file():
            problem = f"the folder holds no {config}"
        else:
            problem = _adapter_problem(path / config) if argument == "peft" else None
        if problem is not None:
            raise SettingsError(
                f"{argument}={name}: {problem}. Give a folder with {config} and weights, or a "
                "model of the Hub as OWNER/NAME."
            )


def _adapter_problem(path: Path) -> str | None:
    """Why an adapter's config cannot be one; None where nothing speaks against it."""
    try:
        kind = parse_json(path.read_bytes())["peft_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{path.name} cannot be read ({shortened(error)})"
    if not isinstance(kind, str):
        return f"peft_type in {path.name} is {kind!r:.40}"
    if not any(path.with_name(f"adapter_model.{end}").is_file() for end in ("safetensors", "bin")):
        return "the folder holds no adapter_model.safetensors"
    return None


def plain_path(name: str) -> str:
    """One spelling of a model's folder: ``DIR/`` and ``./DIR`` are ``DIR``; other names stay."""
    return os.path.normpath(name) if Path(name).is_dir() else name


def config_error(pretrained: str, cause: Exception) -> ValueError:
    """Error for a model config that could not be read, with its remedy."""
    if Path(pretrained).is_dir():
        return SettingsError(
            f"pretrained={pretrained}: the folder holds no readable model config. Give a saved "
            f"model's folder (config.json, weights, tokenizer). Cause: {shortened(cause)}"
        )
    return SettingsError(
        f"pretrained={pretrained}: the model's config could not be fetched from the Hub. Check the "
        "name; offline, give a saved model's folder or fill the cache first (hf download "
        f"{pretrained}). Cause: {shortened(cause)}"
    )


def shortened(error: Exception) -> str:
    """First 300 characters of a library's message, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def which_files(passed: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that say which files of a model are read, as ``from_pretrained`` takes them."""
    names = ("revision", "trust_remote_code", "subfolder", "gguf_file")
    return {name: passed[name] for name in names if not is_unset(passed.get(name))}


def base_revision(
    pretrained: Any, *, revision: str = "main", subfolder: str = "", cache_dir: str | None = None
) -> str | None:
    """Commit of a model of the Hub, read from the local cache; None for local models."""
    if not isinstance(pretrained, str) or Path(pretrained).exists():
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = f"{subfolder}/config.json" if subfolder else "config.json"
    try:
        cached = try_to_load_from_cache(pretrained, name, revision=revision, cache_dir=cache_dir)
    except HFValidationError:
        return None
    if not isinstance(cached, str):
        return None
    parts = Path(cached).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
