# SPDX-License-Identifier: Apache-2.0
"""``generate_until`` of the running batch against that of ``hf``, one prompt at a time."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lm_eval.models.huggingface import HFLM

from lmkick_plugin.inference import continuous_batching, generation
from lmkick_plugin.inference.batch_cache import RowCache
from lmkick_plugin.model import KickLM
from tests.conftest import make_tiny_tokenizer
from tests.lmkick_plugin.conftest import SENTENCE, make_requests
from tests.tiny_models import make

#: Where float64 does not work (or padding does not, in float64).
FLOAT32 = ("gemma2", "qwen3_moe")
RUNNING = ("llama", "gpt2", "opt", "gpt_neox", "qwen3", "gemma", "falcon_alibi", *FLOAT32)
UNTIL = (["\n"], ["e"], [" A", "x"], ["ab", "b", "bc"], [], ["o q", " "], "h", ["</s>"])


def some_requests(count: int = 20, seed: int = 0, longest: int = 90) -> list[Any]:
    draw = random.Random(seed)
    arguments = []
    for _ in range(count):
        start = draw.randrange(20)
        text = (SENTENCE * 4)[start : start + draw.randrange(1, longest)]
        settings = {"until": draw.choice(UNTIL), "max_gen_toks": draw.choice((1, 6, 16))}
        arguments.append((text, settings))
    return make_requests("generate_until", arguments)


def answers(model: HFLM, requests: list[Any]) -> list[str]:
    found: list[str] = model.generate_until(requests, disable_tqdm=True)
    return found


@pytest.fixture
def refuse_hf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever falls back to ``hf`` fails."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("answered by hf")

    monkeypatch.setattr(HFLM, "generate_until", refuse)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    generation._say_plain.cache_clear()
    with caplog.at_level(logging.INFO, logger="lmkick_plugin"):
        yield caplog


def both(family: str, batch_size: int, **how: Any) -> tuple[KickLM, HFLM]:
    dtype = torch.float32 if family in FLOAT32 else torch.float64
    given = {"tokenizer": make_tiny_tokenizer(), "max_length": 128, **how}
    model = make(family, dtype=dtype)
    hf = HFLM(pretrained=model, batch_size=1, **given)
    return KickLM(pretrained=model, batch_size=batch_size, **given), hf


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the beginnings that were read once; 32 saved tokens are worth it."""
    monkeypatch.setattr(continuous_batching, "WORTH_TOKENS", 32)
    repeat, lengths = RowCache.repeat, []

    def counting(cache: RowCache, *arguments: Any) -> None:
        lengths.append(arguments[2])
        repeat(cache, *arguments)

    monkeypatch.setattr(RowCache, "repeat", counting)
    return lengths


@pytest.mark.parametrize(
    ("family", "batch_size"), [*zip(RUNNING, (4, 3, 8, 1, 5, 7, 2, 6, 4), strict=True)]
)
def test_answers_are_those_of_hf_one_at_a_time(
    family: str, batch_size: int, repeated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kick, hf = both(family, batch_size)
    shared = SENTENCE + "And so it was that "
    tails = [("what" * (n % 3) + " happened"[: 2 * n], UNTIL[n % 5]) for n in range(1, 7)]
    requests = some_requests() + make_requests(
        "generate_until",
        [(shared + tail, {"until": until, "max_gen_toks": 9}) for tail, until in tails],
    )
    if family == "gemma2":  # its window: 8 tokens
        requests = make_requests(
            "generate_until", [("ab"[: n % 3], {"until": ["e"], "max_gen_toks": 3}) for n in (1, 2)]
        )
    expected = answers(hf, requests)
    assert family == "gemma2" or len({len(answer) for answer in expected}) > 3
    monkeypatch.setattr(HFLM, "generate_until", lambda *_, **__: pytest.fail("hf answered"))
    assert answers(kick, requests) == expected
    assert bool(repeated) is (family != "gemma2")


@pytest.mark.parametrize(
    ("family", "reason"),
    [("mistral", "window"), ("jamba", "Linear"), ("phi3", "brings its own"), ("gemma3n", "window")],
)
def test_models_without_a_plain_cache_go_to_hf_and_it_is_said_once(
    family: str, reason: str, said: pytest.LogCaptureFixture
) -> None:
    model = make(family)
    tokenizer = make_tiny_tokenizer()
    kick = KickLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=128)
    hf = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=128)
    requests = some_requests(6)
    assert answers(kick, requests) == answers(hf, requests)
    assert answers(kick, requests[:1])
    lines = [
        entry.getMessage()
        for entry in said.records
        if "by lm-eval's hf model" in entry.getMessage()
    ]
    assert len(lines) == len(set(lines))
    assert any(reason in line for line in lines)


