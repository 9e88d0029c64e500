# SPDX-License-Identifier: Apache-2.0
"""The fused kernel gives what the torch code gives: in Triton's interpreter, and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from compressors import GPTQ, NM, RTN, SparseGPT, Unstructured
from compressors.grid import Grid
from compressors.obs import columns
from compressors.obs.buffers import ColumnBuffers
from compressors.obs.columns_torch import TorchColumns
from compressors.obs.group_grids import GroupGrids
from tests.compressors.method_cases import label, make_inputs, make_stats, make_weight

MODES = [
    (None, None, True),
    (None, NM(2, 4), True),
    (None, NM(4, 8), True),
    (Grid(num_bits=3, group_size=8), None, False),
    (Grid(num_bits=4, group_size=None, symmetric=False), None, False),
    (Grid(num_bits=4, group_size=None), None, True),
    (Grid(num_bits=4, group_size=None, symmetric=False), NM(2, 4), True),
]


def make_buffers(grid: Grid | None, pattern: NM | None, prunes: bool) -> ColumnBuffers:
    """A block of 24 columns and 40 rows with its buffers filled."""
    size, rows = 24, 40
    torch.manual_seed(0)
    grids = None
    if grid is not None:
        grids = GroupGrids(
            grid, torch.randn(size, rows), None, static=True, torn=False, matrix_scale=None
        )
    buffers = ColumnBuffers(
        size, rows, torch.device("cpu"), prunes=prunes, pattern=pattern, grids=grids
    )
    buffers.values.copy_(torch.randn(size, rows))
    buffers.feedback.copy_((torch.randn(size, size) * 0.2).tril(-1))
    buffers.importance.copy_(torch.rand(size, 1) + 0.1)
    if prunes:
        buffers.kept.copy_(torch.rand(size, rows) > 0.5)
    if grids is not None:
        buffers.groups = grids.group_of.tolist()
    return buffers


def compare_in_the_interpreter() -> None:
    """Run every mode both ways; called in a process of its own with TRITON_INTERPRET=1."""
    from compressors.obs.columns_triton import compress_fused

    assert columns.can_fuse(torch.device("cpu"))
    for grid, pattern, prunes in MODES:
        for count in (24, 16):
            plain, fused = (make_buffers(grid, pattern, prunes) for _ in range(2))
            before = plain.values.clone()
            TorchColumns(plain).run(count)
            compress_fused(fused, count)
            assert not torch.equal(before, plain.values), "the pass did nothing"
            assert torch.equal(plain.values[count:], before[count:])
            torch.testing.assert_close(fused.values, plain.values, rtol=1e-5, atol=1e-5)
            assert torch.equal(fused.kept, plain.kept)


def test_interpreted_kernel_is_the_torch_code() -> None:
    pytest.importorskip("triton", reason="needs triton (its interpreter runs without a GPU)")
    pytest.importorskip("numpy", reason="triton's interpreter needs numpy")
    # The switch is read when triton is imported, hence the process of its own.
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from tests.compressors.obs import test_columns_triton as test\n"
            "test.compare_in_the_interpreter()",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        subprocess.CalledProcessError(1, ["gcc"]),
        ImportError("libcuda.so cannot be found"),
    ],
    ids=str,
)
def test_without_a_compiler_torch_runs(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton", reason="needs triton to be there")
    import compressors.obs.columns_triton

    def failing(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(compressors.obs.columns_triton, "compress_fused", failing)
    device = torch.device("cpu")
    assert not columns.can_fuse.__wrapped__(device)
    assert "install a C compiler" in caplog.text
    failure = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        columns.can_fuse.__wrapped__(device)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "method",
    [
        SparseGPT(pattern=Unstructured(0.5)),
        SparseGPT(pattern=NM(2, 4)),
        SparseGPT(pattern=Unstructured(0.5), quantize=RTN(num_bits=4, group_size=32)),
        GPTQ(num_bits=4, group_size=32),
        GPTQ(num_bits=3, group_size=None, symmetric=False, act_order=True),
    ],
    ids=label,
)
def test_gpu_agrees_with_cpu(method: Any) -> None:
    weight, inputs = make_weight(200, 384), make_inputs(384, tokens=2000)
    cpu = method.compress(weight, make_stats(method, inputs))
    stats = method.statistic(384, "cuda")
    stats.update(inputs.cuda())
    gpu = method.compress(weight.cuda(), stats)
    assert gpu.weight.is_cuda
    agree = ((gpu.weight.cpu() - cpu.weight).abs() <= 1e-3 * weight.abs().max()).float().mean()
    assert float(agree) > 0.97
    assert torch.equal(gpu.weight, method.compress(weight.cuda(), stats).weight)
