# SPDX-License-Identifier: Apache-2.0
"""What a report writes: files, table, text, and rows for leaderboards."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.cli import main
from lmkick_plugin.recipe.methods import METHODS
from lmkick_plugin.report import export, write_report
from lmkick_plugin.report.banner import banner
from lmkick_plugin.report.claims import CLAIMS
from lmkick_plugin.report.evidence import Evidence, Settings, gather
from lmkick_plugin.report.export import FIELDS, SCHEMA, write_leaderboard
from lmkick_plugin.report.figures import model_figures
from lmkick_plugin.report.formatting import NOTHING
from lmkick_plugin.report.models import collect
from lmkick_plugin.report.page_content import build
from lmkick_plugin.report.published import beside, published_numbers
from tests.lmkick_plugin.report.worlds import DIRECTIONS, graded, quiz, record
from tests.lmkick_plugin.run_files import Writer, choice_item

REPOSITORY = Path(__file__).resolve().parents[3]


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, lmkick_plugin.report as r; r.write_report;"
        "heavy = {'torch', 'lm_eval', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_the_whole_grid(paper: Path, paper_report: Path, paper_evidence: Evidence) -> None:
    names = {path.name for path in paper_report.iterdir()}
    assert {"report.html", "report.md", "cells.csv", "plots"} <= names
    pngs, svgs = (sorted(paper_report.glob(f"plots/*.{kind}")) for kind in ("png", "svg"))
    assert [path.stem for path in pngs] == [path.stem for path in svgs]
    stems = " ".join(path.stem for path in pngs)
    for wanted in (
        "kick_freebaseqa",
        "knowledge-against-perplexity",
        "mmlu-categories",
        "divergence",
    ):
        assert wanted in stems
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pngs)
    assert not list(paper_report.rglob("*.part"))
    page = (paper_report / "report.html").read_text(encoding="utf-8")
    assert "as a share of the dense model's in bfloat16, as evaluated" in page


def test_a_cell_of_the_table_is_a_score_of_a_file(paper_report: Path) -> None:
    with (paper_report / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} >= {"kick_freebaseqa", "kick_mmlu", "mmlu_kick_stem"}
    for row in rows[::37]:
        results = json.loads(Path(row["results"]).read_text())
        key = f"{row['metric']},{row['filter']}"
        assert float(row["value"]) == results["results"][row["task"]][key]
        kick = results["config"]["kick"]
        assert row["compressor"] == kick["compressor"]
        assert row["weights_sha256"] == kick["weights_sha256"]
    facts = [row for row in rows if row["task"] == "kick_freebaseqa"]
    assert {row["n"] for row in facts} == {"200"}


def test_the_claims_of_the_grid(paper_evidence: Evidence) -> None:
    """What `worlds.PAPER` was made to say."""
    big = next(m for m in paper_evidence.collection.models if m.name == "big-7b")
    found = {claim.number: claim.test(paper_evidence, big) for claim in CLAIMS}
    assert {number: finding.outcome for number, finding in found.items()} == {
        1: "confirmed",
        2: "confirmed",
        3: "confirmed",
        4: "open",  # as are 200 questions here
        5: "confirmed",
        6: "open",  # 200 questions cannot tell a loss of 5 % from one of 7 %
        7: found[7].outcome,  # a small difference on 100 questions: not what is tested here
        8: "confirmed",
        9: "not tested",
        10: "confirmed",
        11: "confirmed",
        12: "confirmed",
        13: found[13].outcome,
        14: "not tested",
        15: "not tested",
        16: "not tested",
    }
    assert "30 %" in found[1].reason
    small, *_ = [cell for cell in found[8].cells if cell.model == "small-3b"]
    assert small.dense


def test_large_against_small_can_fail(write: Writer, tmp_path: Path) -> None:
    def one(name: str, share: float, kick: dict[str, object]) -> None:
        tasks = {"kick_freebaseqa": quiz("contains", share)}
        write(name, tasks, record=kick, directions={"contains": True})

    one("big", 0.8, record())
    one("sparse", 0.75, record("wanda", requested_sparsity=0.5))
    one("small", 0.5, record(base="small", total=500_000))
    one("tiny", 0.9, record(base="tiny", total=100_000))  # better, and not of that size
    evidence = gather(collect([write.folder]), Settings(resamples=500))
    big = next(m for m in evidence.collection.models if m.key == "big-7b")
    finding = CLAIMS[7].test(evidence, big)
    assert finding.outcome == "refuted"
    assert finding.deciding is not None
    assert finding.deciding.value == pytest.approx(0.5 - 0.75)


def test_the_text_says_what_the_page_says(paper_report: Path) -> None:
    text = (paper_report / "report.md").read_text()
    for claim in CLAIMS:
        assert claim.statement.split(".")[0] in text.replace("\\", "")
    plain_text = text.replace("\\", "")
    assert "FreebaseQA" in plain_text
    assert not re.search(
        r"\bkick(only)?_\w+(?!\S*\.(json|png))", re.sub(r"plots/\S+|file: .*", "", plain_text)
    )
    order = [
        "**",
        "| run | size |",
        "Every run on every task",
        "## Curves",
        "## Run by run",
        "## Published claims",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for picture in re.findall(r"\]\((plots/[^)]+)\)", text):
        assert (paper_report / picture).is_file()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert len(widths) < 8  # no cell breaks its table


def test_published_numbers_have_sources() -> None:
    rows = published_numbers()
    assert all(row.source and row.value > 0 for row in rows)
    table = {(r.model, r.task, *r.level): r.value for r in rows}
    assert table["Vicuna-7B", "kick_freebaseqa", "magnitude", "", 0.5, None] == 0.1399
    assert table["Vicuna-7B", "kick_mmlu", "wanda", "", 0.5, None] == 0.386
    assert table["Vicuna-7B", "kick_triviaqa_open", "gptq", "", None, 8] == 0.7555
    assert table["Llama-2-7B", "kickonly_perplexity", "sparsegpt", "2:4", None, None] == 10.17
    assert table["Llama-2-7B", "kickonly_perplexity", "awq", "", None, 4] == 5.6
    assert table["LLaMA-7B", "kickonly_perplexity", "gptq", "", None, 3] == 8.07
    assert len([row for row in rows if "Table 3" in row.source]) == 4 * 16


def test_published_numbers_stand_beside_their_own_level(paper_evidence: Evidence) -> None:
    big = next(m for m in paper_evidence.collection.models if m.name == "big-7b")
    rows = beside(paper_evidence, big)
    assert rows
    for row in rows:
        assert row.cell.compressor == row.published.method
        assert (row.cell.pattern or "") == row.published.pattern
    assert not any(row.same_model for row in rows)
    at = [r for r in rows if r.published.task == "kick_freebaseqa" and r.published.sparsity == 0.5]
    assert {row.published.value for row in at} == {0.1399, 0.4286, 0.4466}


def test_rows_for_leaderboards(paper_evidence: Evidence, tmp_path: Path) -> None:
    lines, table, card = write_leaderboard(paper_evidence, tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in lines.read_text().splitlines()]
    assert len(rows) == len(paper_evidence.collection.cells)
    assert all(tuple(row) == FIELDS and row["schema"] == SCHEMA for row in rows)
    wanda = next(r for r in rows if r["compressor"] == "wanda" and r["requested_sparsity"] == 0.5)
    score = wanda["scores"]["kick_freebaseqa"]
    assert score["value"] == 0.325  # half of 0.65
    assert (score["n"], score["verdict"]) == (200, "fail")
    assert score["recovery"] == pytest.approx(0.5)
    assert wanda["verdict"]["word"] == "loses"
    assert next(r for r in rows if r["dense"])["verdict"] is None
    versions = [one["version"] for row in rows for one in row["scores"].values()]
    assert {type(version) for version in versions} == {float, type(None)}
    assert [export._version(version) for version in (1, "1.0", "N/A", None)] == [1, 1, None, None]
    with table.open(newline="") as file:
        cells = {row["label"]: row for row in csv.DictReader(file)}
    assert cells[wanda["label"]]["verdict"] == "loses"
    assert float(cells[wanda["label"]]["kick_freebaseqa.value"]) == 0.325
    text = card.read_text()
    assert "50.0 %" in text
    assert wanda["verdict"]["sentence"].split(" loses on ")[1][:20] in text.replace("\\", "")
    perplexity = wanda["scores"]["kickonly_perplexity"]
    dense = next(r for r in rows if r["dense"])["scores"]["kickonly_perplexity"]
    assert perplexity["value"] > dense["value"]
    assert perplexity["recovery"] == pytest.approx(dense["value"] / perplexity["value"])
    assert all((one["recovery"] or 0) <= 1.01 for one in wanda["scores"].values())
    assert "kick_freebaseqa" in text.replace("\\", "")


def test_the_documented_fields_are_the_rows() -> None:
    text = (REPOSITORY / "docs" / "report.md").read_text(encoding="utf-8")
    section = text[text.index("## Leaderboards") :]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(FIELDS)
    claims = text[text.index("## The claims") : text.index("## Leaderboards")]
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", claims, flags=re.MULTILINE)]
    assert numbers == [claim.number for claim in CLAIMS]


def test_the_command(write: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {"kick_freebaseqa": quiz("contains", 0.5)}
    first = write("in/a", tasks, record=record(), directions={"contains": True})
    write("in/b", tasks, record=record("wanda", requested_sparsity=0.5))
    source, out = str(tmp_path / "in"), tmp_path / "out"
    arguments = [
        "report",
        source,
        "-o",
        str(out),
        "--label",
        f"{first}=the first",
        "--resamples",
        "200",
    ]
    assert main(arguments) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert said[-1] == f"report: {out / 'report.html'}"
    assert "FreebaseQA" in said[0]
    assert said[2].split()[:4] == ["run", "size", "of", "dense"]
    assert "the first" in (out / "report.html").read_text()
    assert main(["export", source, "--format", "leaderboard", "-o", str(out)]) == 0
    assert (out / "leaderboard.csv").is_file()
    assert main(["report", str(tmp_path / "absent"), "-o", str(out)]) == 2
    assert main(["report", source, "-o", str(out), "--metric", "nonsense"]) == 2
    assert main(["report", source, "-o", str(out), "--label", "nonsense"]) == 2
    assert main(["report", source, "-o", str(out), "--tolerance", "2"]) == 2
    said = capsys.readouterr().err
    assert "no such file" in said
    assert "TASK=METRIC" in said
    assert "FOLDER=LABEL" in said
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["report", str(empty), "-o", str(out)]) == 2
    assert "no lm-eval results" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmkick_plugin.report import writing
    from lmkick_plugin.results.results_file import ResultsError

    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(ResultsError, match=r"pip install 'lmkick\[report\]'"):
        write_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_results_of_lm_eval(real_runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Runs that lm-eval itself wrote, with groups, filters and repeated documents."""
    page = write_report(list(real_runs), tmp_path / "out", resamples=300)
    text = page.read_text()
    assert "toy" in text
    with (tmp_path / "out" / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} >= {"acc", "acc_norm", "exact_match", "word_perplexity"}
    assert {row["filter"] for row in rows} >= {"none", "raw", "digit"}


