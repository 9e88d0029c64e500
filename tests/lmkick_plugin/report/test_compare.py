# SPDX-License-Identifier: Apache-2.0
"""Comparing runs: which items go together, what is refused, what is said."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmkick_plugin import cli
from lmkick_plugin.report.bootstrap import StatisticsError
from lmkick_plugin.report.compare import compare_runs
from lmkick_plugin.report.comparison_table import Comparison, Row
from lmkick_plugin.report.item_pairs import MismatchError
from lmkick_plugin.report.verdict import Rule
from lmkick_plugin.results.results_file import ResultsError
from lmkick_plugin.results.runs import Run, load_run
from tests.lmkick_plugin.run_files import Writer, choice_item, text_item

Pair = Callable[..., tuple[Run, Run]]
RIGHT, WRONG, OTHER = [-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], [-3.0, -2.0, -1.0]


def quiz(*scores: list[float], **options: Any) -> list[dict[str, Any]]:
    return [choice_item(i, s, **options) for i, s in enumerate(scores)]


def only(comparison: Comparison, metric: str) -> Row:
    (row,) = (row for row in comparison.rows if row.metric == metric)
    return row


# -- matching items -----------------------------------------------------------------------------


def test_flips_and_other_wrong_answers(pair: Pair) -> None:
    first = quiz(RIGHT, RIGHT, WRONG, WRONG, WRONG, RIGHT)
    second = quiz(RIGHT, WRONG, RIGHT, OTHER, WRONG, OTHER)
    found = only(compare_runs(*pair(first, second)), "acc").statistics
    assert found.flips is not None
    assert (found.flips.right_to_wrong, found.flips.wrong_to_right) == (2, 1)
    assert found.flips.churn == 3 / 6
    assert found.flips.all_flips == 4 / 6
    assert found.flips.net == -1 / 6
    assert found.flips.p_value == 1.0


def test_order_does_not_matter(pair: Pair) -> None:
    first, second = quiz(RIGHT, WRONG, RIGHT, WRONG), quiz(WRONG, WRONG, RIGHT, RIGHT)
    straight = only(compare_runs(*pair(first, second)), "acc")
    shuffled = copy.deepcopy(second)
    random.Random(1).shuffle(shuffled)
    for number, item in enumerate(shuffled):
        item["doc_id"] = number  # another order of the data, not only of the lines
    assert [i["doc"] for i in shuffled] != [i["doc"] for i in second]
    assert only(compare_runs(*pair(first, shuffled)), "acc") == straight


def test_repeated_documents_go_together_in_their_order(pair: Pair) -> None:
    def twice(*scores: list[float]) -> list[dict[str, Any]]:
        return [choice_item(i, s, text="the same") for i, s in enumerate(scores)]

    found = only(compare_runs(*pair(twice(RIGHT, WRONG), twice(WRONG, RIGHT))), "acc").statistics
    assert found.n == 2
    assert found.flips is not None
    assert (found.flips.right_to_wrong, found.flips.wrong_to_right) == (1, 1)
    with pytest.raises(MismatchError, match="1 item only in the first, 0 only in the second"):
        compare_runs(*pair(twice(RIGHT, WRONG), twice(RIGHT)))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.sampled_from([RIGHT, WRONG, OTHER]), st.sampled_from([RIGHT, WRONG, OTHER])),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 4),
)
def test_any_answers_equal_a_loop(
    pair: Pair, answers: list[tuple[list[float], list[float]]], distinct: int
) -> None:
    first, second = (
        [choice_item(i, a[side], text=f"document {i % distinct}") for i, a in enumerate(answers)]
        for side in (0, 1)
    )
    found = only(compare_runs(*pair(first, second), rule=Rule(resamples=10)), "acc").statistics
    b = sum(x == RIGHT != y for x, y in answers)
    c = sum(x != RIGHT == y for x, y in answers)
    moved = sum(x != y for x, y in answers)
    assert found.flips is not None
    assert (found.flips.right_to_wrong, found.flips.wrong_to_right) == (b, c)
    assert found.flips.all_flips == moved / len(answers)
    assert found.dense == sum(x == RIGHT for x, _ in answers) / len(answers)


# -- what is refused ----------------------------------------------------------------------------


def refused(a: Run, b: Run, **options: Any) -> str:
    with pytest.raises((MismatchError, ResultsError)) as caught:
        compare_runs(a, b, **options)
    return str(caught.value)


def test_other_data_and_a_limit(pair: Pair, write: Writer) -> None:
    a, b = pair(quiz(RIGHT, RIGHT, WRONG), quiz(RIGHT, RIGHT, WRONG))
    compare_runs(a, b)
    short = load_run(str(write("c", {"quiz": quiz(RIGHT)}, config={"limit": 1})))
    said = refused(a, short)
    assert "quiz: data: 2 items only in the first, 0 only in the second, 1 in both" in said
    assert "limit None against 1" in said
    other = quiz(RIGHT, RIGHT, WRONG)
    other[2] = choice_item(2, RIGHT, text="a new question")
    assert "1 item only in the first, 1 only in the second, 2 in both" in refused(
        *pair(quiz(RIGHT, RIGHT, WRONG), other)
    )


def test_another_number_of_shots(pair: Pair, write: Writer) -> None:
    a, _ = pair(quiz(RIGHT, WRONG), quiz(RIGHT, WRONG))
    b = load_run(str(write("c", {"quiz": quiz(RIGHT, WRONG, shots=5)}, **{"n-shot": {"quiz": 5}})))
    assert "quiz: prompts differ for 2 of 2 items (few-shot: 0 against 5)" in refused(a, b)


def test_another_chat_template_or_instruction(pair: Pair, write: Writer) -> None:
    a, _ = pair(quiz(RIGHT, WRONG), quiz(RIGHT, WRONG))
    items = quiz(RIGHT, WRONG)
    items[1]["arguments"]["gen_args_0"]["arg_0"] = "<user> question 1"
    b = load_run(
        str(write("c", {"quiz": items}, chat_template_sha="abc", system_instruction_sha="f" * 64))
    )
    said = refused(a, b)
    assert "prompts differ for 1 of 2 items" in said
    assert "chat template: none against abc" in said
    assert f"system instruction: none against {'f' * 12}" in said


def test_the_same_prompts_compare_whatever_the_template(pair: Pair, write: Writer) -> None:
    a, _ = pair(quiz(RIGHT, WRONG), quiz(RIGHT, WRONG))
    b = load_run(str(write("c", {"quiz": quiz(RIGHT, WRONG)}, chat_template_sha="abc")))
    assert only(compare_runs(a, b), "acc").statistics.flips is not None


def test_other_choices_are_other_prompts(pair: Pair) -> None:
    items = quiz(RIGHT, WRONG)
    items[0]["arguments"]["gen_args_1"]["arg_1"] = " Z"
    assert "prompts differ for 1 of 2" in refused(*pair(quiz(RIGHT, WRONG), items))


def test_other_references(pair: Pair) -> None:
    assert "reference answers differ for 2 of 2 items" in refused(
        *pair(quiz(RIGHT, WRONG), quiz(RIGHT, WRONG, gold=1))
    )


def test_other_generation_settings(pair: Pair) -> None:
    first = [text_item(0, "x", {"exact_match": 1.0})]
    second = [text_item(0, "x", {"exact_match": 1.0}, max_gen_toks=64)]
    assert "request settings differ for 1 of 1 items" in refused(*pair(first, second))
    compare_runs(*pair(first, copy.deepcopy(first)))


def test_another_task_version(pair: Pair, write: Writer) -> None:
    a, _ = pair(quiz(RIGHT), quiz(RIGHT))
    b = load_run(str(write("c", {"quiz": quiz(RIGHT)}, versions={"quiz": 2.0})))
    assert "quiz: version 1.0 of the task against 2.0 (all items)" in refused(a, b)


def test_other_filters(pair: Pair) -> None:
    renamed = [{**item, "filter": "strict"} for item in quiz(RIGHT)]
    assert "filters none against strict" in refused(*pair(quiz(RIGHT), renamed))


def test_every_task_that_differs_is_named(write: Writer) -> None:
    names = [f"task{i}" for i in range(30)]
    a = load_run(str(write("a", {n: quiz(RIGHT, WRONG) for n in [*names, "same"]})))
    b = load_run(str(write("b", {n: quiz(RIGHT) for n in names} | {"same": quiz(RIGHT, WRONG)})))
    said = refused(a, b)
    assert said.count("1 item only in the first") == 20
    assert said.endswith("and 10 more")
    kept = compare_runs(a, b, tasks=["same"])
    assert {row.name for row in kept.rows} == {"same"}


def test_missing_samples_and_broken_ones(pair: Pair, write: Writer) -> None:
    a, b = pair(quiz(RIGHT), quiz(RIGHT))
    many = {f"task{i}": quiz(RIGHT) for i in range(30)}
    unlogged = load_run(str(write("c", many, samples=False)))
    said = refused(load_run(str(write("d", many))), unlogged)
    assert said.count("--log_samples") == 1
    assert "no samples beside the results of task0, task1" in said
    assert len(said) < 600
    path = b.files[0].samples_path("quiz")
    path.write_text(path.read_text()[:50])
    assert f"{path}, line 1" in refused(a, b)


def test_no_common_task(write: Writer) -> None:
    a = load_run(str(write("a", {"quiz": quiz(RIGHT)})))
    b = load_run(str(write("b", {"other": quiz(RIGHT)})))
    said = refused(a, b)
    assert "share no task" in said
    assert "a: quiz" in said
    assert "b: other" in said


def test_unknown_names(pair: Pair) -> None:
    a, b = pair(quiz(RIGHT), quiz(RIGHT))
    assert "no metric f1; the runs have acc, acc_greedy" in refused(a, b, metrics=["f1"])
    assert "--tasks nothing*: not in both runs. They share quiz" in refused(
        a, b, tasks=["nothing*"]
    )


def test_a_misspelt_group_is_corrected_and_members_are_not_listed(write: Writer) -> None:
    tasks = {"kick_mmlu_law": quiz(RIGHT), "kick_mmlu_art": quiz(RIGHT)}
    runs = [load_run(str(write(n, tasks, groups={"kick_mmlu": [*tasks]}))) for n in ("a", "b")]
    said = refused(*runs, tasks=["kick_mmlo"])
    assert "Did you mean 'kick_mmlu'? They share kick_mmlu" in said
    assert "kick_mmlu_law" not in said


@pytest.mark.parametrize("options", [{"tolerance": 1.5}, {"resamples": 0}])
def test_settings_are_checked(pair: Pair, options: dict[str, Any]) -> None:
    with pytest.raises(StatisticsError):
        compare_runs(*pair(quiz(RIGHT), quiz(RIGHT)), rule=Rule(**options))


# -- values -------------------------------------------------------------------------------------


def values(metric: str, *numbers: Any) -> list[dict[str, Any]]:
    return [text_item(i, f"said {x}", {metric: x}) for i, x in enumerate(numbers)]


def test_graded_metrics_have_an_interval_and_a_verdict_but_no_flips(pair: Pair) -> None:
    many = [0.5, 1, 1] * 40
    row = only(compare_runs(*pair(values("f1", *many), values("f1", *many))), "f1")
    assert row.statistics.verdict == "match"
    assert row.statistics.flips is None
    by_chance = only(compare_runs(*pair(values("f1", 0, 1), values("f1", 1, 1))), "f1")
    assert by_chance.statistics.flips is None
    binary = pair(values("exact_match", 0, 1), values("exact_match", 1, 1))
    assert only(compare_runs(*binary), "exact_match").statistics.flips is not None


def test_generated_answers_are_compared_as_normalised_text(pair: Pair) -> None:
    first, second = values("exact_match", 0, 0), values("exact_match", 0, 0)
    second[0]["filtered_resps"] = ["Said  0."]
    second[1]["filtered_resps"] = ["something else"]
    flips = only(compare_runs(*pair(first, second)), "exact_match").statistics.flips
    assert flips is not None
    assert (flips.churn, flips.all_flips) == (0, 0.5)


def test_all_flips_are_unknown_where_an_answer_is(pair: Pair) -> None:
    first, second = values("exact_match", 0, 0), values("exact_match", 0, 1)
    for item in (*first, *second):
        item["arguments"] = {"gen_args_0": {"arg_0": "x", "arg_1": " y"}}  # one log-likelihood
        item["filtered_resps"] = [["-1.0", "False"]]
    flips = only(compare_runs(*pair(first, second)), "exact_match").statistics.flips
    assert flips is not None
    assert flips.churn == 0.5
    assert flips.all_flips is None


def test_items_without_a_judgement_are_left_out_and_counted(pair: Pair) -> None:
    for missing in (None, math.nan):
        first, second = (
            values("judge_score", 3.0, 5.0, 4.0),
            values("judge_score", 3.0, missing, 2.0),
        )
        found = compare_runs(*pair(first, second, directions={"judge_score": True}))
        row = only(found, "judge_score")
        assert row.statistics.n == 2
        assert row.statistics.difference == -1
        assert "quiz, judge_score: 1 of 3 items without a score left out" in found.notes
    none = values("judge_score", None, None, None)
    said = refused(*pair(first, none))
    assert "no item has a score in both runs" in said


def test_nan_of_a_model_is_not_left_out(pair: Pair) -> None:
    found = compare_runs(*pair(values("f1", 0.5, 0.5), values("f1", 0.5, math.nan)))
    row = only(found, "f1")
    assert row.statistics.n == 2
    assert math.isnan(row.statistics.compressed)
    assert row.statistics.verdict is None
    assert any("score of the second run is NaN" in note for note in found.notes)
    assert json.loads(found.to_json())["rows"][0]["compressed"] == "nan"
    assert ",nan," in found.to_csv()
    assert "nan" in found.to_text()


def test_another_aggregation_than_the_mean_is_left_out(pair: Pair, write: Writer) -> None:
    a, _ = pair(quiz(RIGHT, WRONG), quiz(RIGHT, WRONG))
    changed = {"quiz": {"acc,none": 0.9}}
    b = load_run(str(write("c", {"quiz": quiz(RIGHT, WRONG)}, scores=changed)))
    found = compare_runs(a, b)
    assert [row.metric for row in found.rows] == ["acc_greedy"]
    assert any("the results file says 0.9" in note for note in found.notes)


def test_forms_of_values_that_are_not_known(pair: Pair) -> None:
    items = [text_item(0, "x", {"bleu": ["gold", "said"], "exact_match": 1.0})]
    found = compare_runs(*pair(items, copy.deepcopy(items)))
    assert [row.metric for row in found.rows] == ["exact_match"]
    assert "quiz, bleu: not compared: its items hold a list, not a number" in found.notes
    only_bleu = [text_item(0, "x", {"bleu": ["gold", "said"]})]
    assert "no metric can be compared" in refused(*pair(only_bleu, copy.deepcopy(only_bleu)))
    bypass = values("bypass", 999, 999)
    assert "--predict_only" in refused(*pair(bypass, copy.deepcopy(bypass)))


def test_windows_of_token_perplexity_are_items(pair: Pair) -> None:
    def windows(*losses: float) -> list[dict[str, Any]]:
        return values("token_perplexity", {"windows": len(losses), "window_losses": list(losses)})

    down = {"token_perplexity": False}
    first, second = windows(*[1, 2, 3] * 8), windows(*[2, 3, 4] * 8)
    found = compare_runs(*pair(first, second, directions=down))
    row = only(found, "token_perplexity")
    assert (row.statistics.n, row.statistics.clusters) == (24, 24)
    assert row.statistics.compressed == pytest.approx(math.exp(3))
    assert row.statistics.recovery == pytest.approx(1 / math.e)  # down is worse
    assert row.statistics.verdict == "fail"
    assert sum("which items belong together" in note for note in found.notes) == 1
    for item in (first[0], second[0]):
        item["token_perplexity"]["window_clusters"] = [f"article {i // 2}" for i in range(24)]
    found = compare_runs(*pair(first, second, directions=down))
    row = only(found, "token_perplexity")
    assert (row.statistics.n, row.statistics.clusters) == (24, 12)
    assert row.statistics.verdict == "too few"
    assert not any("which items belong together" in note for note in found.notes)
    said = refused(*pair(windows(1, 2), windows(1, 2, 3)))
    assert "2 windows against 3: another tokenizer or context length" in said


def test_pages_of_other_sizes_are_not_compared(pair: Pair) -> None:
    first, second = values("word_perplexity", [-3.0, 2]), values("word_perplexity", [-3.0, 3])
    assert "sizes differ" in refused(*pair(first, second))
    same = only(compare_runs(*pair(first, copy.deepcopy(first))), "word_perplexity")
    assert same.statistics.dense == pytest.approx(math.exp(1.5))


def test_metrics_without_matching(pair: Pair) -> None:
    words = values("words", 10.0, 20.0)
    row = only(
        compare_runs(*pair(words, values("words", 5.0, 5.0), directions={"words": True})), "words"
    )
    assert row.statistics.verdict is None
    assert row.statistics.recovery is None


def test_one_question_asked_several_times_is_one_cluster(pair: Pair) -> None:
    def quizzes(right: int, distinct: int) -> list[dict[str, Any]]:
        """By the prompt, and by the document's ``cluster`` where the prompts differ."""
        scores = [RIGHT if i % distinct < right else WRONG for i in range(80)]
        return [choice_item(i, s, text=f"question {i % distinct}") for i, s in enumerate(scores)]

    alone = only(compare_runs(*pair(quizzes(60, 80), quizzes(60, 80))), "acc").statistics
    assert (alone.n, alone.clusters) == (80, 80)
    same = only(compare_runs(*pair(quizzes(15, 20), quizzes(15, 20))), "acc").statistics
    assert (same.n, same.clusters) == (80, 20)
    assert same.interval[1] > 1.7 * alone.interval[1]
    asked = quizzes(60, 80)
    for i, item in enumerate(asked):
        item["doc"]["cluster"] = f"q{i % 20}"
    named = only(compare_runs(*pair(asked, copy.deepcopy(asked))), "acc").statistics
    assert (named.n, named.clusters) == (80, 20)


