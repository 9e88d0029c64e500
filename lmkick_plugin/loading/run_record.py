# SPDX-License-Identifier: Apache-2.0
"""The ``kick`` record of a loaded model."""

from __future__ import annotations

from typing import Any

import torch

from lmkick_plugin import bundled
from lmkick_plugin.loading import checks
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.record import build
from lmkick_plugin.record.weights import WeightSurvey

__all__ = ["base_model", "base_revision", "describe", "describe_evaluated"]


def base_model(lm: Any) -> str:
    """Name or path of the model that a ``KickLM`` loaded, or was given."""
    if not lm.prebuilt:
        return bundled.model_name(str(lm.passed["pretrained"]))
    return str(getattr(lm.config, "_name_or_path", "") or type(lm.model).__name__)


def base_revision(lm: Any) -> str | None:
    """Commit of the model that a ``KickLM`` loaded from the Hub; None for others."""
    return checks.base_revision(
        lm.passed["pretrained"],
        revision=str(lm.passed.get("revision") or "main"),
        subfolder=str(lm.passed.get("subfolder") or ""),
        cache_dir=lm.passed.get("cache_dir"),
    )


def _identity(lm: Any) -> build.BaseModel:
    if lm.compression is not None and lm.recognised is not None:
        base = lm.recognised.base_model
        if base is not None:
            return build.BaseModel(name=base)
    given = {name: lm.passed.get(name) for name in ("revision", "subfolder", "peft", "delta")}
    known = {name: None if is_unset(value) else str(value) for name, value in given.items()}
    return build.BaseModel(
        name=base_model(lm),
        commit=base_revision(lm),
        revision=None if known["revision"] == "main" else known["revision"],
        subfolder=known["subfolder"],
        adapter=known["peft"] or known["delta"],
    )


def describe(lm: Any, survey: WeightSurvey) -> dict[str, Any]:
    """The record of a model whose weights are surveyed.

    Args:
        lm: A ``KickLM``, which may still be compressing.
        survey: Of its weights.
    """
    made = lm.compression
    again = lm.recognised if made is not None else None
    return build.build_record(
        recipe=lm.recipe,
        survey=survey,
        report=None if made is None else made.report,
        calibration_shape=None if made is None else made.calibration_shape,
        calibration_sources=None if made is None else made.calibration_sources,
        base=_identity(lm),
        earlier=() if again is None else again.steps(),
        dtype=str(lm.model.dtype).removeprefix("torch."),
        device=build.device_name(torch.device(lm.device)),
        chat_template=lm.chat_template_used,
        truncated_prompts=lm.truncated_prompts,
    )


def describe_evaluated(lm: Any) -> dict[str, Any]:
    """The record of a model after its evaluation, with what was found out about its checkpoint."""
    record = describe(lm, lm.weights)
    if lm.recognised is not None and lm.compression is None:
        record = lm.recognised.complete(record, element_size=lm.model.dtype.itemsize)
    record["profile"] = lm.profile
    return record
