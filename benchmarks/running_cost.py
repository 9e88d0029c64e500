# SPDX-License-Identifier: Apache-2.0
"""What stored formats cost to run: ``lmkick profile`` beside ``generate`` of transformers.

    python -m benchmarks.running_cost MODEL --packed FOLDER

MODEL is measured in float32, in bfloat16 and in every format that its weights can be loaded in;
``--packed`` adds saved folders. A process of its own loads each twice, by ``--model kick`` and by
transformers alone. ``lmkick_plugin.profile`` times the first, two calls of ``generate`` the second:
one for a single new token and one for all of them. Their difference is decoding. Medians of five
after a warm-up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from compressors.errors import LmkickError
from lmkick_plugin.loading.quantize_on_load import quantization_config
from lmkick_plugin.model import KickLM
from lmkick_plugin.profile.measure import profile_model

PROMPT, NEW, REPEATS = 128, 32, 5
_ON_LOAD = ("bnb-int8", "bnb-nf4", "torchao-int8")


def _cases(model: str, packed: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A name, what is loaded, and the arguments of ``--model kick``."""
    yield "float32", model, {"dtype": "float32"}
    yield "bfloat16", model, {"dtype": "bfloat16"}
    for kind in _ON_LOAD:
        yield kind, model, {"dtype": "bfloat16", "quantize": kind}
    for folder in packed:
        yield Path(folder).name, folder, {"dtype": "bfloat16"}


def _plain(name: str, dtype: str, quantize: str | None) -> tuple[float, float]:
    """Tokens per second of prefill and decode, by ``generate``."""
    given: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if quantize:  # an argument of None would hide the folder's own config
        given["quantization_config"] = quantization_config(quantize, given["dtype"])
    loaded: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **given)
    model, found = loaded
    if found["missing_keys"]:
        raise SystemExit(f"{name}: transformers did not find {sorted(found['missing_keys'])[:3]}")
    prompt = torch.randint(model.config.vocab_size, (1, PROMPT))
    times: dict[int, list[float]] = {1: [], NEW: []}
    for _ in range(REPEATS + 1):
        for new, taken in times.items():
            begun = time.perf_counter()
            model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                min_new_tokens=new, max_new_tokens=new, pad_token_id=0,
            )  # fmt: skip
            taken.append(time.perf_counter() - begun)
    first, whole = (statistics.median(taken[1:]) for taken in times.values())
    return PROMPT / first, (NEW - 1) / (whole - first)


def _line(case: str, name: str, given: dict[str, Any]) -> str:
    """Measure one case."""
    try:
        lm = KickLM(pretrained=name, device="cpu", **given)
    except LmkickError as error:
        return f"{case}: {error}"
    found = profile_model(lm.model, prompt_tokens=PROMPT, new_tokens=NEW, repeats=REPEATS)
    del lm
    plain_prefill, plain_decode = _plain(name, given["dtype"], given.get("quantize"))
    prefill, decode = found.prefill, found.decode
    cells = [
        case,
        f"{prefill.median:.0f} ({prefill.low:.0f} to {prefill.high:.0f})",
        f"{plain_prefill:.0f}",
        f"{decode.median:.1f} ({decode.low:.1f} to {decode.high:.1f})",
        f"{plain_decode:.1f}",
        f"{found.first_token.median:.2f}",
        f"{found.memory_bytes / 1e6:.0f}",
        f"{found.peak_bytes / 1e6:.0f}" if found.peak_bytes else "-",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a line per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder")
    parser.add_argument("--packed", nargs="*", default=[], metavar="FOLDER")
    arguments = parser.parse_args()
    print("| weights | prefill | generate | decode | generate | first token, s | MB | peak MB |")
    print(f"|{' --- |' * 8}")
    # A fresh process for each, so that none's peak holds another's memory.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for case in _cases(arguments.model, arguments.packed):
            print(pool.submit(_line, *case).result(), flush=True)


if __name__ == "__main__":
    main()
