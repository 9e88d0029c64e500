# SPDX-License-Identifier: Apache-2.0
"""Cost of ten sampled answers per question, with and without a shared prompt.

    python -m benchmarks.sampled_answers MODEL --data DIR

Asks the first questions of ``recall_kick_try`` with ``--model kick`` and, by
``prefix_reuse=false``, with ``generate_until`` of ``hf``, in one process and the same number of
rows. Seconds are those of the processor. Prompt tokens are columns of passes with more than one,
padding included.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from lm_eval.api.instance import Instance

from lmkick_plugin.data.recall import load
from lmkick_plugin.model import KickLM

_SETTINGS = {"until": ["\n"], "max_gen_toks": 32, "do_sample": True, "temperature": 0.8}
_SAMPLES = 10


def requests_of(data: str, questions: int) -> list[Instance]:
    """Ten requests for each of the first questions."""
    docs = load(form="say", data_dir=data)["validation"].select(range(questions))
    prompts = [f"Answer these questions:\n\nQ: {doc['question']}\nA:" for doc in docs]
    return [
        Instance("generate_until", {}, (prompt, _SETTINGS), 0, ("recall_kick_try", number, 1))
        for number, prompt in enumerate(prompts)
        for _ in range(_SAMPLES)
    ]


def main() -> None:
    """Print a line per way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name or folder")
    parser.add_argument("--data", required=True, help="data directory")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--rows", type=int, default=40, help="batch size")
    arguments = parser.parse_args()
    for reuse in (True, False):
        lm = KickLM(
            pretrained=arguments.model, dtype="float32", batch_size=arguments.rows,
            prefix_reuse=reuse,
        )  # fmt: skip
        requests = requests_of(arguments.data, arguments.questions)
        shapes: list[torch.Size] = []

        def note(_module: Any, _args: Any, given: Any, to: list[torch.Size] = shapes) -> None:
            to.append(given["input_ids"].shape)

        lm.model.register_forward_pre_hook(note, with_kwargs=True)
        torch.manual_seed(1234)
        begun = time.process_time()
        answers = lm.generate_until(requests, disable_tqdm=True)
        seconds = time.process_time() - begun
        read = sum(rows * columns for rows, columns in shapes if columns > 1)
        wrote = sum(rows for rows, columns in shapes if columns == 1)
        print(
            f"{'kick' if reuse else 'hf'}: {len(answers)} samples, {seconds:.1f} s,"
            f" {len(answers) / seconds:.2f} a second, {read} prompt tokens, {wrote} steps of a row",
            flush=True,
        )


if __name__ == "__main__":
    main()
