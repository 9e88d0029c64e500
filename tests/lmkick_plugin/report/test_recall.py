# SPDX-License-Identifier: Apache-2.0
"""Known, out of reach, lost: planted facts come out as planted."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmkick_plugin.report import write_report
from lmkick_plugin.report.claims import CLAIMS
from lmkick_plugin.report.evidence import Evidence, Settings, gather
from lmkick_plugin.report.export import write_leaderboard
from lmkick_plugin.report.models import Cell, Collection, Model, collect
from lmkick_plugin.report.page_content import build
from lmkick_plugin.report.recall import (
    FORMS,
    STATES,
    Recall,
    compare_recall,
    recall_of,
    state_of,
)
from lmkick_plugin.report.recall_section import recall_section
from lmkick_plugin.results.runs import load_run
from tests.lmkick_plugin.report.worlds import record

Facts = dict[str, dict[str, bool]]


@pytest.mark.parametrize(
    ("right", "state"),
    [
        ("say choose try shown read", "said"),
        ("say", "said"),
        ("choose", "out of reach"),
        ("try read", "out of reach"),
        ("shown", "out of reach"),
        ("read", "readable only"),
        ("", "lost"),
    ],
)
def test_states(right: str, state: str) -> None:
    assert state_of({form: form in right.split() for form in FORMS}) == state


def test_a_fact_without_evidence_is_never_readable_only() -> None:
    assert state_of({"say": False, "choose": False}) == "lost"


def answers(chance: random.Random, state: str, count: int) -> Iterator[dict[str, bool]]:
    """Facts in a true state; who does not recognise an answer chooses by chance."""
    for _ in range(count):
        recognised = state in ("said", "recognised")
        yield {
            "say": state == "said",
            "choose": recognised or chance.random() < 0.25,
            "try": state in ("said", "tried"),
            "shown": state == "said",
            "read": state in ("said", "readable") or (recognised and chance.random() < 0.5),
        }


def world(seed: int, **counts: int) -> tuple[Facts, Facts]:
    """Facts that dense says, in known states of the compressed model."""
    chance = random.Random(seed)
    found = [row for state, count in counts.items() for row in answers(chance, state, count)]
    compressed = {f"q{number}": row for number, row in enumerate(found)}
    return {name: dict.fromkeys(FORMS, True) for name in compressed}, compressed


PLANTED = {"said": 200, "tried": 60, "recognised": 80, "readable": 240, "lost": 120}
TRUE = np.asarray([200, 140, 240, 120]) / 700


def test_corrected_shares_are_the_planted_ones() -> None:
    inside, values, plain = np.zeros(4), np.zeros(4), np.zeros(4)
    for seed in range(40):
        found = recall_of("x", *world(seed, **PLANTED), resamples=1_000, seed=seed)
        assert found.said == found.table[0].sum() == 700
        ends = np.asarray([found.interval(state) for state in STATES])
        inside += (ends[:, 0] <= TRUE) & (ends[:, 1] >= TRUE)
        values += found.shares / 40
        plain += found.table[0] / 700 / 40
    assert values == pytest.approx(TRUE, abs=0.01)
    assert inside.min() >= 34  # of 40, at a level of 95 %
    # The control: without the correction a quarter of what is gone counts as recognised.
    assert plain[1] - TRUE[1] > 0.1


def test_a_model_that_knows_nothing() -> None:
    found = recall_of("x", *world(1, lost=400), resamples=2_000)
    assert found.shares[:1].tolist() == [0]
    assert found.shares[1] < 0.08
    assert found.interval("lost")[1] > 0.97
    assert found.interval("said")[1] > 0  # that none was seen does not make it impossible


def test_a_model_that_says_all() -> None:
    found = recall_of("x", *world(1, said=400), resamples=2_000)
    assert found.shares.tolist() == [1, 0, 0, 0]
    assert found.table[0].tolist() == [400, 0, 0, 0]
    assert found.interval("lost")[1] < 0.01


def test_a_model_that_recognises_but_does_not_say() -> None:
    found = recall_of("x", *world(1, recognised=400), resamples=2_000)
    assert found.shares.tolist() == [0, 1, 0, 0]
    assert found.interval("out of reach")[0] > 0.97


def test_few_facts_have_no_shares() -> None:
    few = recall_of("x", *world(1, said=9, lost=10), resamples=100)
    assert "too few" in few.sentence()
    assert few.to_dict()["shares"] is None
    none = {"q": dict.fromkeys(FORMS, False)}
    nothing = recall_of("x", none, none, resamples=100)
    assert "none can be lost" in nothing.sentence()
    assert nothing.table[3, 3] == 1
    with pytest.raises(ValueError, match="other facts"):
        recall_of("x", none, {"p": none["q"]})


# --- from results on disk -------------------------------------------------------------------------


def write_run(
    folder: Path,
    facts: Facts,
    *,
    seed: int = 1,
    without: Sequence[str] = (),
    shots: int = 0,
    temperature: float = 0.8,
    limits: Mapping[str, int] | None = None,
    samples: bool = True,
    scored: bool = True,
    kick: Mapping[str, Any] | None = None,
) -> Path:
    """Results and samples of the recall tasks, as lm-eval writes them."""
    folder.mkdir(parents=True)
    stamp = "2026-01-01T00-00-00.000000"
    tasks = [form for form in FORMS if form not in without]
    results: dict[str, Any] = {
        "results": {}, "configs": {}, "versions": {}, "n-shot": {}, "n-samples": {},
        "higher_is_better": {}, "config": {"model": "hf", "torch_seed": seed},
        "max_length": 2048,
        "model_name": folder.name,
    }  # fmt: skip
    for form in tasks:
        task, metric = f"recall_kick_{form}", FORMS[form] if scored else "bypass"
        asked = {name: row[form] for name, row in facts.items() if form in row}
        asked = dict(list(asked.items())[: (limits or {}).get(form)])
        settings = {"temperature": temperature} if form == "try" else {"do_sample": False}
        lines = [
            json.dumps(
                {
                    "doc_id": number,
                    "doc": {"cluster": name},
                    "target": name,
                    "arguments": {"gen_args_0": {"arg_0": f"{form} {name}", "arg_1": settings}},
                    "resps": [["x"]],
                    "filtered_resps": ["x"],
                    "filter": "none",
                    "metrics": [metric],
                    "doc_hash": f"{form} {name}",
                    "prompt_hash": name,
                    "target_hash": name,
                    metric: float(right) if scored else None,
                }
            )
            for number, (name, right) in enumerate(asked.items())
        ]
        if samples:
            (folder / f"samples_{task}_{stamp}.jsonl").write_text("\n".join(lines) + "\n")
        mean = sum(asked.values()) / len(asked)
        results["results"][task] = {"alias": task, f"{metric},none": mean}
        results["versions"][task] = 1.0
        results["n-shot"][task] = shots
        results["configs"][task] = {"task": task}
        results["higher_is_better"][task] = {metric: None}
        results["n-samples"][task] = {"original": len(asked), "effective": len(asked)}
    if kick is not None:
        results["config"] |= {"model": "kick", "kick": dict(kick)}
    (folder / f"results_{stamp}.json").write_text(json.dumps(results))
    return folder


def test_runs_on_disk(tmp_path: Path) -> None:
    dense, compressed = world(3, **PLANTED)
    for side in (dense, compressed):
        del side["q699"]["read"]  # no evidence holds its answer
    first = load_run(str(write_run(tmp_path / "dense", dense)))
    second = load_run(str(write_run(tmp_path / "small", compressed)))
    (found,), notes = compare_recall(first, second)
    assert notes == []
    expected = recall_of("TriviaQA", dense, compressed)
    assert found.table.tolist() == expected.table.tolist()
    assert found.without_evidence == 1
    assert found.shares == pytest.approx(expected.shares)

    from lmkick_plugin.report.compare import compare_runs

    comparison = compare_runs(first, second)
    assert "Of the 700 facts that dense says: said 28.6 %" in comparison.to_text()
    assert "not asked with evidence, and cannot be readable only: 1 of 700" in comparison.to_text()
    assert json.loads(comparison.to_json())["recall"][0]["said_by_dense"] == 700
    # The same facts in five ways are not five tasks: no verdict on any of them.
    assert {row.statistics.verdict for row in comparison.rows} == {None}
    assert compare_runs(first, second, tasks=["recall_kick_say"]).recall == ()


def test_other_seeds_are_not_compared(tmp_path: Path) -> None:
    dense, compressed = world(3, said=30, lost=30)
    first = load_run(str(write_run(tmp_path / "dense", dense)))
    second = load_run(str(write_run(tmp_path / "small", compressed, seed=2)))
    found, (note,) = compare_recall(first, second)
    assert found == []
    assert "recall of TriviaQA is not compared" in note
    assert "seeds" in note


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"shots": 5}, "few-shot 0 against 5"),
        ({"temperature": 1.0}, "request settings differ for 60 of 60 items"),
        ({"limits": dict.fromkeys(FORMS, 40)}, "60 items against 40"),
        ({"samples": False}, "samples"),
        ({"scored": False}, "recall_kick_choose: no acc_norm: made with --predict_only?"),
    ],
)
def test_what_was_asked_otherwise_is_not_compared(
    tmp_path: Path, other: dict[str, Any], why: str
) -> None:
    dense, compressed = world(3, said=30, lost=30)
    first = load_run(str(write_run(tmp_path / "dense", dense)))
    second = load_run(str(write_run(tmp_path / "small", compressed, **other)))
    found, (note,) = compare_recall(first, second)
    assert found == []
    assert "recall of TriviaQA is not compared" in note
    assert why in note


def test_a_limit_keeps_the_facts_that_were_asked_in_every_form(tmp_path: Path) -> None:
    dense, compressed = world(3, said=30, lost=30)
    limits = {"try": 40, "read": 20}
    runs = [
        load_run(str(write_run(tmp_path / name, facts, limits=limits)))
        for name, facts in (("dense", dense), ("small", compressed))
    ]
    (found,), _ = compare_recall(*runs)
    assert found.table.sum() == 40
    assert found.without_evidence == 20


def test_a_model_that_fails_all_of_it_has_no_verdict(tmp_path: Path) -> None:
    from lmkick_plugin.report.compare import compare_runs

    dense, nothing = world(3, lost=60)
    for asked in nothing.values():
        asked.update(dict.fromkeys(FORMS, False))
    first = load_run(str(write_run(tmp_path / "dense", dense)))
    second = load_run(str(write_run(tmp_path / "small", nothing)))
    text = compare_runs(first, second).to_text()
    assert "lost 100.0 %" in text
    swapped = compare_runs(second, first)
    assert "Dense says none of these facts, so none can be lost." in swapped.to_text()
    for comparison in (compare_runs(first, second), swapped):
        assert {row.statistics.verdict for row in comparison.rows} == {None}
        assert comparison.verdict.word == "cannot tell"


def test_without_log_likelihoods_the_generating_forms_are_compared(tmp_path: Path) -> None:
    dense, compressed = world(3, said=30, tried=20, recognised=30, readable=20)
    runs = [
        load_run(str(write_run(tmp_path / name, facts, without=["choose"])))
        for name, facts in (("dense", dense), ("small", compressed))
    ]
    (found,), _ = compare_recall(*runs)
    assert found.table[0, :2].tolist() == [30, 20]  # none counts as recognised
    assert "Not asked: choose." in found.to_text()


def test_forms_that_were_not_asked_are_named(tmp_path: Path) -> None:
    """As of a model type without log-likelihoods."""
    dense, compressed = world(3, said=30, recognised=30)
    first = load_run(str(write_run(tmp_path / "dense", dense, without=["choose"])))
    second = load_run(str(write_run(tmp_path / "small", compressed)))
    (found,), _ = compare_recall(first, second)
    assert "Not asked: choose." in found.to_text()
    assert found.table[0, 1] == 0


def cell(folder: Path, facts: Facts, **record: Any) -> Cell:
    run = load_run(str(write_run(folder, facts)))
    return Cell(name=folder.name, run=run, label=folder.name, record=record, model="m")


def model_of(tmp_path: Path, *cells: Cell, facts: int = 700) -> Model:
    everything = {f"q{number}": dict.fromkeys(FORMS, True) for number in range(facts)}
    dense = cell(tmp_path / "dense", everything, compressor="none")
    return Model(name="m", key="m", dense=dense, cells=cells)


def evidence_on(model: Model) -> Evidence:
    return gather(Collection((model,), (), ()), Settings(resamples=2_000))


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        ({"said": 100, "recognised": 400, "lost": 200}, "confirmed"),
        ({"said": 100, "recognised": 100, "lost": 500}, "refuted"),
        ({"said": 100, "recognised": 300, "lost": 300}, "open"),
        ({"said": 10, "lost": 5}, "not tested"),
    ],
)
def test_claim_15(tmp_path: Path, counts: dict[str, int], outcome: str) -> None:
    wanda = {"compressor": "wanda", "requested_sparsity": 0.6}
    severe = cell(tmp_path / "severe", world(1, **counts)[1], **wanda)
    facts = sum(counts.values())
    mild = cell(tmp_path / "mild", world(1, lost=facts)[1], **{**wanda, "requested_sparsity": 0.3})
    model = model_of(tmp_path, mild, severe, facts=facts)
    assert CLAIMS[14].test(evidence_on(model), model).outcome == outcome


@pytest.mark.parametrize(("lost", "outcome"), [(50, "confirmed"), (350, "refuted")])
def test_claim_16(tmp_path: Path, lost: int, outcome: str) -> None:
    pruned = cell(
        tmp_path / "pruned",
        world(1, said=300, recognised=200, lost=200)[1],
        compressor="wanda",
        requested_sparsity=0.5,
    )
    far = cell(tmp_path / "far", world(2, lost=700)[1], compressor="wanda", requested_sparsity=0.9)
    facts = world(1, said=320, recognised=380 - lost, lost=lost)[1]
    quantized = cell(tmp_path / "bits", facts, compressor="gptq", num_bits=3)
    model = model_of(tmp_path, pruned, far, quantized)
    found = CLAIMS[15].test(evidence_on(model), model)
    assert found.outcome == outcome
    assert [one.name for one in found.cells] == ["pruned", "bits"]
    lonely = model_of(tmp_path / "x", far)
    assert CLAIMS[15].test(evidence_on(lonely), lonely).outcome == "not tested"


# --- in a report ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense, a pruned run, and a quantized one, with records."""
    folder = tmp_path_factory.mktemp("results")
    dense, pruned = world(3, **PLANTED)
    _, quantized = world(4, said=600, recognised=100)
    write_run(folder / "dense", dense, kick=record())
    write_run(folder / "wanda", pruned, kick=record("wanda", requested_sparsity=0.5))
    write_run(folder / "gptq", quantized, kick=record("gptq", num_bits=4))
    return folder


