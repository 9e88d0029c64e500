# SPDX-License-Identifier: Apache-2.0
"""Real language models, where somebody has put them: LMKICK_REAL_MODELS, or .real_models here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

WINDOWS, LENGTH = 6, 256


@pytest.fixture(scope="session")
def smollm2(repository: Path) -> Path:
    """SmolLM2-135M-Instruct."""
    folder = repository / ".real_models" / "smollm2-135m-instruct"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no folder {folder} (a real language model)")
    return folder


@pytest.fixture(scope="session")
def tokenizer(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture
def model(smollm2: Path) -> Any:
    """The dense model in float32, to be changed by the test."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)


@pytest.fixture(scope="session")
def calibration(tokenizer: Any, data_dir: Path) -> Any:
    """4 x 512 tokens of web text."""
    from compressors import load_calibration

    text = str(data_dir / "web_text" / "train.jsonl")
    return load_calibration(text, tokenizer, nsamples=4, seqlen=512, seed=0)


@pytest.fixture(scope="session")
def windows(tokenizer: Any, data_dir: Path) -> Any:
    """Windows spread over WikiText-2's test text."""
    from lmkick_plugin.data.sources import read_json_lines

    rows = read_json_lines(data_dir / "wikitext" / "test.jsonl")
    ids = tokenizer("\n\n".join(row["text"] for _, row in rows), return_tensors="pt").input_ids[0]
    step = len(ids) // WINDOWS
    return torch.stack([ids[i * step : i * step + LENGTH] for i in range(WINDOWS)])


def perplexity(model: Any, windows: Any) -> float:
    """Of next-token prediction, a plain loop over windows."""
    losses = []
    with torch.inference_mode():
        for window in windows:
            logits = model(window[None]).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:]).item())
    return float(torch.tensor(losses, dtype=torch.float64).mean().exp())


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Matrix products of this size are worth a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
