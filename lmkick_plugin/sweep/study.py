# SPDX-License-Identifier: Apache-2.0
"""Studies: sweeps over the calibration text, sample count or seed of one compression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmkick_plugin.recipe.argument_table import ARGUMENTS
from lmkick_plugin.recipe.calibration_source import TRAINING_TEXT, check_source
from lmkick_plugin.recipe.readers import read_seeds
from lmkick_plugin.sweep.config import SweepConfig, read_config
from lmkick_plugin.terminal import CommandError

__all__ = ["KINDS", "study_config"]

#: What a study varies, and its usual values. Seeds vary in all of them.
KINDS: dict[str, tuple[str, ...]] = {
    "calibration": (),  # C4 and the training text of each task that has some
    "nsamples": ("8", "16", "32", "64", "128"),
    "seeds": (),
}
# Model arguments that are keys of a sweep.
_SWEEP_KEYS = ("batch_size", "max_batch_size", "device", "data_dir")


def study_config(
    kind: str,
    arguments: Mapping[str, Any],
    *,
    values: Sequence[str] = (),
    seeds: Sequence[int] = (),
    **settings: Any,
) -> SweepConfig:
    """Build the sweep of a study: one model, one recipe with a list of values, and the dense model.

    Args:
        kind: One of :data:`KINDS`.
        arguments: Of ``--model kick``, without what is varied.
        values: Instead of the kind's own.
        seeds: Calibration seeds; by default those of the arguments, and 0, 1, 2 where seeds are
            what is studied.
        **settings: Further keys of the sweep, ``tasks`` and ``output`` among them; None: not given.

    Raises:
        CommandError: There is nothing to vary, or it is fixed by the arguments.
        SettingsError: A setting is malformed.
    """
    if kind in arguments:
        raise CommandError(
            f"--model_args: {kind}={arguments[kind]}: the study varies it. Leave it out; --values "
            "gives others than the usual ones"
        )
    recipe = {
        name: value for name, value in arguments.items() if _compresses(name) and name != "seed"
    }
    model = {name: value for name, value in arguments.items() if not _compresses(name)}
    moved = {name: model.pop(name) for name in _SWEEP_KEYS if name in model}
    default = arguments.get("seed", "0+1+2" if kind == "seeds" else 0)
    repeated = read_seeds("seed", "+".join(map(str, seeds)) if seeds else default)
    if kind == "seeds":
        if len(repeated) < 2:
            raise CommandError("--seeds: one seed has no spread. Give several, as in --seeds 0 1 2")
    else:
        recipe[kind] = list(values or KINDS[kind] or _calibrations(settings["tasks"]))
    recipe["seed"] = list(repeated)
    given = {name: value for name, value in settings.items() if value is not None}
    pretrained = model.pop("pretrained", "")
    return read_config(
        {"models": [pretrained], "model_args": model, "recipes": [recipe], **moved, **given}
    )


def _compresses(name: str) -> bool:
    argument = ARGUMENTS.get(name)
    return argument is not None and (name == "compressor" or "none" not in argument.goes_with)


def _calibrations(tasks: Sequence[str]) -> list[str]:
    found = []
    for task in tasks:
        short = task.removeprefix("kick_")
        short = "summarization" if short.startswith("summarization_") else short
        if short in TRAINING_TEXT:
            found.append(check_source(f"task:{short}"))
    if not found:
        raise CommandError(
            "no task has training text to compare with C4: name sources, as in --values c4 "
            "task:alpaca self"
        )
    return ["c4", *dict.fromkeys(found)]
