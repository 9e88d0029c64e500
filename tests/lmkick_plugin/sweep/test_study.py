# SPDX-License-Identifier: Apache-2.0
"""Studies: which cells they have, that they resume, and what their tables say."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin import cli
from lmkick_plugin.cli import study as command
from lmkick_plugin.sweep import study_cells as cells_module
from lmkick_plugin.sweep.study_plan import Cell, plan
from lmkick_plugin.sweep.study_table import as_csv, as_text, collect
from lmkick_plugin.terminal import CommandError

WANDA: dict[str, Any] = {
    "pretrained": "model", "compressor": "wanda", "sparsity": 0.5, "data_dir": "data"
}  # fmt: skip


def summary(cells: list[Cell]) -> list[tuple[str | None, int | None, str]]:
    return [(cell.value, cell.seed, cell.folder) for cell in cells]


# --- plan -----------------------------------------------------------------------------------------


def test_calibrations_are_c4_and_the_tasks_own_texts() -> None:
    tasks = ["kick_alpaca", "kick_summarization_small", "kick_summarization_large", "kick_instruct"]
    cells = plan("calibration", WANDA, tasks)
    assert summary(cells) == [
        (None, None, "dense"),
        ("c4", 0, "calibration=c4,seed=0"),
        ("task:alpaca", 0, "calibration=task-alpaca,seed=0"),
        ("task:summarization", 0, "calibration=task-summarization,seed=0"),
    ]
    assert cells[0].arguments == {"pretrained": "model", "compressor": "none", "data_dir": "data"}
    assert cells[2].arguments == {**WANDA, "calibration": "task:alpaca", "seed": 0}


def test_samples_and_seeds_are_crossed() -> None:
    arguments = {**WANDA, "seed": "3+5", "nsamples": 1}
    cells = plan("nsamples", arguments, ["kick_wikitext"], values=["2", "4"], dense=False)
    assert [(c.arguments["nsamples"], c.arguments["seed"]) for c in cells] == [
        ("2", 3), ("2", 5), ("4", 3), ("4", 5)
    ]  # fmt: skip
    assert len({cell.folder for cell in cells}) == 4


def test_seeds_alone() -> None:
    assert [cell.seed for cell in plan("seeds", WANDA, [])] == [None, 0, 1, 2]
    assert [cell.seed for cell in plan("seeds", {**WANDA, "seed": "7+8"}, [])] == [None, 7, 8]
    assert [cell.seed for cell in plan("seeds", WANDA, [], seeds=[4, 9])] == [None, 4, 9]


def test_paths_as_values_get_folders_of_their_own() -> None:
    values = ["/a/text.txt", "/b/text.txt", "a b.txt", "a-b.txt"]
    folders = [c.folder for c in plan("calibration", WANDA, [], values=values, dense=False)]
    assert len(set(folders)) == 4
    assert not any(set(folder) & set("/ ") for folder in folders)


def test_every_cell_resumes_in_a_folder_of_its_own() -> None:
    cells = plan("seeds", {**WANDA, "resume_dir": "kept"}, [])
    assert [cell.arguments.get("resume_dir") for cell in cells] == [
        None, "kept/seed=0", "kept/seed=1", "kept/seed=2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("seeds", {"seeds": [3]}, "no spread"),
        ("calibration", {}, "none of these tasks has training text"),
        ("nsamples", {"values": ["8", "8"]}, "twice"),
    ],
)
def test_nothing_to_vary(kind: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        plan(kind, WANDA, ["kick_wikitext"], **settings)


# --- table ----------------------------------------------------------------------------------------


def write_results(folder: Path, **scores: float) -> Path:
    path = folder / "results.json"
    folder.mkdir(parents=True)
    data = {
        "results": {
            "task": {"alias": "task", "acc,none": scores["acc"], "acc_stderr,none": 0.5},
            "mmlu_a": {"acc,none": 0.1},
            "mmlu_b": {"acc,none": 0.2, "acc,strict": 0.3},
            "kick_mmlu": {"acc,none": 0.15},
        },
        "groups": {"kick_mmlu": {"acc,none": 0.15, "acc_stderr,none": "N/A"}, "both": {" ": " "}},
        "group_subtasks": {"kick_mmlu": ["mmlu_a", "mmlu_b"], "both": ["kick_mmlu", "mmlu_b"]},
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_table(tmp_path: Path) -> None:
    scores = {("c4", 0): 0.5, ("c4", 1): 0.7, ("self", 0): 0.4, (None, None): 0.9}
    found = [
        (Cell(value, seed, {}, "x"), write_results(tmp_path / f"{value}{seed}", acc=acc))
        for (value, seed), acc in scores.items()
    ]
    rows = collect(found, ["task", "both"])
    assert [(row.task, row.metric, row.value) for row in rows[:2]] == [
        ("task", "acc", "c4"), ("task", "acc", "self")
    ]  # fmt: skip
    first, second = rows[:2]
    assert (first.runs, first.mean, first.lowest, first.highest, first.dense) == (
        2, pytest.approx(0.6), 0.5, 0.7, 0.9
    )  # fmt: skip
    assert first.spread == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert second.spread is None
    # The group that has scores stands for its members; one that has none is opened.
    assert {(row.task, row.metric) for row in rows[2:]} == {
        ("kick_mmlu", "acc"), ("mmlu_b", "acc"), ("mmlu_b", "acc,strict")
    }  # fmt: skip
    assert next(csv.DictReader(as_csv(rows).splitlines()))["mean"] == repr(first.mean)
    text = as_text(rows, "calibration").splitlines()
    assert text[0].split()[:3] == ["task", "metric", "calibration"]
    assert text[2].split() == ["task", "acc", "c4", "2", "0.6", "0.14142", "0.5", "0.7", "0.9"]


# --- running --------------------------------------------------------------------------------------


@pytest.fixture
def cell_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Cells that are evaluated, without evaluating them."""
    ran: list[str] = []

    def run(cell: Cell, evaluation: Any, folder: Path, manager: Any) -> Path:
        ran.append(cell.folder)
        path = write_results(folder / "model", acc=len(ran) / 10)
        done = {"results": "model/results.json", "identity": evaluation.identity(cell)}
        (folder / "cell.json").write_text(json.dumps(done), encoding="utf-8")
        return path

    monkeypatch.setattr(command, "run_cell", run)
    monkeypatch.setattr(command, "_check", lambda *given: None)
    monkeypatch.setattr(command, "_task_manager", lambda *given: None)
    return ran


