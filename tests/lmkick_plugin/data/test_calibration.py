# SPDX-License-Identifier: Apache-2.0
"""Calibration by a task's training text, by the model's own text, by mixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors import SettingsError
from lmkick_plugin.data.calibration import prepare
from lmkick_plugin.data.calibration_generated import write_text
from lmkick_plugin.data.calibration_task_text import training_text
from lmkick_plugin.data.sources import DataError
from lmkick_plugin.model import KickLM
from lmkick_plugin.recipe.calibration_source import TRAINING_TEXT, check_source
from tests.conftest import make_tiny_llama, make_tiny_tokenizer


def plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def question(number: int, **fields: Any) -> dict[str, Any]:
    parses = [{"Answers": [{"AnswersName": [f"answer {number}"]}]}]
    return {"RawQuestion": f"What is {number}?", "Parses": parses, **fields}


def trivia(number: int, evidence: str = "evidence") -> dict[str, Any]:
    return {
        "question": f"Who is {number}?",
        "question_id": f"q_{number}",
        "answer": {"value": f"value {number}", "normalized_aliases": [f"value {number}"]},
        "entity_pages": {"wiki_context": [f"{evidence} {number}"]},
        "search_results": {"search_context": []},
    }


def multiple_choice(number: int, split: str) -> dict[str, Any]:
    return {
        "question": f"Which is {number}?",
        "subject": "high_school_physics",
        "choices": [f"{split} {letter}" for letter in "abcd"],
        "answer": number % 4,
    }


def instruction(number: int, suffix: str = "") -> dict[str, str]:
    return {
        "instruction": f"Do {number}.{suffix}",
        "input": "it" if number % 2 else "",
        "output": f"done {number}",
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in which each training split repeats one scored item in other white space and case."""
    folder = tmp_path_factory.mktemp("made")
    files: dict[str, list[dict[str, Any]]] = {
        "alpaca/train.jsonl": [
            *map(instruction, range(20)), {**instruction(0), "instruction": " DO  0."}
        ],
        "unnatural_instructions/test.jsonl": [instruction(number) for number in range(3)],
        "unnatural_instructions/train.jsonl": [instruction(number) for number in range(2, 6)],
        "mmlu/test.jsonl": [multiple_choice(number, "same") for number in range(3)],
        "mmlu/dev.jsonl": [
            multiple_choice(2, "same"), multiple_choice(2, "other"), multiple_choice(7, "same")
        ],
        "freebase_qa/eval.jsonl": [question(number) for number in range(5)],
        "freebase_qa/train.jsonl": [
            *(question(10_000 + number) for number in range(1001)),
            question(10_000), {**question(3), "RawQuestion": "what IS  3?"}, question(50),
            question(51, Parses=[]),
        ],
        "trivia_qa/nocontext_validation.jsonl": [trivia(number) for number in range(3)],
        "trivia_qa/nocontext_train.jsonl": [trivia(number) for number in range(2, 5)],
        "trivia_qa/rc_validation.jsonl": [trivia(number) for number in range(3)],
        "trivia_qa/rc_train.jsonl": [trivia(2), trivia(8, "long " * 2000)],
        "cnn_dailymail/test.jsonl": [
            {"article": "The story.", "highlights": "It.", "id": "1"}
        ],
        "cnn_dailymail/train.jsonl": [
            {"article": "the  story.", "highlights": "It."},
            {"article": "Another story.", "highlights": "That."},
        ],
    }  # fmt: skip
    for name, rows in files.items():
        write_lines(folder / name, rows)
    return folder


