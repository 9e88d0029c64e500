# SPDX-License-Identifier: Apache-2.0
"""The sentence and the table: which run is named, and what is said where none can be."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.report.banner import banner
from lmkick_plugin.report.evidence import Evidence, Settings, gather
from lmkick_plugin.report.formatting import NOTHING
from lmkick_plugin.report.models import collect
from lmkick_plugin.report.page_content import build
from lmkick_plugin.report.paired_statistics import rounded
from lmkick_plugin.report.summary import COLUMNS, Summary, summarise
from tests.lmkick_plugin.report.worlds import quiz, record, windows
from tests.lmkick_plugin.run_files import Writer, text_item

FACTS = "kick_freebaseqa"


def run(
    write: Writer, name: str, kick: dict[str, Any] | None, n: int = 400, **scores: float
) -> Path:
    """A run with a share of right answers per task."""
    tasks = {task: quiz("contains", share, n=n) for task, share in scores.items()}
    return write(name, tasks, record=kick, directions={"contains": True})


def evidence_of(write: Writer) -> Evidence:
    return gather(collect([write.folder]), Settings(resamples=1000))


def summary_of(write: Writer) -> Summary:
    evidence = evidence_of(write)
    (model,) = evidence.collection.models
    return summarise(evidence, model)


def test_the_smallest_run_that_keeps_is_named_and_the_next_smaller_one(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8, other=0.7)
    run(write, "eight", record("gptq", num_bits=8), kick_freebaseqa=0.8, other=0.7)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.8, other=0.7)
    run(write, "three", record("gptq", num_bits=3), kick_freebaseqa=0.4, other=0.7)
    found = summary_of(write)
    assert found.sentence == (
        "gptq 4 bits (500 kB, 25 % of dense) is the smallest run that keeps at least 95 % of the"
        " dense score on all 2 tasks, at worst 100.0 % [98.9, 101.1] of other; the next"
        " smaller, gptq 3 bits (375 kB, 19 % of dense), keeps only 50.0 % [45.0, 55.4] of"
        " FreebaseQA."
    )
    assert found.chosen is not None
    assert found.chosen.cell.bits == 4
    assert [line.word for line in found.lines] == ["dense", "loses", "keeps", "keeps"]
    assert dict(zip(COLUMNS, found.lines[1].shown(), strict=True)) == {
        "run": "gptq 3 bits",
        "size": "375 kB",
        "of dense": "19 %",
        "knowledge kept": "50.0 % (1 task)",
        "worst task": "FreebaseQA 50.0 % [45.0, 55.4]",
        "to settle": NOTHING,
        "match": "1",
        "open": "0",
        "fail": "1",
        "verdict": "loses",
    }


def test_a_run_that_keeps_what_it_knows_is_named_with_what_is_open(write: Writer) -> None:
    for name, kick in (("dense", record()), ("four", record("gptq", num_bits=4))):
        tasks = {FACTS: quiz("contains", 0.8, n=400), "other": quiz("contains", 0.7, n=10)}
        write(name, tasks, record=kick, directions={"contains": True})
    found = summary_of(write)
    assert found.sentence.endswith(
        " on the one knowledge task and loses on no other; not settled: 100.0 % of other (a"
        " match takes more than this task's 10 items, a loss may not); no smaller run was"
        " evaluated."
    )
    assert [line.word for line in found.lines] == ["dense", "cannot tell"]


def perplexity(write: Writer, name: str, kick: dict[str, Any], value: float) -> None:
    """A run that answers as dense does, with a perplexity of its own."""
    tasks = {FACTS: quiz("contains", 0.8, n=400), "kickonly_perplexity": windows(value)}
    scores = {"kickonly_perplexity": {"token_perplexity,none": value}}
    write(name, tasks, record=kick, scores=scores, directions={"contains": True})


def test_a_run_that_loses_on_perplexity_alone_is_named_by_it(write: Writer) -> None:
    perplexity(write, "dense", record(), 5.0)
    perplexity(write, "four", record("gptq", num_bits=4), 5.0)
    perplexity(write, "three", record("gptq", num_bits=3), 10.0)
    found = summary_of(write)
    three = found.lines[1]
    assert three.word == "loses"
    assert three.shown()[COLUMNS.index("worst task")] == (
        "WikiText token perplexity 50.0 % [50.0, 50.0]"
    )
    assert found.sentence.endswith(
        "gptq 3 bits (375 kB, 19 % of dense), keeps only 50.0 % [50.0, 50.0] of WikiText token"
        " perplexity (dense / compressed)."
    )


def test_a_worst_task_that_is_not_settled_is_said_to_be_so_and_what_would_settle_it(
    write: Writer,
) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8, other=0.1, n=60)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.8, other=0.1, n=60)
    counts = {task: {"original": 100_000, "effective": 60} for task in (FACTS, "other")}
    for file in write.folder.rglob("results_*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"n-samples": counts}))
    found = summary_of(write)
    worst = found.lines[1].worst
    assert worst is not None
    assert worst[0] == "other"
    assert worst[1].recovery == 1
    assert worst[1].settle_n is not None
    needed = f"{rounded(worst[1].settle_n):,}"
    assert f"(about {needed} items would settle it)" in found.sentence
    assert "not settled: 100.0 % [" in found.sentence
    assert "at worst" not in found.sentence
    assert found.lines[1].shown()[COLUMNS.index("to settle")] == needed


def test_the_next_smaller_run_that_is_open_is_named(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.8)
    run(write, "three", record("gptq", num_bits=3), kick_freebaseqa=0.765)
    assert summary_of(write).sentence.endswith("; the next smaller, gptq 3 bits, is not settled.")


def test_knowledge_says_over_how_many_tasks(write: Writer) -> None:
    closed = "kick_triviaqa_closed"
    run(write, "dense", record(), **{FACTS: 0.8, closed: 0.0, "other": 0.7})
    run(write, "four", record("gptq", num_bits=4), **{FACTS: 0.4, closed: 0.0, "other": 0.7})
    column = COLUMNS.index("knowledge kept")
    found = summary_of(write)
    assert [line.shown()[column] for line in found.lines] == [NOTHING, "50.0 % (1 task)"]
    assert "not known" not in found.sentence


def test_where_dense_knows_nothing_the_sentence_says_so(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.0, other=0.7)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.0, other=0.7)
    found = summary_of(write)
    assert found.lines[1].shown()[COLUMNS.index("knowledge kept")] == NOTHING
    assert found.sentence.endswith(
        " What is kept of knowledge is not known: dense is above chance (or 0) on no such task."
    )


def test_tasks_at_the_dense_floor_are_named_and_leave_the_answer_to_the_others(
    write: Writer,
) -> None:
    short = {"other": quiz("contains", 0.7, n=10)}  # too few items: no run keeps on every task
    shares = {FACTS: 0.8, "kick_triviaqa_closed": 0.0}
    items = {task: quiz("contains", share, n=400) for task, share in shares.items()}
    for name, kick in (("dense", record()), ("four", record("gptq", num_bits=4))):
        write(name, {**items, **short}, record=kick, directions={"contains": True})
    found = summary_of(write)
    said = "on the one knowledge task that can have a verdict and loses on no other; not settled: "
    assert said in found.sentence
    evidence = evidence_of(write)
    assert banner(evidence) == [
        "No verdict where dense is not above chance (or 0): TriviaQA closed book."
    ]
    (part,) = build(evidence, write.folder).models
    (at_floor,) = (
        i for i, (task, _, _) in enumerate(part.tasks) if task != FACTS and "kick" in task
    )
    cell = part.heat[1][1][at_floor]
    assert (cell.shown, cell.verdict, cell.heat) == ("0.000", None, None)
    assert cell.title.startswith("the dense score is not above 0: nothing to lose: contains 0")


def test_a_knowledge_task_that_was_not_asked_is_not_kept(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8, kick_triviaqa_closed=0.5)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.8)
    run(write, "eight", record("gptq", num_bits=8), kick_freebaseqa=0.3, kick_triviaqa_closed=0.5)
    assert "knowledge task" not in summary_of(write).sentence


def test_nothing_is_named_where_dense_is_at_its_floor_everywhere(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.0)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.0)
    found = summary_of(write)
    assert found.sentence == (
        "No run has a verdict on any task: the dense score is not above 0: nothing to lose."
    )
    assert found.chosen is None
    assert [line.word for line in found.lines] == ["dense", "cannot tell"]


@pytest.mark.parametrize(("share", "closest"), [(0.76, False), (0.8, True)])
def test_a_run_comes_closest_only_where_it_matches(
    write: Writer, share: float, closest: bool
) -> None:
    for name, kick, kept in (("dense", record(), 0.8), ("four", record("rtn", num_bits=4), share)):
        tasks = {"a": quiz("contains", kept), "b": quiz("contains", 0.7, n=10)}
        write(name, tasks, record=kick, directions={"contains": True})
    sentence = summary_of(write).sentence
    assert ("comes closest, it matches on 1 task" in sentence) is closest
    assert ("matches on none" in sentence) is not closest


def test_where_all_lose_the_best_is_named_without_praise(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8)
    run(write, "two", record("rtn", num_bits=2), kick_freebaseqa=0.1)
    run(write, "three", record("rtn", num_bits=3), kick_freebaseqa=0.4)
    found = summary_of(write)
    assert found.sentence.startswith("Every run loses more than it may; rtn 3 bits")
    assert "at worst 50.0 % [45.0, 55.4] of FreebaseQA." in found.sentence


def test_without_a_dense_run_the_commands_make_one(write: Writer) -> None:
    kick = record("wanda", requested_sparsity=0.5, base="some org/a;model")
    options = {"model_args": {"pretrained": "x", "dtype": "float16", "compressor": "wanda"}}
    for name, limit in (("a", 100), ("b", 5)):
        write(
            name,
            {f"task_{name}": quiz("contains", 0.5)},
            record=kick,
            config={"model": "kick", "limit": limit, **options},
        )
    found = summary_of(write)
    assert "nothing to compare with" in found.sentence
    assert found.chosen is None
    assert {line.word for line in found.lines} == {"not compared"}
    commands = sorted((shlex.split(line) for line in found.command.splitlines()), key=" ".join)
    assert [c[c.index("--limit") + 1] for c in commands] == ["100", "5"]  # the files' order is any
    for words, task in zip(commands, ("task_a", "task_b"), strict=True):
        assert words[:2] == ["lmkick", "run"]
        assert words[words.index("--tasks") + 1] == task
        assert words[words.index("--model_args") + 1] == "pretrained=some org/a;model,dtype=float16"
        assert "--log_samples" in words


def test_a_run_that_may_be_compressed_is_not_called_dense(write: Writer) -> None:
    folder = run(write, "hf", None, kick_freebaseqa=0.8)
    found = summary_of(write)
    assert "Only the dense model" not in found.sentence
    assert [line.word for line in found.lines] == ["not compared"]
    words = shlex.split(found.command, comments=True)  # not the command that made this run
    assert words == [
        *("lmkick", "report", str(folder), "-o", "report"),
        *("--label", f"{folder}=compressor=none"),
    ]


def test_a_run_without_a_record_asks_for_a_label(write: Writer) -> None:
    run(write, "hf", None, kick_freebaseqa=0.8)
    found = summary_of(write)
    assert found.sentence.startswith("It is not recorded whether ")
    assert "--label" in found.command


def test_one_run_alone_has_nothing_to_be_compared_with(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8)
    found = summary_of(write)
    assert found.sentence == "Only the dense model was evaluated: nothing to compare it with."
    assert len(found.lines) == 1
    assert found.text().splitlines()[2].split() == " ".join(COLUMNS).split()


@pytest.mark.parametrize("difference", ["limit", "shots", "template"])
def test_runs_asked_otherwise_are_named_and_not_compared(write: Writer, difference: str) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8)
    kick = record("gptq", num_bits=4)
    items = quiz("contains", 0.8, n=100 if difference == "limit" else 400)
    top: dict[str, Any] = {}
    if difference == "shots":
        items = [{**item, "arguments": {"gen_args_0": {"arg_0": "shot"}}} for item in items]
        top = {"n-shot": {FACTS: 3}}
    if difference == "template":
        items = [{**item, "arguments": {"gen_args_0": {"arg_0": "<|user|>"}}} for item in items]
        top = {"chat_template_sha": "f00d"}
    write("four", {FACTS: items}, record=kick, directions={"contains": True}, **top)
    evidence = evidence_of(write)
    (model,) = evidence.collection.models
    found = summarise(evidence, model)
    assert found.sentence == "No run was asked the dense model's questions, so none has a verdict."
    assert [line.word for line in found.lines] == ["dense", "not compared"]
    (said,) = [line for line in banner(evidence) if "not compared" in line]
    assert said.startswith("big-7b gptq 4 bits: ")
    assert any("not compared" in note and "gptq 4 bits" in note for note in evidence.notes)


def cut_off(write: Writer, name: str) -> None:
    """Leave half of a run's samples file."""
    (file,) = (write.folder / name).glob("samples_*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_samples_that_cannot_be_read_are_the_reason_given(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.8)
    cut_off(write, "four")
    evidence = evidence_of(write)
    said = "big-7b gptq 4 bits: not compared where samples cannot be read (see notes)."
    assert banner(evidence) == [said]
    assert any("the file is truncated" in note for note in evidence.notes)
    found = summarise(evidence, evidence.collection.models[0])
    assert found.sentence == (
        "No run can be compared with the dense one: samples cannot be read (see notes)."
    )
    assert found.text().splitlines()[-1] == said


def test_beside_a_run_that_is_compared_the_terminal_says_which_is_not(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.8)
    run(write, "three", record("gptq", num_bits=3), kick_freebaseqa=0.8)
    cut_off(write, "three")
    found = summary_of(write)
    assert found.sentence.startswith("gptq 4 bits")
    assert found.sentence.endswith("; no smaller run could be compared.")
    assert found.text().splitlines()[-1] == (
        "big-7b gptq 3 bits: not compared where samples cannot be read (see notes)."
    )


def test_reasons_without_a_verdict_are_given_by_task_and_say_nan(write: Writer) -> None:
    nan = text_item(0, "", {"token_perplexity": {"window_losses": [math.nan] * 60}})
    for name, kick, items in (
        ("dense", record(), windows(5.0)),
        ("four", record("gptq", num_bits=4), [nan]),
    ):
        write(
            name,
            {FACTS: quiz("contains", 0.0), "kickonly_perplexity": items},
            record=kick,
            scores={"kickonly_perplexity": {"token_perplexity,none": 5.0}},
            directions={"contains": True},
        )
    evidence = evidence_of(write)
    assert summarise(evidence, evidence.collection.models[0]).sentence == (
        "No run has a verdict on any task: on FreebaseQA, the dense score is not above 0: nothing"
        " to lose; on WikiText token perplexity, items are NaN (see notes)."
    )
    assert banner(evidence)[1:] == [
        "big-7b gptq 4 bits: not compared where items are NaN (see notes)."
    ]
    assert any("60 of 60 items are NaN" in note for note in evidence.notes)


def test_the_banner_says_what_limits_the_report(write: Writer) -> None:
    for name, kick in (("dense", record()), ("four", record("gptq", num_bits=4))):
        items = {FACTS: quiz("contains", 0.8, n=40), "other": quiz("contains", 0.8, n=60)}
        counts = {
            task: {"original": 4000, "effective": len(found)} for task, found in items.items()
        }
        write(name, items, record=kick, samples=False, **{"n-samples": counts})
    lines = banner(evidence_of(write))
    assert lines[0] == "A limit was used: 40 to 60 items per task."


def test_the_banner_tells_runs_without_standard_errors_from_runs_asked_otherwise(
    write: Writer,
) -> None:
    items = {FACTS: quiz("contains", 0.8)}
    for name, kick in (("dense", record()), ("four", record("gptq", num_bits=4))):
        write(name, items, record=kick, samples=False)
    assert summary_of(write).sentence == (
        "No run can be compared with the dense one: neither samples (--log_samples) nor standard"
        " errors were saved."
    )
    assert banner(evidence_of(write)) == [
        "big-7b gptq 4 bits: not compared where neither samples (--log_samples) nor standard errors"
        " were saved."
    ]


def test_nothing_is_said_of_a_report_without_limits(write: Writer) -> None:
    run(write, "dense", record(), kick_freebaseqa=0.8)
    run(write, "four", record("gptq", num_bits=4), kick_freebaseqa=0.8)
    assert banner(evidence_of(write)) == []
