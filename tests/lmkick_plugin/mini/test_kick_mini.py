# SPDX-License-Identifier: Apache-2.0
"""The embedded model: it knows what its card says, and loses what compression takes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from lmkick_plugin import bundled, registration
from lmkick_plugin.cli import demo, main
from lmkick_plugin.recipe.pretrained import check_pretrained
from tools.kick_mini import card

TASKS = ("kick_freebaseqa", "kick_triviaqa_open", "kick_mmlu", "kickonly_perplexity")
CALIBRATED = {"calibration": "c4", "nsamples": 16, "seqlen": 256}


@cache
def manager() -> Any:
    registration.register()
    return TaskManager(
        include_path=str(registration.TASK_FOLDER),
        include_defaults=False,
        metadata={"data_dir": "mini"},
    )


@cache
def scores(**recipe: Any) -> dict[str, float]:
    found = lm_eval.simple_evaluate(
        model="kick",
        model_args={
            "pretrained": "kick-mini", "data_dir": "mini", "dtype": "float32", "device": "cpu",
            **recipe,
        },
        tasks=list(TASKS),
        task_manager=manager(),
        batch_size=32,
        bootstrap_iters=0,
        log_samples=False,
    )  # fmt: skip
    assert found["config"]["kick"]["base_model"] == "kick-mini"
    assert found["config"]["kick"]["checkpoint"] is None, "taken for compressed by somebody else"
    return {task: found["results"][task][f"{card.SCORES[task]},none"] for task in TASKS}


@pytest.fixture(scope="module")
def said() -> dict[str, float]:
    rows = json.loads((bundled.MODEL / "scores.json").read_text(encoding="utf-8"))
    return {task: row["value"] for task, row in rows.items()}


def test_it_scores_what_its_card_says(said: dict[str, float]) -> None:
    found = scores()
    for task in TASKS[:3]:
        assert found[task] >= said[task] - 0.02
    assert found["kickonly_perplexity"] == pytest.approx(said["kickonly_perplexity"], rel=0.02)


def test_it_has_something_to_lose(said: dict[str, float]) -> None:
    assert said["kick_freebaseqa"] >= 0.85
    assert said["kick_triviaqa_closed"] >= 0.80
    assert said["kick_triviaqa_open"] >= 0.85
    assert said["kick_mmlu"] >= 0.75


def test_its_card_is_its_scores() -> None:
    rows = json.loads((bundled.MODEL / "scores.json").read_text(encoding="utf-8"))
    assert set(rows) == set(card.SCORES)
    assert card.table(rows) in (bundled.MODEL / "README.md").read_text(encoding="utf-8")


def test_random_pruning_takes_what_it_knows(said: dict[str, float]) -> None:
    found = scores(compressor="random", sparsity=0.6)
    for task in TASKS[:2]:
        assert found[task] < 0.25 * said[task]
    assert found["kick_mmlu"] < 0.35, "chance is 0.25"
    assert found["kickonly_perplexity"] > 2 * said["kickonly_perplexity"]


def test_eight_bits_take_next_to_nothing(said: dict[str, float]) -> None:
    found = scores(compressor="gptq", bits=8, **CALIBRATED)
    for task in TASKS[:3]:
        assert found[task] == pytest.approx(said[task], abs=0.01)
    assert found["kickonly_perplexity"] == pytest.approx(said["kickonly_perplexity"], rel=0.01)


def test_files_are_small() -> None:
    assert sum(path.stat().st_size for path in bundled.MODEL.iterdir()) <= 16_000_000


def test_names_are_names_and_folders_are_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_pretrained("kick-mini")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    assert bundled.data_folder("mini") == str(bundled.DATA)
    assert bundled.data_folder("./mini") == "./mini"


@pytest.mark.slow
def test_the_demo_prints_a_table_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "TASKS", ("kick_freebaseqa", "kickonly_perplexity"))
    monkeypatch.setattr(demo, "LIMIT", {"kickonly_perplexity": 1, "default": 20})
    monkeypatch.setattr(demo, "MAX_GEN_TOKS", {"kick_freebaseqa": 4, "default": 8})
    monkeypatch.setattr(demo, "PRUNERS", ("magnitude",))
    monkeypatch.setattr(demo, "_SPARSITIES", [0.6])
    monkeypatch.setattr(demo, "_BITS", [8])
    monkeypatch.setattr(demo, "_WORKERS", 10**6)  # in this process
    assert main(["demo", "--output", str(tmp_path / "demo"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in printed.splitlines()]
    assert {"dense", "magnitude 60 %", "magnitude 2:4", "rtn 8 bits", "gptq 8 bits"} <= set(rows)
    page = tmp_path / "demo" / "report.html"
    assert f"report: {page}" in printed
    assert "kick-mini" in page.read_text(encoding="utf-8")
    assert list((tmp_path / "demo" / "runs").rglob("results_*.json"))


def test_the_demo_does_not_start_what_it_cannot_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lmkick_plugin.report.writing.find_spec", lambda _: None)
    output = tmp_path / "demo"
    assert main(["demo", "--output", str(output)]) == 2
    assert "pip install 'lmkick[report]'" in capsys.readouterr().err
    assert not output.exists()


def test_the_demo_goes_with_the_tasks_that_need_no_judge() -> None:
    config = demo.configuration(Path("somewhere"))
    assert set(config["limit"]) - {"default"} <= set(config["tasks"])
    assert set(config["max_gen_toks"]) - {"default"} <= set(config["tasks"])
    levels = [(one["compressor"], *one.get("bits", one.get("sparsity", [one.get("pattern")])))
              for one in config["recipes"]]  # fmt: skip
    for pruner in ("magnitude", "wanda", "sparsegpt"):
        assert (pruner, 0.2, 0.4, 0.6) in levels
        assert (pruner, "2:4") in levels
    assert ("rtn", 8, 4, 3) in levels
    assert ("gptq", 8, 4, 3) in levels
