# SPDX-License-Identifier: Apache-2.0
"""Thoughts are cut before scoring, and stop strings count after them only."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text

from lmkick_plugin.inference import generation
from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.conftest import make_requests

THOUGHT = "<think>\nLet me see.\nHmm.\n</think>\n\nParis is it.\nMore."
TEMPLATE = "{{ messages[0]['content'] }}{% if enable_thinking %}<think>{% endif %}"
TOLD = {"enable_thinking": True, "think_end_token": "</think>"}


def says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let every model's greedy answer be this text, whether it is decoded here or by ``hf``."""

    def scripted(_model: Any, answers: Sequence[Any], _size: Any) -> Iterator[Any]:
        for answer in answers:
            for token in tokens:
                if not answer.complete:
                    answer.add(token)
            answer.complete = True
            yield answer

    def plain(lm: Any, requests: Sequence[Any], **_: Any) -> list[str]:
        cut = [lm.tok_decode(tokens[: one.args[1]["max_gen_toks"]]) for one in requests]
        for at, one in enumerate(requests):
            for stop in one.args[1]["until"]:
                cut[at] = cut[at].split(stop)[0]
            if isinstance(lm.think_end_token, int):
                cut[at] = cut[at].lstrip()
        return cut

    from tests.conftest import make_tiny_tokenizer

    tokens = make_tiny_tokenizer().encode(text, add_special_tokens=False)
    monkeypatch.setattr(generation, "decode", scripted)
    monkeypatch.setattr(HFLM, "generate_until", plain)


def as_hf(text: str, end: str | int) -> str:
    """What ``hf`` makes of an answer that its stop string, a new line, ended."""
    kept = text[: text.find("\n") + 1] or text
    return postprocess_generated_text(kept.lstrip(), ["\n"], None if end == 7 else str(end))


@pytest.fixture(params=[True, False], ids=["batched", "hf"])
def ask(request: pytest.FixtureRequest, tiny_model_dir: Path) -> Any:
    def answer(limit: int = 200, *, chat: bool = True, prompt: str = "Q", **how: Any) -> str:
        lm = KickLM(
            pretrained=str(tiny_model_dir), device="cpu", batch_size=2,
            prefix_reuse=request.param, **how,
        )  # fmt: skip
        lm.tokenizer.chat_template = TEMPLATE
        if chat:
            prompt = lm.apply_chat_template([{"role": "user", "content": prompt}])
        settings = {"until": ["\n"], "max_gen_toks": limit}
        (found,) = lm.generate_until(make_requests("generate_until", [(prompt, settings)]))
        return found

    return answer


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (THOUGHT, "Paris is it."),
        ("  \n" + THOUGHT, "Paris is it."),
        ("<think></think>Paris", "Paris"),
        ("<think>\na\nb", ""),  # thoughts that never end
        ("Paris.\nMore.", "Paris."),
        ("\nParis.", ""),  # as without thoughts: the stop string comes first
        ("<thin line>\nParis", "<thin line>"),
        ("Paris <think>\nno</think>", "Paris <think>"),
    ],
)
def test_under_a_chat_template(
    ask: Any, said: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, said)
    assert ask() == expected


@pytest.mark.parametrize("reuse", [True, False])
def test_thoughts_of_another_model_as_the_reference(
    reuse: bool, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, THOUGHT)
    if reuse:
        monkeypatch.setattr(HFLM, "generate_until", lambda *_, **__: pytest.fail("answered by hf"))
    folder = str(tiny_model_dir)
    lm = KickLM(
        pretrained=folder, reference=folder, compressor="magnitude", sparsity=0.5, device="cpu",
        batch_size=2, prefix_reuse=reuse,
    )  # fmt: skip
    lm.tokenizer.chat_template = TEMPLATE
    prompt = lm.apply_chat_template([{"role": "user", "content": "Q"}])
    settings = {"until": ["\n"], "max_gen_toks": 200}
    requests = make_requests("generate_until", [(prompt, settings)])
    assert lm.answer_as_dense(requests) == lm.generate_until(requests) == ["Paris is it."]


@pytest.mark.parametrize("how", [{"think_end_token": "</think>"}, TOLD])
def test_thoughts_that_the_prompt_opens(
    ask: Any, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, THOUGHT.removeprefix("<think>"))
    assert ask(**how) == "Paris is it."


def test_opened_thoughts_that_do_not_end_are_no_answer(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, "Let me see. Hmm, Paris?")
    assert ask(limit=10, **TOLD) == ""


ANSWERS = [
    "\nParis.\nMore.", "  Paris.\nMore.", "Paris", " \n\n", "Let me.\nSee.</think>Paris",
    "One</think>Two</think> Three\nFour",
]  # fmt: skip


@pytest.mark.parametrize("end", ["</think>", "[end]", 7])
def test_a_token_told_without_a_chat_template_is_as_in_hf(
    ask: Any, end: str | int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ANSWERS:
        says(monkeypatch, text)
        assert ask(chat=False, think_end_token=end) == as_hf(text, end), text
    assert not [one for one in caplog.messages if "thoughts" in one]


@pytest.mark.parametrize("end", ["</think>", "[end]", 7])
def test_presumed_thoughts_that_do_not_end_are_the_answer_as_in_hf(
    ask: Any, end: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in [text for text in ANSWERS if str(end) not in text]:
        says(monkeypatch, text)
        assert ask(think_end_token=end) == as_hf(text, end), text
    says(monkeypatch, "<think>\na\nb")  # thoughts beyond doubt
    assert isinstance(end, int) or ask(think_end_token=end) == ""


def test_unfinished_presumed_thoughts_are_said(
    ask: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    says(monkeypatch, "Let me see.")
    ask(think_end_token="</think>")
    assert "1 answers hold no think_end_token and are scored whole" in caplog.text


def test_without_a_chat_template_an_answer_is_what_it_was(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, THOUGHT)
    assert ask(chat=False) == "<think>"


def test_the_log_names_the_remedy(
    ask: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    says(monkeypatch, THOUGHT)
    with caplog.at_level(logging.WARNING, logger="lmkick_plugin"):
        ask()
        assert "1 answers began with thoughts" in caplog.text
        assert "enable_thinking=False" in caplog.text
        caplog.clear()
        ask(limit=12)
        assert "1 answers are empty because their thoughts exceeded 12" in caplog.text
        caplog.clear()
        says(monkeypatch, "Paris.")
        ask()
    assert "thoughts" not in caplog.text
