# SPDX-License-Identifier: Apache-2.0
"""One process of a data-parallel evaluation; test_data_parallel.py starts two, on CPUs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lmkick_plugin.model import KickLM
from lmkick_plugin.registration import TASK_FOLDER

TASKS = ["kickonly_perplexity", "kick_triviaqa_closed", "mmlu_kick_anatomy", "kick_wikitext"]
LIMIT = 3


def run(model: KickLM, data_dir: str) -> dict[str, Any] | None:
    """Evaluate a little; only the first process gets results."""
    manager = TaskManager(
        include_path=[TASK_FOLDER], include_defaults=False, metadata={"data_dir": data_dir}
    )
    found: dict[str, Any] | None = simple_evaluate(
        model=model, tasks=TASKS, limit=LIMIT, task_manager=manager, bootstrap_iters=0
    )
    return found


def main(model_dir: str, data_dir: str, folder: str) -> None:
    """Evaluate together; then try to with weights that differ."""
    settings = {"pretrained": model_dir, "device": "cpu", "compressor": "magnitude"}
    model = KickLM(sparsity=0.5, max_length=256, batch_size=2, **settings)
    results = run(model, data_dir)
    if results is not None:
        scores = {"results": results["results"], "config": results["config"]["kick"]}
        (Path(folder) / "results.json").write_text(json.dumps(scores, default=str))
    try:
        KickLM(sparsity=0.5 + 0.1 * model.rank, **settings)
    except RuntimeError as error:
        (Path(folder) / f"stopped-{model.rank}.txt").write_text(str(error))
    # A process that ends while the other still talks to it aborts in the threads of its backend.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
