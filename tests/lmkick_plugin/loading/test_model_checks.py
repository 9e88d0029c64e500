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
from lmkick_plugin.preflight.models import check_stored

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


TOO_SHORT = [
    (128, {}, r"is 128 tokens.*run uses 512.*max_length=128,"),
    (128, {"max_length": 129}, r"is 128 tokens.*run uses 129"),
    (1024, {"max_length": 2000}, r"is 1024 tokens.*run uses 2000"),
]
LONG_ENOUGH: list[tuple[int, dict[str, Any]]] = [
    (512, {}), (128, {"max_length": 128}), (1024, {}), (512, {"max_length": "none"}),
]  # fmt: skip


@pytest.mark.parametrize(("context", "how", "said"), TOO_SHORT)
def test_a_reference_of_a_shorter_context(
    folder: Path, tiny_model_dir: Path, context: int, how: dict[str, int], said: str
) -> None:
    edit(folder / "config.json", max_position_embeddings=context)
    with pytest.raises(SettingsError, match=said):
        KickLM(pretrained=str(tiny_model_dir), reference=str(folder), **how, **CPU)


@pytest.mark.parametrize(("context", "how"), LONG_ENOUGH)
def test_a_reference_whose_context_suffices(
    folder: Path, tiny_model_dir: Path, context: int, how: dict[str, Any]
) -> None:
    edit(folder / "config.json", max_position_embeddings=context)
    with pytest.raises(AssertionError, match="weights were loaded"):
        KickLM(pretrained=str(tiny_model_dir), reference=str(folder), **how, **CPU)


def test_a_sweep_refuses_a_reference_of_a_shorter_context(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    edit(other / "config.json", max_position_embeddings=128)
    arguments = {"pretrained": str(tiny_model_dir), "reference": str(other)}
    config = transformers.AutoConfig.from_pretrained(tiny_model_dir)
    check_stored({**arguments, "max_length": 128}, config)
    with pytest.raises(SettingsError, match=r"is 128 tokens.*run uses 512"):
        check_stored(arguments, config)