EXPECTED = {
    "alpaca": [
        *(
            f"Do {number}." + ("\n\nit" if number % 2 else "") + f"\n\ndone {number}"
            for number in range(20)
            if number % 10
        ),
    ],
    "unnatural": ["Do 3.\n\nit\n\ndone 3", "Do 4.\n\ndone 4", "Do 5.\n\nit\n\ndone 5"],
    "freebaseqa": [
        "Please give answer to this question: What is 50?\nThe answer is answer 50",
    ],
    "triviaqa_closed": [
        f"Answer these questions:\n\nQ: Who is {number}?\nA: value {number}" for number in (3, 4)
    ],
    "summarization": [
        "Summarize the given story in less than 150 words while preserving high coherence, "
        "consistency, fluency, and relevance.\n\nAnother story.\n\nThat."
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_training_text_is_laid_out_and_holds_nothing_scored(made: Path, name: str) -> None:
    assert training_text(name, str(made)) == EXPECTED[name]


def test_mmlu(made: Path) -> None:
    intro = "The following are multiple choice questions (with answers) about high school physics."
    assert training_text("mmlu", str(made)) == [
        f"{intro}\n\nWhich is {number}?\nA. {kind} a\nB. {kind} b\nC. {kind} c\nD. {kind} d\n"
        f"Answer: {'ABCD'[number % 4]}"
        for number, kind in ((2, "other"), (7, "same"))
    ]


def test_triviaqa_open_is_cut_as_the_task_cuts(made: Path) -> None:
    (text,) = training_text("triviaqa_open", str(made))
    evidence, ask = text.split("\n\nBased on these texts, answer these questions:\n\n")
    assert len(evidence) <= 6_000
    assert ask == "Q: Who is 8?\nA: value 8"


def test_every_name_is_tested_here() -> None:
    assert {*EXPECTED, "mmlu", "triviaqa_open"} == set(TRAINING_TEXT)


def test_nothing_left_is_an_error(made: Path, tmp_path: Path) -> None:
    for name in ("mmlu/test.jsonl", "mmlu/dev.jsonl"):
        write_lines(tmp_path / name, [multiple_choice(1, "same")])
    with pytest.raises(DataError, match="none is left"):
        training_text("mmlu", str(tmp_path))


@pytest.mark.parametrize("name", ["alpaca", "freebaseqa"])
def test_real_training_text_begins_with_no_prompt_that_is_scored(
    name: str, task_manager: Any, data_dir: Path
) -> None:
    """Against the prompts that lm-eval really asks, not against our own tables."""
    texts = [plain(text) for text in training_text(name, str(data_dir))]
    assert len(texts) > {"alpaca": 4_000, "freebaseqa": 900}[name]
    names = [f"kick_{name}"] + (["llmkick_freebaseqa"] if name == "freebaseqa" else [])
    tasks = task_manager.load(names)["tasks"].values()
    asked = {plain(task.doc_to_text(doc)) for task in tasks for doc in task.eval_docs}
    assert not [text for text in texts if any(text[:cut] in asked for cut in _ends(text))]


def test_real_training_questions_of_mmlu_are_not_scored(task_manager: Any, data_dir: Path) -> None:
    def laid_out(row: dict[str, Any]) -> str:
        choices = [f"{at}. {text}" for at, text in zip("ABCD", row["choices"], strict=True)]
        return plain("\n".join([row["question"], *choices, "Answer:"]))

    tasks = task_manager.load(["kick_mmlu"])["tasks"].values()
    asked = {laid_out(doc) for task in tasks for doc in task.eval_docs.to_list()}
    shown = [laid_out(doc) for task in tasks for doc in task.dataset["dev"].to_list()]
    trained = [text.rsplit(" ", 1)[0] for text in map(plain, training_text("mmlu", str(data_dir)))]
    found = [text for text in shown if any(kept.endswith(text) for kept in trained)]
    assert len(found) == len(trained)
    assert not set(found) & asked
    assert set(shown) & asked  # there was something to leave out: shots that are scored as well


def _ends(text: str) -> list[int]:
    return [at for at, letter in enumerate(text) if letter == " "] + [len(text)]


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("c4", "c4"),
        ("my/file+1.txt", "my/file+1.txt"),
        ("task:kick_mmlu", "task:mmlu"),
        ("task:llmkick_freebaseqa", "task:freebaseqa"),
        ("task:kick_summarization_large", "task:summarization"),
        ("mix:self+task:kick_alpaca+c4", "mix:self+task:alpaca+c4"),
    ],
)
def test_names(given: str, kept: str) -> None:
    assert check_source(given) == kept
    assert check_source(kept) == kept


# --- tokens ---------------------------------------------------------------------------------------


def tokens_of(source: str, **changes: Any) -> torch.Tensor:
    settings: dict[str, Any] = {
        "nsamples": 6, "seqlen": 16, "seed": 0, "max_length": 512, "data_dir": None,
        "progress": False,
    }  # fmt: skip
    prepared = prepare(source, make_tiny_tokenizer(), **{**settings, **changes})
    return prepared.tokens(
        lambda count, seqlen, seed: torch.full((count, seqlen), 100 + seed, dtype=torch.long)
    )


def test_task_tokens_are_its_text(made: Path) -> None:
    tokens = tokens_of("task:triviaqa_open", data_dir=str(made), nsamples=4, seqlen=50)
    text = training_text("triviaqa_open", str(made))[0]
    decoded = [make_tiny_tokenizer().decode(row, skip_special_tokens=True) for row in tokens]
    assert tokens.shape == (4, 50)
    assert all(part in text for part in decoded)


