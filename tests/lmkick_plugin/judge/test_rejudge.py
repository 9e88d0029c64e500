# SPDX-License-Identifier: Apache-2.0
"""``lmkick judge`` on answers that runs logged, and ``lmkick doctor`` before they run."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmkick_plugin.cli import main
from lmkick_plugin.judge import Reply, ReplyStore, shared_judge
from lmkick_plugin.judge.logged_answers import dense_run, find_runs
from lmkick_plugin.metrics import text_statistics
from lmkick_plugin.results.results_file import NAME
from tests.lmkick_plugin.judge.fault_server import FaultServer, fails, first, replies, serve, shown
from tests.lmkick_plugin.judge.test_judged_tasks import (
    KEY,
    MINE,
    OTHER,
    answers_file,
    grade,
    judging,
    say,
    talking,
)
from tests.lmkick_plugin.judge.test_judged_tasks import environment as environment  # a fixture
from tests.lmkick_plugin.run_files import Writer, text_item

UNREACHABLE = ["--judge_model", "m", "--judge_base_url", "http://127.0.0.1:9/v1"]
TASKS = ("kick_instruct", "kick_summarization_small", "kickonly_mtbench", "llmkick_instruct")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve(judging) as state:
        yield state


@pytest.fixture
def save(evaluate: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Run tasks and save results as ``--output_path`` and ``--log_samples`` do."""
    from lm_eval.loggers import EvaluationTracker

    def run(answer: Callable[[str], str], *tasks: str, **record: Any) -> Path:
        result = evaluate(talking(answer), *tasks)
        if record:
            result["config"]["kick"] = {"base_model": "org/model", **record}
        samples = result.pop("samples")
        tracker = EvaluationTracker(output_path=str(tmp_path / "results"))
        tracker.save_results_aggregated(result, samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task, rows)
        return tmp_path / "results"

    return run


@pytest.fixture
def judge(tmp_path: Path, server: FaultServer) -> Callable[..., int]:
    def run(results: Path | str, *options: str) -> int:
        shared_judge.cache_clear()  # a new process, as it were
        given = ["--judge_model", "strong", "--judge_base_url", server.url]
        given += ["--judge_store", str(tmp_path / "replies.sqlite3"), "--judge_backoff", "0.001"]
        return main(["judge", str(results), *given, "--judge_retries", "0", *options])

    return run


def judged_files(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("judged_*.json"))]


