# SPDX-License-Identifier: Apache-2.0
"""Behaviour that depends on other packages' versions; see tools/compatibility.py."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASKS = ("kick_triviaqa_closed", "mmlu_kick_astronomy")


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def evaluate(model: str, arguments: str, output: Path) -> dict[str, Any]:
    """Results of plain lm_eval, which knows the tasks and ``kick`` by the start-up hook alone."""
    run(
        *("lm_eval", "run", "--model", model, "--model_args", arguments, "--device", "cpu"),
        *("--tasks", ",".join(TASKS), "--limit", "20", "--gen_kwargs", "max_gen_toks=8"),
        *("--metadata", '{"data_dir": "mini"}', "--output_path", str(output)),
        *("--batch_size", "20"),
    )
    (file,) = output.rglob("results_*.json")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def scores(results: dict[str, Any]) -> dict[str, float]:
    return {
        f"{task} {name}": value
        for task in TASKS
        for name, value in results["results"][task].items()
        if isinstance(value, float) and "stderr" not in name
    }


def test_plain_lm_eval(tmp_path: Path) -> None:
    from lmkick_plugin.bundled import MODEL

    # Sharing prompt prefixes rounds otherwise; without it, scores are those of hf.
    dense = evaluate("hf", f"pretrained={MODEL}", tmp_path / "hf")
    kick = evaluate("kick", "pretrained=kick-mini,prefix_reuse=false", tmp_path / "kick")
    pruned = evaluate(
        "kick", "pretrained=kick-mini,compressor=magnitude,sparsity=0.9", tmp_path / "pruned"
    )
    assert dense["lm_eval_version"] == version("lm_eval")
    assert dense["transformers_version"] == version("transformers")
    assert scores(kick) == scores(dense)
    assert max(scores(dense).values()) > 0.5  # there is something to lose
    assert sum(scores(pruned).values()) < 0.8 * sum(scores(dense).values())
    assert pruned["config"]["kick"]["achieved_sparsity"] == pytest.approx(0.9, abs=0.01)


def test_gptq_folder_in_gptqmodel_and_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``lmkick compress --format gptq`` writes, evaluated by plain lm_eval."""
    pytest.importorskip("gptqmodel", reason="needs lmkick[gptq]: make compatibility")
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.chdir(tmp_path)  # gptqmodel may write a folder of logs
    folder = tmp_path / "saved"
    run(
        *("lmkick_plugin", "compress", "--pretrained", "kick-mini", "--output", str(folder)),
        *("--compressor", "gptq", "--bits", "4", "--group_size", "32", "--format", "gptq"),
        *("--calibration", "task:triviaqa_closed", "--data_dir", "mini"),
        *("--nsamples", "16", "--seqlen", "128", "--device", "cpu"),
    )
    by_transformers = evaluate("hf", f"pretrained={folder}", tmp_path / "hf")
    by_gptqmodel = evaluate("hf", f"pretrained={folder},gptqmodel=True", tmp_path / "gptqmodel")
    assert scores(by_gptqmodel) == scores(by_transformers)
    assert max(scores(by_transformers).values()) > 0.5  # a checkpoint read wrongly knows nothing
