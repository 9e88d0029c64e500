# SPDX-License-Identifier: Apache-2.0
"""The cells of a study: which model arguments are evaluated, and under which name each is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmkick_plugin.recipe.calibration_source import TRAINING_TEXT, check_source
from lmkick_plugin.recipe.readers import read_seeds
from lmkick_plugin.sweep.grid import slug
from lmkick_plugin.terminal import CommandError

__all__ = ["KINDS", "Cell", "plan"]

#: What a study varies, and the values it takes unless others are given. Seeds vary in all of them.
KINDS: dict[str, tuple[str, ...]] = {
    "calibration": (),  # C4 and the training text of each task that has some
    "nsamples": ("8", "16", "32", "64", "128"),
    "seeds": (),
}
_DENSE = ("compressor", "none")
# What a dense model is given of a compressed one's arguments: all but what goes with a compressor.
_COMPRESSION = frozenset(
    {
        "sparsity", "pattern", "bits", "group_size", "symmetric", "act_order", "static_groups",
        "wanda_variant", "dampening_frac", "block_size", "true_sequential", "calibration",
        "nsamples", "seqlen", "seed", "resume_dir", "save_compressed", "save_format",
        "compress_cache", "compress_cache_gb",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One evaluation of a study.

    Attributes:
        value: The value of what is varied; None for the dense model.
        seed: Its calibration seed; None for the dense model.
        arguments: Of ``--model kick``.
        folder: Where its results are kept, below the study's folder.
    """

    value: str | None
    seed: int | None
    arguments: Mapping[str, Any]
    folder: str


def plan(
    kind: str,
    arguments: Mapping[str, Any],
    tasks: Sequence[str],
    *,
    values: Sequence[str] = (),
    seeds: Sequence[int] = (),
    dense: bool = True,
) -> list[Cell]:
    """List the cells of a study, the dense model first.

    Args:
        kind: One of :data:`KINDS`.
        arguments: Of ``--model kick``; what is varied is replaced.
        tasks: Names of tasks: a study of calibrations takes their training texts by default.
        values: Instead of the kind's own.
        seeds: Calibration seeds; by default those of the arguments, and 0, 1, 2 where seeds are
            what is studied.
        dense: Whether to evaluate the dense model as well.

    Raises:
        CommandError: There is nothing to vary.
        SettingsError: A seed or source is malformed.
    """
    default = arguments.get("seed", "0+1+2" if kind == "seeds" else 0)
    seeds = read_seeds("seed", "+".join(map(str, seeds)) if seeds else default)
    if len(set(values)) < len(values):
        raise CommandError(f"--values {' '.join(values)}: a value stands there twice")
    if kind == "seeds":
        if len(seeds) < 2:
            raise CommandError("one seed has no spread: give several, as in --seeds 0 1 2")
        values = ("all",)
    else:
        values = tuple(values) or KINDS[kind] or _calibrations(tasks)
    cells = []
    if dense:
        kept = {name: value for name, value in arguments.items() if name not in _COMPRESSION}
        cells.append(Cell(None, None, {**kept, _DENSE[0]: _DENSE[1]}, "dense"))
    for value in values:
        for seed in seeds:
            changed = {**arguments, "seed": seed}
            if kind != "seeds":
                changed[kind] = value
            name = f"seed={seed}" if kind == "seeds" else f"{kind}={slug(value)},seed={seed}"
            for folder in ("resume_dir", "save_compressed"):  # which belong to one compression
                if folder in changed:
                    changed[folder] = f"{changed[folder]}/{name}"
            cells.append(Cell(value, seed, changed, name))
    return cells


def _calibrations(tasks: Sequence[str]) -> tuple[str, ...]:
    found = []
    for task in tasks:
        short = task.removeprefix("kick_")
        short = "summarization" if short.startswith("summarization_") else short
        if short in TRAINING_TEXT:
            found.append(check_source(f"task:{short}"))
    if not found:
        raise CommandError(
            "none of these tasks has training text to compare C4 with: name sources, as in "
            "--values c4 task:alpaca self"
        )
    return ("c4", *dict.fromkeys(found))
