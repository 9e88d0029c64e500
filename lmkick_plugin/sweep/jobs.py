# SPDX-License-Identifier: Apache-2.0
"""Runner of cells in this process, with shared model and tasks."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.sweep.cell_files import Ledger, describe_error
from lmkick_plugin.sweep.config import SweepConfig
from lmkick_plugin.sweep.evaluate import evaluate, free_memory, keep
from lmkick_plugin.sweep.grid import Cell
from lmkick_plugin.sweep.log_file import redirect_output
from lmkick_plugin.sweep.plan import task_settings
from lmkick_plugin.sweep.tasks import TaskCache

__all__ = ["LOG", "CellWorker", "Job", "OnTaskEnd"]

_LOG = logging.getLogger(__name__)

#: What a cell's evaluations say, below its folder.
LOG = "log.txt"
# lm_eval's own default, which means a GPU where there is one.
_DEVICE = "cuda:0"

#: Called with the task that has just ended, whether it is done or has failed, and its seconds.
OnTaskEnd = Callable[[str, str, float], None]


@dataclass(frozen=True)
class Job:
    """A cell to run.

    Attributes:
        cell: The cell.
        tasks: Those of its tasks that are to be run.
        dense_sha256: Hash of the dense weights that its model had in cells that are finished.
    """

    cell: Cell
    tasks: tuple[str, ...]
    dense_sha256: str | None = None

    def to_json(self) -> str:
        """JSON for a worker process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Parse what :meth:`to_json` wrote."""
        data = json.loads(text)
        return cls(Cell(**data["cell"]), tuple(data["tasks"]), data["dense_sha256"])


class CellWorker:
    """Runner that keeps a model and its tasks from cell to cell."""

    def __init__(
        self,
        config: SweepConfig,
        *,
        output: Path | None = None,
        tasks: TaskCache | None = None,
        quiet: bool = True,
    ) -> None:
        """Build lm-eval's task index unless one is given.

        Args:
            config: The sweep.
            output: Its folder, if not the configuration's.
            tasks: Its tasks.
            quiet: Let evaluations talk to a file in the cell's folder.
        """
        from lmkick_plugin.sweep.dense_model import DenseModel

        self._config = config
        self._output = output or config.output_path
        self._quiet = quiet
        self._tasks = tasks or TaskCache(
            config.tasks, metadata=config.metadata, include_path=config.include_path
        )
        self.dense = DenseModel()

    def run(self, job: Job, on_task_end: OnTaskEnd) -> None:
        """Load or compress a cell's model and evaluate it on its tasks.

        Whatever goes wrong is written into the cell's ``cell.json``; only interruptions come out.

        Args:
            job: What to do.
            on_task_end: Called after each task.
        """
        cell = job.cell
        folder = self._output / cell.name
        ledger = Ledger.open(folder, cell.name, json.loads(json.dumps(cell.identity, default=str)))
        with redirect_output(folder / LOG) if self._quiet else nullcontext():
            begun = time.perf_counter()
            model: Any = None
            try:
                model = self._make(job, ledger)
                ledger.error = None
            except Exception as error:  # noqa: BLE001  # recorded; the next cell goes on
                _LOG.exception("%s: the model could not be loaded", cell.name)
                ledger.error = describe_error(error)
                ledger.write()
                for task in job.tasks:
                    on_task_end(task, "failed", (time.perf_counter() - begun) / len(job.tasks))
                return
            finally:
                if model is None:
                    free_memory()
            for task in job.tasks:
                started = time.perf_counter()
                self._evaluate(task, model, cell, ledger, started)
                on_task_end(task, str(ledger.tasks[task]["state"]), time.perf_counter() - started)
            del model
            free_memory()
            span = time.perf_counter() - begun
            ledger.facts["seconds"] = round(float(ledger.facts.get("seconds", 0)) + span, 3)
            ledger.write()

    def _make(self, job: Job, ledger: Ledger) -> Any:
        from lmkick_plugin.model import KickLM

        begun = time.perf_counter()
        self._tasks.use(job.cell.model)
        placed: dict[str, Any] = {"device": self._config.device or _DEVICE}
        for name in ("batch_size", "max_batch_size"):
            if getattr(self._config, name) is not None:
                placed[name] = getattr(self._config, name)
        model = KickLM(dense_source=self.dense, **job.cell.arguments, **placed)
        dense = model.weights.sha256 if job.cell.is_dense else self.dense.sha256
        if dense and job.dense_sha256 and dense != job.dense_sha256:
            raise SettingsError(
                f"pretrained={job.cell.model['pretrained']}: its weights differ from those of "
                f"finished cells (SHA-256 {dense[:12]}..., before {job.dense_sha256[:12]}...). "
                "Give another output for the new weights."
            )
        compressed = time.perf_counter()
        if self._config.profile:
            from lmkick_plugin.profile.measure import profile_for_record

            model.profile = profile_for_record(model.model)
        ledger.facts |= {
            "compress_seconds": round(compressed - begun, 3),
            "weights_sha256": model.weights.sha256,
            "dense_sha256": dense,
        }
        return model

    def _evaluate(self, task: str, model: Any, cell: Cell, ledger: Ledger, started: float) -> None:
        settings = task_settings(self._config, task)
        try:
            objects = self._tasks.objects(task)
            model.start_evaluation()
            results, tracker = evaluate(
                model,
                arguments=cell.arguments,
                tasks=objects,
                manager=self._tasks.manager,
                folder=ledger.folder,
                options=self._options(settings, model),
            )
            ledger.facts["bytes"] = results["config"]["kick"]["bytes_best_format"]

            def announce(name: str) -> None:
                _done(ledger, task, name, settings, time.perf_counter() - started)

            keep(results, tracker, ledger.folder, announce)
        except Exception as error:  # noqa: BLE001  # recorded; the next task goes on
            _LOG.exception("%s: %s failed", cell.name, task)
            ledger.tasks[task] = {
                "state": "failed",
                "seconds": round(time.perf_counter() - started, 3),
                "results": None,
                "settings": settings,
                "error": describe_error(error),
            }
            ledger.write()

    def _options(self, settings: Mapping[str, Any], model: Any) -> dict[str, Any]:
        """Arguments of ``simple_evaluate``."""
        chat = settings["apply_chat_template"]
        if chat == "auto":
            chat = "true" if getattr(model.tokenizer, "chat_template", None) else "false"
        return {
            "limit": settings.get("limit"),
            "num_fewshot": settings.get("num_fewshot"),
            "apply_chat_template": chat == "true",
            "system_instruction": settings.get("system_instruction"),
            "gen_kwargs": settings.get("gen_kwargs"),
            "bootstrap_iters": settings["bootstrap_iters"],
            "batch_size": self._config.batch_size,
            "max_batch_size": self._config.max_batch_size,
            "device": self._config.device or _DEVICE,
        }


def _done(
    ledger: Ledger, task: str, results: str, settings: Mapping[str, Any], seconds: float
) -> None:
    ledger.tasks[task] = {
        "state": "done",
        "seconds": round(seconds, 3),
        "results": results,
        "settings": dict(settings),
        "error": None,
    }
    ledger.write()
