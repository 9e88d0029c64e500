# SPDX-License-Identifier: Apache-2.0
"""How long a sweep takes, against a separate ``lm_eval`` run for each of its cells.

Usage: python benchmarks/sweep_time.py --model FOLDER --data DIR [--limit 20] [--runs 12]

Both do the same: twelve cells (dense, magnitude and wanda at four sparsities and 2:4, one seed),
the same tasks, limits and batch size, in turn on the same machine. The sweep is ``lmkick sweep`` as
a process, start to end; a single run is ``lm_eval run`` as a process, start to end, with
``--output_path`` and ``--log_samples``. The scores of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS = ["kick_freebaseqa", "kick_alpaca", "kickonly_perplexity"]
SPARSITIES = [0.1, 0.2, 0.3, 0.4, 0.5]


def recipes(nsamples: int, seqlen: int) -> list[dict[str, Any]]:
    calibration = {"nsamples": nsamples, "seqlen": seqlen}
    found: list[dict[str, Any]] = []
    for pattern in [*({"sparsity": share} for share in SPARSITIES), {"pattern": "2:4"}]:
        found += [
            {"compressor": "magnitude", **pattern},
            {"compressor": "wanda", **pattern, **calibration},
        ]
    return found[:11]


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor, that a process took from start to end."""
    begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return time.perf_counter() - begun, busy


def scores(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for path in folder.rglob("results_*.json"):
        for task, entry in json.loads(path.read_text(encoding="utf-8"))["results"].items():
            found[task] = {
                name: value
                for name, value in entry.items()
                if isinstance(value, float) and "stderr" not in name
            }
    return found


def _shown(span: tuple[float, float]) -> str:
    return f"{span[0]:.1f} s, {span[1]:.1f} s of the processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--nsamples", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--runs", type=int, default=12, help="single runs that are timed, of 12")
    args = parser.parse_args()
    environment = {**os.environ, "LMKICK_DATA_DIR": args.data}
    found = recipes(args.nsamples, args.seqlen)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {
            "models": [args.model], "tasks": TASKS, "recipes": found, "limit": args.limit,
            "batch_size": args.batch_size, "device": args.device, "output": str(folder / "sweep"),
        }  # fmt: skip
        path = folder / "sweep.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        whole = timed([sys.executable, "-m", "lmkick_plugin", "sweep", str(path)], environment)
        print(f"sweep of {len(found) + 1} cells: {_shown(whole)}", flush=True)
        spans = []
        for number, recipe in enumerate([{"compressor": "none"}, *found][: args.runs]):
            given = {"pretrained": args.model, **recipe}
            output = folder / "single" / str(number)
            spans.append(
                timed(
                    [
                        sys.executable, "-m", "lm_eval", "run", "--model", "kick", "--model_args",
                        ",".join(f"{key}={value}" for key, value in given.items()), "--tasks",
                        ",".join(TASKS), "--limit", str(args.limit), "--batch_size",
                        str(args.batch_size), "--device", args.device, "--output_path",
                        str(output), "--log_samples",
                    ],
                    environment,
                )
            )  # fmt: skip
            print(f"lm_eval {recipe}: {_shown(spans[-1])}", flush=True)
        for place, name in enumerate(("clock", "processor")):
            single = statistics.fmean(span[place] for span in spans) * (len(found) + 1)
            print(
                f"{name}: {len(found) + 1} runs of lm_eval {single:.1f} s ({len(spans)} timed), "
                f"the sweep {whole[place]:.1f} s, ratio {single / whole[place]:.1f}"
            )
        cells = sorted((folder / "sweep").glob("*/dense"))
        same = scores(cells[0]) == scores(folder / "single" / "0")
        print(f"scores of the dense cell equal those of its single run: {same}")


if __name__ == "__main__":
    main()
