# SPDX-License-Identifier: Apache-2.0
"""What a model's divergence is measured against: its own dense weights, or another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin import bundled

__all__ = ["Reference", "another_model", "check_reference", "dense_weights", "itself"]

# Tokenizers can have one vocabulary and still cut text in different ways.
_PROBE = "The year 1984, naïve  café:\n\tif x == 10: return 'déjà vu' 🙂 不"
# What says which checkpoint is loaded; the others say how, and hold for the reference as well.
_WHICH = (
    "pretrained", "tokenizer", "revision", "subfolder", "peft", "delta", "gguf_file", "autogptq",
    "gptqmodel", "quantization_config", "load_in_4bit", "load_in_8bit", "batch_size",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The dense side of a comparison.

    Attributes:
        name: For the record of the samples.
        model: Called as lm-eval's ``hf`` model is, inside ``ready()``.
        ready: Context in which ``model`` is the dense one.
        same: There is nothing to compare: the evaluated model is the dense one.
    """

    name: str
    model: Any
    ready: Callable[[], AbstractContextManager[None]] = nullcontext
    same: bool = False


def itself(model: Any) -> Reference:
    """The model was not compressed: it is its own reference, and every divergence is 0."""
    return Reference("itself: nothing was compressed", model, same=True)


@contextmanager
def dense_weights(model: Any, originals: Callable[[], Mapping[str, Any]]) -> Iterator[Reference]:
    """The dense weights of the evaluated model, for as long as the context lasts.

    Args:
        model: A ``KickLM``.
        originals: Returns the dense parameters by name, in main memory.
    """
    from lmkick_plugin.loading.dense_weights import DenseWeights

    weights = DenseWeights(model.model, originals())  # what was not replaced is not kept
    yield Reference("its own dense weights", model, weights.in_place)


def another_model(model: Any, name: str, arguments: Mapping[str, Any], **which: Any) -> Reference:
    """Load another model, onto the device of the evaluated one.

    Args:
        model: A ``KickLM``.
        name: Name or path of the other model.
        arguments: With what ``hf`` loaded the evaluated one.
        **which: Which checkpoint of that name: ``revision``, ``subfolder``.
    """
    from lm_eval.models.huggingface import HFLM

    how = {key: value for key, value in arguments.items() if key not in _WHICH}
    folder = bundled.model_folder(name)
    other = HFLM(pretrained=folder, tokenizer=model.tokenizer, batch_size=1, **how, **which)
    return Reference(name, other)


def check_reference(
    name: str, tokenizer: Any, config: Any, *, trust_remote_code: bool = False
) -> None:
    """Refuse a reference whose next-token distributions are over other tokens.

    Only its config and tokenizer are read.

    Args:
        name: Name or path of the reference model.
        tokenizer: The evaluated model's.
        config: The evaluated model's.
        trust_remote_code: As for the evaluated model.

    Raises:
        SettingsError: It cannot be read, or its tokenizer or vocabulary size differs.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        folder = bundled.model_folder(name)
        other = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        other_config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"reference={name}: its config or tokenizer cannot be read. Give the folder of a saved "
            f"model, or a model of the Hub. Cause: {error}"
        ) from error
    sizes = [_vocabulary(each) for each in (config, other_config)]
    if other.get_vocab() != tokenizer.get_vocab() or _cut(other) != _cut(tokenizer):
        reason = "its tokenizer is another one"
    elif sizes[0] != sizes[1]:
        reason = f"it scores {sizes[1]} tokens and the evaluated model {sizes[0]}"
    else:
        return
    raise SettingsError(
        f"reference={name}: {reason}, so no divergence between the two is defined. Give a model of "
        "the same tokenizer and vocabulary, or leave reference out to compare with the model's own "
        "dense weights."
    )


def _cut(tokenizer: Any) -> list[int]:
    return list(tokenizer(_PROBE)["input_ids"])


def _vocabulary(config: Any) -> int | None:
    return getattr(getattr(config, "text_config", None) or config, "vocab_size", None)
