# SPDX-License-Identifier: Apache-2.0
"""Read the arguments of ``--model kick``, and check those that need no model config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lmkick_plugin import bundled
from lmkick_plugin.loading import checks, precompressed
from lmkick_plugin.recipe.arguments import parse_arguments
from lmkick_plugin.recipe.pretrained import check_pretrained
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.recipe.recipe import Recipe

__all__ = ["read_arguments"]


def read_arguments(given: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Split arguments into ours and those of lm-eval's ``hf`` model.

    Args:
        given: All arguments, with ``pretrained``: a name, a folder or a model.

    Returns:
        The recipe and the arguments for ``hf``, with the defaults that differ from its own: the
        first GPU or else the CPU as ``device``, and float32 as ``softmax_dtype``.

    Raises:
        SettingsError: An argument is unknown, contradicts another or cannot be met here.
    """
    pretrained = given.get("pretrained")
    if isinstance(pretrained, str):
        pretrained = checks.plain_path(bundled.model_folder(pretrained))
    recipe, passed = parse_arguments({**given, "pretrained": pretrained})
    if isinstance(pretrained, str) and is_unset(passed.get("device")):
        passed["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if "softmax_dtype" not in passed:
        passed["softmax_dtype"] = "float32"
    elif is_unset(passed["softmax_dtype"]):
        passed["softmax_dtype"] = None
    precompressed.check_gguf(pretrained, passed)
    check_pretrained(pretrained)
    checks.check_placement(passed)
    checks.check_adapter(passed)
    _ = recipe.seed  # several seeds: an error, before anything is loaded
    return recipe, passed
