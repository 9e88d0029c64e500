# SPDX-License-Identifier: Apache-2.0
"""Scores against cases worked by hand and against slower ways to say the same."""

from __future__ import annotations

import math
import string
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkick_plugin.metrics import answers, llmkick_original

WORDS = st.lists(
    st.sampled_from(
        ["the", "a", "cat", "Cat,", "sat", "x1", "İs", "__", "don\u2019t", "an", "-", "Cats"]
    )
)
TEXTS = WORDS.map(" ".join) | st.text(max_size=40)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Beatles", "beatles"),
        ("  A   tale of\ttwo\ncities ", "tale of two cities"),
        ("rock_and_roll", "rock and roll"),
        ("O\u2019Brien's `car` \u2018x\u2019 \u00b4y", "o brien s car x y"),
        ("U.S.A.", "u s"),  # the last letter has become an article
        ("theatre another than", "theatre another than"),
        ("1,000", "1 000"),
        ("Köln", "köln"),
        ("the a an", ""),
        ("", ""),
    ],
)
def test_normalize_answer(text: str, normal: str) -> None:
    assert answers.normalize_answer(text) == normal


def slow_normal(text: str) -> list[str]:
    """The official rule, a character and a word at a time."""
    text = text.replace("_", " ").lower()
    marks = set(string.punctuation) | set("\u2018\u2019\u00b4`")
    text = "".join(" " if character in marks else character for character in text)
    kept, word = "", ""
    for character in f"{text} ":
        if character.isalnum() or character == "_":
            word += character
            continue
        kept += (" " if word in {"a", "an", "the"} else word) + character
        word = ""
    return kept.split()


@given(
    WORDS.map(" ".join) | st.text(alphabet=string.printable + "éßñ\u2018\u2019\u00b4", max_size=40)
)
def test_normalize_answer_is_the_official_rule(text: str) -> None:
    assert answers.normalize_answer(text).split() == slow_normal(text)


@given(TEXTS)
def test_normalizing_twice_changes_nothing(text: str) -> None:
    normal = answers.normalize_answer(text)
    assert normal == " ".join(normal.split())
    assert answers.normalize_answer(normal) == normal


@pytest.mark.parametrize(
    ("said", "aliases", "contains", "exact", "f1"),
    [
        ("Paris", ["paris"], 1, 1, 1),
        ("It is Paris.", ["paris"], 1, 0, 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("parisian", ["paris"], 0, 0, 0),
        ("the heart", ["art"], 0, 0, 0),
        ("1914", ["1"], 0, 0, 0),
        ("George W. Bush", ["George Bush", "Dubya"], 0, 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("new new york", ["new york"], 1, 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("", ["paris"], 0, 0, 0),
        ("", ["The", ""], 0, 0, 0),
        ("anything", ["a"], 0, 0, 0),
        ("paris", [], 0, 0, 0),
        ("The U.K.", ["uk", "U K"], 1, 1, 1),
    ],
)
def test_answers(said: str, aliases: list[str], contains: int, exact: int, f1: float) -> None:
    assert answers.contains(said, aliases) == contains
    assert answers.exact_match(said, aliases) == exact
    assert answers.f1(said, aliases) == pytest.approx(f1)
    scores = answers.score_answers({"aliases": aliases}, [f"  {said}\nQ: more paris"])
    assert scores == {"contains": contains, "exact_match": exact, "f1": pytest.approx(f1)}


@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_answers_agree_with_token_lists(said: str, aliases: list[str]) -> None:
    tokens = answers.normalize_answer(said).split()
    golds = [answers.normalize_answer(alias).split() for alias in aliases]
    golds = [gold for gold in golds if gold]
    runs = [tokens[i:j] for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1)]
    assert answers.contains(said, aliases) == any(gold in runs for gold in golds)
    assert answers.exact_match(said, aliases) == (tokens in golds)
    best = 0.0
    for gold in golds:
        left = Counter(gold)
        common = 0
        for token in tokens:
            if left[token]:
                left[token] -= 1
                common += 1
        if common:
            precision, recall = common / len(tokens), common / len(gold)
            best = max(best, 2 * precision * recall / (precision + recall))
    assert answers.f1(said, aliases) == pytest.approx(best)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4), TEXTS)
