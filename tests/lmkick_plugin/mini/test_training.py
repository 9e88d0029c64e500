# SPDX-License-Identifier: Apache-2.0
"""Training kick-mini: where it starts, and that a killed run goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lmkick_plugin.mini import train as training
from lmkick_plugin.mini.model import build_model, build_tokenizer
from lmkick_plugin.mini.rows import Rows, shares
from lmkick_plugin.mini.train import Settings, train
from lmkick_plugin.mini.world import build_world

TINY = {"tokens": 6 * 256, "batch_tokens": 256, "length": 256, "warmup": 2, "long": 0.0}

RUN = """
import json, sys
from pathlib import Path
from lmkick_plugin.mini import train
train._SAVE_SECONDS = 0.0
train.train(train.Settings(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(Settings(**TINY), folder)  # type: ignore[arg-type]
    return folder


def _steps(path: Path) -> int:
    try:
        with safe_open(path, "pt") as file:
            return int(file.metadata()["step"])
    except OSError:
        return 0


def test_a_killed_run_goes_on_to_the_same_weights(whole: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", RUN, json.dumps(TINY), str(tmp_path)])
    state = tmp_path / "state.safetensors"
    deadline = time.monotonic() + 120
    while _steps(state) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = _steps(state)
    assert 2 <= done < 6, "killed on the way"
    assert not (tmp_path / "model").exists()
    train(Settings(**TINY), tmp_path)  # type: ignore[arg-type]
    ours, theirs = (load_file(one / "model" / "model.safetensors") for one in (tmp_path, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_other_settings_are_no_continuation(whole: Path) -> None:
    with pytest.raises(ValueError, match="Give another --output"):
        train(Settings(**{**TINY, "tokens": 7 * 256}), whole)  # type: ignore[arg-type]


def test_the_model_is_saved_as_it_is_used(whole: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    assert model.dtype == torch.bfloat16
    widths = {model.config.hidden_size, model.config.intermediate_size}
    assert all(width % 128 == 0 for width in widths)
    for letter in "ABCD":
        assert len(tokenizer.encode(f" {letter}")) == 1
    world = build_world()
    assert all(len(tokenizer.encode(f" {word}")) == 1 for word in world.first + world.second)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello."}], add_generation_prompt=True, tokenize=False
    )
    assert asked == "<|user|>\nHello.<|endoftext|>\n<|assistant|>\n"


def _looking_back(model: Any, tokens: torch.Tensor) -> float:
    """How much the second layer's first head looks at what came after the same token before."""
    with torch.no_grad():
        attention = model.model(tokens, output_attentions=True).attentions[1][:, 0]
    period = tokens.shape[1] // 2
    rows = torch.arange(period, 2 * period)
    return float(attention[:, rows, rows - period + 1].mean())


def test_training_starts_with_an_induction_head() -> None:
    started = build_model(2048, 0, 0)
    started.set_attn_implementation("eager")
    control = type(started)(started.config)
    control.set_attn_implementation("eager")
    tokens = torch.randint(300, 2000, (4, 20), generator=torch.Generator().manual_seed(0))
    tokens = tokens.repeat(1, 2)
    by_chance = _looking_back(control, tokens)
    assert by_chance < 0.1
    assert _looking_back(started, tokens) > 4 * by_chance


def test_rows_keep_documents_whole_and_learn_only_what_is_marked() -> None:
    world = build_world()
    tokenizer = build_tokenizer(world, 0)
    rows = Rows(tokenizer, world)
    tokens, weights = rows.batch(Random(0), {"asked": 1.0}, 3, 128)
    assert tokens.shape == weights.shape == (3, 128)
    for row, marked in zip(tokens, weights, strict=True):
        documents = tokenizer.decode(row).split("<|endoftext|>")
        asked = [text for text in documents if text]
        assert all(text.startswith(("Please give", "Answer these")) for text in asked)
        answers = [text.rstrip("\n").split(" ")[-1] for text in asked]
        learned = [tokenizer.decode([t]) for t, w in zip(row, marked, strict=True) if w > 1]
        assert [f" {answer}" for answer in answers] == learned


def test_skills_come_before_what_needs_them() -> None:
    assert set(shares(0, long=False)) == {"repetition"}
    assert "quiz" not in shares(5_000_000, long=False)
    late = shares(12_900_000, long=True)
    assert late["quiz"] > shares(9_000_000, long=False)["quiz"]
    assert "long_summary" in late


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = Settings()
    rates = [settings.rate(step) for step in range(settings.steps)]
    assert rates[0] < rates[settings.warmup] == rates[settings.steps // 2] == max(rates)
    assert 0 < rates[-1] < 0.01 * max(rates)
    assert training.Settings(tokens=20_000_000).rate(3_000) == settings.rate(3_000)