def arguments(folder: Path, *more: str) -> list[str]:
    model = "pretrained=m,compressor=wanda,sparsity=0.5,seed=0+1"
    return [
        "study", "seeds", "--model_args", model, "--tasks", "task", "--output_path", str(folder),
        *more,
    ]  # fmt: skip


def test_finished_cells_are_not_run_again(
    tmp_path: Path, cell_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(tmp_path)) == 0
    assert cell_runs == ["dense", "seed=0", "seed=1"]
    first = capsys.readouterr().out
    assert first.count("to run") == 3
    (tmp_path / "seed=0" / "cell.json").unlink()  # as if interrupted before it ended
    (tmp_path / "seed=0" / "model" / "results.json").unlink()
    (tmp_path / "seed=0" / "model").rmdir()
    assert cli.main(arguments(tmp_path, "--batch_size", "4")) == 0  # speed is not identity
    assert cell_runs[3:] == ["seed=0"]
    assert capsys.readouterr().out.count("  finished  ") == 2
    rows = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    assert rows[0] == {
        "task": "task", "metric": "acc", "value": "all", "runs": "2", "mean": "0.35",
        "spread": rows[0]["spread"], "lowest": "0.3", "highest": "0.4", "dense": "0.1",
    }  # fmt: skip


def test_a_folder_of_another_study_is_refused(
    tmp_path: Path, cell_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(arguments(tmp_path))
    assert cli.main(arguments(tmp_path, "--limit", "5")) == 2
    assert "holds a cell of another study: its options" in capsys.readouterr().err
    assert len(cell_runs) == 3


def test_cells_of_other_data_are_not_taken_for_these(
    tmp_path: Path,
    cell_runs: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LMKICK_DATA_DIR", "/one")
    monkeypatch.setenv("LMKICK_JUDGE_API_KEY", "secret")
    cli.main(arguments(tmp_path))
    assert "secret" not in (tmp_path / "dense" / "cell.json").read_text()
    for other in ("/other", None):
        if other is None:
            monkeypatch.delenv("LMKICK_DATA_DIR")
        else:
            monkeypatch.setenv("LMKICK_DATA_DIR", other)
        assert cli.main(arguments(tmp_path)) == 2
        assert "its environment is {'LMKICK_DATA_DIR': '/one'}" in capsys.readouterr().err
    assert len(cell_runs) == 3


def test_plan_runs_nothing(
    tmp_path: Path, cell_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(tmp_path, "--plan")) == 0
    assert (cell_runs, list(tmp_path.iterdir())) == ([], [])
    assert "compressor=wanda,sparsity=0.5,seed=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--tasks": "kick_nothing"}, "no task 'kick_nothing'"),
        ({"--seeds": "0 0"}, "a seed twice"),
        ({"--seeds": "-1"}, "seed="),
        ({"--model_args": "pretrained=/no/such,compressor=wanda,sparsity=0.5"}, "no such folder"),
        ({"--model_args": "pretrained=.,compressor=magnitude,sparsity=0.5"}, "does not go with"),
        ({"--model_args": "pretrained=.,data_dir=/no/such"}, "no such directory"),
    ],
)
def test_wrong_arguments_are_found_before_the_first_cell(
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    said: str,
) -> None:
    def refuse(*given: Any) -> Path:
        raise AssertionError("a cell was evaluated")

    monkeypatch.setenv("LMKICK_DATA_DIR", str(data_dir))
    monkeypatch.setattr(command, "run_cell", refuse)
    options = {
        "--model_args": "pretrained=.,compressor=wanda,sparsity=0.5",
        "--tasks": "kick_wikitext",
        "--output_path": str(tmp_path),
        **changed,
    }
    given = [part for name, value in options.items() for part in (name, *value.split())]
    assert cli.main(["study", "seeds", *given]) == 2
    assert said in capsys.readouterr().err


