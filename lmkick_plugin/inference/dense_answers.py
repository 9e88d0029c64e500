# SPDX-License-Identifier: Apache-2.0
"""Answers of an evaluated model's dense reference to ``generate_until`` and ``turns`` requests."""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import CacheHook

from lmkick_plugin.inference.conversations import answer_turns
from lmkick_plugin.inference.hf import FastHFLM

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
        with lm.reference.ready(FastHFLM) as reference, reference.ready():
            dense = reference.model
            # Another model's thoughts are removed as the evaluated one's are, and by the same code.
            dense.prefix_reuse = lm.prefix_reuse
            dense.chat_template_used = lm.chat_template_used
            if requests and requests[0].request_type == "turns":
                return list(answer_turns(dense, requests))
            return list(dense.generate_until(requests))
    finally:
        lm.cache_hook = hook