def test_judging_later_gives_what_judging_at_once_gives(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = save(say, *TASKS[:3])
    assert server.requests == []
    assert judge(results) == 0
    out = capsys.readouterr().out
    (found,) = judged_files(results)
    assert set(found["tasks"]) == set(TASKS[:3])
    grades = [grade(say(f"What is {n}?\n\n")) for n in range(4)]
    score = found["tasks"]["kick_instruct"]["metrics"]["judge_score"]
    assert score == {
        "n": 4,
        "mean": pytest.approx(statistics.fmean(grades)),
        "stderr": pytest.approx(statistics.stdev(grades) / 2),
    }
    assert found["tasks"]["kick_instruct"]["metrics"]["judge_score_math"]["stderr"] is None
    items = found["tasks"]["kick_instruct"]["items"]
    assert [item["verdicts"][0]["scores"]["score"] for item in items] == grades
    assert all(item["doc_hash"] for item in items)
    (line,) = [
        line for line in out.splitlines() if "kick_instruct" in line and " judge_score " in line
    ]
    assert f"{score['mean']:.4f}" in line
    assert f"{score['stderr']:.4f}" in line
    assert len(server.requests) == 4 + 2 + 6
    # again: nothing is asked, the same file is written
    assert judge(results) == 0
    assert len(server.requests) == 12
    (again,) = judged_files(results)
    assert {**again, "date": ""} == {**found, "date": ""}
    assert not any(NAME.match(path.name) for path in results.rglob("judged_*"))
    assert KEY not in json.dumps(found)


def test_tasks_judged_one_after_the_other_stand_in_one_file(
    save: Callable[..., Path], judge: Callable[..., int]
) -> None:
    results = save(say, *TASKS[:2])
    for task in TASKS[:2]:
        assert judge(results, "--tasks", task) == 0
    (found,) = judged_files(results)
    assert set(found["tasks"]) == set(TASKS[:2])
    (path,) = results.rglob("judged_*.json")
    path.write_text(json.dumps({**found, "lmkick": "0.0"}), encoding="utf-8")  # another version's
    assert judge(results, "--tasks", TASKS[0]) == 0
    (found,) = judged_files(results)
    assert set(found["tasks"]) == {TASKS[0]}


def test_a_fault_leaves_what_is_done_and_the_next_call_does_the_rest(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = save(say, "kick_instruct")
    server.answer = first(3, judging, fails(401, "Incorrect API key", "invalid_api_key"))
    assert judge(results, "--judge_concurrency", "1") == 1
    (found,) = judged_files(results)
    assert found["tasks"]["kick_instruct"]["metrics"]["unjudged"]["mean"] == 0.25
    assert "refuses the key" in capsys.readouterr().out
    server.answer = judging
    assert judge(results, "--judge_concurrency", "1") == 0
    assert len(server.requests) == 5
    (found,) = judged_files(results)
    assert found["tasks"]["kick_instruct"]["metrics"]["unjudged"]["mean"] == 0


@pytest.mark.parametrize("version", [None, "0.0"])
def test_a_call_that_judges_less_leaves_earlier_scores(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    version: str | None,
) -> None:
    results = save(say, *TASKS[:2])
    assert judge(results) == 0
    (path,) = results.rglob("judged_*.json")
    if version is not None:  # another version's: its tasks are carried along no less
        path.write_text(json.dumps({**json.loads(path.read_text()), "lmkick": version}))
    before = path.read_bytes()
    tasks = json.loads(before)["tasks"]
    elsewhere = ["--judge_store", str(tmp_path / "other.sqlite3"), "--judge_concurrency", "1"]
    capsys.readouterr()
    for most in ("1", "3"):  # of four answers to one task
        only = ["--tasks", TASKS[0], "--judge_max_requests", most]
        assert judge(results, *only, *elsewhere, "--judge_store", str(tmp_path / most)) == 1
        out = capsys.readouterr().out
        assert f"{TASKS[0]}: {most} of 4 answers judged this time, 4 before: the earlier" in out
        assert "Scores are in" not in out
    server.answer = fails(401, "Incorrect API key", "invalid_api_key")
    assert judge(results, *elsewhere) == 2
    assert "0 of 2 answers judged this time, 2 before" in capsys.readouterr().out
    assert path.read_bytes() == before
    # one task wholly, of the other less: both are in the file
    server.answer = judging
    assert judge(results, *elsewhere, "--judge_max_requests", "5") == 1
    assert "1 of 2 answers judged this time, 2 before" in capsys.readouterr().out
    (found,) = judged_files(results)
    assert found["tasks"][TASKS[1]] == tasks[TASKS[1]]
    assert found["tasks"][TASKS[0]]["metrics"] == tasks[TASKS[0]]["metrics"]
    assert found["lmkick"] != version


def test_as_many_verdicts_replace_earlier_ones(
    save: Callable[..., Path], judge: Callable[..., int], server: FaultServer, tmp_path: Path
) -> None:
    results = save(say, "kick_instruct")
    assert judge(results) == 0
    server.answer = replies("10")
    assert judge(results, "--judge_store", str(tmp_path / "other.sqlite3")) == 0
    (found,) = judged_files(results)
    assert found["tasks"]["kick_instruct"]["metrics"]["judge_score"]["mean"] == 10


def test_where_nothing_is_judged_no_file_is_written(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = save(say, "kick_instruct")
    server.answer = replies("no scores here")
    assert judge(results) == 2
    assert judged_files(results) == []
    out = capsys.readouterr().out
    assert "kick_instruct: 0 of 4 answers judged: nothing is written" in out
    assert "strong: 0 of 4 answers judged; 4 replies, 8 requests sent;" in out
    assert "judge_score" not in out  # no table of bounds and dashes
    assert "Scores are in" not in out


def test_what_stops_the_judge_in_one_task_stops_it_in_all(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    results = save(say, *TASKS[:3])
    server.answer = fails(401, "Incorrect API key", "invalid_api_key")
    assert judge(results, "--check") == 2
    assert len(server.requests) == 1
    assert caplog.text.count("Judging stopped") == 1
    out = capsys.readouterr().out
    assert "strong: 0 of 12 answers judged; 0 replies, 1 requests sent;" in out
    assert out.count("answers judged: nothing is written") == 3
    assert "judge_score" not in out


def test_replies_that_could_not_be_kept_are_not_said_to_be(
    save: Callable[..., Path],
    judge: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def put(store: ReplyStore, key: str, reply: Reply, **_: str) -> None:
        store._memory[key] = reply
        store.failure = "The disk is full."

    results = save(say, "kick_instruct")
    monkeypatch.setattr(ReplyStore, "put", put)
    assert judge(results) == 1
    out = capsys.readouterr().out
    assert "\nThe disk is full.\n" in out
    assert "Replies are kept" not in out


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("{root}", "it is a folder"),
        ("{root}/text", "file is not a database"),
        ("{root}/text/r.sqlite3", "File exists"),
        ("/proc/x.sqlite3", "unable to open database file"),
        ("~nobody-of-that-name/r.sqlite3", "Give a full path"),
    ],
)
def test_a_store_that_cannot_be_used_is_said_first(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    store: str,
    words: str,
) -> None:
    results = save(say, "kick_instruct")
    (tmp_path / "text").write_text("this is no data base, but long enough to be one " * 50)
    capsys.readouterr()
    assert judge(results, "--judge_store", store.format(root=tmp_path)) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert "judge_store=" in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert server.requests == []
    assert judged_files(results) == []


def test_compressed_against_dense(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def dense(prompt: str) -> str:
        return " ".join(f"w{n}" for n in range(8 + len(prompt) % 3))

    save(dense, "kick_instruct", compressor="none")
    results = save(say, "kick_instruct", compressor="wanda", requested_sparsity=0.5)
    assert judge(results, "--judge_reference", "dense", "--judge_order", "answer_first") == 0
    texts = [shown(body) for body in server.requests]
    assert {(text[MINE], text[OTHER]) for text in texts} == {
        (say(f"What is {n}?\n\n"), dense(f"What is {n}?\n\n")) for n in range(4)
    }
    (found,) = judged_files(results)  # of the compressed run alone
    assert found["run"].endswith("wanda 50 %")
    assert found["tasks"]["kick_instruct"]["metrics"]["judge_win"]["n"] == 4
    pairs = [(say(f"What is {n}?\n\n"), dense(f"What is {n}?\n\n")) for n in range(4)]
    own, other, _ = text_statistics.compare_at_equal_length(*zip(*pairs, strict=True))
    assert own < other == 1.0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "wanda" in line and line.endswith(" 1.0000")]
    assert line.split()[-3:] == ["4", f"{own:.4f}", "1.0000"]
    # the same without a judge: the content alone
    before = len(server.requests)
    assert judge(results, "--content", "--judge_reference", "dense") == 0
    assert line in capsys.readouterr().out.splitlines()
    assert len(server.requests) == before


@pytest.mark.parametrize("part", ["revision", "subfolder", "adapter"])
def test_the_dense_run_is_one_of_the_same_model(tmp_path: Path, part: str) -> None:
    """Not a newer one of another checkpoint that is kept under the same name."""
    for number, (compressor, value) in enumerate(
        [("none", "one"), ("wanda", "one"), ("none", "other"), ("wanda", "third")]
    ):
        record = {"compressor": compressor, "base_model": "org/model", part: value}
        items = {"kick_instruct": [text_item(0, "a", {"unique_words": 1})]}
        stamp = f"2026-01-0{number + 1}T00-00-00"
        Writer(tmp_path)(f"run{number}", items, record=record, stamp=stamp)
    runs = find_runs(str(tmp_path))
    dense, compressed, _, alone = runs
    assert compressed.record["compressor"] == "wanda"
    assert dense_run(compressed, runs) is dense
    assert dense_run(alone, runs) is None


def test_the_released_protocol_later(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = save(say, "llmkick_instruct")
    assert judge(results) == 2
    assert "compares with a reference" in capsys.readouterr().err
    assert server.requests == []
    reference = answers_file(tmp_path / "a.jsonl", {str(n): "other" for n in range(1, 5)})
    assert judge(results, "--judge_reference", reference) == 0
    assert [shown(body)[MINE] for body in server.requests] == ["other"] * 4
    assert {body["temperature"] for body in server.requests} == {0.2}


def test_an_address_in_a_results_file_gets_no_key(
    save: Callable[..., Path], judge: Callable[..., int], server: FaultServer, tmp_path: Path
) -> None:
    with serve(judging) as thief:
        results = save(say, "kick_instruct")
        (path,) = [path for path in results.rglob("*.json") if NAME.match(path.name)]
        data = json.loads(path.read_text())
        metadata = data["configs"]["kick_instruct"]["metadata"]
        metadata |= {"judge_base_url": thief.url, "judge_prompt": "/etc/passwd"}
        path.write_text(json.dumps(data))
        assert judge(results) == 0
        assert thief.requests == []
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--judge_model", "none"], "no judge: give --judge_model"),
        (["--tasks", "kick_mmlu"], "no task with answers to judge of kick_mmlu"),
        (["--judge_reference", "dense"], "no run of its dense model"),
        (["--judge_reference", "best"], "expected file:PATH"),
        (["--judge_reference", "file:/nowhere"], "nowhere"),
        (["--judge_base_url", "http://127.0.0.1:9/v1"], "cannot be asked"),
        (["--judge_concurrency", "none at all"], "judge_concurrency"),
    ],
)
def test_what_cannot_be_done_is_said_first(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    results = save(say, "kick_instruct", compressor="wanda")
    assert judge(results, *options) == 2
    assert words in capsys.readouterr().err
    assert server.requests == []
    assert judged_files(results) == []


def test_broken_and_missing_samples(
    save: Callable[..., Path], judge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    results = save(say, "kick_instruct")
    (path,) = results.rglob("samples_*.jsonl")
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert judge(results) == 2
    assert "not a sample" in capsys.readouterr().err
    path.unlink()
    assert judge(results) == 2
    assert "--log_samples" in capsys.readouterr().err
    assert judge(results / "nowhere") == 2


def test_a_folder_that_cannot_be_written_loses_no_reply(
    save: Callable[..., Path],
    judge: Callable[..., int],
    server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lmkick_plugin.judge import rejudge

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    results = save(say, "kick_instruct")
    with monkeypatch.context() as patch:
        patch.setattr(rejudge, "write_atomically", full)
        assert judge(results) == 2
    output = capsys.readouterr()
    assert "No space left" in output.err
    assert "judge_score" in output.out
    assert judge(results) == 0
    assert len(server.requests) == 4


# --- lmkick doctor --------------------------------------------------------------------------------


@pytest.fixture
def doctor(tmp_path: Path, tiny_data: Path) -> Callable[..., int]:
    def run(*options: str) -> int:
        store = ["--judge_store", str(tmp_path / "replies.sqlite3")]
        return main(["doctor", "--data_dir", str(tiny_data), *store, *options])

    return run


def test_doctor_finds_all_well(
    doctor: Callable[..., int], server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = ["strong", "other"]
    options = ["--judge_model", "strong", "--judge_base_url", server.url, "--device", "cpu"]
    server.answer = replies("9")
    assert doctor(*options, "--judge_reference", "model:other", "--tasks", "kick_instruct") == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out
    for words in ("lm-eval 0.4", "knows the model kick", "cpu can be used", "from LMKICK_JUDGE"):
        assert words in out
    for words in ("lists judge_model=strong", "scored a right answer 9", "model:other answers"):
        assert words in out
    assert "all rows can be read" in out
    assert KEY not in out
    assert len(server.requests) == 2
    assert doctor(*options, "--free") == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data_dir", "/nowhere"], "/nowhere: no such directory"),
        (["--device", "cuda:99"], "device=cuda:99: torch"),
        (["--tasks", "kick_wikitexts"], "id you mean 'kick_wikitext'"),
        (UNREACHABLE, "connection failed"),
        (["--judge_model", "m", "--judge_base_url", "nonsense"], "judge_base_url"),
        ([*UNREACHABLE, "--judge_store", "/"], "it is a folder"),
        ([*UNREACHABLE, "--judge_store", "~nobody-of-that-name/r"], "Give a full path"),
    ],
)
def test_doctor_finds_what_is_wrong(
    doctor: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    assert doctor(*options) == 1
    out = capsys.readouterr().out
    assert any(line.startswith("FAIL") and words in line for line in out.splitlines())
    assert "failed." in out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fails(404, "no such model", "model_not_found"), "judge_model"),
        (fails(429, "You exceeded your current quota", "insufficient_quota"), "quota"),
        (replies("N/A"), "no scores"),
    ],
)
def test_doctor_asks_the_judge(
    doctor: Callable[..., int],
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
    fault: Any,
    words: str,
) -> None:
    server.answer = fault
    assert doctor("--judge_model", "m", "--judge_base_url", server.url) == 1
    out = capsys.readouterr().out
    assert any(line.startswith("FAIL") and words in line for line in out.splitlines())


def test_doctor_without_a_judge_and_with_part_of_the_data(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wikitext").mkdir()
    source = tiny_data / "wikitext" / "test.jsonl"
    (tmp_path / "wikitext" / "test.jsonl").write_bytes(source.read_bytes())
    assert main(["doctor", "--data_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1 files of tasks" in out
    assert "lacks freebase_qa/eval.jsonl" in out
    assert "none configured" in out
    if not torch.cuda.is_available():
        (line,) = (line for line in out.splitlines() if "GFLOP/s" in line)
        rates = {name: int(rate) for name, rate in re.findall(r"(\w+) (\d+) GFLOP/s", line)}
        assert set(rates) == {"float32", "bfloat16"}
        assert min(rates.values()) > 0
        if max(rates.values()) > 1.2 * min(rates.values()):
            assert rates[line.rpartition("dtype=")[2].split()[0]] == max(rates.values())


# --- content --------------------------------------------------------------------------------------


def test_content_against_plain_loops() -> None:
    from lmkick_plugin.metrics.variety import describe

    own = ["a b a b", "", "one two three four five six"]
    other = ["a b c", "x", "one two"]
    found = describe(own, other)
    assert (found.answers, found.pairs) == (3, 2)
    assert found.words == pytest.approx((4 + 0 + 6) / 3)
    assert found.unique_words == pytest.approx((2 + 0 + 6) / 3)
    assert found.unique_ratio == pytest.approx((0.5 + 1) / 2)
    assert found.empty == pytest.approx(1 / 3)
    assert found.equal_ratio == pytest.approx((2 / 3 + 1) / 2)
    assert found.dense_equal_ratio == 1.0
    assert describe(own).equal_ratio is None
    assert math.isnan(describe([""]).unique_ratio)