def test_floors_stand_in_the_results(pair: Pair) -> None:
    def run(**floors: object) -> Comparison:
        configs = {"quiz": {"metadata": {"version": 1.0, "floors": floors}}}
        items = quiz(*[RIGHT, WRONG, WRONG, WRONG] * 15)
        return compare_runs(*pair(items, copy.deepcopy(items), configs=configs))

    guess = only(run(acc=0.25), "acc").statistics
    assert (guess.verdict, guess.recovery_above_chance) == (None, None)
    assert only(run(), "acc").statistics.verdict == "inconclusive"
    with pytest.raises(MismatchError, match="quiz: metadata floors: no metric f1; it has acc"):
        run(f1=0.25)
    with pytest.raises(MismatchError, match="'much' is not a number"):
        run(acc="much")


# -- groups and notes ---------------------------------------------------------------------------


def test_groups_are_pooled_over_items_and_say_when_lm_eval_averages_otherwise(
    write: Writer,
) -> None:
    tasks = {"one": quiz(RIGHT), "three": quiz(WRONG, WRONG, RIGHT)}
    groups = {"all": ["one", "three"], "top": ["all"]}
    macro = {"all": {"acc,none": (1 + 1 / 3) / 2}, "top": {"acc,none": None}}
    a = load_run(str(write("a", tasks, groups=groups, scores=macro)))
    found = compare_runs(a, a)
    row = next(row for row in found.rows if row.kind == "group")
    assert (row.name, row.groups, row.statistics.n) == ("all", ("top",), 4)
    assert row.statistics.dense == 0.5
    assert any("lm-eval reports 0.6667, averaged another way" in note for note in found.notes)
    assert {r.metric for r in found.rows if r.kind == "group"} == {"acc"}  # what lm-eval aggregates


