# SPDX-License-Identifier: Apache-2.0
"""``--model kick``: equal to ``hf`` without a compressor, compressed with one, and picky before."""

from __future__ import annotations

import gc
import json
import math
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lm_eval.models.huggingface import HFLM

from compressors import NM, Magnitude, SettingsError, UnsupportedModelError, compress_model
from lmkick_plugin.inference import loaded_models
from lmkick_plugin.model import KickLM
from tests.conftest import make_tiny_llama, make_tiny_tokenizer
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

CPU: dict[str, Any] = {"device": "cpu", "batch_size": 3}
PAIRS = [
    (f"{SENTENCE}Item {number}", continuation)
    for number in range(5)
    for continuation in (" A", " B", " CAB")
]
PAIRS += [("", "Once"), (SENTENCE * 12, " A")]  # no context; more than the model can read
TEXTS = [(SENTENCE * count,) for count in (1, 3, 12)]
PROMPTS = [(f"{number}. {SENTENCE}", {"until": ["\n"], "max_gen_toks": 12}) for number in range(4)]


def answers(model: HFLM) -> list[Any]:
    return [
        model.loglikelihood(make_requests("loglikelihood", PAIRS), disable_tqdm=True),
        model.loglikelihood_rolling(
            make_requests("loglikelihood_rolling", TEXTS), disable_tqdm=True
        ),
        model.generate_until(make_requests("generate_until", PROMPTS), disable_tqdm=True),
    ]


def linear_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


@pytest.fixture(scope="module")
def pruned(tiny_model_dir: Path) -> KickLM:
    return KickLM(pretrained=str(tiny_model_dir), compressor="magnitude", pattern="2:4", **CPU)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_a_compressor_it_is_hf_bit_for_bit(
    tiny_model_dir: Path, pruned: KickLM, dtype: str
) -> None:
    settings = {"pretrained": str(tiny_model_dir), "dtype": dtype, **CPU}
    kick = answers(KickLM(prefix_reuse=False, **settings))
    assert kick == answers(HFLM(softmax_dtype="float32", **settings))
    assert kick != answers(pruned)


def test_softmax_dtype_can_be_the_models_own(tiny_model_dir: Path) -> None:
    settings = {"pretrained": str(tiny_model_dir), "dtype": "bfloat16", **CPU}
    plain = {**settings, "prefix_reuse": False}
    own = answers(KickLM(softmax_dtype="none", **plain))[:2]
    assert own == answers(HFLM(**settings))[:2]
    assert own != answers(KickLM(**plain))[:2]


def test_compressed_weights_are_what_is_evaluated(pruned: KickLM) -> None:
    alone = make_tiny_llama()
    before = {name: weight.clone() for name, weight in linear_weights(alone).items()}
    compress_model(alone, Magnitude(pattern=NM(2, 4)), progress=False)
    after = linear_weights(alone)
    assert len(after) == 14
    for name, weight in linear_weights(pruned.model).items():
        assert torch.equal(weight, after[name])
        assert not torch.equal(weight, before[name])
        assert torch.equal((weight.view(-1, 4) == 0).sum(1), torch.full((weight.numel() // 4,), 2))
    # What is not a block's linear weight is as it was.
    assert torch.equal(pruned.model.lm_head.weight, make_tiny_llama().lm_head.weight)


def test_calibrated_method_sees_the_text(tiny_model_dir: Path, calibration_file: str) -> None:
    model = KickLM(
        pretrained=str(tiny_model_dir),
        compressor="wanda",
        sparsity="0.5",
        calibration=calibration_file,
        nsamples=4.0,
        seqlen=64,
        **CPU,
    )
    kick = model.get_model_info()["kick"]
    assert kick["achieved_sparsity"] == 0.5
    assert (kick["nsamples"], kick["seqlen"]) == (4, 64)
    assert kick["layer_summary"]["tokens"] == 256
    assert 0 < kick["layer_summary"]["error_max"] < 1


def test_finished_blocks_and_order_reach_the_driver(
    tiny_model_dir: Path, tmp_path: Path, calibration_file: str
) -> None:
    arguments = (
        f"pretrained={tiny_model_dir},compressor=wanda,sparsity=0.5,calibration={calibration_file},"
        "nsamples=4,seqlen=64"
    )

    def weights(more: str = "") -> str | None:
        # As lm_eval builds a model from the text of --model_args.
        return KickLM.create_from_arg_string(arguments + more, CPU).weights.sha256

    kept = f",resume_dir={tmp_path}"
    plain = weights()
    assert plain == weights(kept) == weights(kept)
    assert any(tmp_path.iterdir())
    assert weights(",true_sequential=True") != plain
    with pytest.raises(SettingsError, match=str(tmp_path)):
        weights(kept + ",true_sequential=True")


def test_samples_are_cut_to_the_context(
    tiny_model_dir: Path, tmp_path: Path, calibration_file: str
) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 48}))
    model = KickLM(
        pretrained=str(folder),
        compressor="wanda",
        sparsity=0.5,
        calibration=calibration_file,
        nsamples=2,
        **CPU,
    )
    assert model.get_model_info()["kick"]["seqlen"] == 48


