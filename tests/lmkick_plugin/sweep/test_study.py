# SPDX-License-Identifier: Apache-2.0
"""Studies: which cells they have, that they are sweeps, and what their tables say."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin import cli
from lmkick_plugin.sweep import CellResult, runner
from lmkick_plugin.sweep.grid import Cell, list_cells
from lmkick_plugin.sweep.study import study_config
from lmkick_plugin.sweep.study_table import as_csv, as_text, collect
from lmkick_plugin.terminal import CommandError

WANDA: dict[str, Any] = {"pretrained": "a/model", "compressor": "wanda", "sparsity": 0.5}


def cells_of(kind: str, arguments: dict[str, Any], *tasks: str, **given: Any) -> list[Cell]:
    given = {"output": "out", "tasks": list(tasks) or ["kick_wikitext"], **given}
    return list_cells(study_config(kind, arguments, **given))[0]


# --- cells ----------------------------------------------------------------------------------------


def test_calibrations_are_c4_and_the_tasks_own_texts() -> None:
    tasks = ["kick_alpaca", "kick_summarization_small", "kick_summarization_large", "kick_instruct"]
    cells = cells_of("calibration", WANDA, *tasks)
    assert [cell.name for cell in cells] == [
        "a__model/dense",
        "a__model/wanda_sparsity=0.5",  # C4 is the default
        "a__model/wanda_sparsity=0.5_calibration=task-alpaca",
        "a__model/wanda_sparsity=0.5_calibration=task-summarization",
    ]
    assert cells[2].arguments == {**WANDA, "calibration": "task:alpaca", "seed": 0}


def test_samples_and_seeds_are_crossed() -> None:
    arguments = {**WANDA, "seed": "3+5"}
    cells = cells_of("nsamples", arguments, values=["2", "4"], dense=False)
    assert [(cell.settings["nsamples"], cell.settings["seeds"]) for cell in cells] == [
        (2, [3]), (2, [5]), (4, [3]), (4, [5])
    ]  # fmt: skip


def test_seeds_alone() -> None:
    def seeds(arguments: dict[str, Any], **given: Any) -> list[Any]:
        return [cell.recipe.get("seed") for cell in cells_of("seeds", arguments, **given)]

    assert seeds(WANDA) == [None, 0, 1, 2]
    assert seeds({**WANDA, "seed": "7+8"}) == [None, 7, 8]
    assert seeds(WANDA, seeds=[4, 9]) == [None, 4, 9]


def test_settings_of_the_sweep_may_stand_among_the_model_arguments() -> None:
    given = {**WANDA, "batch_size": 4, "device": "cpu", "dtype": "bfloat16"}
    config = study_config("seeds", given, tasks=["t"], output="o", batch_size=None, device="cuda")
    assert (config.batch_size, config.device) == (4, "cuda")  # an option wins
    assert config.model_args == {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("seeds", {"seeds": [3]}, "has no spread"),
        ("calibration", {}, "no task has training text"),
    ],
)
def test_nothing_to_vary(kind: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        cells_of(kind, WANDA, **settings)


@pytest.mark.parametrize(("kind", "value"), [("nsamples", 4), ("calibration", "wikitext")])
def test_what_the_study_varies_is_not_fixed(kind: str, value: Any) -> None:
    with pytest.raises(CommandError, match=f"{kind}={value}: the study varies it.*--values"):
        cells_of(kind, {**WANDA, kind: value}, values=["8", "16"])


# --- table ----------------------------------------------------------------------------------------


def write_results(folder: Path, task: str, **scores: float) -> Path:
    path = folder / f"results_{task}.json"
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"alias": task, **{f"{name},none": value for name, value in scores.items()}}
    groups = {"kick_mmlu": entry} if task == "kick_mmlu" else {"both": {" ": " "}}
    data = {
        "results": {task: entry, "mmlu_a": {"acc,none": 0.1}, "mmlu_b": {"acc,strict": 0.3}},
        "groups": groups,
        "group_subtasks": {"kick_mmlu": ["mmlu_a", "mmlu_b"], "both": ["mmlu_b"]},
        "configs": {},
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_table(tmp_path: Path) -> None:
    scores = {("c4", 0): 0.5, ("c4", 1): 0.7, ("self", 0): 0.4, None: 0.9}
    cells = []
    for point, acc in scores.items():
        recipe = {} if point is None else {"calibration": point[0], "seed": point[1]}
        folder = tmp_path / f"{point}"
        results = {
            "task": write_results(folder, "task", acc=acc, acc_stderr=0.1),
            "kick_mmlu": write_results(folder, "kick_mmlu", acc=acc / 2),
            "both": write_results(folder, "both", acc=0),
        }
        cells.append(CellResult("m/x", folder, {}, recipe, "done", results, 1.0, {}))
    rows = collect(cells, "calibration")
    assert [(row.task, row.metric, row.value) for row in rows] == [
        ("task", "acc", "c4"), ("task", "acc", "self"),
        ("kick_mmlu", "acc", "c4"), ("kick_mmlu", "acc", "self"),
        # The group that has scores stands for its members; one that has none is opened.
        ("mmlu_b", "acc,strict", "c4"), ("mmlu_b", "acc,strict", "self"),
    ]  # fmt: skip
    first, second = rows[:2]
    assert (first.runs, first.mean, first.lowest, first.highest, first.dense) == (
        2, pytest.approx(0.6), 0.5, 0.7, 0.9
    )  # fmt: skip
    assert first.spread == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert second.spread is None
    assert next(csv.DictReader(as_csv(rows).splitlines()))["mean"] == repr(first.mean)
    text = as_text(rows, "calibration").splitlines()
    assert text[0].split()[:3] == ["task", "metric", "calibration"]
    assert text[2].split() == ["task", "acc", "c4", "2", "0.6", "0.14142", "0.5", "0.7", "0.9"]
    assert collect(cells[:2], "seeds")[0].value == "all"


# --- running --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--tasks": "kick_nothing"}, "no task 'kick_nothing'"),
        ({"--seeds": "0 0"}, "repeats a seed"),
        ({"--seeds": "-1"}, "seed="),
        ({"--model_args": "pretrained=/no/such,compressor=wanda,sparsity=0.5"}, "no such folder"),
        ({"--model_args": "pretrained=.,compressor=magnitude,sparsity=0.5"}, "does not go with"),
        (
            {"--model_args": "pretrained=.,compressor=wanda,sparsity=0.5,data_dir=/no/such"},
            "no such directory",
        ),
        ({"--limit": "0"}, "limit='0'"),
        ({"--max_gen_toks": "0.5"}, "whole numbers of tokens"),
    ],
)
def test_wrong_arguments_are_found_before_the_first_cell(
    tmp_path: Path,
    tiny_model_dir: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    said: str,
) -> None:
    def refuse(*given: Any, **options: Any) -> Path:
        raise AssertionError("a cell was evaluated")

    monkeypatch.setenv("LMKICK_DATA_DIR", str(data_dir))
    monkeypatch.setattr(runner, "_execute", refuse)
    options = {
        "--model_args": f"pretrained={tiny_model_dir},compressor=wanda,sparsity=0.5",
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
    monkeypatch.setenv("LMKICK_DATA_DIR", str(data_dir))
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
    model = (
        f"pretrained={tiny_model_dir},compressor=wanda,sparsity=0.6,nsamples=2,seqlen=32,seed=0+1,"
        f"calibration={calibration_file}"
    )
    given = [
        "study", "seeds", "--model_args", model, "--tasks", "kickonly_perplexity",
        "kickonly_divergence", "--limit", "1", "--metadata", "new_tokens=0,max_window=64",
        "--batch_size", "8", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    assert cli.main([*given, "--plan"]) == 0
    assert list(tmp_path.glob("out/*")) == []
    assert cli.main(given) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "study.csv").read_text().splitlines()))
    found = {(row["task"], row["metric"]): row for row in rows}
    assert {metric for _, metric in found} == {"token_perplexity", "jsd", "kl", "top1_agreement"}
    jsd = found["kickonly_divergence", "jsd"]
    assert (jsd["runs"], float(jsd["dense"])) == ("2", 0)
    assert 0 < float(jsd["lowest"]) < float(jsd["highest"])  # the seed makes a difference
    # The folders are what `lmkick compare` reads.
    capsys.readouterr()
    (dense,), (compressed,) = (sorted((tmp_path / "out").glob(f"*/{x}")) for x in ("dense", "*=1"))
    assert cli.main(["compare", str(dense), str(compressed)]) == 0
    assert "kickonly_perplexity" in capsys.readouterr().out
    # Nothing is left to do; other settings do not mix with these; speed is not one of them.
    monkeypatch.setattr(runner, "_execute", None)
    assert cli.main([*given, "--batch_size", "4"]) == 0
    assert cli.main([*given, "--limit", "2"]) == 2
    assert "its limit is 1, now 2" in capsys.readouterr().err
