# SPDX-License-Identifier: Apache-2.0
"""Bytes of tensors as they are stored, and a peak that a freed tensor leaves behind."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from lmkick_plugin.profile.memory import PeakMemory, bytes_in_memory

MEGABYTE = 1_000_000


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    assert bytes_in_memory(model) == 2 * 8 * 8 * 4
    model[1].weight = model[0].weight
    assert bytes_in_memory(model) == 8 * 8 * 4


def test_packed_weights_count_as_packed() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    layer = bitsandbytes.nn.LinearNF4(512, 512, bias=False)
    dense = bytes_in_memory(nn.Linear(512, 512, bias=False))
    layer.weight = bitsandbytes.nn.Params4bit(
        torch.randn(512, 512), requires_grad=False, quant_type="nf4"
    ).to("cpu")
    assert dense / 8 <= bytes_in_memory(layer) < dense / 6


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_peak_is_seen_after_it_has_passed() -> None:
    def peak(size: int) -> int:
        with PeakMemory(torch.device("cpu")) as memory:
            torch.ones(size * MEGABYTE, dtype=torch.uint8).sum()
        if memory.bytes is None:
            pytest.skip("the system does not let a process reset its peak")
        return memory.bytes

    high = peak(120)
    assert high - peak(1) > 80 * MEGABYTE