def test_a_group_with_a_task_left_out_has_no_row(write: Writer) -> None:
    tasks = {"one": quiz(RIGHT), "three": quiz(WRONG, WRONG, RIGHT)}
    groups = {"all": ["one", "three"]}
    a = load_run(str(write("a", tasks, groups=groups)))
    assert "all" in {row.name for row in compare_runs(a, a).rows}
    assert {row.name for row in compare_runs(a, a, tasks=["one"]).rows} == {"one"}
    assert {row.name for row in compare_runs(a, a, tasks=["all"]).rows} == {"all", "one", "three"}


def test_notes_on_runs_that_are_not_what_they_seem(write: Writer) -> None:
    record = {"compressor": "wanda", "base_model": "m", "dtype": "float32", "weights_sha256": "1"}
    dense = {"compressor": "none", "base_model": "n", "dtype": "bfloat16", "weights_sha256": "1"}
    truncated = {**dense, "truncated_prompts": {"quiz": 3}}
    a = load_run(str(write("a", {"quiz": quiz(RIGHT), "more": quiz(RIGHT)}, record=record)))
    b = load_run(str(write("b", {"quiz": quiz(RIGHT)}, record=truncated, max_length=512)))
    notes = "\n".join(compare_runs(a, b).notes)
    for said in (
        "the same model, evaluated twice",
        "swapped?",
        "base_model differs: m against n",
        "dtype differs: float32 against bfloat16",
        "only in m wanda: more",
        "3 prompts did not fit in n dense: quiz",
        "context of 2048 tokens against 512: quiz",
    ):
        assert said in notes
    assert (
        compare_runs(a, load_run(str(write("c", {"quiz": quiz(RIGHT), "more": quiz(RIGHT)})))).notes
        == ()
    )