def test_cut_prompts_are_marked(write: Writer, tmp_path: Path) -> None:
    """Of a group too, whose tasks the record counts one by one."""
    items = {name: [choice_item(i, [1, 0]) for i in range(20)] for name in ("x_a", "x_b")}
    cut = {"truncated_prompts": {"x_a": 3, "x_b": 2}}
    for name, kick in (("a", record()), ("b", record("wanda", requested_sparsity=0.5) | cut)):
        write(name, items, record=kick, groups={"x": ["x_a", "x_b"]})
    evidence = gather(collect([write.folder]), Settings(resamples=100))
    (part,) = build(evidence, tmp_path).models
    marks = {line.cell.compressor: row[0].shown for line, row in part.heat}
    assert marks == {"none": "1.000", "wanda": "100*"}
    assert banner(evidence) == ["Prompts cut to the context, at most per run: x 5."]


def test_the_heat_map_and_the_table_count_alike(paper_report: Path) -> None:
    page = (paper_report / "report.html").read_text()
    head = re.findall(r'title="(kick\w+): (\w+)"><span>[^<]*<small>n = ([\d,]+)<', page)
    with (paper_report / "cells.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "big-7b"]
    counts = {(task, metric): {n} for task, metric, n in head[: len(head) // 2 + 1]}
    assert len(counts) > 6
    for (task, metric), wanted in counts.items():
        assert {r["n"] for r in rows if (r["task"], r["metric"]) == (task, metric)} == wanted
    assert counts["kickonly_perplexity", "token_perplexity"] == {"60"}  # windows, not texts


def test_the_judge_stands_beside_judged_scores(write: Writer, tmp_path: Path) -> None:
    judge = {"model": "a <b>judge</b>", "prompts": 3}
    configs = {"kick_instruct": {"task": "kick_instruct", "metadata": {"judge": judge}}}
    for name, kick, score in (("a", record(), 8.0), ("b", record("gptq", num_bits=4), 7.0)):
        items = {"kick_instruct": graded({"judge_score": score})}
        scores = {"kick_instruct": {"position_consistency,none": 0.75}}
        write(name, items, record=kick, scores=scores, directions=DIRECTIONS, configs=configs)
    page = write_report([write.folder], tmp_path / "out", resamples=100).read_text()
    said = "judged by a &lt;b&gt;judge&lt;/b&gt;, prompts 3; position consistency 0.75; judge not"
    assert page.count(f'<p class="hint">instruct: {said}') == 2  # under each run's scores
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.count("- instruct: judged by a &lt;b&gt;judge&lt;/b&gt;, prompts 3") == 2


def test_each_method_is_drawn_in_its_own_look(write: Writer, tmp_path: Path) -> None:
    """In every figure; a sparsity curve and bits of one method can be told apart, too."""
    levels: dict[str, list[dict[str, Any]]] = {
        name: [{"num_bits": 4}, {"num_bits": 3}]
        if method.quantizes and not method.prunes
        else [{"requested_sparsity": 0.3}, {"requested_sparsity": 0.5}]
        for name, method in METHODS.items()
    }
    levels["sparsegpt"] += [{"num_bits": 4}, {"requested_sparsity": 0.5, "num_bits": 4}]
    write("dense", {"t": quiz("contains", 0.8)}, record=record(), directions=DIRECTIONS)
    for name, recipes in levels.items():
        for i, recipe in enumerate(recipes):
            kick = record(name, **recipe)
            tasks = {"t": quiz("contains", 0.7 - i / 10)}
            write(f"{name}-{i}", tasks, record=kick, directions={"contains": True})
    evidence = gather(collect([write.folder]), Settings(resamples=50))
    (model,) = evidence.collection.models
    figures = model_figures(evidence, model)
    drawn = {line.name for f in figures for panel in f.panels for line in panel.lines}
    assert drawn >= set(METHODS)
    for figure in figures:
        for panel in figure.panels:
            if panel.y_range is not None and panel.star is not None:
                assert panel.y_range[0] < panel.star.y < panel.y_range[1]
            looks = {line.name: line.look for line in panel.lines}
            assert len(set(map(str, looks.values()))) == len(looks)
            for name in looks.keys() & METHODS.keys():
                row = METHODS[name]
                assert (looks[name].color, looks[name].marker) == (row.color, row.marker)


def test_speed_and_the_text_as_read_stand_with_a_run(write: Writer, tmp_path: Path) -> None:
    spread = {"median": 41.6, "low": 40.0, "high": 43.2}
    measured = {"decode": spread, "prefill": "broken", "memory_bytes": 2_500_000, "device": "cpu"}
    items = {"t": quiz("contains", 0.5)}
    write("a", items, record=record(profile=measured))
    text = {"source": "c4", "origin": "data_dir", "file": "/some/web_text/train.jsonl"}
    quantized = record("gptq", num_bits=4, profile="broken", calibration_sources=[text])
    write("b", items, record=quantized)
    evidence = gather(collect([write.folder]), Settings(resamples=100))
    (part,) = build(evidence, tmp_path).models
    header, rows = part.summary.table()
    assert [row[header.index("decode")] for row in rows] == ["42 tokens/s", NOTHING]
    page = write_report([write.folder], tmp_path / "out", resamples=100).read_text()
    assert 'data-v="41.6">42 tokens/s</td>' in page
    assert "| 42 tokens/s |" in (tmp_path / "out" / "report.md").read_text()
    facts = {run.line.cell.compressor: dict(run.facts) for run in part.runs}
    assert facts["none"]["decode"] == "42 tokens/s [40, 43]"
    assert facts["none"]["weights in memory"] == "2.50 MB"
    assert "prefill" not in facts["none"]
    assert "decode" not in facts["gptq"]
    assert facts["gptq"]["calibration"].startswith("c4 (read from web_text/train.jsonl)")


def test_a_row_says_where_it_is_not_known_whether_the_model_is_dense(
    write: Writer, tmp_path: Path
) -> None:
    write("hf", {"t": quiz("contains", 0.5)}, record=None, model_name="saved-by-lmkick")
    evidence = gather(collect([write.folder]), Settings(resamples=100))
    lines, _, card = write_leaderboard(evidence, tmp_path)
    (row,) = map(json.loads, lines.read_text().splitlines())
    assert (row["dense"], row["compressor"], row["weights_sha256"]) == (None, None, None)
    assert "Not known whether compressed: saved-by-lmkick hf." in card.read_text()
    assert "Weights: not recorded." in card.read_text()


def test_numbers_in_a_record_that_are_not_finite_are_null(write: Writer, tmp_path: Path) -> None:
    nan, items = float("nan"), {"t": quiz("contains", 0.5)}
    profile = {"decode": {"median": nan, "low": nan, "high": 1.0}, "memory_bytes": nan}
    earlier = [{"compressor": "gptq", "num_bits": float("inf")}]
    write("a", items, record=record())
    write("b", items, record=record("wanda", requested_sparsity=0.5, earlier=earlier))
    write("c", items, record=record("rtn", num_bits=4, profile=profile))
    evidence = gather(collect([write.folder]), Settings(resamples=100))
    lines, table, _ = write_leaderboard(evidence, tmp_path)
    rows = {row["compressor"]: row for row in map(json.loads, lines.read_text().splitlines())}
    assert rows["rtn"]["profile"]["decode"] == {"median": None, "low": None, "high": 1.0}
    assert rows["wanda"]["earlier"] == [{"compressor": "gptq", "num_bits": None}]
    assert "NaN" not in table.read_text()
    (part,) = build(evidence, tmp_path).models
    (facts,) = [dict(run.facts) for run in part.runs if run.line.cell.compressor == "rtn"]
    assert facts.keys().isdisjoint({"decode", "weights in memory"})
    assert not part.summary.measured


def test_a_level_without_a_verdict_has_a_mark_of_its_own(write: Writer, tmp_path: Path) -> None:
    both = {"kick_freebaseqa": quiz("contains", 0.8), "other": quiz("contains", 0.8)}
    one = {"other": both["other"]}
    for name, kick, tasks in (
        ("dense", record(), both),
        ("mild", record("wanda", requested_sparsity=0.3), both),
        ("severe", record("wanda", requested_sparsity=0.5), one),
    ):
        write(name, tasks, record=kick, directions={"contains": True})
    page = write_report([write.folder], tmp_path / "out", resamples=200)
    assert f'class="v-none"><span aria-hidden="true">{NOTHING} </span>50 %' in page.read_text()
    assert f"{NOTHING} 50 %" in (tmp_path / "out" / "report.md").read_text()
