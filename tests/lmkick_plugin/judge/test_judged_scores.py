# SPDX-License-Identifier: Apache-2.0
"""Scores of ``lmkick judge`` are metrics of the run; ``--check`` says how far to trust them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from lmkick_plugin.cli import main
from lmkick_plugin.judge.check import load_experts
from lmkick_plugin.report.compare import compare_runs
from lmkick_plugin.results.judges import judge_line, judges_differ
from lmkick_plugin.results.runs import find_results, load_run
from tests.lmkick_plugin.judge.fault_server import FaultServer, replies, shown
from tests.lmkick_plugin.judge.test_judged_tasks import ALONE, FILES, answers_file, grade, say
from tests.lmkick_plugin.judge.test_judged_tasks import environment as environment  # fixtures
from tests.lmkick_plugin.judge.test_rejudge import judge as judge
from tests.lmkick_plugin.judge.test_rejudge import judged_files
from tests.lmkick_plugin.judge.test_rejudge import save as save
from tests.lmkick_plugin.judge.test_rejudge import server as server

Save = Callable[..., Path]
Run = Callable[..., int]


def short(prompt: str) -> str:
    return "word " * (len(prompt) % 3)


@pytest.fixture
def both(save: Save) -> Path:
    """A dense and a compressed run of one task."""
    save(say, "kick_instruct", compressor="none")
    return save(short, "kick_instruct", compressor="wanda", requested_sparsity=0.5)


def test_judged_scores_are_compared_item_by_item(
    both: Path, judge: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [load_run(f"{both}@compressor={name}") for name in ("none", "wanda")]
    assert runs[0].score("kick_instruct", "judge_score", "none") is None
    assert judge(both) == 0
    dense, wanda = (load_run(f"{both}@compressor={name}") for name in ("none", "wanda"))
    own = [grade(say(f"What is {n}?\n\n")) for n in range(4)]
    score = dense.score("kick_instruct", "judge_score", "none")
    assert score == pytest.approx(sum(own) / 4)
    rows = {row.metric: row for row in compare_runs(dense, wanda).rows}
    assert rows["judge_score"].statistics.dense == pytest.approx(sum(own) / 4)
    assert rows["judge_score"].statistics.n == 4
    assert "words" in rows, "what the run itself reported is still there"
    for name in ("unjudged", "judge_score_bound"):
        assert rows[name].statistics.verdict is None
    capsys.readouterr()
    assert main(["compare", f"{both}@compressor=none", f"{both}@compressor=wanda"]) == 0
    out = capsys.readouterr().out
    assert "judge_score" in out
    assert "judged by strong, prompts 1" in out
    assert "judge not checked (lmkick judge RESULTS --check)" in out


def test_export_and_report_read_judged_scores(both: Path, judge: Run, tmp_path: Path) -> None:
    assert judge(both) == 0
    assert main(["report", str(both), "-o", str(tmp_path / "page")]) == 0
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "page").rglob("*.csv"))
    assert "judge_score" in text
    page = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "page").rglob("*.md"))
    assert "judged by strong, prompts 1" in page
    assert main(["export", str(both), "-o", str(tmp_path / "rows")]) == 0
    rows = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "rows").iterdir())
    assert "judge_score" in rows


def test_another_judge_is_not_compared(both: Path, judge: Run) -> None:
    assert judge(f"{both}@compressor=none") == 0
    assert judge(f"{both}@compressor=wanda", "--judge_model", "weak") == 0
    dense, wanda = (load_run(f"{both}@compressor={name}") for name in ("none", "wanda"))
    files = [run.tasks["kick_instruct"] for run in (dense, wanda)]
    why = judges_differ("kick_instruct", "judge_score", *files)
    assert "judged by strong" in (why or "")
    assert "against weak" in (why or "")
    assert judges_differ("kick_instruct", "words", *files) is None
    comparison = compare_runs(dense, wanda)
    assert not [row for row in comparison.rows if row.metric == "judge_score"]
    assert any("not compared: judged by strong" in note for note in comparison.notes)
    assert judge(f"{both}@compressor=none", "--judge_model", "weak") == 0  # the newest counts
    dense = load_run(f"{both}@compressor=none")
    rows = {row.metric for row in compare_runs(dense, wanda).rows}
    assert "judge_score" in rows
    assert judge(f"{both}@compressor=none", "--judge_model", "zeta") == 0
    notes = [n for n in load_run(f"{both}@compressor=none").notes if "judged more than once" in n]
    assert len(notes) == 1
    assert "_by_zeta_" in notes[0]


def test_the_bound_counts_what_is_unjudged_as_the_lowest_score(
    save: Save, judge: Run, server: FaultServer
) -> None:
    def half(handler: Any, body: dict[str, Any], number: int) -> None:
        asked = body["messages"][-1]["content"]
        replies("N/A" if "What is 2?" in asked else "9")(handler, body, number)

    server.answer = half
    results = save(say, "kick_instruct")
    assert judge(results) == 1
    run = load_run(str(results))
    assert run.score("kick_instruct", "judge_score", "none") == 9
    assert run.score("kick_instruct", "judge_score_bound", "none") == (9 * 3 + 1) / 4
    assert run.score("kick_instruct", "unjudged", "none") == 0.25


def test_a_summarys_score_is_the_mean_of_its_aspects(save: Save, judge: Run) -> None:
    results = save(say, "kick_summarization_small")
    assert judge(results) == 0
    run = load_run(str(results))
    task = "kick_summarization_small"
    names = ("coherence", "consistency", "fluency", "relevance")
    parts = [run.score(task, f"judge_{name}", "none") or 0.0 for name in names]
    assert run.score(task, "judge_score", "none") == pytest.approx(sum(parts) / 4)
    assert len(set(parts)) > 1


@pytest.mark.parametrize(
    "break_it",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "tasks": {"kick_instruct": 3}}),
        lambda text: text.replace('"mean":', '"mean": "high", "was":'),
        lambda text: text.replace('"doc_id":', '"doc":'),
    ],
    ids=["cut", "list", "number", "text", "no id"],
)
def test_a_broken_file_of_scores_is_left_out_and_said(
    save: Save, judge: Run, break_it: Callable[[str], str]
) -> None:
    results = save(say, "kick_instruct")
    assert judge(results) == 0
    (path,) = results.rglob("judged_*.json")
    path.write_text(break_it(path.read_text()))
    run = load_run(str(results))
    assert run.score("kick_instruct", "judge_score", "none") is None
    assert run.score("kick_instruct", "words", "none") is not None
    assert any("judge again" in note for note in run.notes)


def test_scores_of_other_documents_are_no_scores(save: Save, judge: Run) -> None:
    results = save(say, "kick_instruct")
    assert judge(results) == 0
    (path,) = results.rglob("judged_*.json")
    data = json.loads(path.read_text())
    data["tasks"]["kick_instruct"]["items"][1]["doc_hash"] = "another"
    path.write_text(json.dumps(data))
    (file,), _ = find_results(results)
    values = [one.values["judge_score"] for one in file.samples("kick_instruct")["none"]]
    assert [value is None for value in values] == [False, True, False, False]


# --- the check ------------------------------------------------------------------------------------


def test_check_of_a_judge_that_wavers(
    save: Save, judge: Run, server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    said: dict[str, dict[str, list[float]]] = {"strong": {}, "weak": {}}

    def wavering(handler: Any, body: dict[str, Any], number: int) -> None:
        answer, model = shown(body)[ALONE], body["model"]
        score = round(grade(answer) * 0.5 + (draw.normal(0, 0.5) if model == "strong" else 0), 2)
        score = float(np.clip(score, 1, 10))
        said[model].setdefault(answer, []).append(score)
        replies(f"{score:g}")(handler, body, number)

    server.answer = wavering
    results = save(lambda prompt: "w " * (len(prompt) + ord(prompt[8])), "kick_instruct")
    options = ["--check", "--repeats", "3", "--items", "4", "--second_judge", "weak"]
    assert judge(results, *options, "--judge_concurrency", "1") == 0
    asked = [body["model"] for body in server.requests]
    assert asked.count("strong") == 4 * 3
    assert asked.count("weak") == 4
    (found,) = judged_files(results)
    check = found["tasks"]["kick_instruct"]["check"]
    assert check["retest"]["items"] == 4
    assert check["retest"]["repeats"] == 3
    strong = np.asarray(list(said["strong"].values()))
    assert strong.shape == (4, 3)
    assert check["retest"]["sd"] == pytest.approx(math.sqrt(strong.var(axis=1, ddof=1).mean()))
    assert 0.2 < check["retest"]["sd"] < 0.9  # 0.5 was planted
    assert check["second_judge"]["items"] == 4
    assert check["second_judge"]["kappa"] is None, "nothing to win without a reference"
    line = found["tasks"]["kick_instruct"]["line"]
    assert "repeat sd" in line
    assert "with weak: tau" in line
    assert line in capsys.readouterr().out
    run = load_run(str(results))
    assert judge_line(run.tasks["kick_instruct"], "kick_instruct") == line
    # what was checked stays where the same judge judges again, and costs nothing
    before = len(server.requests)
    assert judge(results) == 0
    assert judge(results, *options) == 0
    assert len(server.requests) == before
    (again,) = judged_files(results)
    assert again["tasks"]["kick_instruct"]["line"] == line


def test_check_against_a_reference(
    save: Save, judge: Run, server: FaultServer, tmp_path: Path
) -> None:
    server.answer = replies("9 8")  # always the first one shown
    results = save(say, "kick_instruct")
    reference = answers_file(tmp_path / "a.jsonl", {str(n): "other" for n in range(1, 5)})
    options = ["--judge_reference", reference, "--check", "--second_judge", "weak"]
    assert judge(results, *options) == 0
    (found,) = judged_files(results)
    task = found["tasks"]["kick_instruct"]
    assert task["metrics"]["judge_win"]["mean"] == 0.5, "ties, where the orders disagree"
    assert task["metrics"]["position_consistency"]["mean"] == 0
    assert task["check"]["position_consistency"] == 0
    assert task["check"]["second_judge"]["kappa"] is None, "both say the same of all"
    assert "position consistency 0.00 (n = 4)" in task["line"]
    assert "kappa undefined" in task["line"]


def test_check_against_experts(save: Save, judge: Run, tmp_path: Path) -> None:
    stories = FILES["cnn_dailymail/test.jsonl"][:2]
    answers = ["a", "a few", "a few more", "a few more words", "again a few more words"]
    experts = [3.0, 1.0, 4.0, 2.0, 5.0]
    rows = [
        {
            "id": f"dm-test-{stories[n % 2]['id']}",
            "decoded": answer,
            "expert_annotations": [{"coherence": score, "fluency": score}] * 3,
        }
        for n, (answer, score) in enumerate(zip(answers, experts, strict=True))
    ]
    path = tmp_path / "experts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    results = save(say, "kick_summarization_small")
    assert judge(results, "--check", "--repeats", "1", "--experts", str(path)) == 0
    (found,) = judged_files(results)
    check = found["tasks"]["kick_summarization_small"]["check"]
    mine = [(3 * grade(answer) + 5) / 4 for answer in answers]
    assert check["experts"]["items"] == 5
    assert check["experts"]["tau"] == pytest.approx(kendalltau(mine, experts).statistic)
    assert check["retest"] is None


def test_forms_of_expert_scores(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(
        '{"question_id": 1, "score": 4}\n'
        '{"doc_hash": "h", "coherence": [1, 3], "fluency": 5, "text": "t"}\n'
    )
    one, other = load_experts(path)
    assert (one.identity, one.score, one.answer) == ("1", 4, None)
    assert (other.identity, other.score, other.answer) == ("h", 3, "t")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no scores in it"),
        ("{nonsense", "cannot be read"),
        ("[1]", "line 1: expected an identity"),
        ('{"id": 1}', "line 1: expected an identity"),
        ('{"id": 1, "score": "good"}', "line 1: expected an identity"),
        ('{"score": 1}', "line 1: expected an identity"),
        ('{"doc_id": 0, "score": 1}', "line 1: expected an identity (question_id, doc_hash, id)"),
        ('{"id": 1, "score": NaN}', "line 1: expected an identity"),
    ],
)
def test_files_that_are_not_expert_scores(
    save: Save,
    judge: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    words: str,
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="--experts") as caught:
        load_experts(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--experts", "x"], "--experts goes with --check"),
        (["--second_judge", "x"], "--second_judge goes with --check"),
        (["--check", "--experts", "/nowhere"], "/nowhere"),
        (["--check", "--repeats", "0"], "--repeats"),
        (["--check", "--items", "many"], "--items"),
        (["--check", "--second_judge", "x", "--second_base_url", "http://a:b@c"], "base_url"),
        (["--judge_prompt", "/nowhere.yaml"], "judge_prompt"),
        (["--judge_prompt", "/"], "judge_prompt"),
    ],
)
def test_what_cannot_be_checked_is_said_first(
    save: Save,
    judge: Run,
    server: FaultServer,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    results = save(say, "kick_instruct")
    assert judge(results, *options) == 2
    err = capsys.readouterr().err
    assert words in err
    # lm-eval's log handler may hold a stream that an earlier test closed.
    assert "Traceback" not in err.rpartition("lmkick judge:")[2]
    assert server.requests == []
