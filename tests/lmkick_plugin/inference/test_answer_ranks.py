# SPDX-License-Identifier: Apache-2.0
"""Ranks and bits of known answers against a plain loop over transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

PROMPT = (SENTENCE * 2).rstrip()


def test_equals_a_plain_loop(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = SENTENCE.split()
    names = [f" {words[0]}", f" {words[1]} {words[2]} {words[3]}", f" {words[4]} {words[5]}"]
    model = KickLM(pretrained=str(tiny_model_dir), device="cpu", batch_size=2)
    (found,) = model.ranks(make_requests("ranks", [(PROMPT, {"names": names})]))

    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    start = len(tokenizer(PROMPT).input_ids)
    expected = []
    for name in names:
        ids = tokenizer(PROMPT + name).input_ids
        with torch.no_grad():
            logs = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        values = [float(logs[at - 1, ids[at]]) for at in range(start, len(ids))]
        first = logs[start - 1]
        rank = 1 + sum(float(value) > values[0] for value in first)
        expected.append((-sum(values) / math.log(2), math.exp(values[0]), rank, name.strip()))
    bits, probability, rank, name = min(expected)
    assert found["bits"] == pytest.approx(bits, rel=1e-4)
    assert found["probability"] == pytest.approx(probability, rel=1e-4)
    assert (found["rank"], found["name"]) == (rank, name)
    assert len({round(one[0], 3) for one in expected}) == 3  # there was something to choose from
