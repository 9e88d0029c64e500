# SPDX-License-Identifier: Apache-2.0
"""Windows of a long text are scored as a plain loop over transformers scores them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors import SettingsError
from lmkick_plugin.data.order import spread
from lmkick_plugin.inference.token_windows import (
    articles_of_windows,
    cut_windows,
    window_losses,
)
from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

TEXT = SENTENCE * 70  # 50 tokens each: 6 windows of 512 and a tail


def plain_loop(folder: Path, text: str, windows: int | None = None, *, bos: bool = True) -> float:
    """The definition, in ten lines of transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    token_ids = tokenizer(text, verbose=False, add_special_tokens=False).input_ids
    begin = [tokenizer.bos_token_id] if bos else []
    length = min(2048, model.config.max_position_embeddings) - len(begin)
    starts = [length * number for number in spread(len(token_ids) // length)[:windows]]
    losses = []
    for start in starts:
        window = torch.tensor([begin + token_ids[start : start + length]])
        with torch.no_grad():
            losses.append(model(window, labels=window).loss.item())
    return math.exp(sum(losses) / len(losses))


def perplexity(answer: dict[str, Any]) -> float:
    return math.exp(sum(answer["window_losses"]) / answer["windows"])


def ask(model: KickLM, text: str, **settings: Any) -> dict[str, Any]:
    settings = {"limit": None, "max_window": 2048, **settings}
    return model.windows(make_requests("windows", [(text, settings)]))[0]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> KickLM:
    return KickLM(pretrained=str(tiny_model_dir), device="cpu", batch_size=2)


def test_equals_a_plain_loop(model: KickLM, tiny_model_dir: Path) -> None:
    answer = ask(model, TEXT)
    assert perplexity(answer) == pytest.approx(plain_loop(tiny_model_dir, TEXT), rel=1e-5)
    assert answer["windows"] == 6
    assert answer["tokens"] == answer["windows"] * 511
    assert answer["nll"] == pytest.approx(sum(answer["window_losses"]) * 511)
    # Before-control: another text, or other windows, is another perplexity.
    assert perplexity(ask(model, TEXT[7:])) != pytest.approx(perplexity(answer), rel=1e-5)
    assert perplexity(ask(model, TEXT, max_window=300)) != pytest.approx(
        perplexity(answer), rel=1e-4
    )


def test_equals_a_plain_loop_on_a_trained_model(stories_model: Path, data_dir: Path) -> None:
    rows = (data_dir / "wikitext" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n\n".join(json.loads(row)["text"] for row in rows[:400])
    model = KickLM(pretrained=str(stories_model), device="cpu", batch_size=8)
    answer = ask(model, text, limit=24)
    assert answer["windows"] == 24
    assert perplexity(answer) == pytest.approx(plain_loop(stories_model, text, 24), rel=1e-4)


def test_bos_begins_every_window_or_none(stories_model: Path, data_dir: Path) -> None:
    rows = (data_dir / "wikitext" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n\n".join(json.loads(row)["text"] for row in rows[:400])
    expected = {bos: plain_loop(stories_model, text, 8, bos=bos) for bos in (True, False)}
    assert expected[True] != pytest.approx(expected[False], rel=1e-3)
    for of_model, of_task, bos in (
        ("auto", "auto", True), ("auto", "never", False), ("never", "auto", False),
        ("never", "always", True), ("always", "auto", True),
    ):  # fmt: skip
        model = KickLM(pretrained=str(stories_model), device="cpu", batch_size=8, bos=of_model)
        answer = ask(model, text, limit=8, bos=of_task)
        assert (perplexity(answer), answer["bos"]) == (
            pytest.approx(expected[bos], rel=1e-4),
            bos,
        ), (of_model, of_task)


def test_a_tokenizer_that_adds_no_bos_stays_without(model: KickLM) -> None:
    plain = KickLM(
        pretrained=model.model, tokenizer=model.tokenizer, batch_size=2, add_bos_token=False
    )
    answer = ask(plain, TEXT)
    assert (answer["windows"], answer["bos"]) == (6, False)
    assert ask(plain, TEXT, bos="always")["bos"]
    assert plain.get_model_info()["kick"]["bos"] == "auto"


def test_batches_and_chunks_make_no_difference(
    model: KickLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = ask(model, TEXT)["window_losses"]
    monkeypatch.setattr("lmkick_plugin.inference.token_windows._POSITIONS_AT_ONCE", 7)
    monkeypatch.setattr(model, "batch_size_per_gpu", 5)
    assert ask(model, TEXT)["window_losses"] == pytest.approx(losses, rel=1e-6)


def test_automatic_batch_size(model: KickLM, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = ask(model, TEXT)["window_losses"]
    monkeypatch.setattr(model, "batch_size_per_gpu", "auto")
    monkeypatch.setattr(model, "max_batch_size", 4)
    assert ask(model, TEXT)["window_losses"] == pytest.approx(losses, rel=1e-6)


def test_processes_share_the_windows(model: KickLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ask(model, TEXT)["window_losses"]
    shares = []
    for rank in range(4):
        monkeypatch.setattr(model, "_rank", rank)
        monkeypatch.setattr(model, "_world_size", 4)
        shares.append(ask(model, TEXT)["window_losses"])
    assert [len(share) for share in shares] == [2, 2, 1, 1]
    assert shares[1] == pytest.approx(whole[1::4])


def test_limit_counts_windows_of_all_processes(
    model: KickLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask(model, TEXT)["window_losses"]
    assert ask(model, TEXT, limit=3)["window_losses"] == pytest.approx(whole[:3])
    assert ask(model, TEXT, limit=999)["windows"] == len(whole)
    monkeypatch.setattr(model, "_rank", 3)
    monkeypatch.setattr(model, "_world_size", 4)
    assert ask(model, TEXT, limit=3) == {
        "nll": 0,
        "tokens": 0,
        "windows": 0,
        "bos": True,
        "window_losses": [],
        "window_clusters": [],
    }


def test_softmax_is_float32_for_a_bfloat16_model() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 40, 1000, generator=generator) * 3).bfloat16()
    token_ids = torch.randint(0, 1000, (2, 40), generator=generator)
    exact = torch.log_softmax(logits.double(), dim=-1)
    coarse = torch.log_softmax(logits, dim=-1)
    rows = torch.arange(39)

    def loss(scores: torch.Tensor, sample: int) -> float:
        return -float(scores[sample, rows, token_ids[sample, 1:]].double().mean())

    got = window_losses(logits, token_ids)
    for sample in range(2):
        assert float(got[sample]) == pytest.approx(loss(exact, sample), rel=1e-6)
        assert loss(coarse, sample) != pytest.approx(loss(exact, sample), rel=1e-6)


def test_windows_belong_to_the_article_of_their_middle(tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    pages = [SENTENCE * 8, SENTENCE * 3, SENTENCE * 9]
    starts = [0, len(pages[0]), len(pages[0] + pages[1])]
    articles = list(zip("abc", starts, strict=True))
    text = "".join(pages)
    encoding = tokenizer(text)
    found = articles_of_windows(encoding, text, 100, articles)
    expected = []
    for number in spread(len(encoding.input_ids) // 100):
        ids = encoding.input_ids[: number * 100 + 51]
        read = len(tokenizer.decode(ids, skip_special_tokens=True).rstrip())
        expected.append("abc"[sum(start < read for start in starts) - 1])
    assert found == expected
    assert set(found) == {"a", "b", "c"}

    class Slow:
        input_ids, is_fast = encoding.input_ids, False

    assert articles_of_windows(Slow, text, 100, articles) == expected


def test_every_window_has_its_article(model: KickLM) -> None:
    articles = [("first", 0), ("second", len(TEXT) // 2)]
    whole = ask(model, TEXT, articles=articles)
    assert sorted(whole["window_clusters"]) == ["first"] * 3 + ["second"] * 3
    part = ask(model, TEXT, articles=articles, limit=2)
    assert part["window_clusters"] == ["first", "second"]  # spread over the text
    assert part["window_losses"] == pytest.approx(whole["window_losses"][:2])


def test_tail_is_dropped() -> None:
    assert cut_windows(list(range(11)), 5, None).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_text_too_short_for_a_window(model: KickLM) -> None:
    with pytest.raises(SettingsError, match=r"has 50 tokens, fewer than one window of 512"):
        ask(model, SENTENCE)


@pytest.mark.parametrize("settings", [{"limit": 0}, {"max_window": 1}])
def test_senseless_settings(model: KickLM, settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="at least"):
        ask(model, TEXT, **settings)
