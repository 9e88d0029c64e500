# SPDX-License-Identifier: Apache-2.0
"""A real language model: what toy models hide."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors import GPTQ, RTN, Magnitude, SparseGPT, Unstructured, Wanda, compress_model
from tests.lmkick_plugin.conftest import make_requests
from tests.real.conftest import perplexity

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

HALF = Unstructured(0.5)
METHODS = {
    "rtn": RTN(num_bits=4, group_size=64),
    "gptq": GPTQ(num_bits=4, group_size=64),
    "gptq, released order": GPTQ(num_bits=4, group_size=64, act_order=False, static_groups=False),
    "magnitude": Magnitude(pattern=HALF),
    "wanda": Wanda(pattern=HALF),
    "sparsegpt": SparseGPT(pattern=HALF),
}


@pytest.fixture(scope="module")
def perplexities(smollm2: Path, calibration: Any, windows: Any) -> dict[str, float]:
    """Of the dense model and of each method."""
    from transformers import AutoModelForCausalLM

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = {}
    for name in ["dense", *METHODS]:
        model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
        if name != "dense":
            needs = name not in ("rtn", "magnitude")
            compress_model(model, METHODS[name], calibration=calibration if needs else None)
        found[name] = perplexity(model, windows)
    torch.set_num_threads(before)
    return found


def test_gptq_stays_near_rounding(perplexities: dict[str, float]) -> None:
    """Which of them is ahead depends on text and tokens: docs/defaults.md has the figures."""
    found = perplexities
    assert found["dense"] < found["gptq"] < 1.25 * found["rtn"], found


def test_calibrated_pruning_beats_magnitude(perplexities: dict[str, float]) -> None:
    for method in ("wanda", "sparsegpt"):
        assert perplexities["dense"] < perplexities[method] < perplexities["magnitude"] / 2, (
            perplexities
        )


def test_windows_are_scored_as_by_a_plain_loop(smollm2: Path, windows: Any) -> None:
    from lmkick_plugin.model import KickLM

    lm = KickLM(pretrained=str(smollm2), device="cpu", dtype="float32", batch_size=4)
    text = lm.tokenizer.decode(windows.flatten())
    ids = lm.tokenizer(text, return_tensors="pt").input_ids[0]
    count = len(ids) // 256
    (answer,) = lm.windows(
        make_requests(
            "windows", [(text, {"limit": None, "max_window": 256})], "kickonly_perplexity"
        )
    )
    expected = perplexity(lm.model, ids[: count * 256].view(count, 256))
    losses = torch.tensor(answer["window_losses"], dtype=torch.float64)
    assert len(losses) == count
    assert float(losses.mean().exp()) == pytest.approx(expected, rel=1e-4)


def test_kick_answers_as_hf_does(smollm2: Path, data_dir: Path) -> None:
    """100 requests of real questions."""
    from lm_eval.models.huggingface import HFLM

    from lmkick_plugin.data.sources import read_json_lines
    from lmkick_plugin.model import KickLM

    lines = read_json_lines(data_dir / "freebase_qa" / "eval.jsonl")
    rows = [row for _, row in islice(lines, 90)]
    prompts = [
        f"Please give answer to this question: {row['RawQuestion']}\nThe answer is" for row in rows
    ]
    scored = [
        (prompt, " " + row["ProcessedQuestion"][:12])
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    generated = [(prompt, {"until": ["\n"], "max_gen_toks": 8}) for prompt in prompts[:10]]
    shared: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 16}
    ours = KickLM(pretrained=str(smollm2), **shared)
    theirs = HFLM(pretrained=str(smollm2), **shared)
    answers = [
        (
            lm.loglikelihood(make_requests("loglikelihood", scored), disable_tqdm=True),
            lm.generate_until(make_requests("generate_until", generated), disable_tqdm=True),
        )
        for lm in (ours, theirs)
    ]
    (mine, said), (other, told) = answers
    assert said == told
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]
    difference = max(abs(a - b) for (a, _), (b, _) in zip(mine, other, strict=True))
    assert difference < 1e-3
    assert len({round(value, 3) for value, _ in mine}) > 80  # not all the same


def test_a_saved_model_is_the_evaluated_one(
    model: Any, tokenizer: Any, windows: Any, tmp_path: Path
) -> None:
    from lmkick_plugin import checkpoints

    dense = model(windows[:1]).logits
    report = compress_model(model, RTN(num_bits=4, group_size=64))
    checkpoints.save(model, tmp_path / "saved", tokenizer=tokenizer, report=report)
    again = checkpoints.load(tmp_path / "saved")
    with torch.inference_mode():
        before, after = model(windows[:1]).logits, again(windows[:1]).logits
    assert torch.equal(before, after)
    assert not torch.allclose(before, dense, atol=0.1)


def test_the_chat_template_is_the_models_own(smollm2: Path, tokenizer: Any) -> None:
    from lmkick_plugin.model import KickLM

    lm = KickLM(pretrained=str(smollm2), device="cpu", dtype="float32", batch_size=1)
    turn = [{"role": "user", "content": "Name a colour."}]
    expected = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert lm.apply_chat_template(turn) == expected
    assert "Name a colour." in expected
