# SPDX-License-Identifier: Apache-2.0
"""Conversations of a real model, and answers that would be longer than its context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from lmkick_plugin.inference import truncation
from lmkick_plugin.inference.truncation import fit_generation
from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

GENERATION = {"until": ["zz"], "max_gen_toks": 12, "do_sample": False}
CPU: dict[str, Any] = {"device": "cpu", "batch_size": 2}
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> KickLM:
    return KickLM(pretrained=str(tiny_model_dir), **CPU)


class Hook:
    """A cache of answers that only notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def add_partial(self, *args: Any) -> None:
        self.seen.append(args)


def conversations(count: int, **settings: Any) -> list[Any]:
    arguments = []
    for number in range(count):
        turns = [f"{number}. {SENTENCE * (number + 1)}", f"And {number}?"]
        given = {"turns": turns, "system": None, "chat_template": False, **settings}
        arguments.append((f"{turns[0]}\n\n", {**given, "generation": GENERATION}))
    return make_requests("turns", arguments)


def one_by_one(model: KickLM, prompt: str) -> str:
    (answer,) = model.generate_until(
        make_requests("generate_until", [(prompt, GENERATION)]), disable_tqdm=True
    )
    return answer


def test_turns_are_generate_until_twice(model: KickLM) -> None:
    requests = conversations(5)
    answers = model.turns(requests)
    for request, (first, second) in zip(requests, answers, strict=True):
        prompt, settings = request.args
        assert first == one_by_one(model, prompt)
        assert second == one_by_one(model, f"{prompt}{first}\n\n{settings['turns'][1]}\n\n")
        assert second != one_by_one(model, f"{settings['turns'][1]}\n\n"), "the first turn counts"
    assert len({first for first, _ in answers}) > 1


