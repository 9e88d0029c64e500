# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods are those of ``hf`` and of a plain loop, with less computed."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from compressors import SettingsError
from lmkick_plugin.inference import prefix_cache, runner, scored_positions, scoring
from lmkick_plugin.inference.hf import FastHFLM
from lmkick_plugin.inference.token_windows import score_windows
from lmkick_plugin.metrics import rows
from lmkick_plugin.model import KickLM
from tests.conftest import make_tiny_tokenizer
from tests.tiny_models import make

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

Tokens = tuple[Any, list[int], list[int]]

#: Families whose every layer keeps keys and values, over all tokens or a window of 8.
SHARED = (
    "llama", "mistral", "qwen3", "gemma2", "gemma3", "gemma3n", "opt", "gpt_neox", "gpt2", "phi3",
    "falcon_alibi", "bloom", "mixtral", "gpt_oss", "deepseek_v3",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """lm-eval warns about models given as objects."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def evaluator(model: Any, kind: type[HFLM] = FastHFLM, **settings: Any) -> Any:
    lm = kind(
        pretrained=model,
        tokenizer=make_tiny_tokenizer(),
        **{"batch_size": 4, "softmax_dtype": "float32", "max_length": 90, **settings},
    )
    if kind is FastHFLM:
        lm.prefix_reuse = True
    return lm


def random_requests(seed: int = 0, questions: int = 14) -> list[Tokens]:
    """Questions after shared shots; choices of one token and of several; some too long."""
    rng = random.Random(seed)

    def text(low: int, high: int) -> list[int]:
        return [rng.randrange(3, 128) for _ in range(rng.randrange(low, high))]

    shots = [text(30, 60), text(20, 30), []]
    found: list[Tokens] = []
    for number in range(questions):
        question = rng.choice(shots) + text(1, 10) + (text(50, 60) if number % 7 == 0 else [])
        choices = [text(1, 2) for _ in range(3)] if number % 2 else [text(1, 6) for _ in range(3)]
        choices.append([*choices[-1][:-1], 5])
        found += [((str(number), str(choice)), question, choice) for choice in choices]
    return found


def score(lm: Any, requests: list[Tokens]) -> list[tuple[float, bool]]:
    answers: list[tuple[float, bool]] = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    return answers


def plain_loop(model: Any, requests: list[Tokens], longest: int) -> list[tuple[float, bool]]:
    """One request at a time, all of it, in float32."""
    found = []
    for _, context, continuation in requests:
        tokens = torch.tensor([(context + continuation)[-(longest + 1) :]])
        with torch.no_grad():
            logits = model(tokens[:, :-1], use_cache=False).logits[0, -len(continuation) :]
        scores = torch.log_softmax(logits.float(), dim=-1)
        targets = tokens[0, -len(continuation) :]
        picked = scores[torch.arange(len(targets)), targets]
        found.append((float(picked.sum()), bool((scores.argmax(-1) == targets).all())))
    return found


def furthest(one: list[tuple[float, bool]], other: list[tuple[float, bool]]) -> float:
    assert [greedy for _, greedy in one] == [greedy for _, greedy in other]
    return max(abs(a - b) for (a, _), (b, _) in zip(one, other, strict=True))


@pytest.mark.parametrize("family", SHARED)
def test_equals_hf_and_a_plain_loop(family: str) -> None:
    model = make(family)
    requests = random_requests()
    lm = evaluator(model)
    answers = score(lm, requests)
    # Whatever follows a wrong prefix differs by far more: 0.1 and above in these models.
    assert furthest(answers, plain_loop(model, requests, 90)) < 1e-4
    assert furthest(answers, score(evaluator(model, HFLM), requests)) < 1e-4
    assert lm.scorer.tokens["computed"] < 0.6 * lm.scorer.tokens["plain"]


_SMALL: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "shared"),
    [
        # Attention within chunks; logits that are scaled; linear attention between layers of keys.
        (
            "Llama4TextConfig",
            {
                "intermediate_size_mlp": 96, "attention_chunk_size": 8, "num_local_experts": 2,
                "no_rope_layers": [1, 1, 1, 0],
            },
            (8, 8, 8, None),
        ),
        ("GraniteConfig", {"logits_scaling": 4.0}, (None,) * 4),
        (
            "Qwen3NextConfig",
            {
                "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
                "linear_value_head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
            },
            None,
        ),
    ],
)  # fmt: skip
def test_layers_of_other_kinds(
    kind: str, settings: dict[str, Any], shared: tuple[int | None, ...] | None
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**_SMALL, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    requests = random_requests(questions=8)
    lm = evaluator(model)
    assert furthest(score(lm, requests), plain_loop(model, requests, 90)) < 1e-4
    assert lm.scorer.runner()._windows == shared


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_a_wrong_prefix_would_show(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(family)
    requests = random_requests()
    right = plain_loop(model, requests, 90)
    make_prefix = prefix_cache.new_prefix

    def backwards(cache: Any, length: int) -> prefix_cache.Prefix:
        prefix = make_prefix(cache, length)
        layers = [[(key, value.flip(2)) for key, value in layer] for layer in prefix.layers]
        return prefix_cache.Prefix(length, tuple(map(tuple, layers)))

    monkeypatch.setattr(runner, "new_prefix", backwards)
    monkeypatch.setattr(runner.Runner, "agrees", lambda *_: True)
    wrong = score(evaluator(model), requests)
    assert max(abs(a[0] - b[0]) for a, b in zip(right, wrong, strict=True)) > 0.01


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_bfloat16_is_as_close_as_hf_with_another_batch_size(family: str) -> None:
    model = make(family, dtype=torch.bfloat16)
    requests = random_requests()
    exact = plain_loop(make(family), requests, 90)

    def error(answers: list[tuple[float, bool]]) -> float:
        return sum(abs(a[0] - b[0]) for a, b in zip(exact, answers, strict=True)) / len(exact)

    ours = error(score(evaluator(model), requests))
    plain = error(score(evaluator(model, HFLM), requests))
    # Both miss what float32 finds, by the rounding of bfloat16, and about equally.
    assert 0 < ours < 1.5 * plain


@pytest.mark.parametrize("seed", range(6))
def test_random_requests(seed: int) -> None:
    model = make("qwen3", seed=seed)
    requests = random_requests(seed, questions=9)
    lm = evaluator(model, batch_size=1 + seed)
    assert furthest(score(lm, requests), plain_loop(model, requests, 90)) < 1e-4
    again = evaluator(model, batch_size=1 + seed)
    shuffled = random.Random(seed).sample(requests, len(requests))
    expected = dict(zip(map(repr, requests), score(lm, requests), strict=True))
    assert score(again, shuffled) == [expected[repr(request)] for request in shuffled]


@pytest.mark.parametrize("family", ["jamba", "mamba"])
def test_recurrent_states_are_not_reused(family: str, caplog: pytest.LogCaptureFixture) -> None:
    if family == "mamba":
        from transformers import MambaConfig, MambaForCausalLM

        torch.manual_seed(0)
        config = MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4)
        model: Any = MambaForCausalLM(config).eval()
    else:
        model = make(family)
    requests = random_requests(questions=5)
    lm = evaluator(model)
    with caplog.at_level(logging.WARNING, "lmkick_plugin"):
        answers = score(lm, requests)
        score(lm, requests)
    assert furthest(answers, plain_loop(model, requests, 90)) < 1e-4
    said = [entry.message for entry in caplog.records if "Prefixes are not shared" in entry.message]
    assert len(said) == 1
    assert type(model).__name__ in said[0]


def test_a_model_that_disagrees_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that forgets what it has seen: its cache looks right, and is not."""
    model = make("llama")
    forward = model.forward

    def forgetful(input_ids: torch.Tensor, **how: Any) -> Any:
        cache = how.get("past_key_values")
        if cache is not None:
            how["position_ids"] = torch.arange(input_ids.shape[1])[None]
        return forward(input_ids, **how)

    monkeypatch.setattr(model, "forward", forgetful)
    requests = random_requests()
    lm = evaluator(model)
    with caplog.at_level(logging.WARNING, "lmkick_plugin"):
        answers = score(lm, requests)
    assert furthest(answers, plain_loop(model, requests, 90)) < 1e-4
    assert "of their spread" in caplog.text


def test_positions_that_depend_on_the_length(caplog: pytest.LogCaptureFixture) -> None:
    """Long RoPE switches factors where a row is longer than the original context."""
    model = make(
        "phi3",
        original_max_position_embeddings=40,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8, "original_max_position_embeddings": 40,
        },
    )  # fmt: skip
    requests = random_requests()
    lm = evaluator(model, batch_size=1)
    with caplog.at_level(logging.WARNING, "lmkick_plugin"):
        assert furthest(score(lm, requests), plain_loop(model, requests, 90)) < 1e-4
        score(lm, requests)
    assert caplog.text.count("beyond 40 tokens") == 1
    short = [(text, context[-20:], continuation) for text, context, continuation in requests[:8]]
    short = [(t, [7] * 15 + c[-4:], k) for t, c, k in short]
    before = dict(lm.scorer.tokens)
    assert furthest(score(lm, short), plain_loop(model, short, 90)) < 1e-4
    assert lm.scorer.tokens["computed"] - before["computed"] < 0.9 * (
        lm.scorer.tokens["plain"] - before["plain"]
    )


