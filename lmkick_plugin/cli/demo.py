# SPDX-License-Identifier: Apache-2.0
"""``lmkick demo``: the embedded model under every method, and the report."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from lmkick_plugin import bundled
from lmkick_plugin.recipe.methods import METHODS, PRUNERS, ROUNDERS
from lmkick_plugin.terminal import CommandError, read_path

__all__ = ["add_arguments", "configuration", "main"]

_DESCRIPTION = """\
Compress the embedded model in every way and show what each one costs: a dense model, three
pruners at three sparsities and 2:4, and three quantizers at three bit widths, on ten tasks that
need no judge, with small limits. Nothing is downloaded, and no key is needed.

An interrupted demo resumes, and retries what failed. The model and its facts
are made up (docs/mini.md): use your own with `lmkick sweep`.
"""

#: Documents of each task (of MMLU: of each of its 57 subjects), and tokens of an answer.
LIMIT = {
    "kick_mmlu": 5,
    "kick_instruct": 40,
    "kick_wikitext": 50,
    "kickonly_perplexity": 40,
    "kickonly_divergence": 40,
    "default": 100,
}
MAX_GEN_TOKS = {
    "kick_freebaseqa": 8,
    "kick_triviaqa_closed": 8,
    "kick_triviaqa_open": 8,
    "default": 32,
}
# Without the summaries: there are 40 short stories, and graded scores need 60 items to match.
TASKS = (
    "kick_freebaseqa",
    "kick_triviaqa_closed",
    "kick_triviaqa_open",
    "kick_mmlu",
    "kick_instruct",
    "kick_alpaca",
    "kick_unnatural",
    "kick_wikitext",
    "kickonly_perplexity",
    "kickonly_divergence",
)
_SPARSITIES, _PATTERN, _BITS = [0.2, 0.4, 0.6], "2:4", [8, 4, 3]
_WORKERS = 2
_CALIBRATION = {"calibration": "c4", "nsamples": 32, "seqlen": 256}


def configuration(output: Path, *, device: str | None = None) -> dict[str, Any]:
    """The demo as a sweep's configuration.

    Args:
        output: Folder of the results.
        device: Where to run; None leaves it to lm-eval.
    """
    recipes: list[dict[str, Any]] = []
    for compressor in PRUNERS:
        if METHODS[compressor].control:
            continue
        text = _text(compressor)
        recipes.append({"compressor": compressor, "sparsity": _SPARSITIES, **text})
        recipes.append({"compressor": compressor, "pattern": _PATTERN, **text})
    for compressor in ROUNDERS:
        recipes.append({"compressor": compressor, "bits": _BITS, **_text(compressor)})
    return {
        "models": [bundled.MODEL_NAME],
        "data_dir": bundled.DATA_NAME,
        "tasks": list(TASKS),
        "recipes": recipes,
        "limit": dict(LIMIT),
        "max_gen_toks": dict(MAX_GEN_TOKS),
        # Of kickonly_divergence: articles one by one, where the whole text would be one document.
        # Of kickonly_perplexity: short windows, so that they lie in the 20 articles of a verdict.
        "metadata": {
            "max_window": 128,
            "divergence_text": str(bundled.DATA / "wikitext" / "test.jsonl"),
            "new_tokens": 8,
        },
        "dtype": "float32",
        "batch_size": 32,
        "bootstrap_iters": 100,
        "output": str(output),
        **_where(device),
    }


def _text(compressor: str) -> dict[str, Any]:
    return _CALIBRATION if METHODS[compressor].calibrated else {}


def _where(device: str | None) -> dict[str, Any]:
    """Two processes on CPUs: a model this small does not keep two cores busy."""
    import torch

    chosen = {} if device is None else {"device": device}
    cores = os.cpu_count() or 1
    if torch.cuda.is_available() or device not in (None, "cpu") or cores < _WORKERS:
        return chosen
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // _WORKERS)))
    return {"executor": "gpus", "workers": _WORKERS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--output", type=read_path, default=Path("results/demo"), metavar="DIR",
        help="folder of results and report (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: as lm-eval chooses)")


def main(options: argparse.Namespace) -> int:
    """Run the command and return the exit status.

    Raises:
        CommandError: The folder cannot be used, or what the report needs is not installed.
    """
    started = time.monotonic()
    from compressors.errors import SettingsError
    from lmkick_plugin.report.summary import summaries_text
    from lmkick_plugin.report.writing import check_extra, write
    from lmkick_plugin.results.results_file import ResultsError
    from lmkick_plugin.sweep import run_sweep
    from lmkick_plugin.terminal import emit

    try:
        check_extra()
        runs = configuration(options.output / "runs", device=options.device)
        found = run_sweep(runs, retry_failed=True)
        page, summaries = write([found.output], options.output, progress=True)
    except (SettingsError, ResultsError) as error:
        raise CommandError(str(error)) from error
    emit(summaries_text(summaries) + "\n")
    for cell in found.failures:
        emit(f"failed: {cell.name}: {'; '.join(cell.errors.values())}\n")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    emit(f"report: {page}\nresults: {found.output}\ntime: {minutes} min {seconds:02} s\n")
    return found.status
