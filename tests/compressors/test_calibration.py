# SPDX-License-Identifier: Apache-2.0
"""Calibration text: seeded crops, bounded work, and a clear word about every kind of bad file."""

from __future__ import annotations

import gzip
import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tqdm import tqdm

from compressors import SettingsError, calibration, load_calibration
from tests.conftest import make_tiny_tokenizer

DOCUMENTS = [f"{index:03d} " + chr(97 + index % 26) * (20 + 10 * index) for index in range(20)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tiny_tokenizer()


def load(source: Any, tokenizer: Any, **settings: Any) -> torch.Tensor:
    return load_calibration(
        source, tokenizer, **{"nsamples": 4, "seqlen": 64, "progress": False, **settings}
    )


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def is_crop(sample: torch.Tensor, text: str, tokenizer: Any) -> bool:
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    first, *wanted = sample.tolist()
    return first == tokenizer.bos_token_id and any(
        tokens[i : i + len(wanted)] == wanted for i in range(len(tokens))
    )


# --- sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_samples_are_crops_of_documents_that_are_long_enough(
    tmp_path: Path, tokenizer: Any, ending: str
) -> None:
    path = write_jsonl(tmp_path / f"text{ending}", DOCUMENTS)
    samples = load(str(path), tokenizer)
    assert samples.shape == (4, 64)
    assert samples.dtype == torch.int64
    sources = [
        [index for index, text in enumerate(DOCUMENTS) if is_crop(sample, text, tokenizer)]
        for sample in samples
    ]
    assert all(len(found) == 1 for found in sources)
    assert len({found[0] for found in sources}) == 4  # four different documents
    assert torch.equal(samples, load(path, tokenizer))
    assert torch.equal(samples, load(DOCUMENTS, tokenizer))


@pytest.mark.parametrize("source", ["documents", "one text", "short documents"])
@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_bos_begins_every_sample_or_none(
    tmp_path: Path, tokenizer: Any, source: str, bos: str
) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(DOCUMENTS))
    text: Any = {
        "documents": DOCUMENTS,
        "one text": tmp_path / "text.txt",
        "short documents": [document[:50] for document in DOCUMENTS],
    }[source]
    samples = load(text, tokenizer, bos=bos)
    assert samples.shape == (4, 64)
    begins = samples[:, 0] == tokenizer.bos_token_id
    assert begins.all() if bos != "never" else not begins.any()
    assert not (samples[:, 1:] == tokenizer.bos_token_id).any()


def test_bos_of_a_tokenizer_that_adds_none(tokenizer: Any) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.backend_tokenizer.post_processor = None
    assert not (load(DOCUMENTS, plain) == tokenizer.bos_token_id).any()
    assert (load(DOCUMENTS, plain, bos="always")[:, 0] == tokenizer.bos_token_id).all()
    plain.bos_token = None
    with pytest.raises(SettingsError, match="bos=always: the tokenizer names no BOS"):
        load(DOCUMENTS, plain, bos="always")