def test_a_mixture_has_equal_parts_in_seeded_order(made: Path, calibration_file: str) -> None:
    source = f"mix:{calibration_file}+self+task:triviaqa_open"
    settings: dict[str, Any] = {"data_dir": str(made), "nsamples": 8, "seqlen": 50}
    tokens = tokens_of(source, **settings)
    assert tokens.shape == (8, 50)
    own = (tokens == 100).all(dim=1)
    assert int(own.sum()) == 3  # 8 = 3 + 3 + 2
    alone = tokens_of(calibration_file, nsamples=3, seqlen=50)
    rows = {tuple(row) for row in tokens.tolist()}
    assert {tuple(row) for row in alone.tolist()} <= rows
    assert torch.equal(tokens, tokens_of(source, **settings))
    assert not torch.equal(tokens, tokens_of(source, **settings, seed=1))
    assert own.tolist() != sorted(own.tolist(), reverse=True)  # not one part after the other


def test_a_mixture_is_cut_to_the_context(made: Path) -> None:
    tokens = tokens_of("mix:self+task:triviaqa_open", data_dir=str(made), max_length=12)
    assert tokens.shape == (6, 12)


@pytest.mark.parametrize(
    ("source", "changes", "said"),
    [
        ("mix:self+c4", {"nsamples": 1}, "is less than the 2 parts"),
        ("task:triviaqa_closed", {}, "calibration=task:triviaqa_closed: data directory"),
        ("task:summarization", {"seqlen": 400}, "calibration=task:summarization: .*too short"),
    ],
)
def test_what_cannot_be_had(
    made: Path, tmp_path: Path, source: str, changes: dict[str, Any], said: str
) -> None:
    folder = tmp_path if "closed" in source else made
    with pytest.raises(SettingsError, match=said):
        tokens_of(source, data_dir=str(folder), **changes)


# --- what the model writes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talkative() -> Any:
    """A model that would rather end a text, and that prefers some tokens clearly."""
    model = make_tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
        model.lm_head.weight[2] = model.lm_head.weight.max() * 3
    return model


def test_written_text_is_seeded_and_of_full_length(talkative: Any) -> None:
    texts = write_text(talkative, 1, 20, 24, seed=3, progress=False)
    assert texts.shape == (20, 24)
    assert texts.dtype == torch.int64
    assert set(texts[:, 0].tolist()) == {1}
    assert not (texts[:, 1:] == 2).any()
    assert len({tuple(row) for row in texts.tolist()}) == 20
    state = torch.random.get_rng_state()
    assert torch.equal(texts, write_text(talkative, 1, 20, 24, seed=3, progress=False))
    assert not torch.equal(texts, write_text(talkative, 1, 20, 24, seed=4, progress=False))
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's draws are moved


def test_written_text_follows_the_models_distribution() -> None:
    model = make_tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
        logits = model(torch.tensor([[1]])).logits[0, -1].double()
    logits[2] = -torch.inf  # the end of text is not drawn
    expected = logits.softmax(0)
    drawn = write_text(model, 1, 4000, 2, seed=0, progress=False)[:, 1]
    frequency = torch.bincount(drawn, minlength=128).double() / 4000
    assert (frequency - expected).abs().sum() / 2 < 0.08
    assert expected.max() > 0.02  # the distribution is not flat


def test_a_model_is_calibrated_on_its_own_text(tiny_model_dir: Path) -> None:
    arguments: dict[str, Any] = {
        "pretrained": str(tiny_model_dir), "compressor": "wanda", "sparsity": 0.5,
        "calibration": "self", "nsamples": 4, "seqlen": 32, "device": "cpu",
    }  # fmt: skip
    models = [KickLM(**arguments, seed=seed) for seed in (0, 0, 1)]
    hashes = [model.weights.sha256 for model in models]
    assert hashes[0] == hashes[1] != hashes[2]
    kick = models[0].get_model_info()["kick"]
    assert (kick["calibration"], kick["nsamples"], kick["seqlen"]) == ("self", 4, 32)
    # Written by the dense model: the same tokens by hand give the same weights.
    from compressors import Unstructured, Wanda, compress_model

    dense = make_tiny_llama()
    tokens = write_text(dense, 1, 4, 32, seed=0, progress=False)
    compress_model(dense, Wanda(pattern=Unstructured(0.5)), calibration=tokens, progress=False)
    for name, weight in models[0].model.named_parameters():
        assert torch.equal(weight, dense.get_parameter(name)), name