def test_more_empty_answers_are_noted(write: Writer) -> None:
    def answers(*texts: str) -> list[dict[str, Any]]:
        return [text_item(i, text, {"contains": 1.0}) for i, text in enumerate(texts)]

    def notes(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> str:
        runs = [write(f"run{next(number)}", {"quiz": items}) for items in (first, second)]
        return "\n".join(compare_runs(*(load_run(str(run)) for run in runs)).notes)

    number = count()
    few, many = answers("A", ".", *"123456", "", " "), answers("yes", *" " * 9)
    assert "quiz: 90 % of the answers are empty, against 20 % of the reference's." in notes(
        few, many
    )
    assert "empty" not in notes(many, few)
    assert "empty" not in notes(few, answers("A", ".", *"12345", "", " ", ""))  # one more
    for items in (few, many):  # ten samples of one request each
        for item in items:
            item["filtered_resps"] = [item["filtered_resps"] * 9 + ["yes"]]
    assert "81 % of the answers are empty, against 18 %" in notes(few, many)


def test_a_limit_is_noted(write: Writer) -> None:
    part = {"quiz": {"original": 100, "effective": 1}}
    a = load_run(str(write("a", {"quiz": quiz(RIGHT)}, **{"n-samples": part})))
    assert "evaluated on a part of the data (limit): quiz" in compare_runs(a, a).notes
    windows = {"quiz": {"original": 1, "effective": 6}}
    b = load_run(str(write("b", {"quiz": quiz(RIGHT)}, **{"n-samples": windows})))
    assert not any("limit" in note for note in compare_runs(b, b).notes)


# -- the sentence ---------------------------------------------------------------------------------


def test_a_group_stands_for_its_members_unless_they_are_asked_for(write: Writer) -> None:
    tasks = {"one": quiz(*[RIGHT] * 30), "three": quiz(*[RIGHT, WRONG] * 20)}
    groups = {"part": ["one", "three"], "all": ["part"]}
    a = load_run(str(write("a", {**tasks, "alone": quiz(*[RIGHT] * 30)}, groups=groups)))
    whole = compare_runs(a, a)
    assert {row.name for row in whole.rows} == {"all", "part", "one", "three", "alone"} - {
        name for name in ("all", "part") if not any(row.name == name for row in whole.rows)
    }
    outermost = next(name for name in ("all", "part") if name in {r.name for r in whole.rows})
    assert whole.shown == {outermost, "alone"}
    text = whole.to_text()
    assert "three" not in text
    assert "members of groups not shown" in text
    assert any(row["name"] == "three" for row in json.loads(whole.to_json())["rows"])
    asked = compare_runs(a, a, tasks=["three"])
    assert "three" in asked.to_text()


def test_the_last_sentence_says_what_was_lost_kept_and_left_open(write: Writer) -> None:
    right, wrong = quiz(*[RIGHT] * 100), quiz(*[WRONG] * 100)
    few, mixed = quiz(*[RIGHT] * 5), quiz(*[RIGHT] * 30 + [WRONG] * 30)
    other = quiz(*[RIGHT] * 29 + [WRONG] * 30 + [RIGHT])
    a = load_run(str(write("a", {"lost": right, "kept": right, "few": few, "open": mixed})))
    b = load_run(str(write("b", {"lost": wrong, "kept": right, "few": few, "open": other})))
    found = compare_runs(a, b, metrics=["acc"])
    assert found.verdict.word == "loses"
    text = " ".join(found.to_text().split())
    assert text.endswith(found.verdict.sentence)
    assert "B loses on lost (0.0 %" in text
    assert "it keeps kept; not settled: open (" in text
    assert "too few items on few (5)." in text
    row = next(row for row in found.rows if row.name == "open")
    assert row.statistics.settle_n is not None
    assert "inconclusive (>" in text  # the task has 60 items
    record = json.loads(found.to_json())
    assert record["verdict"]["word"] == "loses"
    assert record["verdict"]["sentence"] == found.verdict.sentence


def test_perplexity_has_one_verdict_unless_another_is_asked_for(pair: Pair) -> None:
    words = {"word_perplexity": [-90.0, 30], "byte_perplexity": [-90.0, 200]}
    items = [text_item(i, "", words) for i in range(30)]
    down = dict.fromkeys(words, False)
    a, b = pair(items, copy.deepcopy(items), directions=down)
    found = compare_runs(a, b)
    assert [row.statistics.verdict for row in found.rows] == [None, None]
    assert [row.statistics.recovery for row in found.rows] == [1.0, 1.0]
    asked = compare_runs(a, b, metrics=["word_perplexity", "byte_perplexity"])
    assert only(asked, "word_perplexity").statistics.verdict == "match"
    assert only(asked, "byte_perplexity").statistics.verdict is None


# -- output -------------------------------------------------------------------------------------


def test_what_files_say_cannot_drive_the_terminal(
    write: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "quiz\x1b[2J\x9b31m\u202e"
    a = write(
        "a", {evil: quiz(RIGHT)}, record={"compressor": "\x1b]0;x\x07", "base_model": "m\r\n"}
    )
    b = write("b", {evil: quiz(RIGHT, WRONG)})
    assert cli.main(["compare", str(a), str(a)]) == 0
    assert cli.main(["compare", str(a), str(b)]) == 2
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "quiz?[2J?31m?" in text
        assert all(c.isprintable() or c == "\n" for c in text)


def test_an_unwritable_file_is_an_error_that_names_it(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (run.source for run in pair(quiz(RIGHT), quiz(RIGHT)))
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "c.json"
    assert cli.main(["compare", a, b, "--json", str(target)]) == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--seed", "-1"], ["--resamples", "x"], ["--tolerance", "y"]]
)
def test_arguments_are_checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["compare", "a", "b", *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_measured_speed_stands_above_the_table(write: Writer) -> None:
    spread = {"median": 41.6, "low": 40.0, "high": 43.2}
    measured = {"compressor": "none", "profile": {"decode": spread}}
    runs = [
        load_run(str(write(name, {"quiz": quiz(RIGHT, WRONG)}, record=record)))
        for name, record in (("a", measured), ("b", {"compressor": "wanda"}))
    ]
    text = compare_runs(*runs).to_text()
    assert "A: decode 42 tokens/s [40, 43], measured with the run\n" in text
    assert "B: decode" not in text
