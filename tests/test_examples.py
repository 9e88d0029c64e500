# SPDX-License-Identifier: Apache-2.0
"""The tutorials run as they are, offline, on the bundled model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmkick_plugin.results.runs import load_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(repository: Path, name: str, output: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(repository / "examples" / name), str(output)],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_compress_and_compare(repository: Path, tmp_path: Path) -> None:
    shown = run(repository, "compress_and_compare.py", tmp_path)
    assert "kick_triviaqa_closed" in shown
    dense, pruned = (load_run(str(tmp_path / name)) for name in ("dense", "wanda"))
    assert dense.files[0].record["achieved_sparsity"] is None
    assert 0.5 <= pruned.files[0].record["achieved_sparsity"] < 0.51


def test_compress_from_python(repository: Path, tmp_path: Path) -> None:
    shown = run(repository, "compress_from_python.py", tmp_path / "saved")
    assert "logits equal after reloading: True" in shown
    assert (tmp_path / "saved" / "kick.json").is_file()


def test_sweep_and_report(repository: Path, tmp_path: Path) -> None:
    shown = run(repository, "sweep_and_report.py", tmp_path)
    assert "4 cells, 0 failed" in shown
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_each_example_is_run_here(repository: Path) -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in source for path in (repository / "examples").glob("*.py"))
