# SPDX-License-Identifier: Apache-2.0
"""Checks of a sweep before its first cell: models, weights, device, data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmkick_plugin import bundled
from lmkick_plugin.loading.checks import check_device
from lmkick_plugin.preflight.models import check_model, check_stored
from lmkick_plugin.sweep.grid import Cell
from lmkick_plugin.sweep.plan import SweepPlan
from lmkick_plugin.sweep.tasks import TaskCache
from lmkick_plugin.terminal import CommandError

__all__ = ["check_folders", "check_sweep"]


def check_folders(plan: SweepPlan) -> None:
    """Check cells of local models against their configs, without weights and without the Hub.

    Args:
        plan: Of the sweep.

    Raises:
        CommandError: What is wrong, with the cell.
    """
    if plan.config.executor != "ray":  # whose nodes may have what is not here
        _check_models(planned.cell for planned in plan.to_do if _is_folder(planned.cell))


def check_sweep(plan: SweepPlan, tasks: TaskCache) -> None:
    """Check device, models of the Hub, weights and data before any cell is run.

    Args:
        plan: With something to do; of folders, :func:`check_folders` has checked it.
        tasks: The sweep's.

    Raises:
        LmkickError: What is wrong, with the cell.
    """
    # Not with the plan: a dry run may be made where the sweep's GPUs are not.
    if plan.config.device is not None and plan.config.executor == "process":
        check_device(plan.config.device)
    if plan.config.executor != "ray":
        cells = [planned.cell for planned in plan.to_do]
        first = {cell.group: cell for cell in reversed(cells)}
        # Folders were checked for the plan; of theirs only the config is needed again.
        others = [cell for cell in cells if not _is_folder(cell)]
        configs = _check_models([*first.values(), *others])
        for cell in first.values():
            with _named(cell):
                check_stored(cell.arguments, configs[cell.group])
    tasks.use(plan.to_do[0].cell.model)
    tasks.check(num_fewshot=plan.config.num_fewshot)


def _is_folder(cell: Cell) -> bool:
    return Path(bundled.model_folder(str(cell.model["pretrained"]))).is_dir()


def _check_models(cells: Iterable[Cell]) -> dict[str, Any]:
    """Check cells against their models' configs; return those, by group."""
    configs: dict[str, Any] = {}
    for cell in cells:
        with _named(cell):
            configs[cell.group] = check_model(cell.arguments, configs.get(cell.group))
    return configs


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CommandError(f"{cell.name}: {error}") from error
