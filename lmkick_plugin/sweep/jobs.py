# SPDX-License-Identifier: Apache-2.0
"""Runs cells in this process, one after the other; what they can share is shared."""

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
from lmkick_plugin.sweep.plan import task_settings
from lmkick_plugin.sweep.quiet_log import talking_to
from lmkick_plugin.sweep.tasks import TaskShelf

__all__ = ["LOG", "CellWorker", "Order", "Told"]

_LOG = logging.getLogger(__name__)

#: What a cell's evaluations say, below its folder.
LOG = "log.txt"
# lm_eval's own default, which means a GPU where there is one.
_DEVICE = "cuda:0"

#: Called with the task that has just ended, whether it is done or has failed, and its seconds.
Told = Callable[[str, str, float], None]


@dataclass(frozen=True)
class Order:
    """A cell to be run.

    Attributes:
        cell: The cell.
        tasks: Those of its tasks that are to be run.
        dense_sha256: Hash of the dense weights that its model had in cells that are finished.
    """

    cell: Cell
    tasks: tuple[str, ...]
    dense_sha256: str | None = None

    def to_json(self) -> str:
        """For a worker that is another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """The other way round."""
        data = json.loads(text)
        return cls(Cell(**data["cell"]), tuple(data["tasks"]), data["dense_sha256"])


class CellWorker:
    """Keeps a model and its tasks from cell to cell."""

    def __init__(
        self,
        config: SweepConfig,
        *,
        output: Path | None = None,
        shelf: TaskShelf | None = None,
        quiet: bool = True,
    ) -> None:
        """Build lm-eval's task index, unless there is one.

        Args:
            config: The sweep.
            output: Its folder, if not the configuration's.
            shelf: Its tasks.
            quiet: Let evaluations talk to a file in the cell's folder.
        """
        from lmkick_plugin.sweep.task_cache import DenseModel

        self._config = config
        self._output = output or config.output_path
        self._quiet = quiet
        self._shelf = shelf or TaskShelf(
            config.tasks, metadata=config.metadata, include_path=config.include_path
        )
        self.dense = DenseModel()

    def run(self, order: Order, told: Told) -> None:
        """Make the model of a cell and evaluate it on its tasks.

        Whatever goes wrong is written into the cell's ``cell.json``; only interruptions come out.

        Args:
            order: What to do.
            told: Told of each task.
        """
        cell = order.cell
        folder = self._output / cell.name
        ledger = Ledger.open(folder, cell.name, json.loads(json.dumps(cell.identity, default=str)))
        with talking_to(folder / LOG) if self._quiet else nullcontext():
            begun = time.perf_counter()
            model: Any = None
            try:
                model = self._make(order, ledger)
                ledger.error = None
            except Exception as error:  # noqa: BLE001  # recorded; the next cell goes on
                _LOG.exception("%s: its model could not be made", cell.name)
                ledger.error = describe_error(error)
                ledger.write()
                for task in order.tasks:
                    told(task, "failed", (time.perf_counter() - begun) / len(order.tasks))
                return
            finally:
                if model is None:
                    free_memory()
            for task in order.tasks:
                started = time.perf_counter()
                self._evaluate(task, model, cell, ledger, started)
                told(task, str(ledger.tasks[task]["state"]), time.perf_counter() - started)
            del model
            free_memory()
            span = time.perf_counter() - begun
            ledger.facts["seconds"] = round(float(ledger.facts.get("seconds", 0)) + span, 3)
            ledger.write()

    def _make(self, order: Order, ledger: Ledger) -> Any:
        from lmkick_plugin.sweep.task_cache import SweptLM

        begun = time.perf_counter()
        self._shelf.use(order.cell.model)
        placed: dict[str, Any] = {"device": self._config.device or _DEVICE}
        for name in ("batch_size", "max_batch_size"):
            if getattr(self._config, name) is not None:
                placed[name] = getattr(self._config, name)
        model = SweptLM(self.dense, **order.cell.arguments, **placed)
        dense = model.weights.sha256 if order.cell.is_dense else self.dense.sha256
        if dense and order.dense_sha256 and dense != order.dense_sha256:
            raise SettingsError(
                f"pretrained={order.cell.model['pretrained']}: its weights are not those of the "
                f"cells that are finished (SHA-256 {dense[:12]}..., before "
                f"{order.dense_sha256[:12]}...). Give another output for the new weights."
            )
        ledger.facts |= {
            "compress_seconds": round(time.perf_counter() - begun, 3),
            "weights_sha256": model.weights.sha256,
            "dense_sha256": dense,
        }
        return model

    def _evaluate(self, task: str, model: Any, cell: Cell, ledger: Ledger, started: float) -> None:
        settings = task_settings(self._config, task)
        try:
            objects = self._shelf.objects(task)
            model.start_evaluation()
            results, tracker = evaluate(
                model,
                arguments=cell.arguments,
                tasks=objects,
                manager=self._shelf.manager,
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
        """Of ``simple_evaluate``."""
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
