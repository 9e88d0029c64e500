# SPDX-License-Identifier: Apache-2.0
"""A saved model is an ordinary folder with the same answers, and is there whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from compressors import NM, Magnitude, SettingsError, UnsupportedModelError, compress_model
from lmkick_plugin import checkpoints
from lmkick_plugin.checkpoints import write
from lmkick_plugin.checkpoints.model_card import model_card
from lmkick_plugin.cli import main
from lmkick_plugin.model import KickLM
from tests.conftest import make_tiny_llama, make_tiny_tokenizer
from tests.lmkick_plugin.conftest import SENTENCE, make_requests
from tests.tiny_models import make

IDS = torch.arange(3, 40)[None]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"

# Saves, and dies at one point of it without a chance to tidy up: each point in a process of its
# own, forked so that the libraries are imported once.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import transformers.modeling_utils as modeling
from lmkick_plugin import checkpoints, files
from lmkick_plugin.checkpoints import write
from tests.conftest import make_tiny_llama, make_tiny_tokenizer

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def half_a_file(tensors, path, **more):
    Path(path).write_bytes(b"x" * 1000)
    die()

POINTS = {
    "half a file of weights": (modeling, "safe_save_file", half_a_file),
    "weights without tokenizer": (write, "describe_file", die),
    "no configuration yet": (write, "model_card", die),
    "not on the disk yet": (files, "_to_disk", die),
}
for number, (module, name, killer) in enumerate(POINTS.values()):
    child = os.fork()
    if child == 0:
        setattr(module, name, killer)
        model, folder = make_tiny_llama(), Path(sys.argv[1]) / str(number) / "model"
        checkpoints.save(model, folder, tokenizer=make_tiny_tokenizer())
        os._exit(1)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


def stored_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    return names


@pytest.fixture(scope="module")
def pruned() -> Any:
    model = make_tiny_llama()
    compress_model(model, Magnitude(pattern=NM(2, 4)), progress=False)
    return model


@pytest.mark.parametrize(
    ("family", "dtype", "changes"),
    [
        ("llama", torch.float32, {"tie_word_embeddings": True}),
        ("gpt2", torch.bfloat16, {}),
        ("gpt2", torch.float16, {"tie_word_embeddings": False}),
        ("mixtral", torch.float32, {}),
        ("gemma3", torch.float32, {}),
    ],
)
def test_plain_transformers_gives_the_same_logits(
    family: str, dtype: torch.dtype, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = make(family, dtype=dtype, **changes)
    dense = logits(model)
    report = compress_model(model, Magnitude(pattern=NM(2, 4)), progress=False)
    checkpoints.save(model, tmp_path / "saved", report=report)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    assert again.dtype == dtype
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), dense)
    tied = changes.get("tie_word_embeddings", model.config.tie_word_embeddings)
    assert tied == (again.get_input_embeddings().weight is again.get_output_embeddings().weight)
    assert tied != ("lm_head.weight" in stored_names(tmp_path / "saved"))
    kept = checkpoints.read_manifest(tmp_path / "saved")
    assert kept is not None
    assert kept.record["achieved_sparsity"] == report.sparsity
    assert torch.equal(logits(checkpoints.load(tmp_path / "saved")), logits(model))


def test_what_was_evaluated_is_saved(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.generation_config.update(max_length=77, temperature=0.3)  # refused where saved strictly
    source = tmp_path / "source"
    make_tiny_llama().save_pretrained(source)
    model.generation_config.to_json_file(source / "generation_config.json")
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(source)
    folder = tmp_path / "new" / "saved"
    arguments: dict[str, Any] = {"compressor": "magnitude", "sparsity": 0.6, "device": "cpu"}
    cache = str(tmp_path / "cache")
    kick = KickLM(str(source), save_compressed=str(folder), compress_cache=cache, **arguments)
    requests = [(SENTENCE, " A"), (SENTENCE, " B")]
    asked = make_requests("loglikelihood", requests)
    scores = kick.loglikelihood(asked, disable_tqdm=True)
    plain = HFLM(pretrained=str(folder), device="cpu", softmax_dtype="float32")
    assert plain.loglikelihood(asked, disable_tqdm=True) == scores
    assert plain.tokenizer.chat_template == TEMPLATE
    generation = plain.model.generation_config
    assert (generation.max_length, generation.temperature) == (77, 0.3)
    evaluated = kick.get_model_info()["kick"]
    manifest = checkpoints.read_manifest(folder)
    assert manifest is not None
    record = dict(manifest.record)
    assert record == json.loads(
        json.dumps({**evaluated, "chat_template": None, "truncated_prompts": None})
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| method | magnitude |" in card
    assert "Any speed-up" in card
    assert str(tmp_path) not in card
    # The next run takes the weights from the cache, and is recorded as the first but for that.
    again = KickLM(str(source), compress_cache=cache, **arguments).get_model_info()["kick"]
    assert again.pop("from_cache") is True
    assert evaluated.pop("from_cache") is False
    assert again == evaluated
    # And the folder is recognised.
    named = KickLM(str(folder), device="cpu").get_model_info()["kick"]
    assert named["weights_sha256"] == evaluated["weights_sha256"]


def test_shards_and_what_damages_them(
    pruned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_SHARD", "200KB")
    folder = checkpoints.save(pruned, tmp_path / "saved", tokenizer=make_tiny_tokenizer())
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(logits(checkpoints.load(folder)), logits(pruned))
    content = shards[-1].read_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 1
    shards[-1].write_bytes(flipped)
    with pytest.raises(SettingsError, match=r"the weights do not match kick.json"):
        checkpoints.load(folder)
    shards[-1].write_bytes(content[:-10])
    with pytest.raises(SettingsError, match=rf"{shards[-1].name} has \d+ bytes, but kick.json"):
        checkpoints.load(folder)
    with pytest.raises(SettingsError, match="damaged or incomplete"):
        KickLM(str(folder), device="cpu")
    shards[-1].unlink()
    with pytest.raises(SettingsError, match="does not exist"):
        checkpoints.load(folder)


def test_a_folder_that_will_not_do_is_refused_before_weights(
    tiny_model_dir: Path, tmp_path: Path, no_weights: None
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for folder, message in [
        (tmp_path / "full", r"is not empty \(thesis.tex\)"),
        (tmp_path / "file", "is a file"),
        (Path("/proc/nothing/here"), "not writable"),
    ]:
        with pytest.raises(SettingsError, match=message):
            KickLM(
                str(tiny_model_dir), compressor="magnitude", pattern="2:4", device="cpu",
                save_compressed=str(folder),
            )  # fmt: skip
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_disk_without_room_is_refused_before_compression(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compress(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("compressed")

    monkeypatch.setattr("compressors.compress_model", compress)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 5_000_000}))
    with pytest.raises(SettingsError, match=r"takes 50.* MB, and the disk has 5 MB free"):
        KickLM(
            str(tiny_model_dir), compressor="magnitude", pattern="2:4", device="cpu",
            save_compressed=str(tmp_path / "saved"),
        )  # fmt: skip


def test_a_disk_that_fails_leaves_nothing(
    pruned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        with pytest.raises(OSError, match=r"could not be saved .*File too large"):
            checkpoints.save(pruned, tmp_path / "saved")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "describe_file", full)
    with pytest.raises(
        OSError, match=r"No space left.*nothing was left behind: make room"
    ) as caught:
        checkpoints.save(pruned, tmp_path / "saved")
    assert caught.value.errno == 28
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert torch.equal(
        logits(checkpoints.load(checkpoints.save(pruned, tmp_path / "saved"))), logits(pruned)
    )


@pytest.mark.slow
def test_killed_while_saving(
    pruned: Any, tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 4
    for number in range(4):
        parent = tmp_path / str(number)
        (leftover,) = parent.iterdir()
        assert leftover.name.endswith(".partial")
        assert any(leftover.iterdir())
        if number < 3:  # in the last one only the name is missing
            with pytest.raises((OSError, ValueError, SafetensorError)):
                AutoModelForCausalLM.from_pretrained(leftover)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            folder = checkpoints.save(pruned, parent / "model")
        assert f"Removed {leftover}, left by an interrupted save" in caplog.text
        assert list(parent.iterdir()) == [folder]
        assert torch.equal(logits(checkpoints.load(folder)), logits(pruned))


def test_the_command(
    stories_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "saved"
    given = ["compress", "--pretrained", str(stories_model), "--compressor", "magnitude"]
    given += ["--pattern", "2:4", "--dtype", "bfloat16", "--output", str(folder)]
    assert main(given) == 0
    assert f"saved in {folder} (dense): 0.5000 of the matrices' weights" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    expected = AutoModelForCausalLM.from_pretrained(stories_model, dtype=torch.bfloat16)
    dense = logits(expected)
    compress_model(expected, Magnitude(pattern=NM(2, 4)), progress=False)
    assert torch.equal(logits(model), logits(expected))
    assert not torch.equal(logits(model), dense)
    text = "Once upon a time"
    own = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert own == AutoTokenizer.from_pretrained(stories_model)(text)["input_ids"]
    assert main(given) == 2
    assert f"--output {folder} is not empty" in capsys.readouterr().err
    assert main([*given[:-1], str(tmp_path / "b"), "--bits", "4"]) == 2
    assert "lmkick compress: bits='4' does not go with comp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--pretrained": "a/b.gguf"}, "is a GGUF file. Give its folder and its name"),
        ({"--peft": "./absent"}, "peft=./absent: no such folder"),
        ({"--output": "~no-such-user/x"}, "--output ~no-such-user/x: no user of that name"),
        ({"--device": "cuda:77"}, "device=cuda:77: torch"),
        ({"--model-args": "quantize=bnb-nf4"}, "quantize='bnb-nf4' does not go with"),
        ({"--format": "gptq"}, "--format gptq stores integers"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_line(
    changed: dict[str, str],
    message: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_weights: None,
) -> None:
    given = {
        "--pretrained": str(tiny_model_dir), "--compressor": "magnitude", "--pattern": "2:4",
        "--output": str(tmp_path / "saved"), "--device": "cpu", **changed,
    }  # fmt: skip
    assert main(["compress", *(part for pair in given.items() for part in pair)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lmkick compress: ")
    assert "--model_args" not in line
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_the_card_names_a_base_model_of_the_hub_only() -> None:
    model = make_tiny_llama()
    record = write._record(model, None)
    for name, named in (("Qwen/Qwen3-0.6B", True), ("kick-mini", False), ("/tmp", False)):
        card = model_card({**record, "base_model": name}, "dense", 1, custom_code=False)
        assert ("base_model:" in card) == named


def test_the_card_lists_every_setting_of_the_method() -> None:
    record = write._record(make_tiny_llama(), None)
    card = model_card({**record, "compressor": "awq", "clip": False}, "dense", 1, custom_code=False)
    assert "| clip | False |" in card


def test_a_model_that_is_quantized_is_not_saved_again(tmp_path: Path) -> None:
    model = make_tiny_llama()
    with pytest.raises(SettingsError, match="save_format=gptq stores integers"):
        checkpoints.prepare(Magnitude(pattern=NM(2, 4)), model, "gptq")
    with pytest.raises((SettingsError, UnsupportedModelError), match="grid of every matrix"):
        checkpoints.save(model, tmp_path / "saved", storage="gptq")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "pretrained=/no/such/folder: no such folder. Give a saved model's"),
        ("~/no_such_folder", "no such folder"),
        (__file__, "is a file. Give the model's folder"),
    ],
)
def test_what_is_no_folder_is_refused_as_by_the_model(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        checkpoints.load(name)
    with pytest.raises(SettingsError, match=message):
        KickLM(name)
