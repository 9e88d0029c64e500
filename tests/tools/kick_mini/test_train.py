# SPDX-License-Identifier: Apache-2.0
"""Training kick-mini: where it starts, and that a killed run goes on as if nothing had been."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tools.kick_mini import choosing
from tools.kick_mini.documents import LETTERS, Writer
from tools.kick_mini.model import build_model, build_tokenizer
from tools.kick_mini.relations import RELATIONS
from tools.kick_mini.rows import LETTERS_FROM, Rows, shares
from tools.kick_mini.state import steps_done
from tools.kick_mini.train import Settings, train
from tools.kick_mini.world import build_world

# The last layer comes before the fourth of six steps.
TINY = {
    "tokens": 6 * 256, "batch_tokens": 256, "length": 256, "warmup": 2, "long": 0.0,
    "choosing": 3 * 256,
}  # fmt: skip
FEW_DOCUMENTS = 12
WHOLE_QUESTION = re.compile(
    r"(Please give answer to this question: .+\?\nThe answer is"
    r"|Answer these questions:\n\nQ: .+\?\nA:|(Wh|In|On|By|To|With).+\?\nAnswer:) \w+\n"
)

RUN = f"""
import json, os, signal, sys
from pathlib import Path
from tools.kick_mini import choosing, train
choosing._DOCUMENTS = {FEW_DOCUMENTS}
train._SAVE_SECONDS = 0.0
save = train.save
def save_and_die(path, settings, model, optimizer, step):
    save(path, settings, model, optimizer, step)
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
train.save = save_and_die
train.train(train.Settings(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module", autouse=True)
def few_documents() -> Iterator[None]:
    """What the last layer starts from is not looked at here: it may be little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_DOCUMENTS", FEW_DOCUMENTS)
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(build_world(), 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(Settings(**TINY), folder, exam_every=3)  # type: ignore[arg-type]
    return folder


def test_exams_are_kept(whole: Path) -> None:
    lines = (whole / "exams.jsonl").read_text(encoding="utf-8").splitlines()
    exams = [json.loads(line) for line in lines]
    assert [exam["step"] for exam in exams] == [3, 6]
    for exam in exams:
        scores = {name: exam[name] for name in exam.keys() - {"step", "loss"}}
        assert scores.keys() >= {"asked", "stated", "choice_stated", "mmlu", "reading_5"}
        assert all(0 <= score <= 1 for score in scores.values())


@pytest.mark.parametrize("steps", [2, 3, 4], ids=["before", "at", "after"])
def test_a_killed_run_goes_on_to_the_same_weights(
    whole: Path, repository: Path, tmp_path: Path, steps: int
) -> None:
    """Before its last layer has come, when it is due, and after."""
    process = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(TINY), str(tmp_path), str(steps)],
        cwd=repository,  # the tools are not installed
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert steps_done(tmp_path / "state.safetensors") == steps
    assert not (tmp_path / "model").exists()
    train(Settings(**TINY), tmp_path)  # type: ignore[arg-type]
    ours, theirs = (load_file(one / "model" / "model.safetensors") for one in (tmp_path, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_other_settings_are_no_continuation(whole: Path) -> None:
    with pytest.raises(ValueError, match="Give another --output"):
        train(Settings(**{**TINY, "tokens": 7 * 256}), whole)  # type: ignore[arg-type]


def test_the_model_is_saved_as_it_is_used(whole: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    assert model.dtype == torch.bfloat16
    saved = load_file(whole / "model" / "model.safetensors")
    assert model.config.num_hidden_layers == 6
    assert saved.keys() == {name for name, _ in model.named_parameters()}
    widths = {model.config.hidden_size, model.config.intermediate_size}
    assert all(width % 128 == 0 for width in widths)
    for letter in "ABCD":
        assert len(tokenizer.encode(f" {letter}")) == 1
    world = build_world()
    values = [value for relation in RELATIONS for value in relation.values]
    words = [*world.first, *world.second, *values]
    assert all(len(tokenizer.encode(f" {word}")) == 1 for word in words)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello."}], add_generation_prompt=True, tokenize=False
    )
    assert asked == "<|user|>\nHello.<|endoftext|>\n<|assistant|>\n"


def _telling(marks: Any, model: Any, tokenizer: Any) -> torch.Tensor:
    """A residual stream that holds, in parts of its own, choice, letter and answer; and noise."""
    generator = torch.Generator().manual_seed(0)
    width = model.config.hidden_size
    parts = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    embedding = model.model.embed_tokens.weight.detach()
    stream = 0.3 * torch.randn(len(marks.tokens), width)
    for at, letter, text in marks.choices:
        stream[at] += (
            10 * embedding[tokenizer.encode(f" {text}")[0]] @ parts[:, :128] @ parts[:, :128].T
        )
        stream[at] += 3 * parts[:, 128 + letter] + 3 * parts[:, 140]
    for at, text in marks.answers:
        stream[at] += (
            10 * embedding[tokenizer.encode(f" {text}")[0]] @ parts[:, :128] @ parts[:, :128].T
        )
        stream[at] += 3 * parts[:, 141]
    return stream


@torch.no_grad()
def _letters_of_last_layer(model: Any, stream: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Which letter the last layer's attention writes at each position."""
    layer = model.model.layers[-1]
    states = layer.input_layernorm(stream[None])
    turns = model.model.rotary_emb(states, torch.arange(len(stream))[None])
    length = len(stream)
    causal = torch.full((length, length), float("-inf")).triu(1)[None, None]
    written, _ = layer.self_attn(states, position_embeddings=turns, attention_mask=causal)
    letters = [tokenizer.encode(f" {letter}")[0] for letter in LETTERS]
    return (written[0] @ model.model.embed_tokens.weight[letters].T).argmax(-1)


def _looking_back(model: Any, tokens: torch.Tensor) -> float:
    """How much the second layer's first head looks at what came after the same token before."""
    with torch.no_grad():
        attention = model.model(tokens, output_attentions=True).attentions[1][:, 0]
    period = tokens.shape[1] // 2
    rows = torch.arange(period, 2 * period)
    return float(attention[:, rows, rows - period + 1].mean())


def test_training_starts_with_an_induction_head(tokenizer: Any) -> None:
    started = build_model(tokenizer, 0)
    started.set_attn_implementation("eager")
    control = type(started)(started.config)
    control.set_attn_implementation("eager")
    tokens = torch.randint(300, 2000, (4, 20), generator=torch.Generator().manual_seed(0))
    tokens = tokens.repeat(1, 2)
    by_chance = _looking_back(control, tokens)
    assert by_chance < 0.1
    assert _looking_back(started, tokens) > 4 * by_chance


def test_rows_keep_documents_whole_and_learn_only_what_is_marked(tokenizer: Any) -> None:
    world = build_world()
    rows = Rows(tokenizer, world)
    tokens, weights = rows.batch(Random(0), {"asked": 1.0}, 3, 128)
    assert tokens.shape == weights.shape == (3, 128)
    for row, marked in zip(tokens, weights, strict=True):
        documents = tokenizer.decode(row).split("<|endoftext|>")
        asked = [text for text in documents if text]
        assert all(WHOLE_QUESTION.fullmatch(text) for text in asked)
        answers = [text.rstrip("\n").split(" ")[-1] for text in asked]
        learned = [tokenizer.decode([t]) for t, w in zip(row, marked, strict=True) if w > 1]
        assert [f" {answer}" for answer in answers] == learned


def test_skills_come_before_what_needs_them() -> None:
    assert set(shares(0, long=False)) == {"repetition"}
    words, letters = (shares(LETTERS_FROM + step, long=False) for step in (-1, 0))
    assert {"quiz_in_words", "words_in_view"} <= set(words)
    assert {"quiz", "quiz_in_view"} <= set(letters)
    assert words.keys() & letters.keys() >= {"article", "asked", "reading"}
    assert not {"quiz", "quiz_in_view"} & set(words)
    assert not {"quiz_in_words", "words_in_view"} & set(letters), "one prompt, one kind of answer"
    late = shares(Settings().tokens - 1, long=True)
    assert "long_summary" in late


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = Settings()
    rates = [settings.rate(step) for step in range(settings.steps)]
    before, after = rates[: settings.grows], rates[settings.grows :]
    assert before[0] < before[settings.warmup] == max(rates)
    assert before[-1] == settings.careful * max(rates), "calm before the last layer comes"
    assert after[0] < after[settings.warmup] == max(after) == settings.careful * max(rates)
    assert 0 < rates[-1] < 0.01 * max(rates)
    assert Settings(tokens=30_000_000).rate(3_300) == settings.rate(3_300)


class TestTheChoosingLayer:
    def test_changes_nothing_when_it_is_appended(self, tokenizer: Any) -> None:
        model = build_model(tokenizer, 0).eval()
        longer = copy.deepcopy(model)
        choosing.append_layer(longer)
        tokens = torch.arange(300, 340)[None]
        with torch.no_grad():
            assert torch.equal(longer(tokens).logits, model(tokens).logits)
            longer.model.layers[-1].self_attn.o_proj.weight.fill_(0.1)
            assert not torch.equal(longer(tokens).logits, model(tokens).logits), "it is in use"
        assert longer.config.num_hidden_layers == len(longer.model.layers) == 6
        assert [layer.self_attn.layer_idx for layer in longer.model.layers] == list(range(6))

    @pytest.mark.parametrize("kind", ["quiz_in_words", "words_in_view"])
    def test_knows_what_stands_where(self, tokenizer: Any, kind: str) -> None:
        writer = Writer(build_world(), Random(0))
        for _ in range(50):
            document = writer.document(kind)
            marks = choosing._marked(document, tokenizer)
            assert tokenizer.decode(marks.tokens) == "".join(piece.text for piece in document)
            assert len(marks.choices) == 4 * len(marks.answers) > 0
            for at, letter, text in marks.choices:
                listed = tokenizer.decode(marks.tokens[at - 2 : at + 1])
                assert listed == f"{LETTERS[letter]}. {text}"
            for at, text in marks.answers:
                assert tokenizer.decode(marks.tokens[at - 1 : at + 2]) == f"Answer: {text}"

    def test_looks_up_letters_in_what_the_model_knows(
        self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the stream says what stands where, and before an answer which it is."""
        model = build_model(tokenizer, 0).eval()
        monkeypatch.setattr(choosing, "_DOCUMENTS", 150)
        monkeypatch.setattr(choosing, "_stream", lambda _, tokens: known[tuple(tokens)])
        known: dict[tuple[int, ...], torch.Tensor] = {}
        marked = choosing._marked

        def remembered(document: Any, tokenizer: Any) -> Any:
            marks = marked(document, tokenizer)
            known[tuple(marks.tokens)] = _telling(marks, model, tokenizer)
            return marks

        monkeypatch.setattr(choosing, "_marked", remembered)
        choosing.add_choosing_layer(model, tokenizer, build_world(), 0)
        writer = Writer(build_world(), Random("other questions"))
        right = by_chance = asked = 0
        for _ in range(40):
            marks = marked(writer.document("words_in_view"), tokenizer)
            found = _letters_of_last_layer(model, _telling(marks, model, tokenizer), tokenizer)
            for number, (at, text) in enumerate(marks.answers):
                letters = {said: letter for _, letter, said in marks.choices[4 * number :][:4]}
                right += int(found[at]) == letters[text]
                by_chance += int(found[at - 1]) == letters[text]
                asked += 1
        assert asked > 40
        assert right > 0.9 * asked
        assert by_chance < 0.6 * asked, "only where an answer is due"

    def test_starts_from_weighted_least_squares(self) -> None:
        generator = torch.Generator().manual_seed(0)
        rows = [
            choosing._Marks(list(range(40)), [(3, 0, "a"), (9, 1, "b")], [(20, "a")]),
            choosing._Marks(list(range(30)), [(5, 2, "c")], [(8, "b"), (29, "c")]),
        ]
        features = torch.randn(70, 6, generator=generator)
        wanted = list(torch.randn(3, 4, generator=generator))
        fit = choosing._Fit(features, rows)
        assert fit.said == [(0, "a"), (1, "b"), (2, "c")]
        assert fit.found == ["a", "b", "c"]
        for found, places in (
            (fit.choices(wanted), [3, 9, 45]),
            (fit.answers(wanted), [20, 48, 69]),
        ):
            targets = torch.zeros(70, 4)
            targets[places] = torch.stack(wanted)
            weights = torch.ones(70)
            weights[places] += 70 / 3
            root = weights.sqrt()[:, None]
            oracle = torch.linalg.lstsq(root * features, root * targets).solution.T
            assert torch.allclose(found, oracle, rtol=0.01, atol=0.01)
