# SPDX-License-Identifier: Apache-2.0
"""Divergence from the dense weights, as a plain loop in float64 over two whole models finds it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from compressors import SettingsError
from lmkick_plugin.inference import divergence, kept_logits
from lmkick_plugin.loading.dense_weights import DenseWeights
from lmkick_plugin.model import KickLM
from lmkick_plugin.record.weights import survey_weights
from lmkick_plugin.sweep.dense_model import DenseModel
from tests.conftest import make_tiny_llama, make_tiny_tokenizer
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

TEXTS = [SENTENCE * 15, "Short. " + SENTENCE, "A B C D"]  # the first: a window and a tail
SETTINGS = {"max_window": 2048, "prompt_tokens": 20, "new_tokens": 12, "whole": False}
CPU: dict[str, Any] = {"device": "cpu", "batch_size": 2}


def ask(model: KickLM, texts: list[str] = TEXTS, **settings: Any) -> list[dict[str, Any]]:
    return model.divergence(
        make_requests("divergence", [(text, {**SETTINGS, **settings}) for text in texts])
    )


def means(answers: list[dict[str, Any]]) -> list[float]:
    """jsd, kl and top1_agreement over positions."""
    positions = sum(answer["positions"] for answer in answers)
    return [
        sum(answer[name] for answer in answers) / positions
        for name in ("jsd", "kl", "top1_agreement")
    ]


def oracle(
    dense: torch.nn.Module, compressed: torch.nn.Module, token_ids: list[int]
) -> dict[str, float]:
    """The definitions, position by position and token by token in float64."""
    with torch.no_grad():
        p_all = dense(torch.tensor([token_ids])).logits[0].double().softmax(-1).tolist()
        q_all = compressed(torch.tensor([token_ids])).logits[0].double().softmax(-1).tolist()
    total = {"jsd": 0.0, "kl": 0.0, "top1_agreement": 0.0}
    for p, q in zip(p_all, q_all, strict=True):
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        total["kl"] += sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True))
        total["jsd"] += sum(a * math.log2(a / m) for a, m in zip(p, middle, strict=True)) / 2
        total["jsd"] += sum(b * math.log2(b / m) for b, m in zip(q, middle, strict=True)) / 2
        total["top1_agreement"] += p.index(max(p)) == q.index(max(q))
    return total


def sharpen(model: Any) -> Any:
    """Make a random model sure of something, so that divergences are not all near 0."""
    with torch.no_grad():
        model.lm_head.weight.mul_(12)
    return model


@pytest.fixture(scope="module")
def sharp_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharp")
    sharpen(make_tiny_llama()).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(sharp_dir: Path) -> KickLM:
    return KickLM(pretrained=str(sharp_dir), compressor="magnitude", sparsity=0.5, **CPU)


def test_equals_the_oracle(pruned: KickLM) -> None:
    dense = sharpen(make_tiny_llama())
    answers = ask(pruned)
    for text, answer in zip(TEXTS, answers, strict=True):
        begin, *ids = pruned.tokenizer(text, verbose=False).input_ids
        assert begin == pruned.tokenizer.bos_token_id  # which begins every window
        cut = [[begin, *part] for part in (ids[:511], ids[511:]) if part]
        parts = [oracle(dense, pruned.model, window) for window in cut]
        assert answer["positions"] == len(ids) + len(cut)
        assert answer["vocabulary"] == 128
        for name in ("jsd", "kl", "top1_agreement"):
            expected = sum(part[name] for part in parts)
            assert answer[name] / len(ids) == pytest.approx(expected / len(ids), abs=1e-6), name
    jsd, kl, agreement = means(answers)
    assert 0.01 < jsd < 1  # there was something to find
    assert kl > 0.01
    assert 0 < agreement < 1


def test_batches_and_rounds_make_no_difference(
    pruned: KickLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = means(ask(pruned))
    monkeypatch.setattr(divergence, "HELD_BYTES", 1)  # weights change places for every batch
    monkeypatch.setattr(pruned, "batch_size_per_gpu", 1)
    assert means(ask(pruned)) == pytest.approx(expected, abs=1e-6)


def test_memory_is_bounded(pruned: KickLM, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    compare = divergence._compare

    def watched(reference: Any, dense: Any, waiting: Any, bar: Any) -> None:
        held.append(sum(logits.shape[0] * logits.shape[1] for _, logits in waiting))
        compare(reference, dense, waiting, bar)

    monkeypatch.setattr(divergence, "_compare", watched)
    window = 512 * 128 * 4
    monkeypatch.setattr(divergence, "HELD_BYTES", 3 * window)
    monkeypatch.setattr(divergence, "_BATCH_BYTES", window)
    text = SENTENCE * 51
    (answer,) = ask(pruned, [text], new_tokens=0)
    tokens = len(text) - 4 * 51 + 5  # " A" to " D" are one token each; BOS begins 5 windows
    assert answer["positions"] == tokens
    assert held == [3 * 512, tokens - 3 * 512]


def test_a_sweep_runs_the_dense_model_once(
    sharp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next cell gets the same figures, bit for bit, without its blocks being run as dense."""
    shared = DenseModel()
    ran: list[bool] = []  # whether the first block's weights were dense

    def cell(sparsity: float) -> list[dict[str, Any]]:
        model = KickLM(
            pretrained=str(sharp_dir), compressor="magnitude", sparsity=sparsity,
            dense_source=shared, **CPU,
        )  # fmt: skip
        block = model.model.model.layers[0]
        hook = block.register_forward_pre_hook(
            lambda *_: ran.append(bool((block.mlp.up_proj.weight != 0).all()))
        )
        answers = ask(model)
        hook.remove()
        return answers

    cell(0.3)
    assert any(ran)
    ran.clear()
    again = cell(0.5)
    assert ran
    assert not any(ran)
    alone = KickLM(pretrained=str(sharp_dir), compressor="magnitude", sparsity=0.5, **CPU)
    assert again == ask(alone)
    # Beyond the bound, it is run again.
    monkeypatch.setattr(kept_logits, "KEPT_BYTES", 1)
    ran.clear()
    assert cell(0.5) == again
    assert any(ran)