def test_seed_decides(tokenizer: Any) -> None:
    first, again, other = (load(DOCUMENTS, tokenizer, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_few_long_documents_give_several_crops_each(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long = "".join(chr(97 + i * i % 26) for i in range(400))
    with caplog.at_level(logging.WARNING):
        samples = load([long, "", long[::-1]], tokenizer, nsamples=8)
    assert len({tuple(sample.tolist()) for sample in samples}) > 4
    assert all(
        is_crop(sample, long, tokenizer) or is_crop(sample, long[::-1], tokenizer)
        for sample in samples
    )
    assert "documents of 63 tokens or more: 2; further crops of those: 6" in caplog.text


def test_a_few_long_documents_do_not_displace_the_short_ones(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    documents = [*(f"document {number}" for number in range(300)), "the long one " * 20]
    with caplog.at_level(logging.WARNING):
        samples = load(documents, tokenizer, nsamples=40)
    text = tokenizer.decode(samples.flatten())
    assert sum(f"document {number}" in text for number in range(100, 300)) > 50
    assert (
        "documents of 63 tokens or more: 1, for 40 samples, so documents are joined" in caplog.text
    )


def test_documents_are_read_once_and_no_more_than_needed(tokenizer: Any) -> None:
    class Counting(list[str]):
        looked_at = 0

        def __getitem__(self, index: Any) -> Any:
            Counting.looked_at += 1
            return super().__getitem__(index)

    documents = Counting(["a b " * 100] * 50)
    sampler = calibration._Sampler(tokenizer, 8, 64, random.Random(0))
    text = calibration._Text("here", documents, joined=False)
    assert len(sampler.cropped(text, tqdm(disable=True))) == 8
    assert Counting.looked_at == 8


def test_short_documents_are_joined_and_that_is_said(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        samples = load([f"line {index}" for index in range(200)], tokenizer)
    assert samples.shape == (4, 64)
    assert "documents are joined" in caplog.text
    assert "\n\nline" in tokenizer.decode(samples[0])


def test_a_text_file_is_one_text(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n".join(DOCUMENTS))
    samples = load(path, tokenizer, nsamples=20)
    assert all(is_crop(sample, path.read_text(), tokenizer) for sample in samples)
    assert len({tuple(sample.tolist()) for sample in samples}) > 10


def test_length_is_cut_to_the_context_and_that_is_said_once(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    text = ["a b " * 1000]
    with caplog.at_level(logging.WARNING):
        assert load(text, tokenizer, seqlen=600).shape == (4, 512)
    assert caplog.text.count("cut to 512") == 1
    assert load(text, tokenizer, seqlen=600, max_length=100).shape == (4, 100)
    assert load(text, tokenizer, seqlen=600, max_length=1000).shape == (4, 600)


def test_progress_bar_names_the_source(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    load(DOCUMENTS, tokenizer, progress=True)
    shown = capsys.readouterr().err
    assert "calibration the given texts" in shown
    assert "4/4" in shown


# --- named sources ------------------------------------------------------------------------------


def test_data_dir_stands_in_for_the_hub(tmp_path: Path, tokenizer: Any) -> None:
    write_jsonl(tmp_path / "web_text" / "train.jsonl", DOCUMENTS)
    write_jsonl(tmp_path / "wikitext" / "train.jsonl.gz", [" = Title = ", *DOCUMENTS])
    assert load("c4", tokenizer, data_dir=tmp_path).shape == (4, 64)
    samples = load("wikitext", tokenizer, data_dir=str(tmp_path), nsamples=50)
    # Joined: some crop spans two rows.
    assert any("\n\n" in tokenizer.decode(sample) for sample in samples)


@pytest.mark.parametrize(
    ("source", "file"), [("c4", "web_text/train.jsonl"), ("wikitext", "wikitext/train.jsonl")]
)
def test_a_data_dir_without_the_file_is_an_error(
    tmp_path: Path, tokenizer: Any, source: str, file: str
) -> None:
    # The test rows must never be what calibrates.
    write_jsonl(tmp_path / "wikitext" / "test.jsonl", DOCUMENTS)
    with pytest.raises(SettingsError, match=f"{file} does not exist"):
        load(source, tokenizer, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("source", "dataset", "local"),
    [("c4", "allenai/c4", "web_text"), ("wikitext", "Salesforce/wikitext", "wikitext")],
)
def test_without_network_the_way_out_is_told(
    tmp_path: Path,
    tokenizer: Any,
    source: str,
    dataset: str,
    local: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(SettingsError, match=f"{dataset}.*data_dir=DIR with {local}/train.jsonl"):
        load(source, tokenizer)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("c4", ("allenai/c4", {"train": "en/c4-train.00000-of-01024.json.gz"}, None)),
        ("wikitext", ("Salesforce/wikitext", None, "wikitext-2-raw-v1")),
    ],
)
def test_what_is_asked_of_the_hub(
    tokenizer: Any, source: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load_dataset(
        path: str, name: str | None = None, *, data_files: Any = None, split: str
    ) -> Any:
        asked.append((path, data_files, name))
        assert split == "train"
        return datasets.Dataset.from_dict({"text": DOCUMENTS})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load(source, tokenizer).shape == (4, 64)
    assert asked == [expected]


@pytest.mark.network
@pytest.mark.parametrize("source", ["c4", "wikitext"])
def test_the_hub_itself(tokenizer: Any, source: str) -> None:
    assert load(source, tokenizer).shape == (4, 64)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no such file"),
        ("c5", None, r"no such file; give one of c4, wikitext"),
        ("text.csv", b"a,b", r"must end in one of \.txt"),
        ("empty.jsonl", b"", "the file is empty"),
        ("empty.txt", b" \n\n ", "the file is empty"),
        ("blank.jsonl", b'{"text": ""}\n{"text": " "}\n', "holds no text"),
        ("latin.txt", "caf\u00e9 ".encode("latin-1") * 200, "not UTF-8"),
        ("latin.jsonl", '{"text": "caf\u00e9"}'.encode("latin-1"), "not UTF-8"),
        (
            "field.jsonl",
            b'{"text": "x"}\n{"content": "x"}',
            r"line 2: no string field 'text'.*content",
        ),
        ("number.jsonl", b'{"text": 3}', r"line 1: no string field 'text'"),
        ("list.jsonl", b"[1, 2]", r"line 1: no string field 'text' \(it has list"),
        ("broken.jsonl", b'{"text": "x"}\n\n{"text": ', "line 3: not JSON"),
        ("broken.jsonl.gz", b"not gzip", "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99)[:-20], "cannot be read"),
        ("short.txt", b"too short", r"\d+ tokens are too short for one .* of 64; lower seqlen"),
        ("short.jsonl", b'{"text": "too short"}', r"tokens are too short for one"),
    ],
)
def test_bad_files_are_named_with_a_remedy(
    tmp_path: Path, tokenizer: Any, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        load(str(path), tokenizer)
    assert str(path) in str(caught.value)


def test_bad_settings(tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match="nsamples=0"):
        load(DOCUMENTS, tokenizer, nsamples=0)
    with pytest.raises(SettingsError, match="nsamples='2': expected a whole number"):
        load(DOCUMENTS, tokenizer, nsamples="2")
    with pytest.raises(SettingsError, match="seqlen=0"):
        load(DOCUMENTS, tokenizer, seqlen=0)
    with pytest.raises(SettingsError, match=r"calibration\[1\] is 3"):
        load(["a", 3], tokenizer)
    with pytest.raises(SettingsError, match="no text"):
        load([], tokenizer)


def test_line_separators_inside_a_document_do_not_split_it(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "text.jsonl"
    row = json.dumps({"text": "a\u2028b\u0085c " * 100}, ensure_ascii=False)
    path.write_text(row + "\n", encoding="utf-8")
    assert load(path, tokenizer).shape == (4, 64)


def test_the_sample_data(data_dir: Path, stories_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories_model)
    samples = load_calibration(
        "c4", tokenizer, nsamples=16, seqlen=256, data_dir=data_dir, progress=False
    )
    assert samples.shape == (16, 256)
    assert int(samples.min()) >= 0
    assert int(samples.max()) < len(tokenizer)
