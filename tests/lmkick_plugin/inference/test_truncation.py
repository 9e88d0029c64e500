# SPDX-License-Identifier: Apache-2.0
"""Cut prompts are said in one line, rolling log-likelihood has one bar; ``hf`` is the control."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

LONG = [(f"{number} {SENTENCE * 12}", " A") for number in range(6)]


@pytest.fixture(scope="module", params=[HFLM, KickLM])
def model(request: pytest.FixtureRequest, tiny_model_dir: Path) -> Any:
    return request.param(pretrained=str(tiny_model_dir), device="cpu", batch_size=2)


def test_cut_prompts_are_one_line(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model.loglikelihood(make_requests("loglikelihood", LONG, "long"), disable_tqdm=True)
    # Not transformers' one remark that a text is long.
    lines = [entry.getMessage() for entry in caplog.records if "transformers" not in entry.name]
    if isinstance(model, KickLM):
        (line,) = lines
        assert "6 prompts exceeded the context of 512 tokens" in line
        assert "long 6" in line
    else:
        assert len(lines) == 6


def test_prompts_that_fit_are_not_mentioned(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model.loglikelihood(make_requests("loglikelihood", [("a", " A")], "s"), disable_tqdm=True)
    assert not caplog.records


def test_rolling_shows_one_bar(model: Any, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [(SENTENCE * 12,) for _ in range(5)]
    model.loglikelihood_rolling(make_requests("loglikelihood_rolling", texts, "rolling"))
    shown = capfd.readouterr().err
    bars = shown.count("Running loglikelihood requests: 100%")
    if isinstance(model, KickLM):
        assert bars == 0
        # One line, drawn over and over, that ends full.
        assert shown.count("\n") == 1
        assert shown.rstrip().split("\r")[-1].startswith("log-likelihoods (rolling): 100%")
    else:
        assert bars > 1
