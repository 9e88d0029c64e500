# SPDX-License-Identifier: Apache-2.0
"""Checks before a model's weights are loaded."""

from __future__ import annotations

import inspect
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from compressors.errors import LmkickError, SettingsError
from lmkick_plugin import bundled
from lmkick_plugin.files import parse_json
from lmkick_plugin.recipe.arguments import ARGUMENTS, Recipe
from lmkick_plugin.recipe.readers import check_path, is_unset, suggest

__all__ = [
    "base_revision",
    "check_adapter",
    "check_causal",
    "check_device",
    "check_hf_arguments",
    "check_model_kind",
    "check_placement",
    "check_pretrained",
    "check_template",
    "check_tokenizer",
    "config_error",
    "context_length",
    "plain_path",
    "readable_template",
    "readable_weights",
    "tokenizer_error",
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
# Trained for something else: their weights see both sides, or their head gives no next token.
_NOT_CAUSAL = re.compile(r"MaskedLM|PreTraining|Classification|QuestionAnswering|MultipleChoice")
_LOADS_QUANTIZED = ("load_in_4bit", "load_in_8bit", "quantization_config", "autogptq", "gptqmodel")


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
            problem = "no such folder" if _is_path(str(name)) else None
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
        return f"{path.name} cannot be read ({_short(error)})"
    if not isinstance(kind, str):
        return f"peft_type in {path.name} is {kind!r:.40}"
    if not any(path.with_name(f"adapter_model.{end}").is_file() for end in ("safetensors", "bin")):
        return "the folder holds no adapter_model.safetensors"
    return None


def _is_path(name: str) -> bool:
    """Whether a name can only be that of a folder: the Hub has NAME and OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def plain_path(name: str) -> str:
    """One spelling of a model's folder: ``DIR/`` and ``./DIR`` are ``DIR``; other names stay."""
    return os.path.normpath(name) if Path(name).is_dir() else name


def check_pretrained(pretrained: Any) -> None:
    """Refuse a path without a model before the Hub is asked for it.

    Raises:
        SettingsError: A path that does not exist, or nothing at all.
    """
    if not isinstance(pretrained, str):
        if pretrained is None:
            raise SettingsError(
                "No model given. Add pretrained=NAME: a folder, or a model of the Hub."
            )
        return
    path = Path(bundled.model_folder(check_path("pretrained", pretrained))).expanduser()
    if path.is_dir():
        return
    if path.is_file():
        raise SettingsError(f"pretrained={pretrained} is a file. Give the model's folder.")
    if _is_path(pretrained):
        raise SettingsError(
            f"pretrained={pretrained}: no such folder. Give a saved model's folder (config.json, "
            "weights, tokenizer), or a model of the Hub as NAME or OWNER/NAME."
        )


def config_error(pretrained: str, cause: Exception) -> ValueError:
    """Error for a model config that could not be read, with its remedy."""
    if Path(pretrained).is_dir():
        return SettingsError(
            f"pretrained={pretrained}: the folder holds no readable model config. Give a saved "
            f"model's folder (config.json, weights, tokenizer). Cause: {_short(cause)}"
        )
    return SettingsError(
        f"pretrained={pretrained}: the model's config could not be fetched from the Hub. Check the "
        "name; offline, give a saved model's folder or fill the cache first (hf download "
        f"{pretrained}). Cause: {_short(cause)}"
    )


def tokenizer_error(name: object, cause: Exception) -> ValueError:
    """Error for a tokenizer that could not be read, with its remedy."""
    return SettingsError(
        f"The tokenizer of {name} cannot be read. Copy its files (tokenizer.json or "
        "tokenizer.model, tokenizer_config.json) into the model's folder, or give tokenizer=NAME. "
        f"Cause: {_short(cause)}"
    )


def check_tokenizer(tokenizer: Any, config: Any, name: object, passed: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that does not match the model, before weights are loaded.

    Args:
        tokenizer: As loaded.
        config: The model's config.
        name: Of the tokenizer, for the message.
        passed: The arguments for lm-eval's ``hf`` model.

    Raises:
        SettingsError: It cannot cut text, has no end-of-text token, or tokens that the model has no
            row for; ``prefix_token_id`` is none of the model's; or the model's context has no room
            for a prompt and an answer.
    """
    try:
        tokenizer.encode("1984")
    except Exception as error:  # of the tokenizers library, which has no class of its own for it
        raise tokenizer_error(name, error) from error
    context = context_length(config, tokenizer)
    if context is not None and context < 2 and is_unset(passed.get("max_length")):
        raise SettingsError(
            f"The model's context is {context} tokens, which leaves no room for a prompt and an "
            "answer. Correct max_position_embeddings in its config.json, or give max_length=N."
        )
    remedy = "Give the model's own tokenizer as tokenizer=NAME: a folder, or a model of the Hub."
    if tokenizer.eos_token_id is None:
        raise SettingsError(f"The tokenizer of {name} names no EOS token. {remedy}")
    size = getattr(getattr(config, "text_config", None) or config, "vocab_size", None)
    prefix = passed.get("prefix_token_id")
    if size is not None and not is_unset(prefix) and int(str(prefix)) >= size:
        raise SettingsError(
            f"prefix_token_id={prefix}: the model has tokens 0 to {size - 1}. Give one of them, "
            "or leave it out."
        )
    if size is None or passed.get("peft"):  # lm-eval grows the embeddings for an adapter
        return
    # Added tokens beyond the model's appear in no plain text, unless they begin, end or pad one.
    used = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    plain = set(tokenizer.get_vocab().values()) - set(tokenizer.get_added_vocab().values())
    largest = max(token for token in (0, *plain, *used) if token is not None)
    if largest >= size:
        raise SettingsError(
            f"The tokenizer of {name} has token {largest}, but the model only {size} tokens. "
            f"{remedy}"
        )


@contextmanager
def readable_template(name: object) -> Iterator[None]:
    """Turn what a chat template raises, which is a program of the checkpoint's, into one line.

    Args:
        name: Of the tokenizer, for the message.

    Raises:
        SettingsError: There is no template, or it cannot be rendered.
    """
    try:
        yield
    except Exception as error:
        raise SettingsError(
            f"The chat template of {name} cannot be used. Leave out --apply_chat_template, or "
            f"correct chat_template in the tokenizer's files. Cause: {_short(error)}"
        ) from error


def check_template(tokenizer: Any, name: object) -> None:
    """Refuse a chat template that cannot be rendered, before weights are loaded.

    Args:
        tokenizer: As loaded.
        name: Of the tokenizer, for the message.

    Raises:
        SettingsError: As :func:`readable_template`.
    """
    question = [{"role": "user", "content": "1984?"}]
    with readable_template(name):
        tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)


def _short(error: Exception) -> str:
    """First 300 characters of a library's message, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


@contextmanager
def readable_weights(pretrained: object) -> Iterator[None]:
    """Report unreadable weights as one :class:`SettingsError`.

    Args:
        pretrained: The model, for the message.

    Raises:
        SettingsError: Weights are missing, damaged, or of other shapes than the config's.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (LmkickError, KeyboardInterrupt, MemoryError):
        raise
    except (
        # transformers and peft raise anything for a file of other contents.
        *(OSError, ValueError, LookupError, RuntimeError, SafetensorError),
        *(TypeError, AttributeError, ImportError, EOFError, pickle.UnpicklingError),
    ) as error:
        if "out of memory" in str(error).lower():
            raise
        raise SettingsError(
            f"pretrained={pretrained}: the weights cannot be loaded. Check that the checkpoint is "
            f"complete and matches its config. Cause: {_short(error)}"
        ) from error


def which_files(passed: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that say which files of a model are read, as ``from_pretrained`` takes them."""
    names = ("revision", "trust_remote_code", "subfolder", "gguf_file")
    return {name: passed[name] for name in names if not is_unset(passed.get(name))}


def check_causal(config: Any, backend: str, passed: Mapping[str, Any]) -> None:
    """Refuse models that cannot be evaluated as causal ones.

    Args:
        config: The model's config.
        backend: lm-eval's verdict, ``causal`` or ``seq2seq``.
        passed: The arguments for lm-eval's ``hf`` model.

    Raises:
        UnsupportedModelError: Not a causal language model.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from compressors.errors import UnsupportedModelError

    kind = getattr(config, "model_type", None)
    known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or passed.get("trust_remote_code")
    if backend != "causal" or not (known or passed.get("backend") == "causal"):
        raise UnsupportedModelError(
            f"Model type {kind!r} is not a causal language model, which --model kick needs. Choose "
            "a causal model, or evaluate this one uncompressed with --model hf."
        )
    named = [str(name) for name in getattr(config, "architectures", None) or ()]
    if named and all(_NOT_CAUSAL.search(name) for name in named):
        raise UnsupportedModelError(
            f"The config names {', '.join(named)}: this architecture is not a causal LM, "
            "regardless of is_decoder. Choose a causal model. If it was later trained as one, fix "
            "architectures in config.json."
        )


def check_model_kind(recipe: Recipe, config: Any, backend: str, passed: Mapping[str, Any]) -> None:
    """Refuse models that are not causal, or that cannot be compressed.

    Args:
        recipe: What is to be done.
        config: The model's config.
        backend: lm-eval's verdict, ``causal`` or ``seq2seq``.
        passed: The arguments for lm-eval's ``hf`` model.

    Raises:
        UnsupportedModelError: Not a causal language model, or already quantized.
        SettingsError: The arguments load the model in a form that cannot be compressed.
    """
    from compressors.errors import UnsupportedModelError

    check_causal(config, backend, passed)
    if recipe.compressor == "none":
        return
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        method = (
            quantization.get("quant_method")
            if isinstance(quantization, Mapping)
            else getattr(quantization, "quant_method", None)
        )
        raise UnsupportedModelError(
            f"The checkpoint is already quantized ({getattr(method, 'value', method)}), so "
            f"compressor={recipe.compressor} cannot be applied. Use compressor=none, or the "
            "unquantized checkpoint."
        )
    for name in _LOADS_QUANTIZED:
        if passed.get(name):
            raise SettingsError(
                f"{name}={passed[name]!r} loads a quantized model, which "
                f"compressor={recipe.compressor} cannot compress again. Leave one of the two out."
            )
    if passed.get("tp_plan") is not None:
        raise SettingsError(
            f"tp_plan={passed['tp_plan']!r} splits weight matrices over processes, but "
            f"compressor={recipe.compressor} needs whole ones. Use parallelize=true, or one device."
        )


def context_length(config: Any, tokenizer: Any) -> int | None:
    """Context length in tokens, from the config or else the tokenizer."""
    inner = getattr(config, "text_config", None) or config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(inner, name, None)
        if value is not None:
            return int(value)
    stated = getattr(tokenizer, "model_max_length", None)
    # transformers writes "no limit" as 1e30.
    return int(stated) if stated is not None and stated < 1e9 else None


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
