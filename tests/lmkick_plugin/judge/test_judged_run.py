# SPDX-License-Identifier: Apache-2.0
"""A real model on real stories and questions, judged by real servers: from weights to table."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.conftest import make_tiny_tokenizer
from tests.lmkick_plugin.judge.fault_server import FaultServer, serve, shown, user_text
from tests.lmkick_plugin.judge.test_judged_tasks import KEY, MINE, OTHER, judging
from tests.lmkick_plugin.judge.test_judged_tasks import environment as environment  # a fixture

TASKS = ["kick_summarization_small", "kick_instruct", "kickonly_mtbench"]
LIMIT = 3


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with serve(judging) as state:
        yield state


@pytest.fixture(scope="module", params=[True, False], ids=["reuse", "no-reuse"])
def run(
    request: pytest.FixtureRequest,
    stories_model: Path,
    data_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., dict[str, Any]]:
    """``lm_eval run --model kick``, in process, with what it writes; once as ``hf`` computes."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from lmkick_plugin.registration import TASK_FOLDER, register

    register()
    folder = tmp_path_factory.mktemp("judged")

    def evaluate(name: str, *tasks: str, model: str = "", **metadata: Any) -> dict[str, Any]:
        metadata |= {"data_dir": str(data_dir)}
        tracker = EvaluationTracker(output_path=str(folder / name))
        manager = TaskManager(include_path=[TASK_FOLDER], include_defaults=False, metadata=metadata)
        with mock.patch("lm_eval.evaluator.add_env_info"):
            result: dict[str, Any] = simple_evaluate(
                model="kick",
                model_args=f"pretrained={stories_model},dtype=float32,prefix_reuse={request.param}"
                + model,
                tasks=list(tasks),
                task_manager=manager,
                evaluation_tracker=tracker,
                gen_kwargs="max_gen_toks=24",
                batch_size=4,
                device="cpu",
                limit=LIMIT,
            )
        samples = result.pop("samples")
        tracker.save_results_aggregated(result, samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task, rows)
        return {**result, "folder": folder / name, "samples": samples}

    return evaluate


@pytest.fixture(scope="module")
def dense(run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run("dense", *TASKS)


@pytest.fixture
def settings(server: FaultServer, dense: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    server.requests.clear()
    return {
        "judge_model": "strong",
        "judge_base_url": server.url,
        "judge_store": str(tmp_path / "replies.sqlite3"),
        "judge_reference": f"dense:{dense['folder']}",
    }


def test_a_pruned_model_judged_against_its_dense_self(
    run: Callable[..., dict[str, Any]],
    dense: dict[str, Any],
    server: FaultServer,
    settings: dict[str, Any],
) -> None:
    from lm_eval.utils import make_table

    pruning = ",compressor=magnitude,sparsity=0.5"
    result = run("pruned", *TASKS, model=pruning, **settings)
    # both orders of a story, an answer and two turns, each LIMIT times
    assert len(server.requests) == 2 * 4 * LIMIT
    table = make_table(result)
    for task, metric in zip(TASKS, ["judge_fluency", "judge_score", "judge_win"], strict=True):
        scores = result["results"][task]
        assert 1 <= scores["judge_score,none" if task != TASKS[0] else "judge_fluency,none"] <= 10
        stderr = scores[f"{metric}_stderr,none"]
        assert isinstance(stderr, float)
        (line,) = [
            line for line in table[table.index(task) :].splitlines() if f"|{metric} " in line
        ][:1]
        assert f"{scores[f'{metric},none']:.4f}" in line
        assert f"{stderr:.4f}" in line
        assert scores["unjudged,none"] == 0
    # the judge's replies are in the samples files, and the dense model's answers in the prompts
    (path,) = (result["folder"]).rglob("samples_kickonly_mtbench_*.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        (answers, verdicts) = row["filtered_resps"][0]
        assert answers == row["resps"][0][0]
        for verdict in json.loads(verdicts):
            assert len(verdict["replies"]) == 2
            assert all("Because of" in reply for reply in verdict["replies"])
    first_dense = dense["samples"]["kick_instruct"][0]["filtered_resps"][0]
    first_pruned = result["samples"]["kick_instruct"][0]["filtered_resps"][0][0]
    assert first_dense != first_pruned
    question = result["samples"]["kick_instruct"][0]["doc"]["question"]
    pairs = [
        {shown(body)[MINE], shown(body)[OTHER]}
        for body in server.requests
        if question in user_text(body)
    ]
    assert pairs == [{first_dense, first_pruned}] * 2
    # stories of 400 words do not fit 488 tokens: said in the record
    cut = result["config"]["kick"]["truncated_prompts"]
    assert cut["kick_summarization_small"] == LIMIT
    # a rerun costs nothing, nor does asking the model itself for what it said before pruning
    settings["judge_reference"] = "dense"
    again = run("pruned", *TASKS, model=pruning, **settings)
    assert len(server.requests) == 2 * 4 * LIMIT
    assert _comparable(again["results"]) == _comparable(result["results"])
    for file in result["folder"].rglob("*"):
        assert not file.is_file() or KEY not in file.read_text(encoding="utf-8")


def _comparable(results: dict[str, Any]) -> dict[str, Any]:
    return {
        task: {name: value for name, value in scores.items() if value == value}
        for task, scores in results.items()
    }


# --- transformers serve ---------------------------------------------------------------------------


def _save_judge(folder: Path, says: str) -> Path:
    """A Llama that answers one letter to everything: the next token depends on the last alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    size = 128
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    said = tokenizer.convert_tokens_to_ids(says)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[said] = 1.0
        model.lm_head.weight[said, said] = 0.0
        model.lm_head.weight[config.eos_token_id, said] = 1.0  # one letter is all
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """``transformers serve`` with a tiny model: its address and the model's name."""
    missing = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("serve")
    model = _save_judge(folder / "model", says="8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    try:
        for _ in range(240):
            time.sleep(0.5)
            if process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    yield f"http://127.0.0.1:{port}/v1", str(model)
                    return
            except (urllib.error.URLError, OSError):
                continue
        pytest.fail(f"transformers serve did not start:\n{(folder / 'log').read_text()}")
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


@pytest.mark.slow
def test_judged_by_transformers_serve(
    run: Callable[..., dict[str, Any]], real_judge: tuple[str, str], tmp_path: Path
) -> None:
    url, model = real_judge
    store = str(tmp_path / "replies.sqlite3")
    settings = {"judge_model": model, "judge_base_url": url, "judge_store": store}
    result = run("served", "kick_instruct", "kick_summarization_small", **settings)
    scores = result["results"]["kick_instruct"]
    assert scores["judge_score,none"] == 8.0
    assert scores["judge_score_stderr,none"] == 0.0
    assert scores["unjudged,none"] == 0
    # one number is no four: such replies are counted, and leave the mean alone
    scores = result["results"]["kick_summarization_small"]
    assert scores["unjudged,none"] == 1
    assert math.isnan(scores["judge_fluency,none"])
    rows = result["samples"]["kick_summarization_small"]
    verdicts = [json.loads(row["filtered_resps"][0][1])[0] for row in rows]
    assert {verdict["reason"] for verdict in verdicts} == {"no scores in the reply"}
    assert {tuple(verdict["replies"]) for verdict in verdicts} == {("8",)}
