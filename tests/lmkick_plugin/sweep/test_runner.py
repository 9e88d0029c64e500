# SPDX-License-Identifier: Apache-2.0
"""Sweeps that really run: the same scores as single runs, only what is missing, one copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from lmkick_plugin import cli
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.sweep import Progress, SweepResult, evaluate, run_sweep, runner
from lmkick_plugin.sweep.cell_files import describe_error
from lmkick_plugin.sweep.dense_model import DenseModel
from lmkick_plugin.sweep.log_file import redirect_output
from lmkick_plugin.terminal import CommandError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fast_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval spends seconds on looking at the machine."""
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")


def scores(path: Path) -> dict[str, Any]:
    return {
        task: {name: value for name, value in found.items() if name != "sample_len"}
        for task, found in ResultsFile.read(path).data["results"].items()
    }


def record(path: Path) -> dict[str, Any]:
    return {
        name: value for name, value in ResultsFile.read(path).record.items() if name != "seconds"
    }


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Checkpoints that are read."""
    from lm_eval.models.huggingface import HFLM

    read: list[str] = []
    create = HFLM._create_model

    def counted(self: Any, pretrained: str, **kwargs: Any) -> None:
        read.append(pretrained)
        create(self, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(HFLM, "_create_model", counted)
    return read


def test_cells_are_what_single_runs_are(
    small_sweep: dict[str, Any], loads: list[str], tiny_model_dir: Path
) -> None:
    """One load, three cells; scores, record and weights as of separate processes, bit for bit."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from lmkick_plugin.registration import TASK_FOLDER

    small_sweep["tasks"].append("kickonly_divergence")
    small_sweep["metadata"]["new_tokens"] = 2
    told: list[Progress] = []
    found = run_sweep(small_sweep, progress=told.append)
    assert [cell.state for cell in found.cells] == ["done"] * 3
    assert found.status == 0
    assert loads == [str(tiny_model_dir)]  # the divergence's reference was not read again, either
    assert (told[-1].done, told[-1].total, told[-1].seconds_left) == (9, 9, 0)
    hashes = set()
    for cell in found.cells:
        arguments = {**cell.model, **(cell.recipe or {"compressor": "none"})}
        for task, path in cell.results.items():
            metadata = {**cell.model, **small_sweep["metadata"]}
            manager = TaskManager(
                include_path=[TASK_FOLDER], include_defaults=False, metadata=metadata
            )
            single = simple_evaluate(
                model="kick", model_args=arguments, tasks=[task], task_manager=manager, limit=3,
                batch_size=2, device="cpu", gen_kwargs={"max_gen_toks": 4},
            )  # fmt: skip
            assert single is not None
            kept = ResultsFile.read(path)
            plain = json.loads(json.dumps(single["results"], default=str))
            assert scores(path) == {
                name: {key: value for key, value in entry.items() if key != "sample_len"}
                for name, entry in plain.items()
            }
            own = dict(single["config"]["kick"])
            theirs = dict(kept.record)
            assert set(own) == set(theirs)
            for name in set(own) - {"seconds", "layers", "truncated_prompts", "versions"}:
                assert own[name] == theirs[name], name
            assert kept.data["config"]["model"] == "kick"
            assert kept.samples(task)  # lm-eval's own samples file is beside it
            hashes.add(theirs["weights_sha256"])
    assert len(hashes) == 3  # the cells are not all the same model
    jsd = {cell.name: scores(cell.results["kickonly_divergence"]) for cell in found.cells}
    values = [entry["kickonly_divergence"]["jsd,none"] for entry in jsd.values()]
    assert values[0] == 0
    assert min(values[1:]) > 0


def test_cells_are_profiled_where_asked(small_sweep: dict[str, Any]) -> None:
    small_sweep["tasks"] = ["kickonly_perplexity"]
    found = run_sweep(small_sweep)
    assert all(
        ResultsFile.read(path).record["profile"] is None
        for cell in found.cells
        for path in cell.results.values()
    )
    found = run_sweep({**small_sweep, "output": small_sweep["output"] + "2", "profile": True})
    for cell in found.cells:
        for path in cell.results.values():
            profile = ResultsFile.read(path).record["profile"]
            assert profile["decode"]["low"] > 0
            assert profile["prefill"]["median"] > 0
            assert profile["memory_bytes"] == ResultsFile.read(path).record["bytes_dense"] + 64