def test_automatic_batch_size(tiny_model_dir: Path, pruned: KickLM) -> None:
    automatic = KickLM(
        pretrained=str(tiny_model_dir),
        compressor="magnitude",
        pattern="2:4",
        device="cpu",
        batch_size="auto",
        max_batch_size=4,
    )
    for mine, other in zip(answers(automatic)[1], answers(pruned)[1], strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


def test_a_model_given_as_an_object(pruned: KickLM) -> None:
    given = make_tiny_llama()
    model = KickLM(
        pretrained=given,
        tokenizer=make_tiny_tokenizer(),
        compressor="magnitude",
        pattern="2:4",
        batch_size=3,
    )
    assert model.model is given
    assert answers(model) == answers(pruned)
    assert model.get_model_info()["kick"]["weights_sha256"] == pruned.weights.sha256


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import peft

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    wanted = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(make_tiny_llama(), wanted).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def padded_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many embeddings as tokens, or lm-eval resizes them before it loads an adapter."""
    folder = tmp_path_factory.mktemp("padded")
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(128 - len(tokenizer))])
    make_tiny_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# peft itself calls what transformers has deprecated.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_merged_before_compression(padded_model_dir: Path, adapter_dir: Path) -> None:
    import peft

    folder = {"pretrained": str(padded_model_dir), "peft": str(adapter_dir), **CPU}
    dense = KickLM(prefix_reuse=False, **folder)
    assert answers(dense) == answers(HFLM(softmax_dtype="float32", **folder))
    model = KickLM(compressor="magnitude", sparsity=0.5, **folder)
    merged = peft.PeftModel.from_pretrained(make_tiny_llama(), adapter_dir).merge_and_unload()
    compress_model(merged, Magnitude(pattern=model.recipe.build_pattern()), progress=False)
    mine, other = linear_weights(model.model), linear_weights(merged)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_delta_weights_are_added_before_compression(tiny_model_dir: Path, tmp_path: Path) -> None:
    make_tiny_llama(seed=1).save_pretrained(tmp_path)
    settings = {"pretrained": str(tiny_model_dir), "delta": str(tmp_path), **CPU}
    model = KickLM(compressor="magnitude", sparsity=0.5, **settings)
    assert model.get_model_info()["kick"]["achieved_sparsity"] == 0.5
    dense = linear_weights(KickLM(**settings).model)
    for name, weight in linear_weights(model.model).items():
        assert torch.equal(weight, torch.where(weight == 0, 0, dense[name]))


@pytest.mark.usefixtures("no_weights")
class TestBeforeWeights:
    """Errors that come before any weights are loaded."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"compressor": "wnada"}, "Did you mean 'wanda'"),
            ({"compressor": "wanda", "sparsity": 0.5, "seed": "0+1"}, "lmkick study seeds"),
            ({"sparcity": 0.5}, "Unknown model argument sparcity=0.5. Did you mean 'sparsity'"),
            ({"dtyp": "float32"}, "Did you mean 'dtype'"),
            ({"atn_implementation": "eager"}, "Did you mean 'attn_implementation'"),
            ({"rope_tetha_factor": 3}, "attribute of the model's config .LlamaConfig."),
            (
                {"compressor": "magnitude", "sparsity": 0.5, "load_in_8bit": True},
                "loads a quantized model",
            ),
            ({"compressor": "magnitude", "sparsity": 0.5, "gptqmodel": True}, "cannot compress"),
            ({"compressor": "gptq", "bits": 4, "percdamp": 0.1}, "Did you mean 'dampening_frac'"),
            ({"device": "cuda:99"}, r"device=cuda:99: torch .* sees .* cuda devices?"),
            ({"dtype": "int8"}, "dtype=int8: .* floating dtype. Use auto, float32"),
            ({"dtype": "floaty"}, "dtype=floaty: .* floating dtype"),
        ],
    )
    def test_arguments(self, tiny_model_dir: Path, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            KickLM(pretrained=str(tiny_model_dir), **{**CPU, **arguments})

    @pytest.mark.parametrize(
        ("device", "expected", "message"),
        [
            ("cuda", SettingsError, "sees no cuda devices"),
            ("cuda:0", AssertionError, "weights were loaded"),  # lm-eval's own default
            (None, AssertionError, "weights were loaded"),
        ],
    )
    def test_without_a_gpu(
        self,
        tiny_model_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
        device: str | None,
        expected: type[Exception],
        message: str,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(expected, match=message):
            KickLM(pretrained=str(tiny_model_dir), **({"device": device} if device else {}))

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "missing.txt"), (b"", "empty"), (b"\xff\xfe\x00", "UTF-8"), (b"short", "token")],
        ids=["missing", "empty", "not UTF-8", "too short"],
    )
    def test_calibration_text(
        self, tiny_model_dir: Path, tmp_path: Path, content: bytes | None, message: str
    ) -> None:
        path = tmp_path / "missing.txt"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            KickLM(
                pretrained=str(tiny_model_dir),
                compressor="wanda",
                sparsity=0.5,
                calibration=str(path),
                nsamples=2,
                seqlen=32,
                **CPU,
            )

    def test_config_attributes_are_arguments(self, tiny_model_dir: Path) -> None:
        with pytest.raises(AssertionError, match="weights were loaded"):
            KickLM(pretrained=str(tiny_model_dir), rms_norm_eps=1e-5, **CPU)

    def test_quantized_checkpoint(self, tiny_model_dir: Path, tmp_path: Path) -> None:
        folder = tmp_path / "quantized"
        shutil.copytree(tiny_model_dir, folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnsupportedModelError, match=r"already quantized \(gptq\)"):
            KickLM(pretrained=str(folder), compressor="magnitude", sparsity=0.5, **CPU)

    @pytest.mark.parametrize("kind", ["T5Config", "ViTConfig"])
    def test_other_kinds_of_models(self, tmp_path: Path, kind: str) -> None:
        getattr(transformers, kind)().save_pretrained(tmp_path)
        with pytest.raises(UnsupportedModelError, match="not a causal language model"):
            KickLM(pretrained=str(tmp_path), **CPU)

    @pytest.mark.parametrize(
        ("pretrained", "message"),
        [
            ("./no/such/folder", "no such folder"),
            (None, "Add pretrained=NAME"),
            ("nobody/no-such-model", "could not be fetched.*give a saved model's folder"),
        ],
    )
    def test_no_model(self, pretrained: str | None, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            KickLM(pretrained=pretrained, **CPU)

    def test_no_adapter(self, tiny_model_dir: Path, tmp_path: Path) -> None:
        for folder, message in (
            (tmp_path, "holds no adapter_config.json"),
            (tmp_path / "absent", "no such folder"),
        ):
            with pytest.raises(SettingsError, match=rf"peft={folder}: .*{message}.*OWNER/NAME"):
                KickLM(pretrained=str(tiny_model_dir), peft=str(folder), **CPU)

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        make_tiny_llama().config.save_pretrained(tmp_path)
        with pytest.raises(SettingsError, match=rf"tokenizer of {tmp_path}.*tokenizer=NAME"):
            KickLM(pretrained=str(tmp_path), **CPU)


def test_an_object_takes_no_loading_arguments() -> None:
    with pytest.raises(SettingsError, match="given as an object"):
        KickLM(pretrained=make_tiny_llama(), tokenizer=make_tiny_tokenizer(), cache_dir="x")


def test_weights_that_change_after_compression_stop_the_run(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(self: Any, *args: Any, **kwargs: Any) -> None:
        weight = self.model.layers[0].mlp.up_proj.weight
        weight.data.copy_(torch.ones_like(weight))

    monkeypatch.setattr(transformers.LlamaForCausalLM, "tie_weights", restore)
    settings = {"pretrained": str(tiny_model_dir), **CPU}
    KickLM(**settings)
    with pytest.raises(RuntimeError, match="weights changed between compression"):
        KickLM(compressor="magnitude", sparsity=0.5, **settings)


def test_cut_prompts_are_counted_once_by_task(pruned: KickLM) -> None:
    pruned.start_evaluation()
    long = SENTENCE * 12
    choices = make_requests("loglikelihood", [(long, " A"), ("short", " A")], "choices")
    choices += make_requests("loglikelihood", [(long, " B"), ("short", " B")], "choices")
    pruned.loglikelihood(choices, disable_tqdm=True)
    settings = {"until": ["\n"], "max_gen_toks": 2}
    exact = pruned.tokenizer.decode(pruned.tokenizer(long).input_ids[1:510])
    assert len(pruned.tokenizer(exact).input_ids) == 510
    prompts = [(long, settings), ("short", settings), (exact, settings), (exact + "x", settings)]
    pruned.generate_until(make_requests("generate_until", prompts, "open"), disable_tqdm=True)
    pruned.loglikelihood_rolling(make_requests("loglikelihood_rolling", [(long,)], "rolling"))
    assert pruned.get_model_info()["kick"]["truncated_prompts"] == {"choices": 1, "open": 2}
    pruned.start_evaluation()
    assert pruned.get_model_info()["kick"]["truncated_prompts"] == {}


def test_use_of_the_chat_template_is_recorded(pruned: KickLM) -> None:
    pruned.start_evaluation()
    assert pruned.get_model_info()["kick"]["chat_template"] is False
    pruned.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert pruned.apply_chat_template([{"role": "user", "content": "Hello"}]) == "Hello"
    assert pruned.get_model_info()["kick"]["chat_template"] is True


def test_tasks_learn_whether_a_model_can_serve_them(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    with pytest.raises(SettingsError, match=r"kickonly_perplexity needs.*--model kick"):
        loaded_models.require_kick_model("kickonly_perplexity")
    model = KickLM(pretrained=str(tiny_model_dir), **CPU)
    loaded_models.require_kick_model("kickonly_perplexity")
    del model
    gc.collect()  # a model that its user dropped no longer counts
    with pytest.raises(SettingsError):
        loaded_models.require_kick_model("kickonly_perplexity")


def test_perplexity_rises_with_sparsity(stories_model: Path, data_dir: Path) -> None:
    rows = (data_dir / "web_text" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n\n".join(json.loads(row)["text"] for row in rows[:60])
    found = []
    for settings in ({}, {"compressor": "magnitude", "sparsity": 0.7}):
        model = KickLM(pretrained=str(stories_model), **CPU, **settings)
        request = make_requests("windows", [(text, {"limit": 8, "max_window": 256})])
        losses = model.windows(request)[0]["window_losses"]
        found.append(math.exp(sum(losses) / len(losses)))
    assert found[1] > found[0] * 1.05
