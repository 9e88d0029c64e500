# SPDX-License-Identifier: Apache-2.0
"""Configurations: what is read, what is refused and where, and which cells they span."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from compressors.errors import LmkickError
from lmkick_plugin import cli
from lmkick_plugin.judge.settings import KEY_VARIABLES, JudgeSettings
from lmkick_plugin.sweep import checks, runner
from lmkick_plugin.sweep.config import SweepConfig, read_config
from lmkick_plugin.sweep.evaluate import environment, set_environment
from lmkick_plugin.sweep.grid import list_cells
from lmkick_plugin.sweep.plan import make_plan, task_settings
from lmkick_plugin.terminal import CommandError

MINIMAL: dict[str, Any] = {"models": ["a/b"], "tasks": ["kick_mmlu"], "output": "out"}


def config(**more: Any) -> SweepConfig:
    return read_config({**MINIMAL, **more})


def names(**more: Any) -> list[str]:
    return [cell.name for cell in list_cells(config(**more))[0]]


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [a\ntasks: b", r"line 2"),
        (
            "models: [a/b]\ntasks: [x]\nmodels: [c]",
            r"line 3, column 1: not YAML: 'models' is already",
        ),
        ("- a", "expected a mapping"),
        ("modles: [a/b]\ntasks: [kick]\noutput: o", r"modles: .* Did you mean 'models'"),
        ("models: [a/b]\ntasks: [kick]", "output is missing"),
        ("models: [a/b]\ntasks: []\noutput: o", "tasks is missing or empty"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said) as error:
        read_config(path)
    assert str(path) in str(error.value)


def test_a_pattern_needs_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "models: a/b\ntasks: kick_mmlu\noutput: o\nlimit: 010\n"
        "recipes: [{compressor: magnitude, pattern: [2:4, 4:8]}]",
        encoding="utf-8",
    )
    found = read_config(path)
    assert found.recipes[0]["pattern"] == ["2:4", "4:8"]
    assert found.limit == 10
    assert found.tasks == ("kick_mmlu",)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"recipes": [{"compressor": "wanda", "sparsty": 0.5}]}, r"recipes\[0\].sparsty.*sparsity"),
        ({"recipes": [{"compressor": "wanda", "sparsity": []}]}, "sparsity is an empty list"),
        ({"recipes": [{"compressor": "wonda"}]}, r"recipes\[0\].*Did you mean 'wanda'"),
        (
            {"recipes": [{"compressor": "rtn", "bits": [8, 9], "group_size": [64, 128]}]},
            r"recipes\[0\] with bits=9, group_size=64: bits=9",
        ),
        ({"recipes": [{"compressor": "magnitude", "bits": 4}]}, "bits=4 does not go with"),
        ({"recipes": [{"compressor": "wanda", "sparsity": 0.5, "seed": "0+0"}]}, "repeats a seed"),
        ({"recipes": [3]}, r"recipes\[0\]: expected a mapping"),
        ({"models": [{"dtype": "auto"}]}, r"models\[0\]: expected a name"),
        ({"models": [{"pretrained": "a/b", "sparsity": 0.5}]}, r"models\[0\].sparsity belongs to"),
        ({"models": ["/no/such"]}, r"models\[0\]: pretrained=/no/such: no such folder"),
        ({"dense": False}, "nothing to evaluate"),
        ({"limit": 0}, "limit=0"),
        ({"limit": {"kick_mmlu": 1.5}}, "limit.kick_mmlu=1.5"),
        ({"max_gen_toks": 0.5}, "whole numbers of tokens"),
        ({"executor": "rey"}, "Did you mean 'ray'"),
        ({"executor": "gpus", "device": "cuda:1"}, "does not go with executor=gpus"),
        ({"judge_modl": "x"}, "Did you mean 'judge_model'"),
        ({"metadata": {"judge_modl": "x"}}, r"metadata.judge_modl.*judge_model"),
        ({"judge_model": "a", "metadata": {"judge_model": "b"}}, "is also in metadata"),
        ({"metadata": {"deep": {"set": {1}}}}, "metadata.deep.set: expected text"),
        ({"chat_template": "auto"}, "Did you mean 'apply_chat_template'"),
    ],
)
def test_mistakes_are_found_and_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list_cells(config(**more))


def test_judge_settings_may_stand_at_the_top() -> None:
    found = config(judge_model="m", judge_order="both", metadata={"new_tokens": 3})
    assert found.metadata == {"new_tokens": 3, "judge_model": "m", "judge_order": "both"}


# --- the grid -------------------------------------------------------------------------------------


def test_lists_span_a_grid_and_the_dense_model_comes_first() -> None:
    recipes = [
        {"compressor": "magnitude", "sparsity": [0.2, 0.4]},
        {"compressor": "magnitude", "pattern": ["2:4"]},
        {"compressor": "rtn", "bits": [8, 4], "group_size": [64, -1]},
    ]
    assert names(recipes=recipes) == [
        "a__b/dense",
        "a__b/magnitude_sparsity=0.2",
        "a__b/magnitude_sparsity=0.4",
        "a__b/magnitude_pattern=2-4",
        "a__b/rtn_bits=8_group_size=64",
        "a__b/rtn_bits=8_group_size=-1",
        "a__b/rtn_bits=4_group_size=64",
        "a__b/rtn_bits=4_group_size=-1",
    ]
    assert names(models=["a/b", "c"], recipes=recipes)[8] == "c/dense"


def test_what_stands_there_twice_counts_once() -> None:
    recipes = [
        {"compressor": "rtn", "bits": [4, 4.0]},
        {"compressor": "rtn", "bits": "4", "group_size": 128, "symmetric": True},
        {"compressor": "none"},
    ]
    cells, repeated = list_cells(config(recipes=recipes))
    assert ([cell.name for cell in cells], repeated) == (["a__b/dense", "a__b/rtn_bits=4"], 3)


def test_seeds_are_for_recipes_that_take_one() -> None:
    recipes = [
        {"compressor": "wanda", "sparsity": 0.5},
        {"compressor": "random", "sparsity": 0.5, "seed": "3+4"},
        {"compressor": "magnitude", "sparsity": 0.5},
    ]
    assert names(recipes=recipes, seeds=[0, 1], dense=False) == [
        "a__b/wanda_sparsity=0.5",
        "a__b/wanda_sparsity=0.5_seed=1",
        "a__b/random_sparsity=0.5_seed=3",
        "a__b/random_sparsity=0.5_seed=4",
        "a__b/magnitude_sparsity=0.5",
    ]


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    models = ["a/b", {"pretrained": "a/b", "revision": "r"}, {"pretrained": "c", "revision": "r"}]
    found = [name.partition("/")[0] for name in names(models=models)]
    assert len(set(found)) == 3
    assert found[0] == "a__b"
    assert found[1].startswith("a__b-")
    # What is added to a configuration does not rename what was there.
    assert [names(models=[model])[0] for model in models] == names(models=models)
    folders = [tmp_path / place / "model" for place in ("one", "two")]
    for folder in folders:
        folder.mkdir(parents=True)
    both = names(models=[str(folder) for folder in folders])
    assert len(set(both)) == 2
    assert names(models=[str(folders[0])] * 2) == ["model/dense"]
    assert names(models=[str(folders[0]), f"{folders[0]}/"]) == ["model/dense"]


def test_each_cell_has_folders_of_its_own_for_what_it_keeps() -> None:
    recipe = {"compressor": "magnitude", "sparsity": [0.1, 0.2], "resume_dir": "keep"}
    cells, _ = list_cells(config(recipes=[recipe]))
    assert [cell.recipe.get("resume_dir") for cell in cells] == [
        None, "keep/a__b/magnitude_sparsity=0.1", "keep/a__b/magnitude_sparsity=0.2"
    ]  # fmt: skip


def test_settings_of_a_task() -> None:
    found = config(
        limit={"kick_mmlu": 2, "default": 9}, max_gen_toks={"kick_instruct": 7},
        gen_kwargs={"temperature": 0}, judge_model="m", judge_retries=9,
    )  # fmt: skip
    mmlu, instruct = (task_settings(found, task) for task in ("kick_mmlu", "kick_instruct"))
    assert (mmlu["limit"], mmlu["gen_kwargs"], mmlu["apply_chat_template"]) == (
        2, {"temperature": 0}, "false"
    )  # fmt: skip
    assert (instruct["limit"], instruct["gen_kwargs"], instruct["apply_chat_template"]) == (
        9, {"temperature": 0, "max_gen_toks": 7}, "auto"
    )  # fmt: skip
    assert instruct["metadata"] == {"judge_model": "m"}  # patience decides no score
    assert "metadata" not in mmlu  # which nobody judges


def test_a_judge_in_the_environment_concerns_judged_tasks_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tasks = ["kick_mmlu", "kick_alpaca", "kickonly_perplexity", "hellaswag"]
    before = [task_settings(config(), task) for task in tasks]
    monkeypatch.setenv("LMKICK_JUDGE_MODEL", "x")
    assert [task_settings(config(), task) for task in tasks] == before
    for task in ("kick_instruct", "llmkick_summarization_small", "kickonly_mtbench"):
        assert task_settings(config(), task)["environment"]["LMKICK_JUDGE_MODEL"] == "x"
    # A task of others may be judged, too.
    theirs = task_settings(config(include_path=str(tmp_path)), "theirs")
    assert theirs["environment"]["LMKICK_JUDGE_MODEL"] == "x"


JUDGE = {
    "model": "m", "base_url": "http://a/v1", "reference": "model:r", "prompt": "p.yaml",
    "reference_base_url": "http://b/v1", "order": "answer_first", "store": "s", "temperature": 0.5,
    "max_tokens": 77, "structured": "off", "max_requests": 9, "concurrency": 2, "timeout": 5.0,
    "retries": 7, "reask": 3, "backoff": 2.0, "max_wait": 8.0, "give_up_after": 4,
}  # fmt: skip
PATIENCE = {
    "store", "max_requests", "concurrency", "timeout", "retries", "backoff", "max_wait",
    "give_up_after",
}  # fmt: skip


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy, which a test may set to another's."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.parametrize("name", JUDGE)
def test_a_setting_of_the_judge_decides_wherever_it_is_given(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = task_settings(config(judge_model="other"), "kick_instruct")
    given = task_settings(
        config(**{"judge_model": "other", f"judge_{name}": JUDGE[name]}), "kick_instruct"
    )
    monkeypatch.setenv(f"LMKICK_JUDGE_{name.upper()}", str(JUDGE[name]))
    found = task_settings(config(judge_model="other"), "kick_instruct")
    assert (found == before) == (name in PATIENCE)
    assert (given["metadata"] == before["metadata"]) == (name in PATIENCE)


@pytest.mark.usefixtures("own_environment")
def test_an_actor_asks_the_judge_as_the_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"LMKICK_JUDGE_{name.upper()}" for name in JUDGE]
    for name, value in zip(names, JUDGE.values(), strict=True):
        monkeypatch.setenv(name, str(value))
    for name in KEY_VARIABLES:
        monkeypatch.setenv(name, "pa55")
    sent = environment({})
    assert set(sent) - {"LMKICK_DATA_DIR"} == set(names)
    assert "pa55" not in sent.values()
    for name in names:  # the node's own are others, of which it may not know one
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("LMKICK_JUDGE_FROM_LATER", "1")
    set_environment(sent)
    assert JudgeSettings.read({}) == JudgeSettings(**JUDGE)  # type: ignore[arg-type]
    assert os.environ[KEY_VARIABLES[0]] == "pa55"  # its own


@pytest.mark.usefixtures("own_environment")
def test_the_address_of_openai_counts_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://a/v1")
    judged = config(judge_model="m")
    before = task_settings(judged, "kick_instruct")
    assert environment(judged.metadata)["OPENAI_BASE_URL"] == "http://a/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:pa55@b/v1")
    for other in (config(), config(judge_model="m", judge_base_url="http://c/v1")):
        assert "OPENAI_BASE_URL" not in environment(other.metadata)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL: an address") as caught:
        environment(judged.metadata)
    assert "pa55" not in str(caught.value)
    set_environment({"OPENAI_BASE_URL": "http://b/v1"})
    assert task_settings(judged, "kick_instruct") != before
    set_environment({})  # the driver asks OpenAI itself
    assert "OPENAI_BASE_URL" not in os.environ


def test_limits_of_unknown_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"limit.kick_mlu.*Did you mean 'kick_mmlu'"):
        make_plan(config(limit={"kick_mlu": 2}, output=str(tmp_path)), ["kick_mmlu"])


PRUNED = {"compressor": "magnitude", "sparsity": 0.5}


def test_a_plan_knows_what_a_folder_refuses(
    small_sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "check_stored", lambda *_: pytest.fail("weights were read"))
    given = {**small_sweep, "recipes": [PRUNED, {"compressor": "magnitude", "pattern": "5:9"}]}
    said = r"/magnitude_pattern=5-9: .*divide"
    with pytest.raises(LmkickError, match=said):
        runner.open_plan(read_config(given))
    with pytest.raises(LmkickError, match=said):
        runner.run_sweep(given, progress=False)
    assert not Path(given["output"]).exists()


def test_a_device_that_is_not_here_is_planned_for_and_refused_before_weights_are_read(
    small_sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "check_stored", lambda *_: pytest.fail("weights were read"))
    given = {**small_sweep, "device": "cuda:99"}
    assert len(runner.open_plan(read_config(given))[0].to_do) == 3
    with pytest.raises(LmkickError, match=r"device=cuda:99: torch .* sees"):
        runner.run_sweep(given, progress=False)


def test_a_plan_for_a_cluster_asks_nothing_of_this_machine(small_sweep: dict[str, Any]) -> None:
    recipes = [{"compressor": "magnitude", "pattern": "5:9"}]
    given = {**small_sweep, "recipes": recipes, "device": "cuda:99", "executor": "ray"}
    plan, _ = runner.open_plan(read_config(given))
    assert len(plan.to_do) == 2


# --- the command ----------------------------------------------------------------------------------


def test_a_dry_run_shows_the_plan_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"models: [Qwen/Qwen3-0.6B]\ntasks: [kick, 'kickonly_p*']\noutput: {tmp_path / 'out'}\n"
        "recipes: [{compressor: wanda, sparsity: [0.2, 0.4]}]",
        encoding="utf-8",
    )
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Qwen__Qwen3-0.6B/wanda_sparsity=0.4 to do 0/12" in " ".join(said.split())
    assert "3 cells of 12 tasks" in said
    assert "kick_mmlu" in said
    assert "kickonly_perplexity" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "recipes: [{compressor: wanda, sparsty: 0.5}]",
            "recipes[0].sparsty: not a setting of a recipe",
        ),
        ("recipes: [{compressor: wanda, sparsity: [0.5, 2]}]", "recipes[0] with sparsity=2: "),
        ("model_args: {pretrained: c/d}", "model_args.pretrained: name the models"),
        ("batch_size: automatic", "batch_size='automatic'"),
        ("dtype: float17", "dtype='float17' is unknown. Did you mean 'float1"),
        ("include_path: no/such", "include_path='no/such': no such folder"),
        ("recipes: [{compressor: wanda, sparsity: .nan}]", "recipes: "),
    ],
)
def test_a_wrong_setting_is_named_with_file_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"models: [a/b]\ntasks: [kick_wikitext]\noutput: o\n{text}", encoding="utf-8")
    assert cli.main(["sweep", str(path), "--dry-run"]) == 2
    assert f"{path}: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["auto", "auto:4", 8, "8"])
def test_batch_sizes(size: Any) -> None:
    assert str(config(batch_size=size).batch_size) == str(size)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("kick_mlmu", "kick_mmlu"),
        ("mmlu_kick_anatmy", "mmlu_kick_anatomy"),
        ("recall_kick_chose", "recall_kick_choose"),
    ],
)
def test_an_unknown_task_is_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    typed: str, meant: str,
) -> None:  # fmt: skip
    from lm_eval import tasks

    really, read = tasks.TaskManager, []

    def manager(*args: Any, **options: Any) -> Any:
        read.append(options.get("include_defaults", True))
        return really(*args, **options)

    monkeypatch.setattr(tasks, "TaskManager", manager)
    path = tmp_path / "sweep.yaml"
    path.write_text(f"models: [a/b]\ntasks: [{typed}]\noutput: o", encoding="utf-8")
    assert cli.main(["sweep", str(path), "--dry-run"]) == 2
    assert f"no task {typed!r}. Did you mean {meant!r}" in capsys.readouterr().err
    assert read == [False]  # lm-eval's own 14,000 files were not


READY = sorted((Path(__file__).resolve().parents[3] / "sweeps").glob("*.yaml"))


def test_there_are_ready_sweeps() -> None:
    assert len(READY) >= 3


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_sweep_can_be_planned_offline(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", str(path), "--dry-run", "--output", str(tmp_path / "o")]) == 0
    assert "/dense" in capsys.readouterr().out
