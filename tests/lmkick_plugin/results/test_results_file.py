# SPDX-License-Identifier: Apache-2.0
"""Reading result folders: which run is meant, and what is said of broken files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkick_plugin.metrics.recall import score_choice
from lmkick_plugin.results.results_file import ResultsError, ResultsFile
from lmkick_plugin.results.runs import find_results, load_run
from lmkick_plugin.results.samples import (
    Choice,
    SamplesError,
    chosen,
    normalised_text,
    read_samples,
)
from tests.lmkick_plugin.run_files import STAMP, Writer, choice_item, read, text_item

ITEMS = [choice_item(i, [-1.0, -2.0]) for i in range(4)]
DENSE = {"compressor": "none", "base_model": "m", "weights_sha256": "0"}
WANDA = {"compressor": "wanda", "requested_sparsity": 0.5, "base_model": "m"}
LATER = "2026-02-02T00-00-00"


@pytest.fixture
def folder(write: Writer) -> Path:
    """One folder, as lm-eval leaves it, with a dense run and three compressed ones."""
    write("m", {"quiz": ITEMS}, record=DENSE)
    write("m", {"quiz": ITEMS}, record=WANDA, stamp="2026-01-03T00-00-00.5")
    write(
        "m",
        {"quiz": ITEMS},
        record={**WANDA, "requested_sparsity": 0.3},
        stamp="2026-01-04T00-00-00.5",
    )
    record = {"compressor": "gptq", "num_bits": 4, "base_model": "m", "calibration": "mix:a,b"}
    return write("m", {"quiz": ITEMS}, record=record, stamp="2026-01-05T00-00-00.5")


# -- choosing a run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "label"),
    [
        ("compressor=none", "m dense"),
        ("compressor=wanda,sparsity=0.5", "m wanda 50 %"),
        ("sparsity=.30", "m wanda 30 %"),
        ("bits=4", "m gptq 4 bits"),
        ("requested_sparsity=none,compressor=gptq", "m gptq 4 bits"),
        ("date=2026-01-03", "m wanda 50 %"),
        ("compressor=WANDA, sparsity=5e-1", "m wanda 50 %"),
    ],
)
def test_selectors(folder: Path, selector: str, label: str) -> None:
    assert load_run(f"{folder}@{selector}").label == label


def test_several_runs_are_listed_with_what_chooses_them(folder: Path) -> None:
    with pytest.raises(ResultsError, match="4 runs; choose one") as caught:
        load_run(str(folder))
    offered = str(caught.value).partition("choose one: ")[2].split("; ")
    paths = [f"{folder}{how}" if how.startswith("@") else how for how in offered]
    labels = [load_run(path).label for path in paths]  # what is offered works
    assert sorted(labels) == ["m dense", "m gptq 4 bits", "m wanda 30 %", "m wanda 50 %"]
    assert "@compressor=none" in offered
    assert "@sparsity=0.3" in offered


def test_many_runs_are_told_apart_by_the_shortest_selectors(write: Writer) -> None:
    for method in ("rtn", "gptq", "awq"):
        for bits in (3, 4):
            kick = {"compressor": method, "num_bits": bits, "group_size": 128, "base_model": "m"}
            kick |= {"symmetric": bits == 3}
            folder = write(f"runs/{method}{bits}", {"quiz": ITEMS}, record=kick).parent
    with pytest.raises(ResultsError, match="6 runs; choose one: ") as caught:
        load_run(str(folder))
    *offered, more = str(caught.value).partition("choose one: ")[2].split("; ")
    assert more == "and 1 more"
    assert len(offered) == 5
    assert "@compressor=gptq,bits=4" in offered
    with pytest.raises(ResultsError, match="2 runs; choose one: ") as caught:
        load_run(f"{folder}@compressor=rtn")
    offered = str(caught.value).partition("choose one: ")[2].split("; ")
    assert {load_run(f"{folder}{how}").label for how in offered} == {"m rtn 3 bits", "m rtn 4 bits"}


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("compressor=sparsegpt", "no run in .* matches compressor=sparsegpt. Its runs: "),
        (
            "compresor=wanda",
            "selector 'compresor=wanda': no run has a field 'compresor'. Did you mean .compressor.",
        ),
        ("wanda", "selector 'wanda': write key=value"),
        ("sparsity=half", "no run in"),
        ("compressor=wanda", "2 runs; choose one"),
    ],
)
def test_selectors_that_choose_nothing(folder: Path, selector: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        load_run(f"{folder}@{selector}")


def test_a_results_file_is_its_own_run(folder: Path) -> None:
    assert load_run(f"{folder}/results_{STAMP}.json").label == "m dense"


def test_a_folder_named_like_a_selector_is_a_folder(write: Writer) -> None:
    folder = write("m@compressor=gptq", {"quiz": ITEMS}, record=DENSE)
    assert load_run(str(folder)).record["compressor"] == "none"


def test_other_models_are_told_apart_by_their_arguments(write: Writer) -> None:
    write("m", {"quiz": ITEMS}, config={"model_args": "pretrained=m,batch_size=4,dtype=float32"})
    arguments = {"pretrained": "m", "dtype": "bfloat16"}
    folder = write("m", {"quiz": ITEMS}, stamp=LATER, config={"model_args": arguments})
    with pytest.raises(ResultsError, match="dtype=bfloat16"):
        load_run(str(folder))
    assert load_run(f"{folder}@dtype=float32").files[0].stamp == STAMP
    assert load_run(f"{folder}@dtype=float32").label == "m hf"


def test_evaluations_of_one_model_are_one_run_and_the_newest_counts(write: Writer) -> None:
    wrong = [choice_item(i, [-2.0, -1.0]) for i in range(4)]
    write("m", {"quiz": wrong, "old": ITEMS}, record=DENSE)
    folder = write("m", {"quiz": ITEMS, "new": ITEMS}, record=DENSE, stamp=LATER)
    run = load_run(str(folder))
    assert {task: file.stamp for task, file in run.tasks.items()} == {
        "quiz": LATER,
        "old": STAMP,
        "new": LATER,
    }
    assert run.score("quiz", "acc", "none") == 1.0
    assert run.score("old", "acc", "none") == 1.0
    assert run.score("old", "f1", "none") is None
    (note,) = run.notes
    assert "share 1 task (quiz); the newest" in note


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("act_group_aware", (False, True)),
        ("static_groups", (False, True)),
        ("wanda_variant", (False, True)),
        ("act_order", (False, True)),
        ("dampening_frac", (0.01, 0.1)),
        ("block_size", (128, 64)),
        ("true_sequential", (False, True)),
    ],
)
def test_every_setting_that_changes_weights_tells_runs_apart(
    write: Writer, setting: str, values: tuple[object, object]
) -> None:
    write("m", {"quiz": ITEMS}, record={**WANDA, setting: values[0]})
    folder = write("m", {"talk": ITEMS}, record={**WANDA, setting: values[1]}, stamp=LATER)
    with pytest.raises(ResultsError, match=f"2 runs; choose one.*{setting}={values[1]}"):
        load_run(str(folder))
    assert list(load_run(f"{folder}@{setting}={values[0]}").tasks) == ["quiz"]


@pytest.mark.parametrize(("name", "label"), [("int", "m awq 4 bits"), ("nvfp4", "m awq nvfp4")])
def test_a_number_format_stands_for_its_bits(write: Writer, name: str, label: str) -> None:
    quantized = {"compressor": "awq", "num_bits": 4, "number_format": name, "base_model": "m"}
    assert load_run(str(write("m", {"quiz": ITEMS}, record=quantized))).label == label


def test_evaluations_of_other_weights_are_noted(write: Writer) -> None:
    write("m", {"quiz": ITEMS}, record=DENSE)
    folder = write("m", {"talk": ITEMS}, record={**DENSE, "weights_sha256": "1"}, stamp=LATER)
    assert load_run(str(folder)).notes == (
        "m dense: its evaluations have different weights_sha256",
    )


# -- files --------------------------------------------------------------------------------------


def test_output_path_that_is_a_file_name(write: Writer) -> None:
    folder = write("m", {"quiz": ITEMS}, record=DENSE)
    (folder / f"results_{STAMP}.json").rename(folder / f"my_run_{STAMP}.json")
    assert len(load_run(str(folder)).files[0].samples("quiz")["none"]) == 4


def test_other_json_files_are_no_results(write: Writer) -> None:
    folder = write("m", {"quiz": ITEMS}, record=DENSE)
    (folder / "notes.json").write_text("{")
    assert load_run(str(folder)).notes == ()


def test_half_written_files_are_named_and_skipped(folder: Path) -> None:
    path = folder / f"results_{LATER}.json"
    whole = (folder / f"results_{STAMP}.json").read_text()
    path.write_text(whole[: len(whole) // 2])
    run = load_run(f"{folder}@compressor=none")
    assert run.label == "m dense"
    (note,) = run.notes
    assert note.startswith(f"skipped {path}: not a whole JSON file")
    with pytest.raises(ResultsError, match="run the evaluation again"):
        load_run(str(path))


def test_a_table_is_no_results_file(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("model,task\n")
    with pytest.raises(ResultsError, match=r"cells.csv: not a results file. Give the results_"):
        load_run(str(tmp_path / "cells.csv"))


@pytest.mark.parametrize("text", ["[]", "{}", '{"results": 3}', "3", ""])
def test_files_that_are_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / f"results_{STAMP}.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=str(path)):
        load_run(str(path))
    files, problems = find_results(tmp_path)
    assert files == []
    assert len(problems) == 1


def test_paths_without_results(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(ResultsError, match="no such file or folder"):
        load_run(str(tmp_path / "missing"))
    with pytest.raises(ResultsError, match="no such file or folder"):
        load_run(str(tmp_path / "missing@compressor=none"))
    with pytest.raises(ResultsError, match="holds no lm-eval results"):
        load_run(str(tmp_path))
    folder = write("m", {"quiz": ITEMS})
    with pytest.raises(ResultsError, match=r"give the results_\*\.json file beside it"):
        load_run(str(folder / f"samples_quiz_{STAMP}.jsonl"))


def test_a_folder_of_broken_files_names_them(tmp_path: Path) -> None:
    path = tmp_path / f"results_{STAMP}.json"
    path.write_text("{")
    with pytest.raises(ResultsError, match=f"no lm-eval results(.|\n)*{path.name}: not a whole"):
        load_run(str(tmp_path))


def test_strange_contents_do_not_break_reading(write: Writer) -> None:
    folder = write("m", {"quiz": ITEMS})
    path = folder / f"results_{STAMP}.json"
    data = json.loads(path.read_text())
    data |= {"group_subtasks": [1], "higher_is_better": None, "config": "x", "n-shot": 3}
    data["results"]["quiz"]["acc,none"] = "N/A"
    path.write_text(json.dumps(data))
    file = ResultsFile.read(path)
    assert file.record == {}
    assert file.children("quiz") == []
    assert file.higher_is_better("quiz", "acc") is None
    assert file.score("quiz", "acc", "none") is None
    assert file.tasks == ["quiz"]


# -- samples ------------------------------------------------------------------------------------


def test_missing_samples_say_how_to_have_them(write: Writer) -> None:
    with pytest.raises(ResultsError, match=r"quiz: samples_quiz_.*--log_samples"):
        read(write("m", {"quiz": ITEMS}, samples=False)).samples("quiz")


def test_renamed_results_lose_their_samples(write: Writer) -> None:
    folder = write("m", {"quiz": ITEMS})
    renamed = (folder / f"results_{STAMP}.json").rename(folder / "mine.json")
    with pytest.raises(ResultsError, match="renamed"):
        ResultsFile.read(renamed).samples("quiz")


def broken(folder: Path) -> Path:
    return folder / f"samples_quiz_{STAMP}.jsonl"


def test_half_written_samples_name_the_line(write: Writer) -> None:
    path = broken(write("m", {"quiz": ITEMS}))
    whole = path.read_text()
    assert len(read_samples(path)["none"]) == 4
    path.write_text(whole[:-30])
    with pytest.raises(SamplesError, match=r"line 4: .*is truncated"):
        read_samples(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "without doc_id"),
        ("[1]", "line 5"),
        ("null", "line 5"),
        ('{"doc_id": 0', "line 5"),
        (json.dumps({**ITEMS[0], "arguments": [["x"]]}), "line 5"),
        (json.dumps({**ITEMS[0], "metrics": ["f1"]}), "f1"),
        (json.dumps({**ITEMS[0], "filtered_resps": [["x", "True"], ["y", "True"]]}), "line 5"),
        ("[" * 100_000, "line 5"),
    ],
)
def test_lines_that_are_no_samples(write: Writer, line: str, message: str) -> None:
    path = broken(write("m", {"quiz": ITEMS}))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SamplesError, match=message):
        read_samples(path)


def test_empty_samples(write: Writer) -> None:
    path = broken(write("m", {"quiz": ITEMS}))
    path.write_text("\n\n")
    with pytest.raises(SamplesError, match="is empty"):
        read_samples(path)


def test_samples_come_in_the_order_of_documents(write: Writer) -> None:
    folder = write("m", {"quiz": [ITEMS[i] for i in (2, 0, 3, 1)]})  # as two ranks leave them
    assert [s.doc_id for s in read_samples(broken(folder))["none"]] == [0, 1, 2, 3]


def test_the_chosen_answer(write: Writer) -> None:
    item = choice_item(0, [-3.0, -2.0, -2.0])
    item["arguments"]["gen_args_2"]["arg_1"] = " a much longer choice"
    words = text_item(1, "  The Cat,\nsat. ", {"exact_match": 1})
    folder = write("m", {"quiz": [item], "say": [words]})
    sample = read(folder).samples("quiz")["none"][0]
    assert sample.answer("acc") == 1  # the first of equals, as lm-eval's argmax
    assert sample.answer("acc_norm") == 2
    assert sample.answer("acc_greedy") == (False, True, False)
    assert sample.answer("acc_mutual_info") is None
    assert read(folder).samples("say")["none"][0].answer("exact_match") == "cat sat"


def test_mutual_information_counts_every_choice_once(write: Writer) -> None:
    item = choice_item(0, [-3.0, -2.0])
    for i, (letter, score) in enumerate([("A", -9.0), ("B", -1.0)]):
        item["arguments"][f"gen_args_{i + 2}"] = {"arg_0": "", "arg_1": f" {letter}"}
        item["filtered_resps"].append([str(score), "False"])
    sample = read(write("m", {"quiz": [item]})).samples("quiz")["none"][0]
    assert sample.answer("acc") == 1
    assert sample.answer("acc_mutual_info") == 0


@given(
    st.lists(st.floats(-30, 0) | st.just(math.nan), min_size=8, max_size=8),
    st.permutations(["Ā", "Zürich", "東京都", "Rome"]),
)
def test_the_answer_to_a_recall_task_is_the_one_it_scores(
    likelihoods: list[float], names: list[str]
) -> None:
    """By bytes, and without an answer where a log-likelihood is not a number."""
    choices = [
        Choice("Q:" if i < 4 else "", f" {name}", likelihood, greedy=False)
        for i, (name, likelihood) in enumerate(zip(names * 2, likelihoods, strict=True))
    ]
    results = [(choice.loglikelihood, choice.greedy) for choice in choices]
    for metric in ("acc_norm", "acc_pmi"):
        answer = chosen(metric, choices, metrics=("acc_norm", "acc_pmi"))
        right = [score_choice({"choices": names, "answer": i}, results)[metric] for i in range(4)]
        assert right == [float(i == answer) for i in range(4)]


def test_bytes_and_characters_choose_differently() -> None:
    choices = [Choice("Q:", " 東京", -3.0, greedy=False), Choice("Q:", " Rome", -5.0, greedy=False)]
    assert chosen("acc_norm", choices) == 1  # -1.5 a character against -1.25
    assert chosen("acc_bytes", choices) == 0  # -0.5 a byte against -1.25
    twice = [*choices, *(replace(choice, context="") for choice in choices)]
    assert chosen("acc_norm", twice, metrics=("acc_norm", "acc_mutual_info")) == 1
    assert chosen("acc_norm", twice, metrics=("acc_norm", "acc_pmi")) == 0


def test_choices_in_contexts_have_no_known_length(write: Writer) -> None:
    item = choice_item(0, [-3.0, -2.0])
    item["arguments"]["gen_args_1"]["arg_0"] = "another context"
    sample = read(write("m", {"quiz": [item]})).samples("quiz")["none"][0]
    assert sample.answer("acc") == 1
    assert sample.answer("acc_norm") is None


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The  answer.", "answer"),
        ("\uff21\uff22\uff23", "abc"),
        ("a theme", "theme"),
        ("", "!?"),
        ("An\nX", "x"),
    ],
)
def test_normalised_text(text: str, same: str) -> None:
    assert normalised_text(text) == normalised_text(same)
    assert normalised_text("one") != normalised_text("two")
