# SPDX-License-Identifier: Apache-2.0
"""Weights that sparse tensor cores can multiply, and those that stay dense."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS

from compressors import NM, Magnitude, compress_model
from compressors.errors import SettingsError, UnsupportedModelError
from lmkick_plugin.profile import semi_structured
from lmkick_plugin.profile.measure import profile_model
from lmkick_plugin.profile.memory import bytes_in_memory
from lmkick_plugin.profile.semi_structured import check_semi_structured, to_semi_structured
from tests.conftest import make_tiny_llama


def pruned(dtype: torch.dtype = torch.bfloat16) -> Any:
    model = make_tiny_llama().to(dtype)
    compress_model(model, Magnitude(pattern=NM(2, 4)), progress=False)
    return model


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Weights that would become sparse, which they cannot without a GPU."""
    seen: list[Tensor] = []
    monkeypatch.setattr(
        semi_structured, "to_sparse_semi_structured", lambda weight: seen.append(weight) or weight
    )
    return seen


def test_matrices_that_are_24_are_taken(taken: list[Tensor]) -> None:
    model = pruned()
    up = model.model.layers[0].mlp.up_proj.weight.data
    up[3, 4:8] = torch.tensor([1.0, 2.0, 3.0, 0.0])  # one group of three, in one row
    model.model.layers[1].mlp.gate_proj = nn.Linear(64, 100, bias=False).to(up.dtype)  # dense
    assert to_semi_structured(model) == (12, 14)
    assert {tuple(weight.shape) for weight in taken} == {(64, 64), (32, 64), (128, 64), (64, 128)}
    assert not any(weight.data_ptr() == up.data_ptr() for weight in taken)
    assert not any(weight.data_ptr() == model.lm_head.weight.data_ptr() for weight in taken)


def test_dense_weights_and_other_dtypes_are_refused(taken: list[Tensor]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"none of 14 matrices is 2:4 .* --pattern 2:4"):
        to_semi_structured(make_tiny_llama().bfloat16())
    with pytest.raises(SettingsError, match=r"the weights are float32\. Use --dtype bfloat16"):
        to_semi_structured(pruned(torch.float32))
    assert taken == []


def test_device_and_dtype_are_checked_before_loading() -> None:
    check_semi_structured("cuda:0", "auto")
    check_semi_structured("cuda", "bfloat16")
    with pytest.raises(SettingsError, match="on GPUs of CUDA only, not on cpu"):
        check_semi_structured("cpu", "bfloat16")
    with pytest.raises(SettingsError, match=r"the weights are float32\. Use --dtype bfloat16"):
        check_semi_structured("cuda", "float32")


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
def test_bytes_are_those_of_the_packed_tensors() -> None:
    packed, meta = torch.zeros(64, 32, dtype=torch.bfloat16), torch.zeros(64, 4, dtype=torch.int16)
    sparse = SparseSemiStructuredTensorCUTLASS(
        torch.Size((64, 64)),
        packed=packed, meta=meta, packed_t=None, meta_t=None, compressed_swizzled_bitmask=None,
    )  # fmt: skip
    layer = nn.Linear(64, 64, bias=False)
    layer.weight = nn.Parameter(sparse, requires_grad=False)
    assert bytes_in_memory(layer) == packed.nbytes + meta.nbytes == 4608


@pytest.mark.gpu
def test_it_computes_the_same_on_a_gpu() -> None:
    dense = pruned().cuda()
    sparse = copy.deepcopy(dense)
    assert to_semi_structured(sparse) == (14, 14)
    tokens = torch.randint(128, (2, 32), device="cuda")
    with torch.inference_mode():
        wanted, found = dense(tokens).logits.float(), sparse(tokens).logits.float()
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()
    measured = profile_model(sparse, prompt_tokens=32, new_tokens=4, repeats=1)
    assert measured.memory_bytes < profile_model(dense, new_tokens=4, repeats=1).memory_bytes