def test_the_picture_has_the_shares(tmp_path: Path) -> None:
    wanda = {"compressor": "wanda", "requested_sparsity": 0.5}
    model = model_of(tmp_path, cell(tmp_path / "wanda", world(3, **PLANTED)[1], **wanda))
    section = recall_section(evidence_on(model), model)
    assert section is not None
    ((_, (found,)),) = section.runs
    (figure,) = section.figures
    said, every = figure.panels
    assert [bar.name for bar in said.bars] == ["50 %"]
    assert [bar.name for bar in every.bars] == ["dense", "50 %"]
    assert [part.name for part in said.bars[0].parts] == list(STATES)
    assert [part.share for part in said.bars[0].parts] == pytest.approx(found.shares)
    assert "said 28.6 % [" in said.bars[0].parts[0].label
    assert [part.share for part in every.bars[0].parts] == [1, 0, 0, 0]
    counts = found.table.sum(axis=0) / 700
    assert [part.share for part in every.bars[1].parts] == pytest.approx(counts)
    low, high = said.bars[0].whiskers[0]
    assert (low, high) == found.interval("said")


def test_few_facts_are_drawn_without_shares(tmp_path: Path) -> None:
    facts = world(1, said=9, lost=10)[1]
    wanda = cell(tmp_path / "w", facts, compressor="wanda", requested_sparsity=0.5)
    model = model_of(tmp_path, wanda, facts=19)
    section = recall_section(evidence_on(model), model)
    assert section is not None
    assert [panel.title for panel in section.figures[0].panels] == ["wanda: all facts"]
    assert "fewer than 20" in section.figures[0].text


