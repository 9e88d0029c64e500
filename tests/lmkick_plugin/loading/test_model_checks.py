# SPDX-License-Identifier: Apache-2.0
"""Tokenizers that do not go with a model are refused before its weights are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from compressors import SettingsError
from lmkick_plugin.model import KickLM

CPU: dict[str, Any] = {"device": "cpu", "batch_size": 3}


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path, no_weights: None) -> Path:
    """A copy of the tiny model, whose weights must not be asked for."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_a_tokenizer_without_special_tokens(folder: Path, tiny_model_dir: Path) -> None:
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    edit(folder / "tokenizer_config.json", **dict.fromkeys(names, ...))
    with pytest.raises(SettingsError, match=r"names no EOS token.*tokenizer=NAME"):
        KickLM(pretrained=str(folder), **CPU)
    with pytest.raises(AssertionError, match="weights were loaded"):
        KickLM(pretrained=str(folder), tokenizer=str(tiny_model_dir), **CPU)


def test_a_tokenizer_larger_than_the_vocabulary(folder: Path) -> None:
    with pytest.raises(AssertionError, match="weights were loaded"):
        KickLM(pretrained=str(folder), **CPU)
    edit(folder / "config.json", vocab_size=100)
    with pytest.raises(SettingsError, match=r"has token 102, .*only 100 tokens.*tokenizer=NAME"):
        KickLM(pretrained=str(folder), **CPU)


def test_added_tokens_that_no_text_holds_are_no_error(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(60)])
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > 128
    with pytest.raises(AssertionError, match="weights were loaded"):
        KickLM(pretrained=str(folder), **CPU)
    tokenizer.pad_token = "<extra_59>"  # as every batch would hold it
    tokenizer.save_pretrained(folder)
    with pytest.raises(SettingsError, match="has token"):
        KickLM(pretrained=str(folder), **CPU)
