# SPDX-License-Identifier: Apache-2.0
"""Support check for greedy decoding and sampling equal to ``generate``: requests and models.

transformers is asked itself: ``generate`` prepares everything for a prompt of one token, and hands
over what it would decode with, just before it would.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.utils import GenerationMixin

from lmkick_plugin.inference.continuous_batching import DecodingModel
from lmkick_plugin.inference.sampling import Warp

__all__ = ["Decoding", "find_decoding"]

#: Supported arguments of a forward pass.
_ARGUMENTS = {
    "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep",
}  # fmt: skip
#: Parts of ``generate`` that some models replace by their own.
_OVERRIDABLE = (
    "generate", "prepare_inputs_for_generation", "_update_model_kwargs_for_generation", "_sample",
    "_prefill", "_prepare_cache_for_generation", "_prepare_position_ids_for_generation",
)  # fmt: skip


#: Changes of scores that need nothing but a row's scores.
_ROW_BY_ROW = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding settings of some requests.

    Attributes:
        model: What a forward pass needs.
        warp: Changes scores before a token is sampled; None for greedy decoding.
        ends: Token ids that end an answer.
        window: Tokens that every layer sees; None: all. Longer rows are not for us.
    """

    model: DecodingModel
    warp: Warp | None
    ends: frozenset[int]
    window: int | None


def find_decoding(lm: Any, settings: Mapping[str, Any], limit: int) -> Decoding | str:
    """Decoding settings of requests, or why they are not supported.

    Args:
        lm: An lm-eval ``hf`` model.
        settings: Generation settings, as lm-eval has normalised them, without ``until`` and
            ``max_gen_toks``.
        limit: Tokens to generate, at most.

    Returns:
        What is needed, or a reason in words.
    """
    model: Any = lm.model
    if lm.backend != "causal" or not issubclass(type(model), GenerationMixin):
        return "not a causal language model of transformers"
    for name in _OVERRIDABLE:
        own, usual = getattr(type(model), name, None), getattr(GenerationMixin, name, None)
        if own is not usual:
            return f"{type(model).__name__} brings its own {name}"
    if lm.eot_token_id is None:
        return "its tokenizer has no end-of-text token"
    prepared = _prepared(lm, settings, limit)
    if isinstance(prepared, str):
        return prepared
    reason = _why_not(model, prepared, limit)
    if reason:
        return reason
    cache = prepared["past_key_values"]
    windows = [layer.sliding_window for layer in cache.layers if layer.is_sliding]
    ends = [
        criterion.eos_token_id
        for criterion in prepared["stopping_criteria"]
        if isinstance(criterion, EosTokenCriteria)
    ]
    return Decoding(
        model=DecodingModel(
            forward=model,
            device=model.device,
            layers=len(cache.layers),
            takes_positions="position_ids" in prepared,
            # With a sliding window, too: rows that would outgrow it are left to hf (generation.py).
            shares_prefixes="position_ids" in prepared,
            extra={name: prepared[name] for name in ("logits_to_keep",) if name in prepared},
            while_decoding=getattr(model, "_optimize_model_for_decode", nullcontext),
        ),
        warp=prepared["logits_processor"] if _mode(prepared) == GenerationMode.SAMPLE else None,
        ends=frozenset(torch.cat(ends).tolist()) if ends else frozenset(),
        window=min(windows, default=None),
    )


def _prepared(lm: Any, settings: Mapping[str, Any], limit: int) -> dict[str, Any] | str:
    """Configuration that ``generate`` would decode with."""

    def catch(
        _model: Any,
        _input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **others: Any,
    ) -> dict[str, Any]:
        return {
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "generation_config": generation_config,
            **others,
        }

    prompt = torch.full((1, 1), lm.eot_token_id, device=lm.device)
    try:
        prepared = lm._model_generate(
            prompt,
            max_length=1 + limit,
            stop=[],
            attention_mask=torch.ones_like(prompt),
            custom_generate=catch,
            **settings,
        )
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        # hf will say it, too, if it cannot either.
        return f"generate does not take the settings: {error}"
    return prepared if isinstance(prepared, dict) else "generate chose no decoding mode"


def _why_not(model: Any, prepared: Mapping[str, Any], limit: int) -> str | None:
    """First difference to ``generate``; None where there is none."""
    config = prepared["generation_config"]
    if _mode(prepared) not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        return "its settings ask for more than greedy decoding or sampling"
    others = [one for one in prepared["logits_processor"] if type(one) not in _ROW_BY_ROW]
    if others:
        names = ", ".join(type(one).__name__ for one in others)
        return f"its generation config changes the scores of tokens ({names})"
    criteria = prepared["stopping_criteria"]
    if any(type(one) not in (MaxLengthCriteria, EosTokenCriteria) for one in criteria):
        names = ", ".join(type(one).__name__ for one in criteria)
        return f"its generation config has other stopping criteria ({names})"
    if config.max_length != 1 + limit:
        return f"its generation config limits answers to {config.max_length - 1} tokens"
    if config.return_dict_in_generate or config.prefill_chunk_size or config.token_healing:
        return "its generation config asks for more than answers"
    unknown = set(prepared) - _ARGUMENTS - {
        "logits_processor", "stopping_criteria", "generation_config", "synced_gpus",
    }  # fmt: skip
    if unknown or not prepared.get("use_cache") or prepared.get("synced_gpus"):
        return (
            f"its forward pass needs more than tokens ({', '.join(sorted(unknown)) or 'no cache'})"
        )
    return _cache_problem(prepared.get("past_key_values")) or _position_problem(model, prepared)


def _mode(prepared: Mapping[str, Any]) -> GenerationMode:
    mode: GenerationMode = prepared["generation_config"].get_generation_mode()
    return mode


def _cache_problem(cache: Any) -> str | None:
    if type(cache) is not DynamicCache or cache.offloading or not cache.layers:
        return f"rows cannot be added to its {type(cache).__name__}"
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return f"rows cannot be added to its {type(layer).__name__}"
    return None


def _position_problem(model: Any, prepared: Mapping[str, Any]) -> str | None:
    """Models where a row's tokens depend on the lengths of the other rows."""
    config = model.config.get_text_config(decoder=True)
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()) or getattr(
        config, "attention_chunk_size", None
    ):
        return "its attention is in chunks"
    kinds = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    if "'dynamic'" in kinds or "'longrope'" in kinds:
        return "its rotary positions depend on the longest row of a batch"
    # Decoders of Bart's kind number a row's columns, whatever their mask says.
    if "position_ids" not in prepared and any(
        "PositionalEmbedding" in type(part).__name__ for part in model.modules()
    ):
        return "its positions count the padding of a batch"
    return None
