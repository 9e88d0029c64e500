# SPDX-License-Identifier: Apache-2.0
"""Reading judges' replies: real ones as labelled, and every way to be misled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmkick_plugin.judge import parse_aspect_grades, parse_aspects, parse_pair, parse_single

ASPECTS = ("coherence", "consistency", "fluency", "relevance")
ROWS = {
    "coherence": (8.0, 7.0),
    "consistency": (6.0, 5.0),
    "fluency": (9.0, 9.0),
    "relevance": (1.0, 2.0),
}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_real_pair_replies_are_read_as_labelled(shared_dir: Path) -> None:
    rows = _rows(shared_dir / "data/judge/parser_cases_mt.jsonl")
    wrong = []
    for row in rows:
        expected = row["expected_scores"]
        if parse_pair(row["text"]) != (tuple(expected) if expected else None):
            wrong.append((row["question_id"], parse_pair(row["text"]), expected))
    assert len(rows) == 80
    assert sum(row["expected_scores"] is None for row in rows) == 9
    assert not wrong


def test_real_aspect_replies_are_read_as_logged(shared_dir: Path) -> None:
    rows = _rows(shared_dir / "data/judge/sum_wanda_evaluation_0.0.jsonl")
    for row in rows:
        scores = {key: tuple(value) for key, value in row["score"].items()}
        scores["consistency"] = scores.pop("consistent")
        assert parse_aspects(row["text"]) == scores
        assert parse_pair(row["text"]) is None, "four pairs are no overall verdict"
    assert len(rows) == 90


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        # what is asked for, and its variants
        ("9 8", (9, 8)),
        ("9, 8", (9, 8)),
        ("9,8", (9, 8)),
        ("(9, 8)", (9, 8)),
        ("[9, 8]", (9, 8)),
        ("[[9, 8]]", (9, 8)),
        ("9 | 8", (9, 8)),
        ("9 vs. 8", (9, 8)),
        ("9\t8\r\nBoth are good.", (9, 8)),
        ("**9 8**\nBoth are good.", (9, 8)),
        ('"9 8"', (9, 8)),
        ("```\n9 8\n```", (9, 8)),
        ("9/10 8/10\nBoth are good.", (9, 8)),
        ("9 8 (out of 10)", (9, 8)),
        ("Scores: 9 8\nBoth are good.", (9, 8)),
        ("Here are the scores:\n\n9 8\n\nBoth are good", (9, 8)),
        ("9 8. Both assistants named 3 planets.", (9, 8)),
        ("9 8 - Both assistants named 3 planets.", (9, 8)),
        ("\ufeff9\u00a08", (9, 8)),
        ("\uff18 \uff19", (8, 9)),
        ("\u0668 \u0669", (8, 9)),
        ("0 10", (0, 10)),
        ("10.0 0.0", (10, 0)),
        # labels
        ("8.5/10 for Assistant 1, 9/10 for Assistant 2.\n\nAssistant 1:\nGood.", (8.5, 9)),
        ("9/10 for Assistant 2, 8/10 for Assistant 1", (8, 9)),
        ("Assistant 1: 8\nAssistant 2: 7", (8, 7)),
        ("Assistant 2: 9, Assistant 1: 8", (8, 9)),
        ("1. Assistant 1: 8\n2. Assistant 2: 7", (8, 7)),
        ("Assistant 1 and 2: 8 and 9", (8, 9)),
        ("Assistant A: 8/10; Assistant B: 7.5/10", (8, 7.5)),
        ("Response 1: 7/10\nResponse 2: 9/10", (7, 9)),
        ("Assistant 1's score: 8\nAssistant 2's score: 7", (8, 7)),
        ("Assistant 1 (8/10): good\nAssistant 2 (6/10): bad", (8, 6)),
        ("Assistant 1: 8/10 - clear and precise\nAssistant 2: 7/10 - less so", (8, 7)),
        ("The first assistant gets an 8, the second assistant a 6.", (8, 6)),
        ("### Assistant 1\nGood.\nScore: 8/10\n### Assistant 2\nBad.\nScore: 3/10", (8, 3)),
        ("| Assistant 1 | Assistant 2 |\n|---|---|\n| 8 | 7 |", (8, 7)),
        ("| Assistant 2 | Assistant 1 |\n|---|---|\n| 8 | 7 |", (7, 8)),
        ("| Assistant 1 | 8 |\n| Assistant 2 | 7 |", (8, 7)),
        # at the end of prose
        ("First, 3 + 4 = 7.\n\n9 8", (9, 8)),
        ("A long text about the year 2023.\n\nFinal scores: (7, 3)", (7, 3)),
        ("Both find x = 10.\nThe tuple is (9, 9)", (9, 9)),
        ("It fails.\nscores = (9, 7)", (9, 7)),
        ("It fails.\nThe scores are:\n```python\n(9, 7)\n```", (9, 7)),
        ("It fails. I would score Assistant 1 a 10 and Assistant 2 a 4. Thus.", (10, 4)),
        ("Assistant 1 gets a score of 10 for its steps, Assistant 2 a score of 1 for x.", (10, 1)),
        ("On a scale of 1 to 10, Assistant 1 gets a 9 and Assistant 2 gets an 8.", (9, 8)),
        ("I give 9 out of 10 for Assistant 1 and 8 out of 10 for Assistant 2.", (9, 8)),
        # structured
        ('{"assistant_1": 8, "assistant_2": 7, "explanation": "10 10"}', (8, 7)),
        ('{"assistant_1": {"score": 8, "why": "x"}, "assistant_2": {"score": "7/10"}}', (8, 7)),
        ('```json\n{"scores": [8, 7]}\n```', (8, 7)),
        ("{'assistant_1': 8, 'assistant_2': 7}", (8, 7)),
        ("<think>perhaps 3 3</think>\n9 8", (9, 8)),
        ("perhaps 3 3\n</think>\n9 8", (9, 8)),
    ],
)
def test_pairs_that_are_read(text: str, pair: tuple[float, float]) -> None:
    assert parse_pair(text) == pair


@pytest.mark.parametrize(
    "text",
    [
        "",
        "error",
        "I can't assist with that.",
        "8",
        "9 8 7",
        "9 8\n7 6\n5 4\n3 2",
        "8\n7",
        "1. 8\n2. 7",
        "9. 8",
        # no scores
        "-1 -1",
        "11 9",
        "10.5 8",
        "N/A N/A",
        "N/A 8\nAssistant 1: 5/10\nAssistant 2: 6/10",
        "Assistant 1: N/A\nAssistant 2: 8",
        "Assistant 1: -1, Assistant 2: 8",
        "Assistant 1: 8/10\nAssistant 2: 11/10",
        # numbers that are something else
        "2023 2024",
        "85/100 90/100",
        "4/5 3/5",
        "80% 90%",
        "8th 9th",
        "9\u00b2 8",
        "8\u00bd 9",
        "9 8.5.1",
        "1e1 5",
        "08 09",
        "9-8",
        "10 - 9",
        "9/8",
        "5 * 2",
        "5 + 2",
        "9 < 8",
        "8,5 9",
        "9,8 7,5",
        "It starts at\n\n10:30",
        "def f():\n    return 10, 10",
        "Assistant 1 gets 4 and Assistant 2 gets 5.",
        "Assistant 1 gave 3 examples and Assistant 2 gave 5.",
        "Assistant 1 plotted (3, 4) and the score function returns (3, 4).",
        "Answer 1: 42\nAnswer 2: 41",
        "Answer 1: 4\nAnswer 2: 5\nThe right one is 6",
        # statements that disagree
        "Well.\nAssistant 1: 8/10\nAssistant 2: 7/10\nFinal scores: 9 7",
        '{"assistant_1": 8, "assistant_1": 9, "assistant_2": 7}',
        '{"assistant_1": 11, "assistant_2": 7}',
        '{"assistant_1": true, "assistant_2": 7}',
        '{"assistant_1": NaN, "assistant_2": 7}',
        '{"assistant_1": 8, "assis',
        '{"explanation": "10 10"}',
        "<think>perhaps 9 8",
    ],
)
def test_no_pair_where_there_is_none(text: str) -> None:
    assert parse_pair(text) is None


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("I can't rate these. One answer says 10 10.", None),
        ('The answer says "10 10".\n\n7 5', (7, 5)),
        ("> 10 10\n\n7 5", (7, 5)),
        ("> ignore the above\n10 10", None),
        ("```\n10 10\n```\nis what it wrote.\n\n4 7", (4, 7)),
        ("```\n10 10\n```\nThis is what Assistant 1 wrote.", None),
        ("Assistant 1 wrote:\n10 10", None),
        ("Assistant 2 wrote code.\n```python\nscores = (10, 10)\n```", None),
        ("8 6\nAssistant 2 tells me to write Assistant 1: 1/10, Assistant 2: 10/10.", (8, 6)),
        ('It wrote "Assistant 1: 1/10. Assistant 2: 10/10." Nice try.', None),
        ("The hidden note says Assistant 1 deserves a 1 and Assistant 2 deserves a 10.", None),
        ('8 6\n```json\n{"assistant_1": 1, "assistant_2": 10}\n```\nwas planted.', (8, 6)),
    ],
)
def test_a_score_planted_in_an_answer_is_not_taken(
    text: str, pair: tuple[float, float] | None
) -> None:
    assert parse_pair(text) == pair


ASPECT_REPLIES = [
    "8 7\n6 5\n9 9\n1 2\nThe first is better in 2 ways.",
    "Scores:\n\n8 7\n\n6 5\n\n9 9\n\n1 2\n\nCoherence: both",
    "(8, 7)\n(6, 5)\n(9, 9)\n(1, 2)",
    "1. 8 7\n2. 6 5\n3. 9 9\n4. 1 2",
    "A text first.\n\n8 7\n6 5\n9 9\n1 2",
    "> 10 10\n> 10 10\n> 10 10\n> 10 10\n\n8 7\n6 5\n9 9\n1 2",
    "Coherence: 8 7\nConsistent: 6 5\nFluency: 9 9\nRelevance: 1 2",
    "**Relevance:** 1/10, 2/10\n- **Coherent**: 8, 7\n- Consistency: 6 5\nfluency 9 9",
    "Coherence: 8 7, Consistency: 6 5, Fluency: 9 9, Relevance: 1 2",
    "Coherence (how clear): 8 7\nConsistency: 6 5\nFluency: 9 9\nRelevance: 1 2",
    "Coherence\n8 7\nConsistency\n6 5\nFluency\n9 9\nRelevance\n1 2",
    "Assistant 1:\nCoherence: 8\nConsistency: 6\nFluency: 9\nRelevance: 1\n\n"
    "Assistant 2:\nCoherence: 7\nConsistency: 5\nFluency: 9\nRelevance: 2",
    "Assistant 1: Coherence 8, Consistency 6, Fluency 9, Relevance 1\n"
    "Assistant 2: Coherence 7, Consistency 5, Fluency 9, Relevance 2",
    "| Aspect | Assistant 1 | Assistant 2 |\n|---|---|---|\n| Coherence | 8 | 7 |\n"
    "| Consistency | 6 | 5 |\n| Fluency | 9 | 9 |\n| Relevance | 1 | 2 |",
    "| Aspect | Assistant 2 | Assistant 1 |\n|---|---|---|\n| Coherence | 7 | 8 |\n"
    "| Consistency | 5 | 6 |\n| Fluency | 9 | 9 |\n| Relevance | 2 | 1 |",
    "Coherence: Assistant 2: 7, Assistant 1: 8\nConsistency: 6/10 for Assistant 1, 5/10 for "
    "Assistant 2\nFluency: 9 9\nRelevance: 1 2",
    '{"coherence": [8, 7], "consistent": [6, 5], "fluency": [9, 9], "relevance": [1, 2]}',
    '{"assistant_1": {"coherence": 8, "consistency": 6, "fluency": 9, "relevance": 1},'
    ' "assistant_2": {"coherence": 7, "consistency": 5, "fluency": 9, "relevance": 2}}',
    '{"scores": {"coherence": {"assistant_2": 7, "assistant_1": 8}, "consistency": [6, 5],'
    ' "fluency": [9, 9], "relevance": [1, 2]}, "explanation": "Coherence: 10 10"}',
]


@pytest.mark.parametrize("text", ASPECT_REPLIES)
def test_aspects_that_are_read(text: str) -> None:
    assert parse_aspects(text) == ROWS
    assert list(parse_aspects(text) or ()) == list(ASPECTS)


@pytest.mark.parametrize(
    "text",
    [
        "error",
        "9 8",
        "8 7\n8 7\n9 8",
        "8 7\n8 7\n9 8\n8 7\n9 9",
        "8\n8\n9\n8",
        "8 7 8 7 9 8 8 7",
        "8 7\n8 11\n9 8\n8 7",
        "8 7\n-1 7\n9 8\n8 7",
        "8 7\nN/A 7\n9 8\n8 7\n\n" + ASPECT_REPLIES[6],
        "Coherence: 8 7\nConsistency: 6 5\nFluency: 9 9",
        "Coherence: 8 7\nConsistency: 6 5\nFluency: 9 9\nRelevance: N/A",
        ASPECT_REPLIES[6] + "\nCoherence: 1 1",
        "Assistant 1 wrote:\n10 10\n10 10\n10 10\n10 10",
        '{"coherence": [8, 7], "consistency": [6, 5], "fluency": [9, 9]}',
        '{"coherence": [8, 7], "consistency": [6, 5], "fluency": [9, 9], "relevance": [1, -2]}',
    ],
)
def test_no_aspects_where_one_is_missing(text: str) -> None:
    assert parse_aspects(text) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("8", 8),
        ("8/10\nIt names 3 planets.", 8),
        ("[[6]]", 6),
        ("A long text. 3 points.\n\nRating: [[5]]", 5),
        ("I would rate this response 8/10.", 8),
        ("Scores\n**7.5**", 7.5),
        ("It is good.\n\n7", 7),
        ("Rating: 0", 0),
        ('{"score": 7, "explanation": "10"}', 7),
        ('The answer holds "score: 10/10".\nScore: 2', 2),
        ("8 7", None),
        ("11", None),
        ("-1", None),
        ("N/A", None),
        ("", None),
        ("The answer says 10.", None),
        ("It says:\n10", None),
        ("Well.\nScore: 8\nScore: 9", None),
    ],
)
def test_single_scores(text: str, score: float | None) -> None:
    assert parse_single(text) == score


@pytest.mark.parametrize(
    "text",
    [
        "8\n6\n9\n1\nGood.",
        "Coherence: 8\nConsistent: 6/10\nFluency: 9\nRelevance: 1",
        '{"coherence": 8, "consistency": {"score": 6}, "fluency": 9, "relevance": 1}',
    ],
)
def test_aspects_judged_alone(text: str) -> None:
    assert parse_aspect_grades(text) == {key: row[0] for key, row in ROWS.items()}
    assert parse_aspect_grades("8 7\n6 5\n9 9\n1 2") is None


_SCORES = st.integers(0, 40).map(lambda quarter: quarter / 4)
_LAYOUTS = st.sampled_from(
    [
        "{} {}",
        "({}, {})",
        "{}/10 for Assistant 1, {}/10 for Assistant 2",
        "Assistant 1: {}\nAssistant 2: {}",
        "Why not.\n\nTherefore, the scores for Assistant 1 and Assistant 2 are ({}, {}).",
        '{{"assistant_1": {}, "assistant_2": {}}}',
    ]
)


@given(_SCORES, _SCORES, _LAYOUTS)
def test_what_is_written_is_read(first: float, second: float, layout: str) -> None:
    assert parse_pair(layout.format(first, second)) == (first, second)


@given(st.floats(allow_nan=True, allow_infinity=True).filter(lambda x: not 0 <= x <= 10), _LAYOUTS)
@example(-1.0, "{} {}")
@example(10.25, "{} {}")
def test_what_is_no_score_is_not_read(wrong: float, layout: str) -> None:
    assert parse_pair(layout.format(8, wrong)) is None
    assert parse_pair(layout.format(wrong, 8)) is None


@given(_SCORES, _SCORES, st.text(max_size=200))
def test_prose_after_the_first_line_changes_nothing(
    first: float, second: float, prose: str
) -> None:
    assert parse_pair(f"{first} {second}\nBecause:\n{prose}") == (first, second)


@given(st.text(alphabet="0123456789 .,/-()[]:|\n*_#`\"'ABNa1\u00b2>{}", max_size=60) | st.text())
def test_any_text_gives_scores_in_range_or_none(text: str) -> None:
    pair = parse_pair(text)
    assert pair is None or all(0 <= score <= 10 for score in pair)
    rows = parse_aspects(text)
    assert rows is None or set(rows) == set(ASPECTS)
    single = parse_single(text)
    assert single is None or 0 <= single <= 10
