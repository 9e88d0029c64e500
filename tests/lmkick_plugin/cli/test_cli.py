# SPDX-License-Identifier: Apache-2.0
"""The ``lmkick`` command: what it refuses before a model is loaded, what it hands to lm-eval."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

import pytest

from compressors.errors import NumericalError, SettingsError, UnsupportedModelError
from lmkick_plugin import cli
from lmkick_plugin.cli.parser import Parser
from lmkick_plugin.data.sources import DataError


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """What lm-eval was told to execute, instead of executing it."""
    from lm_eval._cli import HarnessCLI

    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(HarnessCLI, "execute", lambda self, options: seen.append(options))
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda: None)
    return seen


@pytest.fixture
def run(tiny_model_dir: Path, data_dir: Path) -> list[str]:
    """A command line without a fault."""
    return [
        *("run", "--model", "kick", "--tasks", "kick_freebaseqa", "--device", "cpu"),
        *("--model_args", f"pretrained={tiny_model_dir},compressor=magnitude,sparsity=0.5"),
        *("--metadata", f'{{"data_dir": "{data_dir}"}}', "--limit", "2"),
    ]


def replaced(arguments: list[str], option: str, value: str) -> list[str]:
    """Return ``arguments`` with another value after ``option``."""
    place = arguments.index(option) + 1
    return [*arguments[:place], value, *arguments[place + 1 :]]


def test_no_arguments_show_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)
    assert "lmkick run --model kick --model_args" in shown


def test_version_names_what_decides_about_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    shown = capsys.readouterr().out
    assert shown.startswith("lmkick 0.")
    assert "lm_eval 0.4." in shown
    assert "torch 2." in shown


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["rum"])
    assert "'run'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said", "helps"),
    [
        ("compress --sparsityy 0.4", "--sparsityy. Did you mean '--sparsity'?", "lmkick compress"),
        ("compress --pretraned m", "--pretraned. Did you mean '--pretrained'?", "lmkick compress"),
        ("compress --compressor wandaa", "'wandaa' is .*Did you mean 'wanda'?", "lmkick compress"),
        ("compress --format=gptqq", "'gptqq' is unknown. Did you mean 'gptq'?", "lmkick compress"),
        ("compress --spars 0.4", "--spars. Did you mean '--sparsity'?", "lmkick compress"),
        ("judge jr --judge-modell x", "--judge_modell. Did you mean '--judge_model'?", None),
        ("layers x --csv", "unknown option --csv.", None),
        ("layers", "required: RESULTS.", None),
        ("export x -o y --format xml", "'xml' is unknown. Choose one of: leaderboard.", None),
        ("study colors", "kind: 'colors' is unknown. Choose one of: calibration, .*, seeds.", None),
        ("sweep x --dry_rum", "--dry_rum. Did you mean '--dry_run'?", None),
        ("run --taskss t", "--taskss. Did you mean '--tasks'?", None),
        ("ls taskz", "'taskz' is unknown. Did you mean 'tasks'?", None),
        ("validate --task", "--tasks.*: expected one argument.", None),
        ("rum", "'rum' is unknown. Did you mean 'run'?", "lmkick"),
        ("--verson", "--verson. Did you mean '--version'?", "lmkick"),
    ],
)
def test_a_mistyped_command_line_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], command: str, said: str, helps: str | None
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    helps = helps or f"lmkick {command.split()[0]}"
    pattern = f"{helps}: .*{said} .*See `{helps} --help`\n".replace("?", r"\?")
    assert re.fullmatch(pattern, error), error


def test_options_of_argparse_still_work(capsys: pytest.CaptureFixture[str]) -> None:
    own = Parser(prog="lmkick x")
    own.add_argument("--label", action="append")
    own.add_argument("--number", type=int, choices=[-1, 2])
    given = ["--lab", "a b", "--label=c", "--label", "--d e", "--number", "-1"]
    own.check_options([*given, "--", "--unknown"])  # a value after --
    assert vars(own.parse_args(given)) == {"label": ["a b", "c", "--d e"], "number": -1}
    with pytest.raises(SystemExit, match="2"):
        own.parse_args(["--number", "3"])
    assert "'3' is unknown. Choose one of: -1, 2." in capsys.readouterr().err


def test_compress_prints_two_lines_and_warnings(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from transformers.utils import logging as bars

    levels: list[int] = []
    monkeypatch.setattr("lm_eval.utils.setup_logging", levels.append)
    monkeypatch.setattr(bars, "_tqdm_active", True)
    command = ["compress", "--pretrained", str(tiny_model_dir), "--compressor", "magnitude"]
    command += ["--sparsity", "0.5", "--device", "cpu", "--output", str(tmp_path / "new")]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert said.out.startswith("saved in ")
    assert said.out.count("\n") == 2
    assert "Loading weights" not in said.err
    assert "Writing model shards" not in said.err
    assert levels == [logging.WARNING]


def test_a_good_run_reaches_lm_eval(
    executed: list[argparse.Namespace], run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kept"])
    assert cli.main(run) == 0
    (options,) = executed
    assert options.command == "run"
    assert options.model_args["compressor"] == "magnitude"
    assert sys.argv == ["kept"]


@pytest.mark.parametrize("command", ["ls", "validate"])
def test_other_commands_are_lm_evals(executed: list[argparse.Namespace], command: str) -> None:
    arguments = {"ls": ["tasks"], "validate": ["--tasks", "hellaswag"]}
    assert cli.main([command, *arguments[command]]) == 0
    assert executed[0].command == command


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model_args", "pretrained={model},compressor=wnada,sparsity=0.5", "wanda"),
        ("--model_args", "pretrained={model},compressor=magnitude,sparsity=1.5", "sparsity"),
        ("--model_args", "pretrained={model},compressor=magnitude", "sparsity"),
        ("--model_args", "pretrained=./nowhere,compressor=none", "nowhere"),
        ("--model_args", "compressor=none", "pretrained="),
        ("--tasks", "kick_freebaseq", "Did you mean 'kick_freebaseqa'"),
        ("--metadata", '{"data_dir": "nowhere"}', "data_dir=nowhere: no such directory"),
        ("--metadata", '{"data_dir": "{empty}"}', "eval.jsonl"),
    ],
)
def test_a_fault_stops_before_lm_eval_starts(
    executed: list[argparse.Namespace],
    run: list[str],
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    message: str,
) -> None:
    value = value.replace("{model}", str(tiny_model_dir)).replace("{empty}", str(tmp_path))
    assert cli.main(replaced(run, option, value)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("lmkick run: ") == 1
    assert "Traceback" not in error
    assert executed == []


def test_arguments_of_other_models_are_not_ours(
    executed: list[argparse.Namespace], run: list[str]
) -> None:
    arguments = replaced(run, "--model_args", "pretrained=./nowhere,compressor=theirs")
    assert cli.main(replaced(arguments, "--model", "hf")) == 0
    assert len(executed) == 1


def test_environment_variable_is_checked(
    executed: list[argparse.Namespace],
    run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LMKICK_DATA_DIR", "elsewhere")
    assert cli.main(replaced(run, "--metadata", "{}")) == 2
    assert "elsewhere" in capsys.readouterr().err
    assert executed == []


def test_config_file_is_checked_like_options(
    executed: list[argparse.Namespace],
    tiny_model_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "run.yaml"
    text = (
        f"model: kick\ntasks: kick_freebaseqa\nmetadata: {{data_dir: {data_dir}}}\n"
        f"model_args: pretrained={tiny_model_dir},compressor=COMPRESSOR\n"
    )
    config.write_text(text.replace("COMPRESSOR", "none"), encoding="utf-8")
    assert cli.main(["run", "--config", str(config)]) == 0
    assert len(executed) == 1
    config.write_text(text.replace("COMPRESSOR", "nine"), encoding="utf-8")
    assert cli.main(["run", "--config", str(config)]) == 2
    assert cli.main(["run", "--config", str(tmp_path / "missing.yaml")]) == 2
    errors = capsys.readouterr().err
    assert "compressor" in errors
    assert "missing.yaml" in errors
    assert len(executed) == 1


def test_a_users_task_of_the_same_name_is_left_to_lm_eval(
    executed: list[argparse.Namespace], run: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("task: kick_freebaseqa\n", encoding="utf-8")
    broken_data = replaced(run, "--metadata", f'{{"data_dir": "{tmp_path}"}}')
    assert cli.main(broken_data) == 2
    assert cli.main([*broken_data, "--include_path", str(tmp_path)]) == 0
    assert len(executed) == 1


@pytest.mark.parametrize(
    "error",
    [
        SettingsError("calibration=nope.jsonl: no such file"),
        UnsupportedModelError("in_features 64 is not divisible by group_size 128"),
        NumericalError("layer 3: 1 of its weights are NaN"),
        DataError("no file freebase_qa/eval.jsonl"),
    ],
)
def test_what_lmkick_itself_refuses_later_needs_no_traceback(
    run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    from lm_eval._cli import HarnessCLI

    def execute(self: object, options: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(HarnessCLI, "execute", execute)
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda: None)
    assert cli.main(run) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"lmkick run: {error}"


def test_a_message_of_several_lines_is_one(
    run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval._cli import HarnessCLI

    def execute(self: object, options: argparse.Namespace) -> None:
        raise SettingsError("a and b cannot be compared:\n  no item\n  another prompt")

    monkeypatch.setattr(HarnessCLI, "execute", execute)
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda: None)
    assert cli.main(run) == 2
    said = "lmkick run: a and b cannot be compared: no item; another prompt"
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_an_unexpected_error_says_where_and_shows_its_traceback_on_request(
    run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval._cli import HarnessCLI

    def execute(self: object, options: argparse.Namespace) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(HarnessCLI, "execute", execute)
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda: None)
    assert cli.main(run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lmkick run: 'a defect' (KeyError in test_cli.py, line ")
    monkeypatch.setenv("LMKICK_TRACEBACK", "1")
    with pytest.raises(KeyError, match="a defect"):
        cli.main(run)


@pytest.mark.slow
def test_run_ends_in_lm_evals_table(run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(run) == 0
    assert "|kick_freebaseqa|" in capsys.readouterr().out
