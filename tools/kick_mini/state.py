# SPDX-License-Identifier: Apache-2.0
"""The state of an unfinished training run, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["restore", "save", "steps_done"]

# The count of steps differs between parameters where some came later.
_OF_ADAM = ("exp_avg", "exp_avg_sq", "step")


def save(
    path: Path,
    settings: Mapping[str, Any],
    model: Any,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write the state; a crash while it is written leaves the former one.

    Args:
        path: The file.
        settings: What the run was started with.
        model: Its weights are kept, each once where they are tied.
        optimizer: AdamW over all the model's parameters.
        step: Steps done.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().cpu().contiguous()
        for part in _OF_ADAM:
            kept = optimizer.state[parameter].get(part)
            if kept is not None:
                tensors[f"{part}.{name}"] = kept.detach().cpu().contiguous()
    unfinished = path.with_suffix(".unfinished")
    save_file(
        tensors, unfinished, metadata={"step": str(step), "settings": json.dumps(dict(settings))}
    )
    unfinished.replace(path)


def steps_done(path: Path) -> int:
    """How many steps a state has behind it; 0 where there is no such file."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def restore(
    path: Path, settings: Mapping[str, Any], model: Any, optimizer: torch.optim.Optimizer
) -> int:
    """Read a state back into a model and its optimizer, where there is one.

    Args:
        path: The file.
        settings: What the run is started with now.
        model: As in :func:`save`.
        optimizer: As in :func:`save`, without any step done.

    Returns:
        Steps done; 0 where there is no such file.

    Raises:
        ValueError: The state is of a run with other settings.
    """
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        former = json.loads(metadata["settings"])
        if former != dict(settings):
            raise ValueError(
                f"{path} is the state of a run with {former}, and this one has {dict(settings)}. "
                "Give another --output, or delete it to start again."
            )
        step = int(metadata["step"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"weight.{name}"))
                if step:
                    optimizer.state[parameter] = {
                        part: file.get_tensor(f"{part}.{name}").to(parameter.device)
                        for part in _OF_ADAM
                    }
    return step
