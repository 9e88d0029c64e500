# SPDX-License-Identifier: Apache-2.0
"""Guard ``--use_cache`` against answers of another model.

lm-eval's key for a cached answer holds the request and no model: two compressions that share a
cache file would return each other's answers. So the file gets one more row, a fingerprint of the
model that fills it. A run of lm-eval's ``hf`` model does not look at that row, so it must not share
a file with ``kick``.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from compressors.errors import SettingsError

__all__ = ["FINGERPRINT_KEY", "guard_cache"]

#: Key of the fingerprint's row; lm-eval's own keys are SHA-256 hex digits.
FINGERPRINT_KEY = "lmkick:fingerprint"


def guard_cache(cache: MutableMapping[str, Any], fingerprint: dict[str, Any]) -> bool:
    """Claim a cache of answers for this model; refuse another model's.

    Args:
        cache: lm-eval's cache of answers (a ``SqliteDict``).
        fingerprint: What decides a model's answers, as plain values.

    Returns:
        Whether the cache already holds answers of this very model.

    Raises:
        SettingsError: Its answers come from another model, or from an unknown one.
    """
    where = getattr(cache, "filename", "the cache")
    remedy = "Use another file (--use_cache ANOTHER_PATH), or delete this one."
    stored = cache.get(FINGERPRINT_KEY)
    if stored is None:
        if len(cache) > 0:
            raise SettingsError(
                f"{where} holds answers of an unnamed model, which lm-eval would return as this "
                f"model's. {remedy}"
            )
        cache[FINGERPRINT_KEY] = fingerprint
        return False
    if stored != fingerprint:
        names = sorted(
            name for name in {*stored, *fingerprint} if stored.get(name) != fingerprint.get(name)
        )
        differences = "; ".join(
            f"{name}: {stored.get(name)!r} there, {fingerprint.get(name)!r} here" for name in names
        )
        raise SettingsError(
            f"{where} holds answers of another model, which lm-eval would return as this model's "
            f"({differences}). {remedy}"
        )
    return len(cache) > 1


def fingerprint(lm: Any) -> dict[str, Any]:
    """Values that decide a model's answers.

    Args:
        lm: A ``KickLM``.
    """
    return {
        "base_model": lm.base_model,
        "compressor": lm.recipe.compressor,
        "weights_sha256": lm.weights.sha256,
        "dtype": str(lm.model.dtype),
        "softmax_dtype": str(lm.softmax_dtype),
        "mixed_precision_dtype": str(lm.mixed_precision_dtype),
        "max_length": lm.max_length,
        "tokenizer": lm.tokenizer_name,
        "add_bos_token": lm.add_bos_token,
        "prefix_token_id": lm.custom_prefix_token_id,
        "think_end_token": lm.think_end_token,
        "prefix_reuse": lm.prefix_reuse,
    }
