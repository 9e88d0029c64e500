# SPDX-License-Identifier: Apache-2.0
"""Two processes on CPUs share an evaluation and find what one finds, or stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.inference import data_parallel_worker


@pytest.fixture(scope="module")
def together(
    stories_model: Path, data_dir: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder with what two processes wrote."""
    folder = tmp_path_factory.mktemp("together")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [
            *launcher,
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0",
            data_parallel_worker.__file__,
            str(stories_model),
            str(data_dir),
            str(folder),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    together: Path, stories_model: Path, data_dir: Path
) -> None:
    found = json.loads((together / "results.json").read_text())
    model = KickLM(
        pretrained=str(stories_model),
        device="cpu",
        compressor="magnitude",
        sparsity=0.5,
        max_length=256,
        batch_size=2,
    )
    alone: Any = data_parallel_worker.run(model, str(data_dir))
    for task, scores in alone["results"].items():
        for metric, value in scores.items():
            if isinstance(value, float):
                assert found["results"][task][metric] == pytest.approx(value, rel=1e-5)
    one, both = alone["config"]["kick"], found["config"]
    assert one["weights_sha256"] == both["weights_sha256"]
    assert one["truncated_prompts"] == both["truncated_prompts"]


@pytest.mark.slow
def test_processes_with_different_weights_stop(together: Path) -> None:
    for rank in range(2):
        message = (together / f"stopped-{rank}.txt").read_text()
        assert "Weights differ between processes" in message
        assert f"process {rank} stops" in message
