# SPDX-License-Identifier: Apache-2.0
"""Answers of an evaluated model's dense reference to ``generate_until`` and ``turns`` requests."""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import CacheHook

from lmkick_plugin.inference.conversations import answer_turns
from lmkick_plugin.inference.truncation import fit_generation

__all__ = ["ask_dense"]


def ask_dense(lm: Any, requests: list[Any]) -> list[Any]:
    """Let the dense reference answer; its answers enter no cache of answers.

    Args:
        lm: A ``KickLM``.
        requests: All of one type, ``generate_until`` or ``turns``.

    Raises:
        SettingsError: The dense weights are gone, and no reference is named.
        RuntimeError: The compressed weights were not restored afterwards.
    """
    hook, lm.cache_hook = lm.cache_hook, CacheHook(None)
    try:
        with lm.reference.ready() as reference, reference.ready():
            dense = reference.model
            if requests and requests[0].request_type == "turns":
                return list(answer_turns(dense, requests))
            return list(dense.generate_until(fit_generation(requests, dense.max_length)))
    finally:
        lm.cache_hook = hook
