# SPDX-License-Identifier: Apache-2.0
"""Statistics of answers, against plain loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkick_plugin.metrics.text_statistics import (
    compare_at_equal_length,
    is_empty,
    is_overlong,
    novel_bigrams,
    repeated_ngrams,
    tokens,
    unique_ratio,
    unique_words,
    words,
)

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "Don't", "a,", "\n"]), max_size=12).map(" ".join)


def test_words_and_tokens() -> None:
    assert words("It's  a well-known\nfact .") == 5
    assert tokens("It\u2019s a WELL-known fact.") == ["it's", "a", "well", "known", "fact"]
    assert unique_words("The cat, the dog; THE end") == 4
    assert tokens("Stra\u00dfe \u4f60\u597d 12") == ["stra\u00dfe", "\u4f60\u597d", "12"]
    assert words("") == unique_words(" . ") == 0


def test_empty_and_overlong() -> None:
    assert is_empty(" \n")
    assert not is_empty(".")
    assert is_overlong("a b c", 2)
    assert not is_overlong("a b", 2)


def test_unique_ratio() -> None:
    assert unique_ratio("a b a c") == 3 / 4
    assert unique_ratio("a b a c", 2) == 1
    assert math.isnan(unique_ratio("a b", 3))
    assert math.isnan(unique_ratio("..."))


def test_equal_length_takes_the_effect_of_length_out() -> None:
    short, long = "a b c", "a b c a b c a b c"
    assert unique_ratio(long) < unique_ratio(short), "length alone lowers it"
    assert compare_at_equal_length([short, ""], [long, "x"]) == (1.0, 1.0, 1)
    assert compare_at_equal_length(["a a a"], ["a b c d"]) == (1 / 3, 1.0, 1)
    assert math.isnan(compare_at_equal_length([], [])[0])
    with pytest.raises(ValueError, match="1 answers against 0"):
        compare_at_equal_length(["a"], [])


def test_repetition_and_novelty() -> None:
    assert repeated_ngrams("a b c d e f") == 0
    assert repeated_ngrams("a b c") == 0
    assert repeated_ngrams("a a a a a a", 2) == 4 / 5
    assert novel_bigrams("the cat sat", "The cat lay.") == 0.5
    assert novel_bigrams("the cat", "the cat") == 0
    assert math.isnan(novel_bigrams("cat", "the cat"))


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_against_plain_loops(text: str, source: str, size: int) -> None:
    found = tokens(text)
    seen: list[list[str]] = []
    again = 0
    for i in range(len(found) - size + 1):
        gram = found[i : i + size]
        again += gram in seen
        seen.append(gram)
    assert repeated_ngrams(text, size) == pytest.approx(again / len(seen) if seen else 0)
    own, theirs = [], tokens(source)
    for pair in pairwise(found):
        if pair not in own:
            own.append(pair)
    held = [pair for pair in own if pair in list(pairwise(theirs))]
    if own:
        assert novel_bigrams(text, source) == pytest.approx(1 - len(held) / len(own))
