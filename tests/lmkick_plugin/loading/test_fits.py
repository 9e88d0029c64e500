# SPDX-License-Identifier: Apache-2.0
"""Recipes against a config alone, before any weights are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from compressors.errors import SettingsError, UnsupportedModelError
from lmkick_plugin.loading.compress import check_before_load
from lmkick_plugin.recipe.arguments import parse_arguments

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
)


@pytest.mark.parametrize(
    ("group_size", "save_format", "message"),
    [
        (48, "compressed-tensors", r"q_proj is 64 wide.*group_size=48.*Use group_size=16, 32, -1"),
        (64, "compressed-tensors", r"down_proj is 96 wide.*group_size=64.*cannot hold"),
        (32, "compressed-tensors", None),
        (64, "gptq", None),
        (64, "dense", None),
    ],
)
def test_a_group_that_the_format_cannot_hold(
    group_size: int, save_format: str, message: str | None
) -> None:
    recipe, _ = parse_arguments(
        {
            "pretrained": "unread", "compressor": "rtn", "bits": 4, "group_size": group_size,
            "save_compressed": "unwritten", "save_format": save_format,
        }
    )  # fmt: skip
    if message is None:
        check_before_load(recipe, CONFIG, {})
        return
    with pytest.raises(UnsupportedModelError, match=message):
        check_before_load(recipe, CONFIG, {})


def test_without_saving_no_format_is_asked_for() -> None:
    recipe, _ = parse_arguments(
        {"pretrained": "unread", "compressor": "rtn", "bits": 4, "group_size": 48}
    )
    check_before_load(recipe, CONFIG, {})


@pytest.mark.parametrize(
    ("sparsities", "message"),
    [
        ({"model.layers.0": 0.5}, None),
        ({"model.layers.1": 0.5}, "the model has no block model.layers.1"),
    ],
)
def test_an_allocation_of_other_blocks(
    sparsities: dict[str, float], message: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "sparsities.json"
    path.write_text(json.dumps(sparsities))
    recipe, _ = parse_arguments(
        {
            "pretrained": "unread", "compressor": "magnitude", "sparsity": 0.5,
            "allocation": f"file:{path}",
        }
    )  # fmt: skip
    if message is None:
        check_before_load(recipe, CONFIG, {})
        return
    with pytest.raises(SettingsError, match=message):
        check_before_load(recipe, CONFIG, {})
