# SPDX-License-Identifier: Apache-2.0
"""The hash of a model's weights tells every change, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmkick_plugin.record.weights import survey_weights
from tests.conftest import make_tiny_llama


class Tied(nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.first.weight)
        nn.init.eye_(self.second.weight)
        if tied:
            self.second.weight = self.first.weight


def test_counts() -> None:
    model = make_tiny_llama()
    parameters = list(model.parameters())
    total = sum(weight.numel() for weight in parameters)
    assert survey_weights(model).total == total == survey_weights(model).nonzero + 64
    parameters[1].data[0, :5] = 0
    survey = survey_weights(model)
    assert (survey.total, survey.nonzero) == (total, total - 64 - 5)
    assert survey.bytes == 4 * total
    assert survey_weights(model.bfloat16()).bytes == 2 * total


def test_tied_weights_count_once_and_hash_as_if_apart() -> None:
    tied, apart = survey_weights(Tied(tied=True)), survey_weights(Tied(tied=False))
    assert tied.sha256 == apart.sha256
    assert (tied.total, tied.nonzero, tied.bytes) == (16, 4, 64)
    assert (apart.total, apart.nonzero, apart.bytes) == (32, 8, 128)


def test_every_change_shows() -> None:
    model = make_tiny_llama()
    seen = {survey_weights(model).sha256}
    assert survey_weights(make_tiny_llama()).sha256 in seen
    for weight in model.parameters():
        weight.data.view(-1)[-1] += 1e-3
        found = survey_weights(model).sha256
        assert found not in seen
        seen.add(found)
    assert survey_weights(model.double()).sha256 not in seen


def test_zero_and_negative_zero_differ_in_the_hash_only() -> None:
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    before = survey_weights(model)
    model.weight.data.neg_()
    after = survey_weights(model)
    assert (before.sha256 != after.sha256, after.nonzero) == (True, 0)


def test_pieces_are_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmkick_plugin.record.weights._CHUNK_BYTES", 16)
    model = nn.Linear(64, 3, bias=False)
    before = survey_weights(model)
    flat = model.weight.data.view(-1)
    flat[:4], flat[4:8] = flat[4:8].clone(), flat[:4].clone()
    assert survey_weights(model).sha256 != before.sha256
    assert survey_weights(nn.ParameterList([torch.empty(0)])).total == 0


def test_offloaded_weights_are_read_where_they_wait() -> None:
    from accelerate import cpu_offload

    model = make_tiny_llama()
    whole = survey_weights(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert any(weight.is_meta for weight in model.parameters())
    assert survey_weights(model) == whole
    assert any(weight.is_meta for weight in model.parameters())
