# SPDX-License-Identifier: Apache-2.0
"""Answers to compare with, from files of several layouts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lmkick_plugin.judge.references import Reference, load_answers, read_reference


def test_the_setting() -> None:
    assert read_reference(None) is None
    assert read_reference("dense") == Reference("dense")
    assert read_reference("dense: results/a@sparsity=0") == Reference(
        "dense", "results/a@sparsity=0"
    )
    assert read_reference("file: a:b.jsonl") == Reference("file", "a:b.jsonl")
    assert read_reference("model:org/name:tag") == Reference("model", "org/name:tag")
    for wrong in ("best", "file:", "model"):
        with pytest.raises(ValueError, match="expected file:PATH"):
            read_reference(wrong)


def test_real_files(shared_dir: Path) -> None:
    answers = load_answers(shared_dir / "data/instruct/gpt35_answer.jsonl")
    assert len(answers) == 80
    assert all(len(turns) == 1 for turns in answers.values())
    two = load_answers(shared_dir / "data/instruct/mt_bench_reference_gpt4.jsonl")
    assert len(two) == 30
    assert {len(turns) for turns in two.values()} == {2}


def test_samples_and_gzip(tmp_path: Path) -> None:
    rows = [{"doc_hash": "h", "doc_id": 0, "resps": [["it"]], "filtered_resps": ["x"]}]
    path = tmp_path / "samples.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n\n" for row in rows)
    assert load_answers(path) == {"h": ("it",)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}', "line 2: a second, different answer"),
        (
            '{"text": "a"}',
            "line 1: no identity, only text. Give one of: question_id, doc_hash, id.",
        ),
        ('{"doc_id": 0, "text": "a"}', "line 1: no identity, only doc_id, text. Give one of"),
        ('{"id": 1, "texts": "a"}', "line 1: no answer"),
        ('{"id": 1, "choices": []}', "line 1: no answer"),
        ("[1]", "line 1: expected an object"),
        ("{", "not a file of answers"),
        ("", "holds no answers"),
    ],
)
def test_broken_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"answers\.jsonl") as caught:
        load_answers(path)
    assert words in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a file of answers"):
        load_answers(tmp_path / "none.jsonl")
