# SPDX-License-Identifier: Apache-2.0
"""What others compressed, and what is quantized while it loads, evaluated by ``--model kick``."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from compressors import RTN, SettingsError, UnsupportedModelError, compress_model
from lmkick_plugin.checkpoints.manifest import MANIFEST, Manifest
from lmkick_plugin.model import KickLM
from lmkick_plugin.preflight.models import check_model_arguments
from lmkick_plugin.recipe.arguments import parse_arguments
from lmkick_plugin.record.weights import survey_weights
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.terminal import CommandError
from tests.conftest import make_tiny_llama, make_tiny_tokenizer
from tests.fixtures.make_checkpoints import save_base
from tests.lmkick_plugin.checkpoints.test_detect import FIXTURES, PARAMETERS
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

CPU: dict[str, Any] = {"device": "cpu", "batch_size": 2}
PAIRS = [(SENTENCE, " Ab"), (SENTENCE[::-1], "xyz"), ("Once upon a time", " B")]
NEEDS = {
    "gptqmodel": ("gptqmodel", "optimum"),
    "llmcompressor": ("compressed_tensors",),
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "gguf": ("gguf",),
}
LABELS = {
    "gptqmodel-w4": "gptq 4 bits",
    "gptqmodel-w3-act-order": "gptq 3 bits",
    "gptqmodel-awq": "awq 4 bits",
    "llmcompressor-2of4": "sparsegpt 2:4",
    "llmcompressor-2of4-w4a16": "sparsegpt 2:4 4 bits",
    "llmcompressor-w4a16": "gptq 4 bits",
    "llmcompressor-w4a16-asym": "rtn 4 bits",
    "llmcompressor-w8a8": "rtn 8 bits",
    "llmcompressor-fp8": "fp8 8 bits",
    "bitsandbytes-nf4": "bnb-nf4 4 bits",
    "bitsandbytes-int8": "bnb-int8 8 bits",
    "torchao-int8": "torchao-int8 8 bits",
    "gguf-q4": "gguf-q4_0 4 bits",
}


def need(*libraries: str) -> None:
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


def arguments(name: str) -> dict[str, Any]:
    folder = FIXTURES / name
    extra = {"gguf_file": "model.gguf", "tokenizer": str(folder)} if name == "gguf-q4" else {}
    return {"pretrained": str(folder), **extra, **CPU}


def scores(model: Any) -> list[float]:
    answers = model.loglikelihood(make_requests("loglikelihood", PAIRS), disable_tqdm=True)
    return [answer[0] for answer in answers]


def distance(some: list[float], others: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


def record(model: KickLM) -> dict[str, Any]:
    kick: dict[str, Any] = model.get_model_info()["kick"]
    assert json.loads(json.dumps(kick, allow_nan=False)) == kick
    return kick


def label(kick: dict[str, Any]) -> str:
    name = Path(str(kick["base_model"])).name
    shown = ResultsFile(Path("results.json"), "", {"results": {}, "config": {"kick": kick}}).label
    return shown.removeprefix(f"{name} ")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense model that the fixtures were made from."""
    return save_base(tmp_path_factory.mktemp("checkpoints") / "base")


@pytest.fixture(scope="module")
def dense(base: Path) -> KickLM:
    return KickLM(pretrained=str(base), **CPU)


@pytest.fixture(scope="module")
def random_distance(base: Path, dense: KickLM) -> float:
    """How far another random model is: what a checkpoint that is read wrongly would look like."""
    config = transformers.AutoConfig.from_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        other = transformers.LlamaForCausalLM(config)
        for weight in other.parameters():
            if weight.ndim > 1:
                weight.data.normal_(std=0.08)
    other.model.embed_tokens.weight.data = dense.model.get_input_embeddings().weight.data.float()
    wrong = KickLM(pretrained=other, tokenizer=dense.tokenizer, **CPU)
    return distance(scores(wrong), scores(dense))


# optimum asks every module for an attribute that transformers deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up .*gptqmodel_:ResourceWarning")
@pytest.mark.parametrize("name", LABELS)
def test_fixture_is_evaluated_and_labelled(
    name: str, dense: KickLM, random_distance: float
) -> None:
    if name != "llmcompressor-2of4":  # plain weights
        need(*NEEDS[name.split("-")[0]])
    model = KickLM(**arguments(name))
    kick = record(model)
    assert label(kick) == LABELS[name]
    assert kick["checkpoint"]["matrices"] == 7
    assert kick["total_parameters"] == PARAMETERS
    assert kick["achieved_sparsity"] == kick["checkpoint"]["sparsity"] < 0.51
    weights = [*(FIXTURES / name).glob("model.*")]
    assert kick["checkpoint"]["bytes_on_disk"] == weights[0].stat().st_size
    assert kick["bytes_best_format"] < kick["bytes_dense"]
    # Pruned models are far from the dense one; quantized ones are near it, and random ones far.
    if "2of4" not in name:
        assert 0 < distance(scores(model), scores(dense)) < 0.5 * random_distance
    assert not model.is_dense
    again = KickLM(**arguments(name))
    assert again.weights.sha256 == model.weights.sha256


