# SPDX-License-Identifier: Apache-2.0
"""Dense reference of an evaluated model: its own dense weights, or another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin import bundled
from lmkick_plugin.checkpoints.checked_loader import CheckedLoader
from lmkick_plugin.checkpoints.detect import Recognised
from lmkick_plugin.loading.dense_source import DenseSource
from lmkick_plugin.loading.model_checks import check_causal, context_length
from lmkick_plugin.loading.precompressed import check_stored_weights
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.record.weights import survey_weights

__all__ = ["DenseReference", "Reference", "check_reference"]

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
        once: Keeps what was found of ``model`` in a sweep: :meth:`.DenseSource.once`; None where
            that is another model.
    """

    name: str
    model: Any
    ready: Callable[[], AbstractContextManager[None]] = nullcontext
    same: bool = False
    once: Callable[[Any, Callable[[], Any]], Any] | None = None


class DenseReference:
    """Source of an evaluated model's dense reference.

    That is, in this order: another model (``reference=``); for ``quantize=``, the checkpoint loaded
    without it; the model itself where nothing was compressed; its own dense weights, which change
    places with the compressed ones.
    """

    def __init__(self, lm: Any, source: DenseSource) -> None:
        """Store the model; nothing is loaded.

        Args:
            lm: A ``KickLM``.
            source: Of its dense weights.
        """
        self._lm = lm
        self._source = source

    def check(self) -> None:
        """Refuse a ``reference=`` that cannot be compared with, or whose weights are damaged.

        Raises:
            SettingsError: See :func:`check_reference`.
        """
        lm = self._lm
        if lm.recipe.reference is not None:
            check_reference(lm.recipe.reference, lm.tokenizer, lm.config, lm.passed)

    @property
    def missing(self) -> str | None:
        """Why there is no dense model to compare with; None where there is one."""
        if self._is_missing:
            return _no_reference(self._lm.recognised)
        if self._lm.prebuilt and self._lm.compression and self._lm.recipe.reference is None:
            return "the model was given as an object and compressed in place"
        return None

    @property
    def problem(self) -> str | None:
        """Why the dense model cannot answer prompts; None where it can."""
        return self.missing or ("the run is data parallel" if self._lm.world_size > 1 else None)

    @property
    def _is_missing(self) -> bool:
        """Whether the dense weights of an already compressed checkpoint are unknown."""
        recipe = self._lm.recipe
        given = recipe.reference is not None or recipe.quantize is not None
        return self._lm.recognised is not None and not given

    @contextmanager
    def ready(self, kind: Any = None) -> Iterator[Reference]:
        """The reference, for the length of the context.

        Args:
            kind: Class that loads another model; None for lm-eval's ``HFLM``.

        Raises:
            SettingsError: There is none.
            RuntimeError: Afterwards, the evaluated weights are not those from before.
        """
        with self._find(kind) as reference:
            yield reference
        lm = self._lm
        # Recognised: nothing changed places, and quantized weights may unpack when first used.
        if lm.recognised is None and survey_weights(lm.model).sha256 != lm.weights.sha256:
            raise RuntimeError(
                "Compressed weights were not restored after the dense reference ran (SHA-256 "
                "differs). This is a bug; please report the model and arguments."
            )

    def _find(self, kind: Any) -> AbstractContextManager[Reference]:
        lm = self._lm
        if lm.recipe.reference is not None:
            return nullcontext(_another_model(lm, lm.recipe.reference, kind))
        if lm.recipe.quantize is not None:
            given = ("revision", "subfolder")
            again = {key: lm.passed[key] for key in given if key in lm.passed}
            return nullcontext(_another_model(lm, lm.base_model, kind, **again))
        if self._is_missing:
            problem = _no_reference(lm.recognised)
            raise SettingsError(f"{problem[0].upper()}{problem[1:]}.")
        if lm.compression is None:
            return nullcontext(_itself(lm))
        if lm.prebuilt:
            raise SettingsError(
                "The model was given as an object and compressed in place, so its dense weights "
                "are gone. Give pretrained=NAME, or a dense model as reference=NAME."
            )
        return _dense_weights(lm, self._source)


def _itself(model: Any) -> Reference:
    """Reference of an uncompressed model: itself, with every divergence 0."""
    return Reference("itself: nothing was compressed", model, same=True)


