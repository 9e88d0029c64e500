# SPDX-License-Identifier: Apache-2.0
"""Tutorial 1: evaluate a model dense and pruned, then compare the two runs item by item.

    python examples/compress_and_compare.py

Runs on the bundled model in about two minutes on two cores. For your own, change MODEL and DATA.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODEL, DATA = "kick-mini", "mini"
TASKS = "kick_triviaqa_closed,kick_triviaqa_open"


def evaluate(output: Path, arguments: str) -> None:
    """Run lm_eval with the model type kick."""
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "kick"),
        *("--model_args", f"pretrained={MODEL},data_dir={DATA}{arguments}", "--device", "cpu"),
        *("--tasks", TASKS, "--limit", "60", "--gen_kwargs", "max_gen_toks=8"),
        *("--output_path", str(output), "--log_samples", "--batch_size", "32"),
    ]
    subprocess.run(command, check=True)


def main(output: Path) -> None:
    """Evaluate twice and compare."""
    evaluate(output / "dense", "")
    evaluate(output / "wanda", ",compressor=wanda,pattern=2:4,nsamples=32,seqlen=256")
    compare = [sys.executable, "-m", "lmkick_plugin", "compare"]
    subprocess.run([*compare, str(output / "dense"), str(output / "wanda")], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/tutorial"))
