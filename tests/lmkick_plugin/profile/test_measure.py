# SPDX-License-Identifier: Apache-2.0
"""Rates are tokens over seconds of the passes that were really run."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors.errors import SettingsError
from lmkick_plugin.profile import measure
from lmkick_plugin.profile.measure import Spread, profile_model
from tests.conftest import make_tiny_llama


def lengths(model: Any) -> list[tuple[int, int]]:
    """Batch and tokens of every forward pass from now on."""
    seen: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda _, given, named: seen.append(tuple((given or (named["input_ids"],))[0].shape)),
        with_kwargs=True,
    )
    return seen


def test_rates_follow_from_tokens_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_llama()
    seen, clock = lengths(model), count()
    monkeypatch.setattr(measure, "_now", lambda _: float(next(clock)))  # a second between readings
    found = profile_model(model, batch_size=3, prompt_tokens=10, new_tokens=5, repeats=2)
    assert seen == [(3, 10), *[(3, 1)] * 4] * 3  # a warm-up and two repeats
    assert found.prefill == Spread(30.0, 30.0, 30.0)
    assert found.decode == Spread(12.0, 12.0, 12.0)
    assert found.first_token.median == 1.0
    assert (found.repeats, found.storage, found.disk_bytes) == (2, "dense", None)
    stored = [*model.parameters(), *model.buffers()]
    assert found.memory_bytes == sum(tensor.nbytes for tensor in stored)
    assert found.to_record()["prefill"]["median"] == 30.0


def test_tokens_are_those_of_greedy_decoding() -> None:
    model = make_tiny_llama()
    fed: list[int] = []
    prompt = torch.randint(
        model.config.vocab_size, (1, 10), generator=torch.Generator().manual_seed(0)
    )
    expected = model.generate(prompt, max_new_tokens=6, do_sample=False, eos_token_id=None)
    model.register_forward_pre_hook(lambda _, given: fed.append(int(given[0][0, -1])))
    profile_model(model, prompt_tokens=10, new_tokens=6, repeats=1)
    assert fed[-6:] == expected[0, 9:15].tolist()


def test_repeats_end_with_the_time_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_BUDGET", 0.0)
    assert profile_model(make_tiny_llama(), prompt_tokens=4, new_tokens=2, repeats=50).repeats == 2


def test_bytes_on_disk(tmp_path: Path) -> None:
    model = make_tiny_llama()
    model.save_pretrained(tmp_path)
    found = profile_model(model, prompt_tokens=4, new_tokens=2, repeats=1, folder=tmp_path)
    assert found.disk_bytes == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"new_tokens": 1}, "new_tokens=1: expected at least 2"),
        ({"repeats": 0}, "repeats=0"),
        ({"prompt_tokens": 10**6}, "exceed the model's context"),
    ],
)
def test_sizes_that_make_no_sense(sizes: dict[str, int], words: str) -> None:
    model = make_tiny_llama()
    seen = lengths(model)
    with pytest.raises(SettingsError, match=words):
        profile_model(model, **sizes)
    assert seen == []