def test_models_whose_positions_count_padding_go_to_hf(said: pytest.LogCaptureFixture) -> None:
    config = transformers.TrOCRConfig(
        vocab_size=128, d_model=64, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=96,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0, init_std=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.TrOCRForCausalLM(config).eval()
    given = {"tokenizer": make_tiny_tokenizer(), "max_length": 120, "backend": "causal"}
    kick = KickLM(pretrained=model, batch_size=4, **given)
    hf = HFLM(pretrained=model, batch_size=4, **given)
    requests = some_requests()
    assert answers(kick, requests) == answers(hf, requests)
    assert "its positions count the padding" in said.text


def test_rows_within_the_window_stay_here() -> None:
    kick, hf = both("mistral", 4)
    kick.model.config.sliding_window = hf.model.config.sliding_window = 40
    requests = some_requests(12, longest=60)
    assert answers(kick, requests) == answers(hf, requests)


def test_rows_that_fill_the_window_share_their_beginning(
    repeated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kick, hf = both("mistral", 4)
    texts = [SENTENCE + "And so it was that " + "what" * (n % 3) + "!?"[: n % 2] for n in range(6)]
    requests = make_requests(
        "generate_until", [(text, {"until": UNTIL[1], "max_gen_toks": 9}) for text in texts]
    )
    longest = max(len(kick.tok_encode(text)) for text in texts)
    kick.model.config.sliding_window = hf.model.config.sliding_window = longest + 9
    expected = answers(hf, requests)
    monkeypatch.setattr(HFLM, "generate_until", lambda *_, **__: pytest.fail("hf answered"))
    assert answers(kick, requests) == expected
    assert repeated


SAMPLED = {"do_sample": True, "temperature": 0.8, "until": ["\n"], "max_gen_toks": 8}


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_samples_depend_on_the_seed_and_not_on_the_batch(family: str, refuse_hf: None) -> None:
    once = make_requests("generate_until", [(SENTENCE[:at], SAMPLED) for at in (9, 20, 31)])
    requests = [one for one in once for _ in range(10)]
    found = {}
    for seed, batch_size in ((0, 1), (0, 4), (0, 12), (1, 4)):
        kick, _ = both(family, batch_size)
        if family == "mistral":
            kick.model.config.sliding_window = 128  # no row outgrows it
        torch.manual_seed(seed)
        torch.rand(batch_size)  # what was drawn before does not matter
        found[seed, batch_size] = answers(kick, some_requests(5) + requests)
    assert found[0, 1] == found[0, 4] == found[0, 12]
    assert len(set(found[0, 1][5:15])) > 5
    assert found[1, 4][:5] == found[0, 4][:5]  # greedy
    assert found[1, 4][5:] != found[0, 4][5:]


@pytest.mark.parametrize("further", [{}, {"top_k": 3}, {"top_p": 0.5, "top_k": 0}])
def test_samples_are_distributed_as_in_hf(further: dict[str, Any], refuse_hf: None) -> None:
    kick, hf = both("llama", 64)
    prompt, count = SENTENCE[:8], 800
    tokens = torch.tensor([hf.tok_encode(prompt)])
    spread = hf.model(tokens).logits[0, -1].std().item()
    kick.model.lm_head.weight.data *= 1.5 / spread  # neither sure nor without a preference
    settings = {**SAMPLED, **further, "until": [], "max_gen_toks": 1}
    found = Counter(answers(kick, make_requests("generate_until", [(prompt, settings)] * count)))

    def shares(temperature: float) -> dict[str, float]:
        output: Any = hf._model_generate(
            tokens, tokens.shape[1] + 1, [], attention_mask=torch.ones_like(tokens),
            do_sample=True, temperature=temperature, return_dict_in_generate=True,
            output_scores=True, **further,
        )  # fmt: skip
        every = output.scores[0][0].softmax(dim=0).tolist()
        return {hf.tok_decode([token]): share for token, share in enumerate(every) if share}

    def apart(temperature: float) -> float:
        expected = shares(temperature)
        assert set(found) <= set(expected)
        return sum(abs(found[text] / count - share) for text, share in expected.items()) / 2

    assert len(found) > 1
    expected_of_chance = (len(found) / (2 * torch.pi * count)) ** 0.5
    assert apart(0.8) < 1.5 * expected_of_chance
    assert apart(0.8) < apart(1.6)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("repetition_penalty", 1.3, "RepetitionPenalty"),
        ("max_new_tokens", 3, "limits answers to 3"),
        ("num_beams", 2, "more than greedy decoding or sampling"),
    ],
)
def test_a_generation_config_with_more_in_it_goes_to_hf(
    name: str, value: Any, reason: str, said: pytest.LogCaptureFixture
) -> None:
    kick, hf = both("llama", 1)
    requests = some_requests(5)
    without = answers(kick, requests)
    setattr(kick.model.generation_config, name, value)
    assert answers(kick, requests) == answers(hf, requests)
    assert reason in said.text
    assert name == "num_beams" or answers(hf, requests) != without


def test_other_tokens_that_end_answers(refuse_hf: None) -> None:
    kick, _ = both("llama", 4)
    settings = {"until": [], "max_gen_toks": 20}
    requests = make_requests("generate_until", [(SENTENCE[:at], settings) for at in range(5, 15)])
    wholes = answers(kick, requests)
    example = max(wholes, key=lambda whole: len(set(whole)))
    ending = max(example, key=example.index)  # the character that comes last for the first time
    assert example.index(ending) > 1
    kick.model.generation_config.eos_token_id = [2, *kick.tokenizer.encode(ending)[1:]]
    cut = [whole[: whole.find(ending) + 1] if ending in whole else whole for whole in wholes]
    assert answers(kick, requests) == cut