def test_weights_are_the_compressed_ones_again(pruned: KickLM) -> None:
    before = {name: weight.clone() for name, weight in pruned.model.named_parameters()}
    pointers = {name: weight.data_ptr() for name, weight in pruned.model.named_parameters()}
    ask(pruned)
    for name, weight in pruned.model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.data_ptr() == pointers[name]
    assert survey_weights(pruned.model).sha256 == pruned.weights.sha256


def test_weights_are_put_back_after_a_failure(
    pruned: KickLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    call = pruned._model_call

    def fails_at_the_dense_model(batch: Any) -> Any:
        calls.append(survey_weights(pruned.model).sha256)
        if calls[-1] != pruned.weights.sha256:
            raise torch.OutOfMemoryError("no more")
        return call(batch)

    monkeypatch.setattr(pruned, "_model_call", fails_at_the_dense_model)
    with pytest.raises(torch.OutOfMemoryError):
        ask(pruned)
    assert len(set(calls)) == 2  # the dense weights had been in place
    assert survey_weights(pruned.model).sha256 == pruned.weights.sha256


def test_weights_that_do_not_come_back_are_an_error(
    pruned: KickLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    monkeypatch.setattr(pruned, "weights", dataclasses.replace(pruned.weights, sha256="other"))
    with pytest.raises(RuntimeError, match="were not restored"):
        ask(pruned)


def test_only_what_was_replaced_is_kept(pruned: KickLM) -> None:
    dense = sharpen(make_tiny_llama())
    weights = DenseWeights(pruned.model, dict(dense.named_parameters()))
    assert len(weights.names) == 14
    assert all("proj" in name for name in weights.names)
    with weights.in_place():
        for name, weight in pruned.model.named_parameters():
            assert torch.equal(weight, dense.get_parameter(name))


def test_weights_elsewhere_are_copied_not_replaced(pruned: KickLM) -> None:
    """As on a GPU, where the model's own tensors stay and their values change places."""
    weights = DenseWeights(pruned.model, dict(sharpen(make_tiny_llama()).named_parameters()))
    before = {name: weight.clone() for name, weight in pruned.model.named_parameters()}

    class Away:
        device = torch.device("meta")  # not where the dense weights are

        def __init__(self, there: torch.Tensor) -> None:
            self.there = there

        def to(self, device: torch.device) -> torch.Tensor:
            return self.there.clone()

        def copy_(self, values: torch.Tensor) -> None:
            self.there.copy_(values)

    weights._pairs = [
        (SimpleNamespace(data=Away(parameter.data)), held) for parameter, held in weights._pairs
    ]
    with weights.in_place():
        for name, weight in pruned.model.named_parameters():
            assert torch.equal(weight, before[name]) == (name not in weights.names)
    for name, weight in pruned.model.named_parameters():
        assert torch.equal(weight, before[name])


def test_halfway_exchange_is_undone(pruned: KickLM, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights(pruned.model, dict(sharpen(make_tiny_llama()).named_parameters()))
    exchange = weights._exchange

    def fails_once(index: int) -> None:
        if index == 5:
            raise torch.OutOfMemoryError("no more")
        exchange(index)

    monkeypatch.setattr(weights, "_exchange", fails_once)
    with pytest.raises(torch.OutOfMemoryError), weights.in_place():
        pass
    assert survey_weights(pruned.model).sha256 == pruned.weights.sha256


def test_a_checkpoint_that_was_replaced_is_noticed(sharp_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sharp_dir, folder)
    model = KickLM(pretrained=str(folder), compressor="magnitude", sparsity=0.5, **CPU)
    make_tiny_llama(seed=1).save_pretrained(folder)
    with pytest.raises(RuntimeError, match="checkpoint changed on disk"):
        ask(model)


def test_nothing_is_kept_until_it_is_asked_for(
    sharp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = transformers.AutoModelForCausalLM.from_pretrained

    def counting(*args: Any, **kwargs: Any) -> Any:
        model, info = load(*args, **kwargs)
        loaded.append(model)
        return model, info

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", counting)
    model = KickLM(pretrained=str(sharp_dir), compressor="magnitude", sparsity=0.5, **CPU)
    assert len(loaded) == 1
    ask(model)
    assert len(loaded) == 2
    assert loaded[1].device.type == "cpu"
    assert model.model is loaded[0]


@pytest.mark.parametrize(
    "settings",
    [{}, {"compressor": "magnitude", "sparsity": 0}, {"dtype": "bfloat16"}],
    ids=["none", "nothing pruned", "none in bfloat16"],
)
def test_an_unchanged_model_does_not_diverge(sharp_dir: Path, settings: dict[str, Any]) -> None:
    answers = ask(KickLM(pretrained=str(sharp_dir), **settings, **CPU))
    assert means(answers) == [0, 0, 1]
    for answer in answers:
        assert answer["generated"][0] == answer["generated"][1] == answer["first_divergent_token"]


def test_first_divergent_token(pruned: KickLM) -> None:
    dense = sharpen(make_tiny_llama())
    answers = ask(pruned, new_tokens=30)
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = torch.tensor([pruned.tokenizer(text).input_ids[:20]])
        settings: dict[str, Any] = {
            "max_new_tokens": 30,
            "do_sample": False,
            "attention_mask": torch.ones_like(ids),
            "pad_token_id": 2,
        }
        both = [
            model.generate(ids, **settings)[0, ids.shape[1] :].tolist()
            for model in (dense, pruned.model)
        ]
        shared = 0
        while shared < min(map(len, both)) and both[0][shared] == both[1][shared]:
            shared += 1
        assert answer["first_divergent_token"] == shared
    assert any(answer["first_divergent_token"] < 30 for answer in answers)


def test_without_generation(pruned: KickLM) -> None:
    answers = ask(pruned, new_tokens=0)
    assert {answer["first_divergent_token"] for answer in answers} == {None}


def test_a_prompt_is_one_window_cut_from_the_left(pruned: KickLM) -> None:
    (whole,) = ask(pruned, [TEXTS[0]], whole=True)
    ids = pruned.tokenizer(TEXTS[0], verbose=False).input_ids[-512:]
    expected = oracle(sharpen(make_tiny_llama()), pruned.model, ids)
    assert whole["positions"] == 512
    assert whole["jsd"] / 512 == pytest.approx(expected["jsd"] / 512, abs=1e-6)
    assert whole["generated"] == [12, 12]


@pytest.mark.parametrize("add_bos_token", [None, True])
def test_a_prompt_that_begins_with_bos_gets_no_second_one(
    sharp_dir: Path, add_bos_token: bool | None
) -> None:
    model = KickLM(
        pretrained=str(sharp_dir), compressor="magnitude", sparsity=0.5,
        add_bos_token=add_bos_token, **CPU,
    )  # fmt: skip
    prompt = f"user: {SENTENCE}"
    by_template, plain = ask(model, [f"<s>{prompt}", prompt], whole=True)
    assert plain["positions"] == len(model.tokenizer(prompt).input_ids)
    assert by_template == plain
    assert plain["jsd"] > 0


def test_broken_models_lose_no_results(sharp_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = KickLM(pretrained=str(sharp_dir), **CPU)
    with torch.no_grad():
        model.model.lm_head.weight[5].fill_(float("nan"))
    model.weights = survey_weights(model.model)
    answers = ask(model, new_tokens=0)
    assert all(math.isnan(answer["jsd"]) for answer in answers)
    assert "A divergence is NaN: the dense model's logits" in caplog.text


def test_prompts_that_do_not_fit_are_counted(
    pruned: KickLM, caplog: pytest.LogCaptureFixture
) -> None:
    pruned.start_evaluation()
    answers = ask(pruned, [SENTENCE * 51, SENTENCE], whole=True)
    assert [answer["cut"] for answer in answers] == [True, False]
    assert pruned.truncated_prompts == {"task": 1}
    assert "1 prompts exceeded the context of 512" in caplog.text
    pruned.start_evaluation()
    ask(pruned, [SENTENCE * 51], whole=False)  # a text in windows loses nothing
    assert pruned.truncated_prompts == {}


# --- another model as the reference ---------------------------------------------------------------


def test_another_model_is_the_reference(sharp_dir: Path, tmp_path: Path) -> None:
    sharpen(make_tiny_llama(seed=1)).save_pretrained(tmp_path)
    make_tiny_tokenizer().save_pretrained(tmp_path)
    one = ask(KickLM(pretrained=str(sharp_dir), reference=str(tmp_path), **CPU))
    other = ask(KickLM(pretrained=str(tmp_path), reference=str(sharp_dir), **CPU))
    assert one[0]["reference"] == str(tmp_path)
    # The Jensen-Shannon divergence is symmetric and bounded; KL is neither.
    assert means(one)[0] == pytest.approx(means(other)[0], abs=1e-6)
    assert 0 < means(one)[0] < 1
    assert means(one)[1] != pytest.approx(means(other)[1], abs=1e-3)
    ids = make_tiny_tokenizer()(TEXTS[1]).input_ids
    models = [sharpen(make_tiny_llama(seed=seed)) for seed in (1, 0)]
    assert one[1]["kl"] == pytest.approx(oracle(models[0], models[1], ids)["kl"], rel=1e-5)


def test_the_own_checkpoint_as_reference_gives_the_same(sharp_dir: Path, pruned: KickLM) -> None:
    model = KickLM(
        pretrained=str(sharp_dir),
        reference=str(sharp_dir),
        compressor="magnitude",
        sparsity=0.5,
        **CPU,
    )
    assert means(ask(model)) == pytest.approx(means(ask(pruned)), abs=1e-7)


@pytest.mark.parametrize("difference", ["tokenizer", "vocabulary", "nothing there"])
def test_a_reference_of_other_tokens_is_refused_before_weights_are_loaded(
    difference: str, sharp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_tiny_tokenizer()
    if difference == "tokenizer":
        tokenizer.add_tokens(["quick"])
    config = make_tiny_llama().config
    if difference == "vocabulary":
        config.vocab_size = 160
    if difference != "nothing there":
        config.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    said = {
        "tokenizer": "its tokenizer differs from",
        "vocabulary": "scores 160 tokens and the evaluated model 128",
        "nothing there": "cannot be read",
    }
    with pytest.raises(SettingsError, match=said[difference]):
        KickLM(pretrained=str(sharp_dir), reference=str(tmp_path), **CPU)


def test_a_model_given_as_an_object_has_no_dense_weights_left() -> None:
    model = KickLM(
        pretrained=make_tiny_llama(),
        tokenizer=make_tiny_tokenizer(),
        compressor="magnitude",
        sparsity=0.5,
        **CPU,
    )
    with pytest.raises(SettingsError, match="as an object"):
        ask(model)


# --- on a trained model ---------------------------------------------------------------------------


def test_divergence_grows_with_sparsity_on_a_trained_model(
    stories_model: Path, data_dir: Path
) -> None:
    from lmkick_plugin.data.divergence_texts import wikitext_articles

    texts = [article[:3000] for article in wikitext_articles(str(data_dir))[:3]]
    found = [
        means(
            ask(
                KickLM(
                    pretrained=str(stories_model),
                    compressor="magnitude",
                    sparsity=sparsity,
                    **CPU,
                ),
                texts,
                new_tokens=0,
            )
        )
        for sparsity in (0, 0.1, 0.3, 0.5, 0.7)
    ]
    jsd, kl, agreement = zip(*found, strict=True)
    assert (jsd[0], kl[0], agreement[0]) == (0, 0, 1)
    assert list(jsd) == sorted(set(jsd))
    assert list(kl) == sorted(set(kl))
    assert list(agreement) == sorted(set(agreement), reverse=True)


@pytest.mark.gpu
def test_on_a_gpu_weights_pass_through_main_memory(sharp_dir: Path, pruned: KickLM) -> None:
    settings: dict[str, Any] = {"compressor": "magnitude", "sparsity": 0.5, "batch_size": 2}
    model = KickLM(pretrained=str(sharp_dir), device="cuda", **settings)
    pointers = {name: weight.data_ptr() for name, weight in model.model.named_parameters()}
    assert means(ask(model)) == pytest.approx(means(ask(pruned)), abs=1e-4)
    assert pointers == {name: weight.data_ptr() for name, weight in model.model.named_parameters()}
    assert survey_weights(model.model).sha256 == model.weights.sha256