def test_a_real_study(
    tmp_path: Path,
    tiny_model_dir: Path,
    data_dir: Path,
    calibration_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from unittest import mock

    monkeypatch.setenv("LMKICK_DATA_DIR", str(data_dir))
    model = (
        f"pretrained={tiny_model_dir},compressor=wanda,sparsity=0.6,nsamples=2,seqlen=32,seed=0+1,"
        f"calibration={calibration_file}"
    )
    given = [
        "study", "seeds", "--model_args", model, "--tasks", "kickonly_perplexity",
        "kickonly_divergence", "--limit", "1", "--metadata", "new_tokens=0,max_window=64",
        "--batch_size", "8", "--output_path", str(tmp_path),
    ]  # fmt: skip
    with mock.patch("lm_eval.evaluator.add_env_info"):
        assert cli.main(given) == 0
    rows = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    found = {(row["task"], row["metric"]): row for row in rows}
    assert {metric for _, metric in found} == {"token_perplexity", "jsd", "kl", "top1_agreement"}
    jsd = found["kickonly_divergence", "jsd"]
    assert (jsd["runs"], float(jsd["dense"])) == ("2", 0)
    assert 0 < float(jsd["lowest"]) < float(jsd["highest"])  # the seed makes a difference
    # The folders are what `lmkick compare` reads.
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "dense"), str(tmp_path / "seed=1")]) == 0
    assert "kickonly_perplexity" in capsys.readouterr().out
    # Nothing is left to do.
    monkeypatch.setattr(cells_module, "_free_memory", None)
    assert cli.main(given) == 0
