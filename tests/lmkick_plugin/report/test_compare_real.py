# SPDX-License-Identifier: Apache-2.0
"""``lmkick compare`` on files that lm-eval itself wrote, against plain loops over those files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from lmkick_plugin import cli
from lmkick_plugin.report.compare import compare_runs
from lmkick_plugin.report.comparison_table import Comparison, Row
from lmkick_plugin.report.flips import mcnemar_exact
from lmkick_plugin.report.verdict import Rule
from lmkick_plugin.results.runs import load_run


@pytest.fixture(scope="module")
def comparison(real_runs: tuple[Path, Path]) -> Comparison:
    return compare_runs(*(load_run(str(folder)) for folder in real_runs))


def row(comparison: Comparison, name: str, metric: str, filter_name: str = "none") -> Row:
    (found,) = (
        r for r in comparison.rows if (r.name, r.metric, r.filter) == (name, metric, filter_name)
    )
    return found


def samples(folder: Path, task: str) -> list[dict]:
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores(folder: Path) -> dict:
    (path,) = folder.rglob("results_*.json")
    return json.loads(path.read_text())["results"]


def test_rows_stand_under_their_groups(comparison: Comparison) -> None:
    assert [(r.name, r.kind, r.groups, r.metric, r.filter) for r in comparison.rows] == [
        ("toy_quiz", "group", ("toy",), "acc", "none"),
        ("toy_algebra", "task", ("toy", "toy_quiz"), "acc", "none"),
        ("toy_algebra", "task", ("toy", "toy_quiz"), "acc_norm", "none"),
        ("toy_poetry", "task", ("toy", "toy_quiz"), "acc", "none"),
        ("toy_poetry", "task", ("toy", "toy_quiz"), "acc_norm", "none"),
        ("toy_say", "task", ("toy",), "exact_match", "digit"),
        ("toy_say", "task", ("toy",), "exact_match", "raw"),
        ("toy_pages", "task", ("toy",), "word_perplexity", "none"),
        ("toy_pages", "task", ("toy",), "byte_perplexity", "none"),
        ("toy_pages", "task", ("toy",), "bits_per_byte", "none"),
    ]


def test_scores_are_lm_evals(comparison: Comparison, real_runs: tuple[Path, Path]) -> None:
    first, second = (scores(folder) for folder in real_runs)
    assert first != second
    for r in comparison.rows:
        assert r.statistics.dense == pytest.approx(first[r.name][f"{r.metric},{r.filter}"])
        assert r.statistics.compressed == pytest.approx(second[r.name][f"{r.metric},{r.filter}"])


def test_flips_equal_a_loop_over_the_files(
    comparison: Comparison, real_runs: tuple[Path, Path]
) -> None:
    before, after = (samples(folder, "toy_algebra") for folder in real_runs)
    b = c = other = 0
    net: dict[str, int] = {}
    for x, y in zip(before, after, strict=True):
        assert x["doc"] == y["doc"]
        question = x["doc"]["question"]
        net[question] = net.get(question, 0) + int(y["acc"]) - int(x["acc"])
        chosen = [
            max(range(3), key=lambda i, item=item: float(item["resps"][i][0][0])) for item in (x, y)
        ]
        b += x["acc"] > y["acc"]
        c += x["acc"] < y["acc"]
        other += x["acc"] == y["acc"] == 0 and chosen[0] != chosen[1]
    assert min(b, c, other) > 0  # there is something to count
    flips = row(comparison, "toy_algebra", "acc").statistics.flips
    assert flips is not None
    assert (flips.right_to_wrong, flips.wrong_to_right) == (b, c)
    assert flips.all_flips == (b + c + other) / 30
    assert len(net) == 25  # five questions are asked twice
    assert flips.p_value == mcnemar_exact(
        sum(change < 0 for change in net.values()), sum(change > 0 for change in net.values())
    )


def test_length_normalised_choice_is_the_one_lm_eval_scored(
    real_runs: tuple[Path, Path],
) -> None:
    file = load_run(str(real_runs[0])).files[0]
    items = file.samples("toy_algebra")["none"]
    documents = samples(real_runs[0], "toy_algebra")
    for metric in ("acc", "acc_norm"):
        for item, document in zip(items, documents, strict=True):
            assert item.answer(metric) == document["doc"]["answer"] or not document[metric]
            assert (item.answer(metric) == document["doc"]["answer"]) == bool(document[metric])
    assert any(item.answer("acc") != item.answer("acc_norm") for item in items)


def test_a_group_pools_its_subjects(comparison: Comparison) -> None:
    group = row(comparison, "toy_quiz", "acc").statistics
    parts = [row(comparison, name, "acc").statistics for name in ("toy_algebra", "toy_poetry")]
    assert group.n == 60
    assert group.flips is not None
    flips = [part.flips for part in parts]
    assert group.flips.right_to_wrong == sum(f.right_to_wrong for f in flips if f)
    assert group.flips.all_flips == pytest.approx(sum(f.all_flips or 0 for f in flips if f) / 2)


def test_filters_are_compared_each_by_itself(comparison: Comparison) -> None:
    raw = row(comparison, "toy_say", "exact_match", "raw").statistics
    digit = row(comparison, "toy_say", "exact_match", "digit").statistics
    assert raw.flips is not None
    assert digit.flips is not None
    assert raw.dense == 0 < digit.dense
    assert raw.flips.churn == 0 < digit.flips.churn
    assert raw.flips.all_flips == digit.flips.all_flips  # every change of words is a change
    assert "not above 0" in "".join(
        n for n in comparison.notes if ",raw" in n and "no verdict" in n
    )


def test_perplexity_rows(comparison: Comparison, real_runs: tuple[Path, Path]) -> None:
    found = row(comparison, "toy_pages", "word_perplexity").statistics
    items = samples(real_runs[1], "toy_pages")
    total, words = (sum(item["word_perplexity"][i] for item in items) for i in (0, 1))
    assert found.compressed == pytest.approx(math.exp(-total / words))
    assert found.flips is None
    assert (found.margin, found.verdict) == (None, None)  # tokens have the verdict
    assert found.recovery == pytest.approx(found.dense / found.compressed)
    assert row(comparison, "toy_pages", "bits_per_byte").statistics.verdict is None


def test_a_run_against_itself_changes_nothing(real_runs: tuple[Path, Path]) -> None:
    run = load_run(str(real_runs[0]))
    same = compare_runs(run, run)
    assert "both are the same run" in same.notes
    for r in same.rows:
        low, high = r.statistics.interval
        assert r.statistics.difference == 0
        assert low <= 0 <= high
        assert r.statistics.verdict != "fail"
        if r.statistics.flips is not None:
            assert r.statistics.flips.all_flips == 0


def test_command_writes_what_it_prints(
    real_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, csv_file = tmp_path / "new" / "c.json", tmp_path / "c.csv"
    arguments = [*map(str, real_runs), "--json", str(json_file), "--csv", str(csv_file)]
    arguments += ["--metric", "acc,exact_match", "--seed", "7", "--tasks", "*"]
    assert cli.main(["compare", *arguments]) == 0
    printed = capsys.readouterr().out
    document = json.loads(json_file.read_text())
    assert document["schema"] == "lmkick-compare-2"
    assert (document["seed"], document["tolerance"]) == (7, 0.05)
    assert document["compressed"]["record"] == {"compressor": "wanda", "requested_sparsity": 0.5}
    with csv_file.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [r["name"] for r in table] == [r["name"] for r in document["rows"]]
    assert {r["metric"] for r in table} == {"acc", "exact_match"}
    for from_csv, from_json in zip(table, document["rows"], strict=True):
        assert float(from_csv["difference_low"]) == from_json["difference_low"]
        assert any(
            from_json["name"] in line and (from_json["verdict"] or "-") in line
            for line in printed.splitlines()
        )
    assert "moved wanda 50 %" in printed
    assert list(tmp_path.rglob("*.part")) == []


def test_command_says_what_is_wrong_in_a_line_and_two(
    real_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(real_runs[0]), str(tmp_path / "nothing")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lmkick compare: ")
    assert "no such file or folder" in captured.err
    assert captured.out == ""


def test_a_seed_is_an_argument_that_counts(real_runs: tuple[Path, Path]) -> None:
    runs = [load_run(str(folder)) for folder in real_runs]
    draws = [compare_runs(*runs, tasks=["toy_pages"], rule=Rule(seed=seed)) for seed in (1, 1, 2)]
    assert draws[0].rows == draws[1].rows
    assert draws[0].rows != draws[2].rows
    assert {r.name for r in draws[0].rows} == {"toy_pages"}
