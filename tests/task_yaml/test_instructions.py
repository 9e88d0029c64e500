# SPDX-License-Identifier: Apache-2.0
"""kick_alpaca and kick_unnatural: prompts, scores, and a split whose parts do not meet."""

from __future__ import annotations

import statistics
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmkick_plugin.data import instructions
from lmkick_plugin.inference import loaded_models
from tests.task_yaml.conftest import tiny_files, write_data
from tests.task_yaml.scripted import ScriptedLM

ALPACA = tiny_files()["alpaca/train.jsonl"]
UNNATURAL = tiny_files()["unnatural_instructions/test.jsonl"]
TASKS = {"kick_alpaca": ALPACA[::10], "kick_unnatural": UNNATURAL}


def expected_prompt(row: dict[str, str]) -> str:
    return row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "")


@pytest.mark.parametrize("task", TASKS)
def test_prompts(evaluate: Callable[..., Any], task: str) -> None:
    lm = ScriptedLM()
    evaluate(lm, task, bootstrap_iters=0)
    expected = [expected_prompt(row) for row in TASKS[task]]
    assert [arguments[0] for _, arguments in lm.asked] == [f"{text}\n\n" for text in expected]
    assert lm.asked[0][1][1] == {"until": [], "max_gen_toks": 256, "do_sample": False}
    chat = ScriptedLM()
    evaluate(chat, task, bootstrap_iters=0, apply_chat_template=True)
    assert [arguments[0] for _, arguments in chat.asked] == [
        f"[user]{text}[assistant]" for text in expected
    ]


@pytest.mark.parametrize("task", TASKS)
def test_scores(evaluate: Callable[..., Any], task: str) -> None:
    rows = TASKS[task]
    said = {
        f"{expected_prompt(row)}\n\n": answer
        for row, answer in zip(
            rows,
            [rows[0]["output"].upper() + "!", f"running and {rows[1]['output']}"],
            strict=False,
        )
    }
    scores = evaluate(ScriptedLM(say=lambda prompt: said.get(prompt, "")), task)["results"][task]
    length = len(rows[1]["output"].split())
    partial = 2 * length / (2 * length + 2)
    rest = [0.0] * (len(rows) - 2)
    for metric, values in {
        "exact_match": [1.0, 0.0],
        "f1": [1.0, partial],
        "rouge1": [1.0, partial],
    }.items():
        assert scores[f"{metric},none"] == pytest.approx(statistics.fmean([*values, *rest]))
    assert scores["exact_match_stderr,none"] > 0


def test_stems_count_for_rouge_alone() -> None:
    from lmkick_plugin.tasks.instruction import score_instruction

    scores = score_instruction({"output": "cats run"}, ["cat running"])
    assert scores == {"exact_match": 0, "f1": 0, "rouge1": 1}
    assert set(score_instruction({"output": ""}, [""]).values()) == {0}


def test_every_tenth_row_is_scored_and_no_other(tiny_manager: Any) -> None:
    docs = tiny_manager.load(["kick_alpaca"])["tasks"]["kick_alpaca"].eval_docs
    assert docs["instruction"][:] == [row["instruction"] for row in ALPACA[::10]]


def test_calibration_text_holds_no_scored_item(tiny_data: Path) -> None:
    training = instructions.alpaca_training(str(tiny_data))
    rest = [row for index, row in enumerate(ALPACA) if index % 10]
    # One of the others asks, in other white space and case, what a scored row asks.
    assert len(training) == len(rest) - 1
    assert all(row in rest for row in training)
    scored = {" ".join(expected_prompt(row).split()).lower() for row in ALPACA[::10]}
    assert not any(" ".join(expected_prompt(row).split()).lower() in scored for row in training)


class _Calibrated:
    """What a task can see of a model of ``--model kick``."""

    def __init__(self, calibration: str | None, data_dir: str | None) -> None:
        self.recipe = SimpleNamespace(calibration=calibration, data_dir=data_dir)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_scored_and_calibration_rows_come_from_one_copy(
    task: str,
    elsewhere: bool,
    mixed: bool,
    evaluate: Callable[..., Any],
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    monkeypatch.delenv("LMKICK_DATA_DIR", raising=False)
    source = task.replace("kick_", "task:")
    source = f"mix:c4+{source}" if mixed else source
    same = f"{tiny_data}/../{tiny_data.name}"
    models = [_Calibrated(source, None if elsewhere else same), _Calibrated("c4", None)]
    for model in models:
        loaded_models.announce(model)
    lm = ScriptedLM()
    if elsewhere:
        with pytest.raises(ValueError, match=f"{task} reads .* read the Hub.*data_dir=DIR"):
            evaluate(lm, task, bootstrap_iters=0)
        assert lm.asked == []
        monkeypatch.setenv("LMKICK_DATA_DIR", str(tiny_data))  # which calibration sees too
    evaluate(lm, task, bootstrap_iters=0)
    assert lm.asked


def test_the_hubs_core_data_is_read_instance_by_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [
        {
            "instruction": f"do {number}",
            "instances": [
                {"input": f"{number}.{part}", "output": "x", "constraints": "", "more": 1}
                for part in range(1 + (number == 10))
            ],
        }
        for number in range(21)
    ]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_list(rows)
    )
    scored = [row["input"] for _, row in instructions.locate(instructions.UNNATURAL).rows()]
    others = [row["input"] for _, row in instructions.locate(instructions.UNNATURAL_TRAIN).rows()]
    assert scored == ["0.0", "10.0", "10.1", "20.0"]
    assert others == [f"{number}.0" for number in range(21) if number % 10]


def test_fields_that_hold_no_text(make_manager: Any, tmp_path: Path) -> None:
    files = tiny_files()
    files["alpaca/train.jsonl"][3]["output"] = None
    manager = make_manager(data_dir=str(write_data(tmp_path, files)))
    with pytest.raises(ValueError, match=r"line 4: field 'output' is null"):
        manager.load(["kick_alpaca"])


def test_real_data(make_manager: Any, data_dir: Path) -> None:
    tasks = make_manager(data_dir=str(data_dir)).load(["kick_alpaca", "kick_unnatural"])["tasks"]
    assert len(tasks["kick_alpaca"].eval_docs) == 500
    assert len(tasks["kick_unnatural"].eval_docs) == 1050
    training = instructions.alpaca_training(str(data_dir))
    assert 4_400 < len(training) <= 4_500
    scored = {
        " ".join(text.split()).casefold() for text in tasks["kick_alpaca"].eval_docs["prompt"]
    }
    assert not any(
        " ".join(instructions.prompt(row).split()).casefold() in scored for row in training
    )
