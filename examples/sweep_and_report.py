# SPDX-License-Identifier: Apache-2.0
"""Tutorial 3: a small sweep over methods, and the page that says which one can be shipped.

    python examples/sweep_and_report.py

Runs on the bundled model in some minutes on two cores; a killed run goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lmkick_plugin.report import write_report
from lmkick_plugin.sweep import run_sweep

TEXT = {"calibration": "c4", "nsamples": 32, "seqlen": 256}


def main(output: Path) -> None:
    """Run the sweep, then write the report."""
    found = run_sweep(
        {
            "models": ["kick-mini"],
            "data_dir": "mini",
            "device": "cpu",
            "tasks": ["kick_triviaqa_closed", "kickonly_perplexity"],
            "recipes": [
                {"compressor": ["magnitude"], "sparsity": 0.6},
                {"compressor": "wanda", "pattern": "2:4", **TEXT},
                {"compressor": "gptq", "bits": 4, **TEXT},
            ],
            "limit": 60,
            "max_gen_toks": 8,
            "batch_size": 32,
            "output": str(output / "runs"),
        }
    )
    print(f"{len(found.cells)} cells, {len(found.failures)} failed")
    print(f"report: {write_report([found.output], output)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/tutorial-sweep"))