def test_zeros_in_files_are_those_in_memory(dense: KickLM) -> None:
    need("compressed_tensors")
    names = ("w4a16", "w4a16-asym", "2of4-w4a16", "w8a8")
    for name in (f"llmcompressor-{name}" for name in names):
        model = KickLM(**arguments(name))
        scores(model)  # compressed-tensors unpacks its weights when they are first used
        weights = [
            module.weight
            for path, module in model.model.named_modules()
            if isinstance(module, torch.nn.Linear) and path != "lm_head"
        ]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        total = sum(weight.numel() for weight in weights)
        assert all(weight.is_floating_point() for weight in weights)
        assert 0 < zeros / total == record(model)["achieved_sparsity"]


def test_scores_are_those_of_plain_transformers() -> None:
    need("compressed_tensors")
    folder = FIXTURES / "llmcompressor-w4a16"
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model = KickLM(**arguments(folder.name))
    context, wanted = model._encode_pair(*PAIRS[-1])
    with torch.no_grad():
        logits = plain(torch.tensor([context + wanted])).logits[0].float().log_softmax(-1)
    expected = sum(float(logits[len(context) - 1 + at, token]) for at, token in enumerate(wanted))
    assert scores(model)[-1] == pytest.approx(expected, abs=2e-2)


def test_through_a_task(data_dir: Path, task_manager: TaskManager) -> None:
    need("compressed_tensors")
    from lm_eval import simple_evaluate

    given = arguments("llmcompressor-2of4-w4a16") | {"compressor": "none"}
    results = simple_evaluate(
        model="kick", model_args=given, tasks=["kick_freebaseqa"], limit=2,
        task_manager=task_manager, bootstrap_iters=0,
    )  # fmt: skip
    assert results is not None
    assert "contains,none" in results["results"]["kick_freebaseqa"]
    assert results["config"]["kick"]["compressor"] == "sparsegpt"
    assert results["config"]["kick"]["checkpoint"]["pattern"] == "2:4"


@pytest.fixture
def pruned(tmp_path: Path) -> Callable[..., Path]:
    """A folder that somebody pruned without telling."""

    def make(pattern: str | None = None, sparsity: float = 0.5) -> Path:
        model = make_tiny_llama()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                weight = module.weight.data
                kept, every = map(int, (pattern or f"0:{weight.shape[1]}").split(":"))
                groups = weight.view(-1, every)
                zeros = every - kept if pattern else round(sparsity * every)
                smallest = groups.abs().argsort(dim=1)[:, :zeros]
                groups.scatter_(1, smallest, 0.0)
        model.save_pretrained(tmp_path / "pruned")
        make_tiny_tokenizer().save_pretrained(tmp_path / "pruned")
        return tmp_path / "pruned"

    return make


@pytest.mark.parametrize(
    ("pattern", "sparsity", "named"),
    [("2:4", 0.5, "pruned 2:4"), ("4:8", 0.5, "pruned 4:8"), (None, 0.25, "pruned 25 %")],
)
def test_pruned_by_anybody(
    pruned: Callable[..., Path], pattern: str | None, sparsity: float, named: str
) -> None:
    folder = pruned(pattern, sparsity)
    kick = record(KickLM(pretrained=str(folder), **CPU))
    assert kick["pattern"] == (pattern or "unstructured")
    assert kick["achieved_sparsity"] == sparsity
    assert label(kick) == named
    assert kick["requested_sparsity"] is None
    assert kick["checkpoint"]["made_by"] is None
    assert kick["bytes_best_format"] < kick["bytes_dense"]