@contextmanager
def _dense_weights(model: Any, source: DenseSource) -> Iterator[Reference]:
    """The evaluated model with its dense weights swapped in by ``ready()``.

    Args:
        model: A ``KickLM``.
        source: Of its dense weights.
    """
    from lmkick_plugin.loading.dense_weights import DenseWeights

    # What was not replaced is not kept.
    weights = DenseWeights(model.model, source.parameters(model.model, model.read_dense))
    yield Reference("its own dense weights", model, weights.in_place, once=source.once)


def _another_model(model: Any, name: str, kind: Any, **which: Any) -> Reference:
    """Another model, on the device of the evaluated one.

    Args:
        model: A ``KickLM``.
        name: Name or path of the other model.
        kind: Class that loads it; None for lm-eval's ``HFLM``.
        **which: Which checkpoint of that name: ``revision``, ``subfolder``.
    """
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    class CheckedHFLM(kind or HFLM):  # type: ignore[misc]  # lm_eval is untyped
        AUTO_MODEL_CLASS = CheckedLoader(AutoModelForCausalLM)

    how = {key: value for key, value in model.passed.items() if key not in _WHICH}
    how["max_length"] = model.max_length  # prompts are cut alike
    folder = bundled.model_folder(name)
    other = CheckedHFLM(pretrained=folder, tokenizer=model.tokenizer, batch_size=1, **how, **which)
    return Reference(name, other)


def _no_reference(found: Recognised) -> str:
    """Why an already compressed model cannot be compared with its dense weights."""
    method = found.scheme.method or found.scheme.storage
    by = "by lmkick" if found.manifest is not None else method if method != "dense" else "pruned"
    return (
        f"the checkpoint is already compressed ({by}), so its dense weights are not available: "
        f"name the dense model, reference={found.base_model or 'NAME'}"
    )


def check_reference(name: str, tokenizer: Any, config: Any, passed: Mapping[str, Any]) -> None:
    """Refuse a reference of another tokenizer or vocabulary, or of a shorter context than the run.

    Its config, its tokenizer and, of a folder, its weights are read; no model is made.

    Args:
        name: Name or path of the reference model.
        tokenizer: The evaluated model's.
        config: The evaluated model's.
        passed: The evaluated model's arguments for lm-eval's ``hf`` model.

    Raises:
        SettingsError: It cannot be read, its tokenizer or vocabulary size differs, or its context
            is too short.
        UnsupportedModelError: It is not a causal language model.
        NumericalError: It holds NaN or infinite weights.
    """
    from transformers import AutoConfig, AutoTokenizer

    remote = {"trust_remote_code": bool(passed.get("trust_remote_code"))}
    try:
        folder = bundled.model_folder(name)
        other = AutoTokenizer.from_pretrained(folder, **remote)
        other_config = AutoConfig.from_pretrained(folder, **remote)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"reference={name}: its config or tokenizer cannot be read. Give a saved model's "
            f"folder, or a model of the Hub. Cause: {error}"
        ) from error
    sizes = [_vocabulary(each) for each in (config, other_config)]
    if other.get_vocab() != tokenizer.get_vocab() or _cut(other) != _cut(tokenizer):
        reason = "its tokenizer differs from the evaluated model's"
    elif sizes[0] != sizes[1]:
        reason = f"it scores {sizes[1]} tokens and the evaluated model {sizes[0]}"
    else:
        check_causal(other_config, "causal", remote)
        given = passed.get("max_length")
        used = context_length(config, tokenizer) if is_unset(given) else int(str(given))
        context = context_length(other_config, other)
        if used is not None and context is not None and context < used:
            raise SettingsError(
                f"reference={name}: its context is {context} tokens, and the run uses {used}. Give "
                f"max_length={context}, or a reference of a longer context."
            )
        check_stored_weights(name, other_config, remote)
        return
    raise SettingsError(
        f"reference={name}: {reason}, so divergence is not defined. Give a model of the same "
        "tokenizer and vocabulary, or leave reference out to compare with the model's own dense "
        "weights."
    )


def _cut(tokenizer: Any) -> list[int]:
    return list(tokenizer(_PROBE)["input_ids"])


def _vocabulary(config: Any) -> int | None:
    return getattr(getattr(config, "text_config", None) or config, "vocab_size", None)
