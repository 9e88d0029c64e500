# SPDX-License-Identifier: Apache-2.0
"""Plain ``lm_eval run`` of our model: checked first, one line for an error, failures to save."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval._cli.run import Run
from lm_eval.loggers import EvaluationTracker

from compressors.errors import SettingsError
from lmkick_plugin import cli
from lmkick_plugin.cli.run import check_lm_eval_runs
from lmkick_plugin.preflight.lm_eval_run import takes_part

Execute = Callable[[argparse.Namespace], None]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Execute], Execute]:
    """Put a function in the place of lm-eval's own and guard it as the start-up hook does."""

    def guard(execute: Execute) -> Execute:
        monkeypatch.setattr(Run, "_execute", staticmethod(execute))
        monkeypatch.setattr(sys, "argv", ["/bin/lm_eval", "run"])
        check_lm_eval_runs()
        once = Run._execute
        check_lm_eval_runs()
        assert Run._execute is once
        return once

    return guard


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"model": "kick", "tasks": "hellaswag", "output_path": None, **given}
    )


def fails(_: argparse.Namespace) -> None:
    raise SettingsError("found\nlate")


@pytest.mark.parametrize("name", ["recall_kick", "recall_kick_say", "*recall_kick_s*", "kickonly"])
def test_runs_of_our_tasks_are_checked_whatever_the_model(name: str) -> None:
    assert takes_part(options(model="hf", tasks=f"hellaswag,{name}"))
    assert not takes_part(options(model="hf", tasks="hellaswag,mmlu"))


def test_an_error_is_one_line_and_exit_status_2(
    guarded: Callable[[Execute], Execute], tiny_model_dir: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = options(model_args={"pretrained": str(tiny_model_dir)})
    with pytest.raises(SystemExit, match="2"):
        guarded(fails)(given)
    assert capsys.readouterr().err == "lm_eval: found late\n"
    with pytest.raises(SystemExit, match="2"):
        guarded(lambda _: pytest.fail("ran"))(options(model_args={"compresor": "wanda"}))
    assert "compresor is not an argument of lmkick" not in capsys.readouterr().out
    monkeypatch.setenv("LMKICK_TRACEBACK", "1")
    with pytest.raises(SettingsError):
        guarded(fails)(given)


def test_runs_of_others_are_left_alone(guarded: Callable[[Execute], Execute]) -> None:
    seen: list[str] = []
    execute = guarded(lambda given: seen.append(given.model))
    execute(options(model="hf", tasks=["hellaswag"], model_args={"pretrained": "/nowhere"}))
    assert seen == ["hf"]

    def theirs(_: argparse.Namespace) -> None:
        raise ValueError("of lm-eval")

    with pytest.raises(ValueError, match="of lm-eval"):
        guarded(theirs)(options(model="hf"))


@pytest.mark.parametrize("saved", ["results", "samples", "both"])
def test_a_failure_to_save_is_an_error(
    guarded: Callable[[Execute], Execute], tiny_model_dir: Path, tmp_path: Path, saved: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def execute(given: argparse.Namespace) -> None:
        tracker = EvaluationTracker(output_path=given.output_path)
        tracker.general_config_tracker.log_experiment_args("kick", "pretrained=m", "", "", False)
        if saved == "samples":
            tracker.save_results_aggregated({})
        folder = tmp_path / "out" / "m"
        if saved != "both":
            for file in folder.glob("*"):
                file.unlink()
            folder.rmdir() if folder.exists() else folder.parent.mkdir()
            folder.write_text("in the way")
        if saved == "results":
            tracker.save_results_aggregated({})
        if saved == "samples":
            tracker.save_results_samples("t", {})

    given = options(
        model_args={"pretrained": str(tiny_model_dir)}, output_path=str(tmp_path / "out")
    )
    if saved == "both":
        guarded(execute)(given)
        return
    with pytest.raises(SystemExit, match="2"):
        guarded(execute)(given)
    assert "results could not be saved" in capsys.readouterr().err


def test_lmkick_run_says_its_own_name(
    guarded: Callable[[Execute], Execute], tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guarded(fails)
    arguments = ["--model", "kick", "--model_args", f"pretrained={tiny_model_dir}"]
    assert cli.main(["run", *arguments, "--tasks", "x"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "lmkick run: found; late"