def test_without_reuse_it_is_hf_bit_for_bit() -> None:
    model = make("gemma2", dtype=torch.bfloat16)
    requests = random_requests()
    lm = evaluator(model)
    lm.prefix_reuse = False
    assert score(lm, requests) == score(evaluator(model, HFLM), requests)
    assert lm.scorer.tokens["computed"] == 0


def instances(*arguments: tuple[str, ...]) -> list[Any]:
    return [SimpleNamespace(args=one, task_name="task", doc_id=0) for one in arguments]


def test_texts_as_lm_eval_asks() -> None:
    """Empty contexts, spaces at the end, a prefix token of the user's, contexts that are cut."""
    asked = instances(
        ("", "hello"), ("", " A"), ("Q: x\nA:", " A"), ("Q: x\nA:", " B"), ("Q: x\nA: ", "A"),
        ("Q: x" * 50 + "\nA:", " A"), ("Q: x" * 50 + "\nA:", " because"),
    )  # fmt: skip
    model = make("llama")
    for settings in ({}, {"prefix_token_id": 7}, {"add_bos_token": False}, {"logits_cache": False}):
        lm = evaluator(model, **settings)
        hf = evaluator(model, HFLM, **settings)
        found = lm.loglikelihood(asked, disable_tqdm=True)
        assert furthest(found, hf.loglikelihood(asked, disable_tqdm=True)) < 1e-4