def test_the_report_has_table_sentence_and_picture(results: Path, tmp_path: Path) -> None:
    write_report([results], tmp_path)
    for name in ("recall-triviaqa.png", "recall-triviaqa.svg"):
        assert (tmp_path / "plots" / name).stat().st_size > 5_000
    page, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "## Known, out of reach, lost" in text
    assert "plots/recall-triviaqa.png" in text
    assert "Of the 700 facts that dense says: said 28.6 %" in text
    assert "| said | 200 |" in text
    drawn = page[page.index('id="fig-recall-triviaqa"') :]
    assert "Known, out of reach, lost" in page
    for label in ("wanda 50 %: lost", "gptq 4 bits: said"):
        assert re.search(f"<title>[^<]*{label} [0-9.]+", drawn), label
    assert page.count("Of the 700 facts that dense says") == 3, "two runs, and the first screen"
    assert "which there is no verdict. wanda 50 %: Of the 700 facts" in text, "it says fewer"


def test_no_section_without_recall_tasks(tmp_path: Path) -> None:
    facts = {f"q{n}": {"say": True} for n in range(30)}
    every = [form for form in FORMS if form != "say"]
    for name, kick in (("dense", record()), ("rtn", record("rtn", num_bits=4))):
        write_run(tmp_path / "runs" / name, facts, without=every, kick=kick)
    write_report([tmp_path / "runs"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "recall_kick_say" in text
    assert "## Known, out of reach, lost" not in text


def test_facts_are_compared_once_with_the_settings_of_the_report(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def counted(*args: Any, resamples: int, seed: int) -> Recall:
        asked.append((resamples, seed))
        return recall_of(*args, resamples=resamples, seed=seed)

    monkeypatch.setattr("lmkick_plugin.report.recall.recall_of", counted)
    evidence = gather(collect([results]), Settings(resamples=500, seed=7))
    (part,) = build(evidence, tmp_path).models
    write_leaderboard(evidence, tmp_path)
    assert asked == [(500, 7)] * 2, "two runs, one source"
    assert part.recall is not None
    assert [one.draws.shape for _, found in part.recall.runs for one in found] == [(500, 4)] * 2


def test_export_has_the_shares(results: Path, tmp_path: Path) -> None:
    evidence = gather(collect([results]))
    write_leaderboard(evidence, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "leaderboard.jsonl").read_text().splitlines()]
    by_name = {row["compressor"]: row for row in rows}
    assert by_name["none"]["recall"] == {}
    wanda = by_name["wanda"]["recall"]["TriviaQA"]
    assert (wanda["facts"], wanda["said_by_dense"]) == (700, 700)
    assert wanda["shares"]["said"] == pytest.approx(200 / 700)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        table = {row["compressor"]: row for row in csv.DictReader(file)}
    line = table["wanda"]
    assert line["recall TriviaQA.said_by_dense"] == "700"
    assert float(line["recall TriviaQA.lost"]) == pytest.approx(wanda["shares"]["lost"])
    ends = [float(line[f"recall TriviaQA.lost {end}"]) for end in ("low", "high")]
    assert ends == pytest.approx(wanda["intervals"]["lost"])
    assert table["none"]["recall TriviaQA.facts"] == ""
    card = (tmp_path / "model_card.md").read_text()
    assert "Facts of TriviaQA. Of the 700 facts that dense says: said 28.6 %" in card