def test_order_of_the_scores(said: str, aliases: list[str], more: str) -> None:
    exact, f1 = answers.exact_match(said, aliases), answers.f1(said, aliases)
    assert exact <= answers.contains(said, aliases) <= 1
    assert exact <= f1 <= 1
    assert f1 == answers.f1(said, aliases[::-1])
    for score in (answers.exact_match, answers.f1, answers.contains):
        assert score(said, [*aliases, more]) >= score(said, aliases)


@pytest.mark.parametrize(
    ("scores", "gold", "acc", "greedy"),
    [
        ([(-1.0, False), (-0.5, True), (-2.0, False), (-3.0, False)], 1, 1, 1),
        ([(-1.0, False), (-0.5, False), (-2.0, False), (-3.0, False)], 1, 1, 0),
        ([(-1.0, False), (-0.5, True), (-2.0, False), (-3.0, False)], 0, 0, 0),
        ([(-1.0, False), (-1.0, False), (-2.0, False), (-3.0, False)], 0, 1, 0),
        ([(-1.0, False), (-1.0, False), (-2.0, False), (-3.0, False)], 1, 0, 0),
        ([(math.nan, True)] * 4, 0, 0, 0),
        ([(-math.inf, False)] * 3 + [(-9.0, False)], 3, 1, 0),
    ],
)
def test_choices(scores: list[tuple[float, bool]], gold: int, acc: int, greedy: int) -> None:
    assert answers.score_choices({"answer": gold}, scores) == {"acc": acc, "acc_greedy": greedy}


def test_page() -> None:
    page = " Zürich is\n\na city \n"
    assert answers.score_page({"page": page}, [-12.0]) == {
        "word_perplexity": (-12.0, 6),  # four words and the two ends that lm-eval counts as well
        "byte_perplexity": (-12.0, 21),
    }


LOSSES = st.lists(st.floats(0, 20), min_size=1, max_size=8)


@given(LOSSES, st.integers(0, 8))
def test_token_perplexity_does_not_depend_on_the_processes(losses: list[float], cut: int) -> None:
    whole = answers.token_perplexity([{"window_losses": losses}])
    parts = [{"window_losses": losses[:cut]}, {"window_losses": losses[cut:]}]
    assert whole == pytest.approx(math.exp(sum(losses) / len(losses)))
    assert answers.token_perplexity(parts) == pytest.approx(whole)


@given(st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 30)), min_size=1, max_size=6))
def test_weighted_perplexity_is_that_of_lm_eval(items: list[tuple[float, int]]) -> None:
    from lm_eval.api.metrics import weighted_perplexity

    assert answers.weighted_perplexity(items) == pytest.approx(weighted_perplexity(items))


def test_perplexities_beyond_a_float() -> None:
    assert answers.token_perplexity([{"window_losses": [1e4]}]) == math.inf
    assert answers.weighted_perplexity([(-1e9, 1)]) == math.inf
    assert math.isnan(answers.token_perplexity([{"window_losses": [1.0, math.nan]}]))
    assert math.isnan(answers.token_perplexity([]))
    assert math.isnan(answers.weighted_perplexity([]))


def test_released_scores_have_their_faults() -> None:
    assert llmkick_original.contains_either_way("", ["paris"]) == 1
    assert llmkick_original.contains_either_way("is", ["paris"]) == 1
    assert llmkick_original.contains_either_way("parisian", ["paris"]) == 1
    assert llmkick_original.contains_either_way("london", ["paris"]) == 0
    assert llmkick_original.contains_squeezed("a pa ri s b", ["Paris"]) == 1
    assert llmkick_original.contains_squeezed("pa\nris", ["paris"]) == 0
    assert llmkick_original.mean_over_one_less([1.0] * 1001) == 1.001
    assert llmkick_original.mean_over_one_less([1.0]) == 1.0
    assert llmkick_original.score_last_character({"answer": "A"}, ["NASA"]) == {"acc": 1.0}
    assert llmkick_original.score_last_character({"answer": "A"}, ["A."]) == {"acc": 0.0}
    assert llmkick_original.score_last_character({"answer": "A"}, [""]) == {"acc": 0.0}


def test_metrics_need_no_torch() -> None:
    code = (
        "import sys, lmkick_plugin.metrics.answers, lmkick_plugin.metrics.llmkick_original\n"
        "import lmkick_plugin.data.sources\n"
        "assert not {'torch', 'lm_eval', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