def test_dequantized_weights_are_dense(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rounding leaves zeros, as in a checkpoint made from a GGUF file; pruning more than those."""
    model = make_tiny_llama()
    compress_model(model, RTN(num_bits=4, group_size=32), progress=False)
    assert (model.model.layers[0].mlp.up_proj.weight == 0).float().mean() > 0.05
    for number, more in enumerate((0.0, 0.5)):
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                module.weight.data.flatten()[: int(more * module.weight.numel())] = 0.0
        folder = tmp_path / str(number)
        model.save_pretrained(folder)
        make_tiny_tokenizer().save_pretrained(folder)
    kick = record(KickLM(pretrained=str(tmp_path / "0"), **CPU))
    assert (kick["compressor"], kick["pattern"]) == ("none", None)
    assert "as in a dequantized checkpoint" in caplog.text
    assert record(KickLM(pretrained=str(tmp_path / "1"), **CPU))["compressor"] == "pruned"


@pytest.mark.parametrize(
    ("card", "config", "base"),
    [
        ("base_model: some/model", {}, ("some/model", "README.md")),
        (
            "base_model:\n- some/model\nbase_model_relation: quantized",
            {"_name_or_path": "an/other"}, ("some/model", "README.md"),
        ),
        ("license: mit", {"_name_or_path": "an/other"}, ("an/other", "config.json")),
        ("base_model: some/model\nbase_model_relation: finetune", {}, None),
        ("base_model: [some/model, an/other]", {}, None),
        ("base_model: ../model", {"_name_or_path": "/home/me/model"}, None),
        ("base_model: [broken", {}, None),
    ],
)  # fmt: skip
def test_the_base_model_that_it_states(
    pruned: Callable[..., Path],
    card: str,
    config: dict[str, str],
    base: tuple[str, str] | None,
) -> None:
    folder = pruned("2:4")
    (folder / "README.md").write_text(f"---\n{card}\n---\n# Pruned\n", encoding="utf-8")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | config))
    model = KickLM(pretrained=str(folder), **CPU)
    kick = record(model)
    name, file = base or (str(folder), None)
    assert (kick["base_model"], kick["checkpoint"]["base_model_from"]) == (name, file)
    assert label(kick) == "pruned 2:4"
    assert f"reference={'NAME' if base is None else name}" in str(model.dense_problem)


def test_dense_stays_dense(dense: KickLM) -> None:
    kick = record(dense)
    assert (kick["compressor"], kick["checkpoint"], kick["pattern"]) == ("none", None, None)
    assert label(kick) == "dense"
    assert dense.is_dense


def test_our_own_record_is_restored(pruned: Callable[..., Path]) -> None:
    folder = pruned("2:4")
    recipe = {
        "compressor": "wanda", "pattern": "2:4", "requested_sparsity": 0.5, "nsamples": 8,
        "calibration": "c4", "base_model": "some/model", "bytes_best_format": 1, "device": "other",
        "dtype": "float32",
        "weights_sha256": KickLM(pretrained=str(folder), **CPU).weights.sha256,
    }  # fmt: skip
    (folder / MANIFEST).write_text(Manifest("dense", recipe, {}).to_json(), encoding="utf-8")
    kick = record(KickLM(pretrained=str(folder), **CPU))
    assert label(kick) == "wanda 2:4"
    for key in ("compressor", "calibration", "nsamples", "base_model", "bytes_best_format"):
        assert kick[key] == recipe[key]
    assert kick["device"] != "other"
    assert kick["checkpoint"]["saved_by_lmkick"]
    other = KickLM(pretrained=str(folder), dtype="bfloat16", **CPU)
    assert record(other)["bytes_best_format"] != 1  # not the weights that were saved
    changed = Manifest("dense", recipe | {"weights_sha256": "0" * 64}, {})
    (folder / MANIFEST).write_text(changed.to_json(), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"the weights do not match kick\.json"):
        KickLM(pretrained=str(folder), **CPU)


class TestDivergence:
    def ask(self, model: KickLM) -> dict[str, Any]:
        settings = {"max_window": 64, "prompt_tokens": 8, "new_tokens": 4, "whole": False}
        return model.divergence(make_requests("divergence", [(SENTENCE * 3, settings)]))[0]

    def test_dense_weights_are_asked_for(self) -> None:
        model = KickLM(**arguments("llmcompressor-2of4"))
        assert "already compressed" in str(model.dense_problem)
        with pytest.raises(SettingsError, match=r"already compressed.*reference=NAME"):
            self.ask(model)

    def test_with_a_reference(self, base: Path) -> None:
        model = KickLM(reference=str(base), **arguments("llmcompressor-2of4"))
        assert model.dense_problem is None
        assert self.ask(model)["jsd"] > 0

    @pytest.mark.parametrize("kind", ["bnb-nf4", "bnb-int8", "torchao-int8"])
    def test_quantized_while_loading(self, base: Path, dense: KickLM, kind: str) -> None:
        need({"bnb": "bitsandbytes"}.get(kind[:3], "torchao"))
        model = KickLM(pretrained=str(base), quantize=kind, **CPU)
        kick = record(model)
        assert (kick["compressor"], kick["base_model"]) == (kind, str(base))
        assert kick["num_bits"] == (4 if kind == "bnb-nf4" else 8)
        assert kick["total_parameters"] == PARAMETERS
        assert kick["checkpoint"]["bytes_in_memory"] < 0.6 * kick["bytes_dense"]
        own, found = self.ask(dense), self.ask(model)
        assert own["jsd"] == 0
        assert 0 < found["jsd"] / found["positions"] < 0.2
        assert found["positions"] == own["positions"] > 100
        assert 0 < distance(scores(model), scores(dense)) < 1.5


class TestRefused:
    def test_quantize_and_a_compressor(self) -> None:
        with pytest.raises(SettingsError, match="quantize='bnb-nf4' does not go with compressor=w"):
            parse_arguments({"compressor": "wanda", "sparsity": 0.5, "quantize": "bnb-nf4"})

    def test_unknown_quantize(self) -> None:
        with pytest.raises(SettingsError, match="Did you mean 'bnb-nf4'"):
            parse_arguments({"quantize": "bnb-fp4"})

    def test_quantize_of_a_quantized_checkpoint(self) -> None:
        with pytest.raises(SettingsError, match=r"already quantized \(gptq\).*Leave quantize out"):
            KickLM(quantize="bnb-int8", **arguments("gptqmodel-w4"))

    def test_quantize_of_an_object(self) -> None:
        with pytest.raises(SettingsError, match="given as an object"):
            KickLM(
                pretrained=make_tiny_llama(), tokenizer=make_tiny_tokenizer(),
                quantize="bnb-int8", **CPU,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "libraries", "extra"),
        [
            ("gptqmodel-w4", ("gptqmodel", "optimum"), "gptq"),
            ("gptqmodel-awq", ("gptqmodel",), "gptq"),
            ("llmcompressor-fp8", ("compressed_tensors",), "compressed-tensors"),
            ("bitsandbytes-nf4", ("bitsandbytes",), "bitsandbytes"),
            ("torchao-int8", ("torchao",), "torchao"),
            ("gguf-q4", ("gguf",), "gguf"),
        ],
    )
    def test_missing_library(
        self, name: str, libraries: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.hide(libraries, monkeypatch)
        with pytest.raises(SettingsError, match=rf"{libraries[0]}.*lmkick\[{extra}\]") as caught:
            KickLM(**arguments(name))
        # gptqmodel pins another numpy than lmkick's.
        assert ("in an environment of its own" in str(caught.value)) == (extra == "gptq")

    @pytest.mark.parametrize("kind", ["bnb-nf4", "torchao-int8"])
    def test_missing_library_of_quantize(
        self, base: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library = "bitsandbytes" if kind == "bnb-nf4" else "torchao"
        self.hide((library,), monkeypatch)
        with pytest.raises(SettingsError, match=rf"quantize={kind} needs.*lmkick\[{library}\]"):
            KickLM(pretrained=str(base), quantize=kind, **CPU)
        # lmkick run says so before lm-eval starts.
        with pytest.raises(CommandError, match=rf"quantize={kind} needs {library}"):
            check_model_arguments({"pretrained": str(base), "quantize": kind})

    def hide(self, libraries: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        from lmkick_plugin.loading import quantize_on_load

        known = importlib.util.find_spec

        def find(name: str) -> Any:
            return None if name in libraries else known(name)

        monkeypatch.setattr(quantize_on_load, "find_spec", find)

    def test_truncated_shard_before_anything_is_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = Path(shutil.copytree(FIXTURES / "llmcompressor-2of4", tmp_path / "short"))
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
        with pytest.raises(SettingsError, match=r"short/model\.safetensors: .*not fully covered"):
            KickLM(pretrained=str(folder), **CPU)

    def test_gguf_file_as_a_model(self) -> None:
        with pytest.raises(SettingsError, match=r"pretrained=/a/b,gguf_file=c\.gguf"):
            KickLM(pretrained="/a/b/c.gguf", **CPU)

    def test_compressing_it_again(self) -> None:
        with pytest.raises(UnsupportedModelError, match="already quantized"):
            KickLM(compressor="magnitude", sparsity=0.5, **arguments("bitsandbytes-nf4"))


def test_fingerprint_covers_scales() -> None:
    need("bitsandbytes")
    model = KickLM(**arguments("bitsandbytes-nf4"))
    weight = model.model.model.layers[0].mlp.up_proj.weight
    assert survey_weights(model.model).sha256 == model.weights.sha256
    weight.quant_state.absmax[0] ^= 1
    assert survey_weights(model.model).sha256 != model.weights.sha256


def test_fingerprint_covers_buffers_that_hold_weights() -> None:
    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.arange(8, dtype=torch.int32))

    module = Packed()
    before = survey_weights(module)
    assert before.bytes == 32
    module.qweight[3] += 1
    assert survey_weights(module).sha256 != before.sha256


def test_arguments_import_no_quantization_library() -> None:
    import subprocess

    code = "import sys; from lmkick_plugin.recipe.arguments import parse_arguments; "
    code += "parse_arguments({'quantize': 'bnb-nf4'}); "
    code += "print([m for m in ('bitsandbytes', 'torchao', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