def test_a_run_finds_the_same_with_and_without(
    stories_model: Path, task_manager: TaskManager
) -> None:
    found = []
    for reuse in (True, False):
        lm = KickLM(
            pretrained=str(stories_model), device="cpu", batch_size=8, prefix_reuse=reuse,
            max_length=128,
        )  # fmt: skip
        results: Any = simple_evaluate(
            model=lm,
            tasks=["mmlu_kick_anatomy", "kick_wikitext", "kickonly_perplexity"],
            num_fewshot=0,
            limit=2,
            task_manager=task_manager,
            bootstrap_iters=0,
        )
        found.append(results["results"])
        assert results["config"]["kick"]["prefix_reuse"] is reuse
    on, off = found
    assert on.keys() == off.keys()
    for task, scores in on.items():
        numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
        assert numbers
        for name, value in numbers.items():
            assert off[task][name] == pytest.approx(value, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral"])
def test_on_a_gpu(family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_OVERHEAD", 8)  # the rows are short
    model = make(family, dtype=dtype).cuda()
    requests = random_requests()
    lm = evaluator(model)
    answers, expected = score(lm, requests), score(evaluator(model, HFLM), requests)
    allowed = 1e-3 if dtype == torch.float32 else 0.5
    assert max(abs(a[0] - b[0]) for a, b in zip(answers, expected, strict=True)) < allowed
    assert lm.scorer.tokens["computed"] < 0.7 * lm.scorer.tokens["plain"]


@pytest.mark.parametrize("at_a_time", [512, 2])
def test_texts_are_encoded_as_one_by_one(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_AT_A_TIME", at_a_time)
    asked = instances(
        ("", "x"), ("Q: x\nA:", " A"), ("<s>Q: x\nA:", " A"), ("Q: x\nA:  ", "B"), ("  ", "y"),
        ("Q: x\nA:", " A"), ("Q: z\nA:", "<s>"), ("Q: x\nA:", " B"),
    )  # fmt: skip
    for settings in ({}, {"add_bos_token": False}, {"add_bos_token": True}):
        seen: list[Any] = []

        def see(requests: Any, seen: list[Any] = seen, **_: Any) -> None:
            seen.append(requests)

        for kind in (FastHFLM, HFLM):
            lm = evaluator(make("llama"), kind, **settings)
            monkeypatch.setattr(lm, "_loglikelihood_tokens", see)
            lm.loglikelihood(asked, disable_tqdm=True)
        assert len(seen[0]) == 8
        assert seen[0] == seen[1]


def test_no_batch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the prefix, no layer's keys and values outlive the layer."""
    caches = []

    def remember(*arguments: Any, **how: Any) -> Any:
        caches.append(prefix_cache.continue_prefix(*arguments, **how))
        return caches[-1]

    monkeypatch.setattr(runner, "continue_prefix", remember)
    score(evaluator(make("gemma3")), random_requests())
    prefixes = {id(key) for cache in caches for layer in cache.layers for key, _ in layer.pieces}
    assert len(caches) > 3
    for cache in caches:
        for layer in cache.layers:
            assert layer.keys is None
            assert all(key.shape[0] == 1 for key, _ in layer.pieces)
    # The pieces are those of the few prefixes, whatever number of batches has read them.
    assert len(prefixes) < 3 * len(caches)


def test_real_questions_on_a_trained_model(
    stories_model: Path, data_dir: Path, task_manager: TaskManager
) -> None:
    """Five shots do not fit the context of 512: all prompts are cut, and some are not."""
    tasks = task_manager.load(["mmlu_kick_anatomy", "mmlu_kick_philosophy"])["tasks"]
    asked = []
    for shots, task in zip((5, 1), tasks.values(), strict=True):
        task.set_config(key="num_fewshot", value=shots)
        task.build_all_requests(limit=6, rank=0, world_size=1)
        asked += task.instances
    assert len(asked) == 48
    settings = {"pretrained": str(stories_model), "device": "cpu", "batch_size": 8}
    hf = HFLM(softmax_dtype="float32", **settings)
    for dtype in ("float32", "none"):
        lm = KickLM(softmax_dtype=dtype, **settings)
        found = lm.loglikelihood(asked, disable_tqdm=True)
        assert furthest(found, hf.loglikelihood(asked, disable_tqdm=True)) < 1e-3
        assert lm.truncated_prompts == {"mmlu_kick_anatomy": 6}
    assert lm.get_model_info()["kick"]["prefix_reuse"] is True


def test_every_answer_goes_into_the_cache_as_it_comes() -> None:
    requests = random_requests(questions=6)
    lm = evaluator(make("llama"))
    kept: list[tuple[str, Any, Any]] = []
    lm.cache_hook = SimpleNamespace(dbdict=None, add_partial=lambda *one: kept.append(one))
    answers = score(lm, [*requests, *requests[:3]])
    expected = [
        ("loglikelihood", request[0], answer)
        for request, answer in zip([*requests, *requests[:3]], answers, strict=True)
    ]
    assert sorted(kept, key=str) == sorted(expected, key=str)
    # A run that dies has kept what it had.
    kept.clear()
    runner = lm.scorer.runner()
    forward, left = runner._forward, iter(range(2))

    def dies(*arguments: Any) -> None:
        next(left)
        forward(*arguments)

    runner._forward = dies
    with pytest.raises(StopIteration):
        score(lm, requests)
    assert kept
    assert set(map(str, kept)) < set(map(str, expected))
    kept.clear()
    left = iter(range(2))
    texts = [("",), *((letter * 20,) for letter in "abcdefghijkl")]
    with pytest.raises(StopIteration):
        lm.loglikelihood_rolling(instances(*texts), disable_tqdm=True)
    assert {kind for kind, _, _ in kept} == {"loglikelihood_rolling"}
    assert 1 < len(kept) < len(texts)  # one of them is the empty text


def test_an_answer_longer_than_the_context_is_refused() -> None:
    lm = evaluator(make("llama"))
    with pytest.raises(SettingsError, match="at most 90 to score"):
        score(lm, [(("a", "b"), [1], [3] * 91)])
    with pytest.raises(SettingsError, match="merges with the last token of its prompt"):
        score(lm, [(("a", "b"), [1], [])])


def test_memory_that_runs_out_halves_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    requests = random_requests()
    expected = score(evaluator(model, batch_size=1), requests)
    lm = evaluator(model, batch_size=8)
    runner = lm.scorer.runner()
    forward, sizes = runner._forward, []

    def small(rows: Any, *others: Any) -> None:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        forward(rows, *others)

    monkeypatch.setattr(runner, "_forward", small)
    assert furthest(score(lm, requests), expected) < 1e-4
    assert max(sizes) > 2
    # It is not tried again with every batch.
    assert sum(size > 2 for size in sizes) <= 3


def test_encoder_and_decoder_go_to_hf(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=128, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    settings = {"backend": "seq2seq"}
    requests = random_requests(questions=3)
    lm = evaluator(model, **settings)
    with caplog.at_level(logging.WARNING, "lmkick_plugin"):
        answers = score(lm, requests)
        score(lm, requests)
    assert answers == score(evaluator(model, HFLM, **settings), requests)
    assert [entry.message for entry in caplog.records].count(
        "Log-likelihoods are computed as by lm-eval's hf model: it is an encoder-decoder "
        "model."
    ) == 1  # fmt: skip


# --- rolling --------------------------------------------------------------------------------------

TEXTS = [("A story of many words. " * 20,), ("short",), ("",), ("short",), ("ABC, D " * 40,)]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "jamba"])
def test_rolling_is_hfs_in_chunks_of_any_size(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(family)
    expected = evaluator(model, HFLM).loglikelihood_rolling(instances(*TEXTS), disable_tqdm=True)
    for size in (scored_positions.CHUNK_BYTES, 4 * 128 * 7, 4 * 128):
        monkeypatch.setattr(scored_positions, "CHUNK_BYTES", size)
        monkeypatch.setattr(rows, "_CPU_BYTES", size // 2)  # rows of a chunk in two parts or more
        lm = evaluator(model)
        kept: list[tuple[str, Any, Any]] = []
        lm.cache_hook = SimpleNamespace(dbdict=None, add_partial=lambda *one, k=kept: k.append(one))
        found = lm.loglikelihood_rolling(instances(*TEXTS), disable_tqdm=True)
        assert found == pytest.approx(expected, abs=1e-3)
        expected_there = [
            ("loglikelihood_rolling", text, value) for text, value in zip(TEXTS, found, strict=True)
        ]
        assert sorted(kept, key=str) == sorted(expected_there, key=str)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_logits_of_whole_texts_are_made(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored_positions, "CHUNK_BYTES", 4 * 128 * 16)
    monkeypatch.setattr(rows, "_CPU_BYTES", 4 * 128 * 5)
    look_up, looked_up = runner.Runner._look_up, set[int]()

    def note(self: Any, logits: Any, *which: Any) -> Any:
        looked_up.add(len(logits))
        return look_up(self, logits, *which)

    monkeypatch.setattr(runner.Runner, "_look_up", note)
    model = make(family)
    widths: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, __, output: widths.append(output.shape[:-1].numel())
    )
    evaluator(model).loglikelihood_rolling(instances(*TEXTS), disable_tqdm=True)
    assert max(widths) == 16
    assert max(looked_up) == 5
    evaluator(model, HFLM).loglikelihood_rolling(instances(*TEXTS), disable_tqdm=True)
    assert max(widths) == 4 * 90


def test_logits_that_are_changed_in_unknown_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a head that is not called, nor an unknown end, gives other answers."""
    monkeypatch.setattr(scored_positions, "CHUNK_BYTES", 4 * 128 * 16)
    model = make("llama")
    forward = model.forward

    def odd(**how: Any) -> Any:
        output = forward(**how)
        output.logits = output.logits * 1.5 + 1
        return output

    monkeypatch.setattr(model, "forward", odd)
    lm = evaluator(model)
    model.get_output_embeddings = lambda: None
    other = evaluator(model)
    found = lm.loglikelihood_rolling(instances(*TEXTS), disable_tqdm=True)
    assert other.loglikelihood_rolling(instances(*TEXTS), disable_tqdm=True) == pytest.approx(found)
    monkeypatch.undo()
    assert evaluator(make("llama")).loglikelihood_rolling(
        instances(*TEXTS), disable_tqdm=True
    ) != pytest.approx(found)


def test_inputs_that_are_split_differently() -> None:
    """``hf`` takes the shorter answer's scores from where the longer one begins: not to be kept."""
    model = make("gpt2")
    requests = [(("a", "b"), [7, 8], [9, 10, 11]), (("ab", "c"), [7, 8, 9, 10], [12])]
    right = plain_loop(model, requests, 90)
    assert furthest(score(evaluator(model), requests), right) < 1e-4
    wrong = score(evaluator(model, HFLM), requests)
    assert wrong[1][0] != pytest.approx(right[1][0], abs=0.01)


def test_windows_are_scored_the_same_way() -> None:
    model = make("llama")
    lm, hf = evaluator(model), evaluator(model)
    hf.prefix_reuse = False
    text = TEXTS[0][0]
    fast, plain = (score_windows(one, text, max_window=40) for one in (lm, hf))
    assert fast["window_losses"] == pytest.approx(plain["window_losses"], rel=1e-6)
    assert fast["nll"] == pytest.approx(plain["nll"], rel=1e-6)
    assert lm.scorer.tokens["computed"] > 0 == hf.scorer.tokens["computed"]
