# SPDX-License-Identifier: Apache-2.0
"""``from_pretrained`` that refuses missing, mismatched and non-finite tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from compressors.errors import NumericalError, SettingsError, UnsupportedModelError
from lmkick_plugin.checkpoints.safetensors_headers import Shards
from lmkick_plugin.record.weights import is_finite, refuse_not_finite, require_finite

__all__ = ["CheckedLoader", "check_files", "untie_where_different"]

logger = logging.getLogger(__name__)


class CheckedLoader:
    """An auto class of transformers that refuses checkpoints which do not match their config.

    transformers fills a tensor that the files lack with random numbers and goes on.
    """

    def __init__(self, auto_class: Any) -> None:
        """Store the class; nothing is loaded.

        Args:
            auto_class: ``AutoModelForCausalLM``, or another class with ``from_pretrained``.
        """
        self._auto_class = auto_class

    def from_pretrained(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model.

        Args:
            name: Of the Hub, or a folder.
            *args: Of the auto class.
            **kwargs: Of the auto class.

        Raises:
            SettingsError: Tensors are missing or of another shape than the config says.
            NumericalError: Weights are NaN or infinite, or its scores NaN.
            UnsupportedModelError: It is not a causal language model.
        """
        model, info = self._auto_class.from_pretrained(
            name, *args, output_loading_info=True, **kwargs
        )
        _require_all(str(name), info)
        require_finite(model, str(name))
        untie_where_different(model)
        if getattr(model, "hf_quantizer", None) is None:  # whose weights may unpack when first used
            _require_causal(model, str(name))
        return model


def check_files(folder: Path, **options: Any) -> None:
    """Refuse the files that :class:`CheckedLoader` refuses, without the memory that loading takes.

    Args:
        folder: A local checkpoint, not quantized.
        **options: Of ``from_pretrained``: which checkpoint that is.

    Raises:
        SettingsError: Tensors are missing or of another shape than the config says.
        NumericalError: Weights are NaN or infinite.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, device_map="meta", **options
    )
    _, info = loaded
    _require_all(str(folder), info)
    stored = Shards.open(folder / str(options.get("subfolder") or ""))
    if stored is not None:
        refuse_not_finite(
            str(folder), (name for name in stored.tensors if not is_finite(stored.read(name)))
        )


def _require_all(name: str, info: Mapping[str, Any]) -> None:
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise SettingsError(
            f"{name}: {len(missing)} tensors are missing from its files ({_some(missing)}) and "
            "would be random. Copy or download the checkpoint again, or correct its config.json "
            "(num_hidden_layers, tie_word_embeddings)."
        )
    mismatched = sorted(str(key[0]) for key in info.get("mismatched_keys") or ())
    if mismatched:
        raise SettingsError(
            f"{name}: {len(mismatched)} tensors differ in shape from config.json "
            f"({_some(mismatched)}) and would be random. Correct config.json, or leave out "
            "ignore_mismatched_sizes."
        )
    unexpected = sorted(info.get("unexpected_keys") or ())
    if unexpected:
        logger.warning(
            "%s: %d tensors of its files are not used (%s). Is num_hidden_layers in its "
            "config.json too small?",
            name, len(unexpected), _some(unexpected),
        )  # fmt: skip


def untie_where_different(model: Any) -> None:
    """Untie embeddings where ``tie_word_embeddings`` contradicts the weights.

    Args:
        model: Of transformers.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    configs = [model.config, getattr(model.config, "text_config", None)]
    tied = [one for one in configs if getattr(one, "tie_word_embeddings", False)]
    one, other = (getattr(module, "weight", None) for module in (head, embeddings))
    if not tied or one is None or other is None or one is other:
        return
    for config in tied:
        config.tie_word_embeddings = False
    logger.warning(
        "config.json says tie_word_embeddings, but the output matrix in the files differs from "
        "the embeddings: not tied."
    )


def _require_causal(model: Any, name: str) -> None:
    """Refuse a model that attends to later tokens, such as BERT without ``is_decoder``."""
    if getattr(model.config, "is_decoder", False) and not model.config.architectures:
        logger.warning(
            "%s: is_decoder in its config.json is believed: no architectures there say what the "
            "weights were trained for.",
            name,
        )
    rows = torch.tensor([[[1, 2, 3]], [[1, 2, 4]]], device=model.device)
    with torch.no_grad():
        # Apart: the rows of one batch may go through kernels that round differently.
        one, other = (
            model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].float()
            for row in rows
        )
    if bool(one.isnan().any()):
        raise NumericalError(
            f"{name}: its scores are NaN though its weights are finite. Check the numbers in its "
            "config.json (rms_norm_eps, rope parameters, scales); where dtype=float16 overflows, "
            "use bfloat16 or float32."
        )
    before = float((one[:2] - other[:2]).abs().max())
    there = float((one[2] - other[2]).abs().max())
    allowed = 1e-3 if model.dtype in (torch.float32, torch.float64) else 5e-2
    if before > allowed * there:
        raise UnsupportedModelError(
            f"{name}: {type(model).__name__} attends to later tokens, so it is not a causal "
            "language model. Choose a causal one, or set is_decoder in its config.json if it was "
            "trained as one."
        )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