def test_turns_in_the_models_chat_template(model: KickLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", TEMPLATE)
    requests = conversations(2, chat_template=True, system="Be brief.")
    monkeypatch.setattr(model, "chat_template_used", False)
    answers = model.turns(requests)
    assert model.chat_template_used
    for request, (first, second) in zip(requests, answers, strict=True):
        one, two = request.args[1]["turns"]
        prompt = f"<system>Be brief.<user>{one}<assistant>{first}<user>{two}<assistant>"
        assert first == one_by_one(model, request.args[0])
        assert second == one_by_one(model, prompt)


def test_a_conversation_that_is_cut_counts_once(model: KickLM) -> None:
    model.start_evaluation()
    requests = conversations(2)
    text = SENTENCE * 12
    long = {**requests[1].args[1], "turns": [text, text]}
    requests[1].arguments = (f"{text}\n\n", long)
    model.turns(requests)
    assert model.truncated_prompts == {"task": 1}


def test_conversations_of_different_lengths(model: KickLM) -> None:
    requests = conversations(3)
    requests[1].args[1]["turns"].append("A third?")
    assert [len(answers) for answers in model.turns(requests)] == [2, 3, 2]
    assert model.turns([]) == []


def test_answers_as_long_as_the_context_are_shortened_and_that_is_said(
    model: KickLM, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truncation._log_shortened.cache_clear()
    long = [(SENTENCE, {"until": [], "max_gen_toks": 1024, "do_sample": False})] * 2
    half = [(SENTENCE, {"until": [], "max_gen_toks": 256, "do_sample": False})]
    with pytest.raises(AssertionError, match="1024"):
        HFLM(pretrained=str(tiny_model_dir), **CPU).generate_until(
            make_requests("generate_until", long), disable_tqdm=True
        )
    requests = make_requests("generate_until", long)
    answers = model.generate_until(requests, disable_tqdm=True)
    expected = model.generate_until(make_requests("generate_until", half), disable_tqdm=True)
    assert answers == expected * 2
    said = [text for text in caplog.messages if "limited to 256" in text]
    assert said == [
        "task: answers of up to 1024 tokens do not fit a context of 512; limited to 256."
    ]
    assert requests[0].args[1]["max_gen_toks"] == 1024, "samples say what was asked for"


@pytest.mark.parametrize(("wanted", "given"), [(511, 511), (512, 256), (None, None)])
def test_only_what_cannot_be_is_shortened(wanted: int | None, given: int | None) -> None:
    settings = {"until": []} if wanted is None else {"max_gen_toks": wanted}
    (request,) = fit_generation(make_requests("generate_until", [("a", settings)]), 512)
    assert request.args[1].get("max_gen_toks") == given


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize(
    "limit",
    [{}, *({name: 1024} for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"))],
)
def test_a_limit_of_any_name_is_shortened(
    limit: dict[str, int], reuse: bool, tiny_model_dir: Path
) -> None:
    small: dict[str, Any] = {"pretrained": str(tiny_model_dir), "max_length": 200, **CPU}
    requests = make_requests("generate_until", [(SENTENCE, {"until": [], **limit})])
    with pytest.raises(AssertionError, match=r"must be less than .* \(200\)"):
        HFLM(**small).generate_until(requests, disable_tqdm=True)
    given = make_requests("generate_until", [(SENTENCE, {"until": [], "max_gen_toks": 100})])
    expected = HFLM(**small).generate_until(given, disable_tqdm=True)
    model = KickLM(**small, prefix_reuse=reuse)
    assert model.generate_until(requests, disable_tqdm=True) == expected


def test_answers_as_before_compression(tiny_model_dir: Path) -> None:
    arguments = {"pretrained": str(tiny_model_dir), **CPU}
    dense = KickLM(**arguments)
    pruned = KickLM(**arguments, compressor="magnitude", sparsity=0.7)
    assert (dense.is_dense, pruned.is_dense) == (True, False)
    prompts = [(f"{number}. {SENTENCE}", GENERATION) for number in range(3)]
    for kind, requests in (
        ("generate_until", make_requests("generate_until", prompts)),
        ("turns", conversations(3)),
    ):
        expected = getattr(dense, kind)(requests)
        before = getattr(pruned, kind)(requests)
        assert before != expected
        hook = pruned.cache_hook = Hook()
        assert pruned.answer_as_dense(requests) == expected
        assert hook.seen == [], "the compressed model's cache of answers sees none of it"
        assert getattr(pruned, kind)(requests) == before
        assert hook.seen


@pytest.mark.parametrize("kind", ["generate_until", "turns"])
def test_a_reference_answers_as_when_it_is_evaluated(
    kind: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from tests.conftest import make_tiny_llama, make_tiny_tokenizer

    make_tiny_llama(seed=1).save_pretrained(tmp_path)
    make_tiny_tokenizer().save_pretrained(tmp_path)
    if kind == "turns":
        requests = conversations(2)
        for one in requests:
            one.args[1]["generation"] = {**GENERATION, "max_gen_toks": 1024}
    else:
        limit = {**GENERATION, "max_new_tokens": 1024}
        limit.pop("max_gen_toks")
        requests = make_requests("generate_until", [(SENTENCE * 3, limit)])
    expected = getattr(KickLM(pretrained=str(tmp_path), max_length=200, **CPU), kind)(requests)
    model = KickLM(
        pretrained=str(tiny_model_dir), reference=str(tmp_path), max_length=200,
        compressor="magnitude", sparsity=0.5, **CPU,
    )  # fmt: skip
    assert model.answer_as_dense(requests) == expected
    assert getattr(model, kind)(requests) != expected


def test_a_reference_of_a_longer_context_has_the_models(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    from tests.conftest import make_tiny_llama, make_tiny_tokenizer

    longer = make_tiny_llama(seed=1)
    longer.config.max_position_embeddings = 1024
    longer.save_pretrained(tmp_path)
    make_tiny_tokenizer().save_pretrained(tmp_path)
    limit = {**GENERATION, "max_gen_toks": 700}  # half of a context of 512
    requests = make_requests("generate_until", [(SENTENCE, limit)])
    other = {"pretrained": str(tmp_path), **CPU}
    half, whole = [
        KickLM(**other, **how).generate_until(requests) for how in ({"max_length": 512}, {})
    ]
    model = KickLM(
        pretrained=str(tiny_model_dir), reference=str(tmp_path), compressor="magnitude",
        sparsity=0.5, **CPU,
    )  # fmt: skip
    assert model.answer_as_dense(requests) == half != whole


def test_a_model_given_as_an_object_has_no_dense_answers(tiny_model_dir: Path) -> None:
    from tests.conftest import make_tiny_llama, make_tiny_tokenizer

    model = KickLM(
        pretrained=make_tiny_llama(),
        tokenizer=make_tiny_tokenizer(),
        compressor="magnitude",
        sparsity=0.5,
        **CPU,
    )
    assert "as an object" in str(model.dense_problem)
    assert KickLM(pretrained=str(tiny_model_dir), **CPU).dense_problem is None
