# SPDX-License-Identifier: Apache-2.0
"""Adapters are merged, offloaded weights refused, and compressed models spread over devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compressors import NumericalError, SettingsError, UnsupportedModelError
from lmkick_plugin.loading.placement import merge_adapter, refuse_offloaded, spread
from lmkick_plugin.model import KickLM
from lmkick_plugin.record.weights import survey_weights
from tests.conftest import make_tiny_llama

TOKENS = torch.arange(3, 60).unsqueeze(0)


def test_a_spread_model_is_the_same_model(tmp_path: Path) -> None:
    model = make_tiny_llama()
    survey, logits = survey_weights(model), model(TOKENS).logits
    room = sum(weight.nbytes for weight in model.parameters()) * 2 // 3
    limits = {"device_map": "auto", "max_memory": {"cpu": room}, "offload_folder": str(tmp_path)}
    asked: dict[str, Any] = {}
    moved = spread(
        model,
        lambda **given: asked.update(given) or limits,
        {"parallelize": True, "offload_folder": str(tmp_path), "gpus": 0, "dtype": "auto"},
    )
    assert asked["parallelize"] is True
    assert "dtype" not in asked
    assert any(weight.is_meta for weight in moved.parameters())
    assert survey_weights(moved) == survey
    assert torch.equal(moved(TOKENS).logits, logits)
    with pytest.raises(UnsupportedModelError, match=r"weights are offloaded.*parallelize=true"):
        refuse_offloaded(moved)


def test_without_other_devices_a_model_stays() -> None:
    model = make_tiny_llama()
    nowhere = {"device_map": "auto", "max_memory": {}, "offload_folder": "unused"}
    assert spread(model, lambda **given: nowhere, {}) is model
    refuse_offloaded(model)


def test_parallelize_compresses_all_the_same(tiny_model_dir: Path) -> None:
    settings: dict[str, Any] = {
        "pretrained": str(tiny_model_dir),
        "device": "cpu",
        "compressor": "magnitude",
        "sparsity": 0.5,
    }
    plain, parallel = KickLM(**settings), KickLM(parallelize=True, **settings)
    assert parallel.weights == plain.weights


# peft itself calls what transformers has deprecated.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_adapters_without_weights_of_their_own_are_refused() -> None:
    import peft

    wanted = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(make_tiny_llama(), wanted)
    with pytest.raises(UnsupportedModelError, match=r"PROMPT_TUNING cannot be merged"):
        merge_adapter(model)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("compressor", ["none", "magnitude"])
def test_an_adapter_is_whole_or_refused(
    tiny_model_dir: Path, tmp_path: Path, compressor: str
) -> None:
    import peft
    from safetensors.torch import load_file, save_file

    wanted = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(make_tiny_llama(), wanted).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    settings: dict[str, Any] = {
        "pretrained": str(tiny_model_dir), "device": "cpu", "peft": str(tmp_path),
        "compressor": compressor,
    }  # fmt: skip
    if compressor != "none":
        settings["sparsity"] = 0.5
    KickLM(**settings)
    first, *others = sorted(whole)
    save_file({name: whole[name] for name in others}, file)
    with pytest.raises(SettingsError, match=r"peft=.*: 1 tensors are missing .*layers.0.*lora_A"):
        KickLM(**settings)
    save_file({**whole, first: whole[first] * float("nan")}, file)
    with pytest.raises(NumericalError, match=r"lora_A.* hold NaN|hold NaN .*lora_A"):
        KickLM(**settings)
