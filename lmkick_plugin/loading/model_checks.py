# SPDX-License-Identifier: Apache-2.0
"""Checks of a model: config, tokenizer, chat template, and weights that cannot be read."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from compressors.errors import LmkickError, SettingsError
from lmkick_plugin.loading.checks import shortened
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.recipe.recipe import Recipe

__all__ = [
    "check_causal",
    "check_model_kind",
    "check_template",
    "check_tokenizer",
    "context_length",
    "readable_template",
    "readable_weights",
    "tokenizer_error",
]

# Trained for something else: their weights see both sides, or their head gives no next token.
_NOT_CAUSAL = re.compile(r"MaskedLM|PreTraining|Classification|QuestionAnswering|MultipleChoice")
_LOADS_QUANTIZED = ("load_in_4bit", "load_in_8bit", "quantization_config", "autogptq", "gptqmodel")


def tokenizer_error(name: object, cause: Exception) -> ValueError:
    """Error for a tokenizer that could not be read, with its remedy."""
    return SettingsError(
        f"The tokenizer of {name} cannot be read. Copy its files (tokenizer.json or "
        "tokenizer.model, tokenizer_config.json) into the model's folder, or give tokenizer=NAME. "
        f"Cause: {shortened(cause)}"
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
            f"The tokenizer of {name} has token {largest}, but the model has only {size} tokens. "
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
    except Exception as error:  # a program may raise anything
        raise SettingsError(
            f"The chat template of {name} cannot be used. Leave out --apply_chat_template, or "
            f"correct chat_template in the tokenizer's files. Cause: {shortened(error)}"
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
            f"complete and matches its config. Cause: {shortened(error)}"
        ) from error


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