@pytest.mark.parametrize("think_end_token", [40, "D"])
def test_stop_strings_count_after_the_thoughts(think_end_token: int | str) -> None:
    """In ``hf`` they end an answer within them, and so they do here without a chat template."""
    kick, hf = both("llama", 3, think_end_token=think_end_token)
    requests = some_requests(20)
    stopped = answers(hf, requests)
    assert answers(kick, requests) == stopped
    kick.chat_template_used = True
    found = answers(kick, requests)
    assert found != stopped
    hf.think_end_token = None
    end = hf.tok_decode([think_end_token]) if isinstance(think_end_token, int) else think_end_token
    bare = [(one.args[0], {**one.args[1], "until": []}) for one in requests]
    expected, endless = [], 0
    for request, raw, early in zip(
        requests, answers(hf, make_requests("generate_until", bare)), stopped, strict=True
    ):
        endless += end not in raw
        answer = raw.partition(end)[2].lstrip() if end in raw else early
        for stop in request.args[1]["until"]:
            answer = answer.split(stop)[0] if stop else answer
        expected.append(answer)
    assert found == expected
    assert 0 < endless < len(requests)
    kick.think_end_token = None
    assert answers(kick, requests) != found


def test_long_prompts_are_cut_and_counted_as_in_hf() -> None:
    kick, hf = both("llama", 3)
    arguments = [(SENTENCE * count, {"until": ["\n"], "max_gen_toks": 9}) for count in (1, 3, 5)]
    requests = make_requests("generate_until", [*arguments, arguments[-1]])
    assert answers(kick, requests) == answers(hf, requests)
    assert kick.truncated_prompts == {"task": 3}


def test_prompts_that_begin_with_the_bos_token() -> None:
    kick, hf = both("llama", 4)
    settings = {"until": [], "max_gen_toks": 6}
    requests = make_requests("generate_until", [("<s>" + SENTENCE, settings), (SENTENCE, settings)])
    assert answers(kick, requests) == answers(hf, requests)


class Hook:
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, str]] = []

    def add_partial(self, kind: str, arguments: Any, answer: str) -> None:
        self.seen.append((kind, arguments, answer))


def test_every_request_reaches_the_cache_of_answers_and_equal_ones_cost_once() -> None:
    kick, _ = both("llama", 4)
    requests = some_requests(5)
    twice = requests + requests
    hook = Hook()
    kick.cache_hook = hook  # type: ignore[assignment]
    passes: list[int] = []
    kick.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: passes.append(kwargs["input_ids"].shape[0]),
        with_kwargs=True,
    )
    found = answers(kick, twice)
    rows = sum(passes)
    assert found[:5] == found[5:]
    given = sorted(
        (repr(request.args), answer) for request, answer in zip(twice, found, strict=True)
    )
    assert sorted((repr(args), answer) for _, args, answer in hook.seen) == given
    passes.clear()
    answers(kick, requests)
    assert sum(passes) == rows


def test_without_reuse_it_is_hf(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"pretrained": str(tiny_model_dir), "device": "cpu", "batch_size": 3}
    kick = KickLM(prefix_reuse=False, **settings)
    requests = some_requests(8)
    expected = answers(HFLM(**settings), requests)
    monkeypatch.setattr(generation, "generate_until", None)
    assert answers(kick, requests) == expected


@pytest.mark.parametrize(
    ("batch_size", "error"),
    [
        (8, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
        ("auto", RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")),
    ],
)
def test_out_of_memory_in_the_run(
    batch_size: int | str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    kick, hf = both("llama", 8)
    kick.batch_size_per_gpu = batch_size
    requests = some_requests(14)
    most: list[int] = []

    def small(_module: Any, _args: Any, kwargs: Any) -> None:
        rows = kwargs["input_ids"].shape[0]
        if rows > 3:
            raise error
        most.append(rows)

    expected = answers(hf, requests)
    kick.model.register_forward_pre_hook(small, with_kwargs=True)
    with caplog.at_level(logging.INFO, logger="lmkick_plugin"):
        assert answers(kick, requests) == expected
    assert max(most) in (2, 3)
    warned = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
    assert len([entry for entry in warned if "batch_size=8" in entry.getMessage()]) == (
        1 if batch_size == 8 else 0
    )


def test_empty_answers_of_a_chat_model_hint_at_its_template(
    said: pytest.LogCaptureFixture,
) -> None:
    model, _ = both("llama", 4)
    model._hint_at_template(["", " ", "a"])
    model.tokenizer.chat_template = "{{ messages }}"
    model._hint_at_template(["", "a", "b"])
    assert "chat template" not in said.text
    model._hint_at_template(["", " ", "a"])
    assert "2 of 3 answers are empty" in said.text
    said.clear()
    model.chat_template_used = True
    model._hint_at_template(["", " ", "a"])
    assert said.text == ""