def test_only_what_is_missing_is_run(
    small_sweep: dict[str, Any], loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks._index import TaskIndex

    indexed: list[Any] = []
    build = TaskIndex.build

    def counted(paths: Any, **options: Any) -> Any:
        indexed.append(paths)
        return build(paths, **options)

    monkeypatch.setattr(TaskIndex, "build", staticmethod(counted))
    small_sweep["tasks"] = ["kickonly_perplexity"]
    wanda = small_sweep["recipes"].pop()
    first = run_sweep(small_sweep, progress=False)
    assert len(indexed) == 1  # for all cells and tasks, and without lm-eval's own files
    assert len(indexed[0]) == 1
    files = {path: path.stat().st_mtime_ns for path in first.output.rglob("results_*.json")}
    assert len(files) == 2
    loads.clear()
    assert run_sweep(small_sweep, progress=False).status == 0
    assert loads == []
    # More recipes and more tasks: what was there stays as it was.
    told: list[Progress] = []
    small_sweep["recipes"].append(wanda)
    small_sweep["tasks"] = ["kickonly_perplexity", "kick_freebaseqa"]
    second = run_sweep(small_sweep, progress=told.append)
    assert [(each.cell.partition("/")[2].partition("_")[0], each.task) for each in told] == [
        ("dense", "kick_freebaseqa"),
        ("magnitude", "kick_freebaseqa"),
        ("wanda", "kickonly_perplexity"),
        ("wanda", "kick_freebaseqa"),
    ]
    assert second.status == 0
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    # A results file that is gone is made again; a broken cell.json counts as nothing done.
    next(iter(files)).unlink()
    told.clear()
    run_sweep(small_sweep, progress=told.append)
    assert [each.task for each in told] == ["kickonly_perplexity"]
    # Other settings do not mix with these.
    with pytest.raises(CommandError, match=r"another sweep: its limit is 3, now 2"):
        run_sweep({**small_sweep, "limit": 2}, progress=False)
    with pytest.raises(CommandError, match=r"another sweep: its model.dtype is None"):
        run_sweep({**small_sweep, "dtype": "bfloat16"}, progress=False)


@pytest.mark.parametrize("which", ["allocation", "calibration"])
def test_a_file_with_other_contents_is_another_recipe(
    small_sweep: dict[str, Any], tmp_path: Path, which: str
) -> None:
    file = tmp_path / {"allocation": "blocks.json", "calibration": "text.txt"}[which]
    recipe: dict[str, Any] = {"compressor": "magnitude", "sparsity": 0.5}
    first = json.dumps({"model.layers.0": 0.4, "model.layers.1": 0.6})
    if which == "calibration":
        first = "some words " * 100
        recipe = {"compressor": "wanda", "pattern": "2:4", "nsamples": 2, "seqlen": 32}
    file.write_text(first)
    recipe[which] = f"file:{file}" if which == "allocation" else str(file)
    small_sweep |= {"recipes": [recipe], "tasks": ["kickonly_perplexity"], "dense": False}
    (done,) = run_sweep(small_sweep, progress=False).cells
    assert done.state == "done"
    file.write_text(first.replace("0.4", "0.5").replace("0.6", "0.5").replace("some", "other"))
    with pytest.raises(CommandError, match=r"another sweep: its files\..*" + file.name):
        run_sweep(small_sweep, progress=False)
    if which == "calibration":  # what is finished stays so where its text is gone
        file.unlink()
        assert run_sweep(small_sweep, progress=False).status == 0


def test_a_failed_cell_does_not_stop_the_others(
    small_sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmkick_plugin.loading.compress import Compression
    from lmkick_plugin.sweep import jobs

    monkeypatch.setenv("SOME_API_KEY", "verysecret")
    compress, evaluate = Compression.run, jobs.evaluate

    def breaks(self: Any, *arguments: Any, **options: Any) -> Any:
        model = compress(self, *arguments, **options)
        if self._recipe.compressor == "magnitude":
            raise RuntimeError("out of luck with verysecret")
        return model

    def fails_once(model: Any, **options: Any) -> Any:
        if model.is_dense and options["tasks"][0].config.task == "kick_freebaseqa":
            raise ValueError("no answer")
        return evaluate(model, **options)

    monkeypatch.setattr(Compression, "run", breaks)
    monkeypatch.setattr(jobs, "evaluate", fails_once)
    found = run_sweep(small_sweep, progress=False)
    assert [cell.state for cell in found.cells] == ["failed", "failed", "done"]
    assert (found.status, len(found.failures)) == (1, 2)
    assert found.cells[0].errors == {"kick_freebaseqa": "no answer"}
    assert list(found.cells[0].results) == ["kickonly_perplexity"]
    text = (found.cells[1].folder / "cell.json").read_text()
    assert "verysecret" not in text
    error = json.loads(text)["error"]
    assert error["message"] == "out of luck with [secret]"
    assert "in breaks" in error["traceback"]
    # It stays as it is until somebody asks for another try; then the weights are whole again.
    told: list[Progress] = []
    assert run_sweep(small_sweep, progress=told.append).status == 1
    assert told == []
    monkeypatch.undo()
    after = run_sweep(small_sweep, progress=told.append, retry_failed=True)
    assert (after.status, len(told)) == (0, 3)
    assert json.loads((found.cells[1].folder / "cell.json").read_text())["error"] is None


def test_dense_weights_are_restored_after_a_compression_that_broke_off(
    small_sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmkick_plugin.loading.compress import Compression

    small_sweep["tasks"] = ["kickonly_perplexity"]
    whole = run_sweep(small_sweep, progress=False)
    compress = Compression.run

    def breaks(self: Any, *arguments: Any, **options: Any) -> Any:
        model = compress(self, *arguments, **options)
        if self._recipe.compressor == "magnitude":
            raise RuntimeError("too late: weights are changed")
        return model

    monkeypatch.setattr(Compression, "run", breaks)
    small_sweep["output"] += "2"
    found = run_sweep(small_sweep, progress=False)
    assert [cell.state for cell in found.cells] == ["done", "failed", "done"]
    for at in (0, 2):
        paths = [each.cells[at].results["kickonly_perplexity"] for each in (whole, found)]
        assert record(paths[0])["weights_sha256"] == record(paths[1])["weights_sha256"]
        assert scores(paths[0]) == scores(paths[1])


def test_a_quantized_cell_does_not_get_the_shared_dense_weights(
    small_sweep: dict[str, Any], loads: list[str]
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs pip install 'lmkick[bitsandbytes]'")
    magnitude = small_sweep["recipes"][0]
    small_sweep |= {
        "recipes": [magnitude, {"quantize": "bnb-int8"}, {**magnitude, "sparsity": 0.25}],
        "tasks": ["kickonly_perplexity"],
    }
    found = run_sweep(small_sweep, progress=False)
    assert [cell.state for cell in found.cells] == ["done"] * 4
    dense, half, quantized, quarter = (
        record(cell.results["kickonly_perplexity"]) for cell in found.cells
    )
    assert len(loads) == 3  # once for all before, for the quantized cell, and after it
    assert (quantized["compressor"], quantized["num_bits"]) == ("bnb-int8", 8)
    assert quantized["weights_sha256"] != dense["weights_sha256"]
    assert quantized["bytes_best_format"] < dense["bytes_best_format"]
    # Neither does the cell after it start from quantized weights.
    assert quarter["total_parameters"] == half["total_parameters"] == dense["total_parameters"]
    assert 0.2 < quarter["achieved_sparsity"] < 0.3


def test_other_weights_under_the_same_name_are_noticed(
    small_sweep: dict[str, Any], tmp_path: Path
) -> None:
    from tests.conftest import make_tiny_llama, make_tiny_tokenizer

    model = tmp_path / "model"
    make_tiny_tokenizer().save_pretrained(model)
    small_sweep |= {"models": [str(model)], "tasks": ["kickonly_perplexity"]}
    recipes = small_sweep.pop("recipes")[:1]
    make_tiny_llama(0).save_pretrained(model)
    assert run_sweep(small_sweep, progress=False).status == 0
    make_tiny_llama(1).save_pretrained(model)
    found = run_sweep({**small_sweep, "recipes": recipes}, progress=False)
    assert [cell.state for cell in found.cells] == ["done", "failed"]
    assert "differ from those of finished cells" in found.cells[1].errors[""]


def test_generation_tasks_go_through_a_chat_models_template(
    small_sweep: dict[str, Any], tmp_path: Path
) -> None:
    from tests.conftest import make_tiny_llama, make_tiny_tokenizer

    model = tmp_path / "chat"
    make_tiny_llama().save_pretrained(model)
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    tokenizer.save_pretrained(model)
    small_sweep |= {
        "models": [str(model)], "recipes": [], "tasks": ["kick_freebaseqa", "kick_alpaca"]
    }  # fmt: skip
    (dense,) = run_sweep(small_sweep, progress=False).cells
    used = {task: record(path)["chat_template"] for task, path in dense.results.items()}
    assert used == {"kick_freebaseqa": False, "kick_alpaca": True}
    samples = dense.results["kick_alpaca"].parent.glob("samples_kick_alpaca_*.jsonl")
    prompt = json.loads(next(samples).read_text().splitlines()[0])["arguments"]["gen_args_0"]
    assert prompt["arg_0"].startswith("[Say the.")
    small_sweep |= {"apply_chat_template": False, "output": str(tmp_path / "plain")}
    (plain,) = run_sweep(small_sweep, progress=False).cells
    assert not record(plain.results["kick_alpaca"])["chat_template"]


# --- around the cells -----------------------------------------------------------------------------


def test_two_sweeps_do_not_share_a_folder(small_sweep: dict[str, Any]) -> None:
    folder = Path(small_sweep["output"])
    folder.mkdir()
    lock = FileLock(folder / ".sweep.lock")
    with lock, pytest.raises(CommandError, match="another sweep is running"):
        run_sweep(small_sweep, progress=False)
    assert list(folder.rglob("cell.json")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_dir": "/no/such"}, "no such directory"),
        ({"models": ["nobody/nothing"]}, "could not be fetched from the Hub"),
        ({"tasks": ["kick_mmlu"]}, r"kick_mmlu: .*mmlu"),
        ({"judge_base_url": "nowhere"}, "judge_"),
        ({"model_args": {"atn_implementation": "eager"}}, "Did you mean 'attn_implementation'"),
    ],
)
def test_what_is_missing_is_found_before_the_first_cell(
    small_sweep: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    with pytest.raises((CommandError, ValueError), match=said):
        run_sweep({**small_sweep, **change}, progress=False)
    assert list(Path(small_sweep["output"]).rglob("cell.json")) == []


def test_a_half_written_result_is_none(tmp_path: Path) -> None:
    """The results file appears last: a process killed before that has no results."""

    class Tracker:
        def save_results_aggregated(self, results: Any, samples: Any) -> None:
            folder = tmp_path / evaluate.UNFINISHED / "model"
            folder.mkdir(parents=True)
            (folder / "results_x.json").write_text("{}")

        def save_results_samples(self, task_name: str, samples: Any) -> None:
            folder = tmp_path / evaluate.UNFINISHED / "model"
            (folder / f"samples_{task_name}_x.jsonl").write_text("")

    noted: list[str] = []

    def killed(name: str) -> None:
        assert (tmp_path / "model" / "samples_t_x.jsonl").is_file()
        assert not (tmp_path / name).exists()
        noted.append(name)
        raise KeyboardInterrupt

    results = {"samples": {"t": []}, "configs": {"t": {}}}
    with pytest.raises(KeyboardInterrupt):
        evaluate.keep(dict(results), Tracker(), tmp_path, killed)
    assert noted == ["model/results_x.json"]
    assert list(tmp_path.rglob("results_*.json")) == []
    path = evaluate.keep(dict(results), Tracker(), tmp_path, noted.append)
    assert path.is_file()
    assert not (tmp_path / evaluate.UNFINISHED).exists()


def test_results_that_lm_eval_could_not_write_are_an_error(tmp_path: Path) -> None:
    class Silent:
        def save_results_aggregated(self, **_: Any) -> None:
            pass

        save_results_samples = save_results_aggregated

    results = {"samples": {"t": []}, "configs": {"t": {}}}
    with pytest.raises(evaluate.KeepError, match="disk full"):
        evaluate.keep(results, Silent(), tmp_path, lambda name: None)


def test_one_copy_at_most(tiny_model_dir: Path) -> None:
    from tests.conftest import make_tiny_llama

    dense, model = DenseModel(), make_tiny_llama()
    assert dense.load({"pretrained": "m"}, lambda: model) is model
    assert dense._originals == {}  # none while nothing is compressed
    dense.about_to_change(model)
    held = sum(tensor.numel() for tensor in dense._originals.values())
    inside = sum(p.numel() for n, p in model.named_parameters() if "proj" in n)
    assert held == inside < sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.zero_()
    assert dense.load({"pretrained": "m"}, lambda: pytest.fail("read again")) is model
    expected = make_tiny_llama().model.layers[0].mlp.up_proj.weight
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, expected)
    # What no compression may touch is not restored, and that does not go unnoticed.
    dense.about_to_change(model)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(RuntimeError, match="could not be restored"):
        dense.load({"pretrained": "m"}, lambda: model)
    other = make_tiny_llama(1)
    assert dense.load({"pretrained": "other"}, lambda: other) is other
    assert dense.loads == 2


def test_what_runs_under_the_bar_goes_to_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import logging
    import sys

    from tqdm import tqdm

    path = tmp_path / "cell" / "log.txt"
    with redirect_output(path):
        print("printed")
        logging.getLogger("somebody").warning("logged")
        for _ in tqdm(range(50), desc="inner", file=sys.stderr, mininterval=0):
            pass
        print("half", end="")
    lines = path.read_text().splitlines()
    assert lines[0] == "printed"
    assert lines[1].endswith("WARNING somebody: logged")
    assert lines[-1] == "half"
    assert len(lines) == 3  # no bar, and none of its terminal codes
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    for _ in tqdm(range(2), desc="after", file=sys.stderr, mininterval=0):
        pass
    assert "after" in capsys.readouterr().err


def test_a_logger_whose_stream_is_closed_is_no_obstacle(tmp_path: Path) -> None:
    import io
    import logging

    closed = io.StringIO()
    handler = logging.StreamHandler(closed)
    logger = logging.getLogger("lmkick.somebody.else")
    logger.addHandler(handler)
    closed.close()
    try:
        with redirect_output(tmp_path / "log.txt"):
            logger.warning("heard")
        assert handler.stream is closed
    finally:
        logger.removeHandler(handler)
    assert "heard" in (tmp_path / "log.txt").read_text()


def test_errors_keep_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    try:
        raise RuntimeError("false: 401 for hf_abcdefgh")
    except RuntimeError as error:
        found = describe_error(error)
    assert found["message"] == "false: 401 for [secret]"
    assert "hf_abcdefgh" not in found["traceback"]


@pytest.mark.parametrize(
    ("outcome", "status"), [("done", 0), ("failed", 1), ("partial", 1), (KeyboardInterrupt, 130)]
)
def test_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    outcome: Any, status: int,
) -> None:  # fmt: skip
    def run(plan: Any, tasks: Any) -> SweepResult:
        if outcome is KeyboardInterrupt:
            raise KeyboardInterrupt
        errors = {"": "\x1b[31mbroken"} if outcome == "failed" else {}
        cell = runner.CellResult("a/dense", tmp_path, {}, {}, outcome, {}, 1.0, errors)
        return SweepResult(tmp_path, (cell,), 1.0)

    monkeypatch.setattr(runner, "run_plan", run)
    monkeypatch.setattr("lmkick_plugin.cli.sweep._answer", lambda _: "the report's sentence")
    path = tmp_path / "sweep.yaml"
    path.write_text("models: [a/b]\ntasks: [kick_wikitext]\noutput: o", encoding="utf-8")
    assert cli.main(["sweep", str(path)]) == status
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert ("?[31mbroken" in said) == (outcome == "failed")
