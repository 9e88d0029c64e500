# SPDX-License-Identifier: Apache-2.0
"""Count and hash the weights of a model, so that results name what was evaluated."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "WeightSurvey",
    "is_finite",
    "refuse_not_finite",
    "require_finite",
    "require_same_weights",
    "survey_weights",
]

_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class WeightSurvey:
    """Counts and hash of a model's parameters.

    Attributes:
        sha256: Hash of all parameters: names, dtypes, shapes and bytes. None where this process
            holds only a part of them (tensor parallel).
        total: Parameters; one that is used twice (tied embeddings) counts once. Of quantized
            weights, what is stored counts, which is several weights a number.
        nonzero: Parameters that are not zero, counted likewise.
        bytes: Their size in memory.
    """

    sha256: str | None
    total: int
    nonzero: int
    bytes: int


def survey_weights(model: nn.Module) -> WeightSurvey:
    """Read every parameter once, in bounded memory.

    The hash does not depend on the device, nor on whether weights are tied in storage: a tied
    weight is hashed under each of its names. It is built from hashes of 64 MiB pieces, so that
    several cores can work on it.

    Args:
        model: Any module; parameters that accelerate has offloaded are read through its hooks.

    Returns:
        The counts and the hash.
    """
    digest: hashlib._Hash | None = hashlib.sha256()
    total = nonzero = size = 0
    seen: set[int] = set()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for name, identity, weight in _parameters(model):
            if hasattr(weight, "to_local"):  # a DTensor: this process holds a shard
                weight, digest = weight.to_local(), None
            if digest is not None:
                digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
                for piece in pool.map(_hash_chunk, _chunks(weight)):
                    digest.update(piece)
            if identity not in seen:
                seen.add(identity)
                total += weight.numel()
                nonzero += _count_nonzero(weight)
                size += weight.numel() * weight.element_size()
    sha256 = digest.hexdigest() if digest is not None else None
    return WeightSurvey(sha256, total, nonzero, size)


def require_finite(model: nn.Module, name: str) -> None:
    """Refuse a model with NaN or infinite weights.

    Args:
        model: Any module.
        name: What to call it in the message.

    Raises:
        NumericalError: The message names the weights.
    """
    refuse_not_finite(
        name, (each for each, _, values in _parameters(model) if not is_finite(values))
    )


def refuse_not_finite(name: str, found: Iterable[str]) -> None:
    """Stop where there are weights with NaN or infinity.

    Args:
        name: Of the model, for the message.
        found: Their names.

    Raises:
        NumericalError: There are some.
    """
    from compressors.errors import NumericalError

    bad = list(found)
    if bad:
        more = ", ..." if len(bad) > 3 else ""
        raise NumericalError(
            f"{name}: {len(bad)} weight tensors hold NaN or infinity ({', '.join(bad[:3])}{more}). "
            "Copy or download the checkpoint again; if dtype=float16 overflows, use bfloat16 or "
            "float32."
        )


def _parameters(model: nn.Module) -> Iterator[tuple[str, int, Tensor]]:
    """Yield ``(name, identity, values)`` in order of modules, tied parameters under each name.

    Quantized weights come in the plain tensors they consist of: codes, scales, zero points.
    """
    from accelerate.utils import align_module_device

    from lmkick_plugin.record.quantized_weights import packed_buffers, parts

    for prefix, module in model.named_modules(remove_duplicate=False):
        own = dict(module.named_parameters(recurse=False))
        packed = packed_buffers(module)
        if not own and not packed:
            continue
        # Loading an offloaded module replaces its parameters for a while: identities from before.
        identities = {name: id(parameter) for name, parameter in own.items()}
        with align_module_device(module):
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{prefix}.{name}" if prefix else name
                for part, tensor in parts(full, parameter):
                    same = identities[name] if part == full else hash((identities[name], part))
                    yield part, same, tensor.detach()
        for name, buffer in packed.items():
            yield f"{prefix}.{name}", id(buffer), buffer


def _count_nonzero(weight: Tensor) -> int:
    if weight.dtype.is_floating_point and weight.element_size() == 1:
        # torch counts no FP8; all but the sign is zero in a zero.
        return int(torch.count_nonzero(weight.view(torch.uint8) & 0x7F))
    return int(torch.count_nonzero(weight))


def is_finite(weight: Tensor) -> bool:
    """Whether no value is NaN or infinite; True for types that torch cannot test."""
    if not weight.dtype.is_floating_point or weight.element_size() == 1:
        return True  # FP8 has no infinity, and torch cannot test it
    return all(bool(torch.isfinite(piece).all()) for piece in _chunks(weight))


def _chunks(weight: Tensor) -> Iterator[Tensor]:
    flat = weight.reshape(-1)
    length = max(1, _CHUNK_BYTES // max(1, flat.element_size()))
    yield from torch.split(flat, length) if flat.numel() else ()


def _hash_chunk(piece: Tensor) -> bytes:
    return hashlib.sha256(piece.cpu().contiguous().view(torch.uint8).numpy().data).digest()


def require_same_weights(sha256: str | None, accelerator: Any) -> None:
    """Stop every process of a data-parallel run unless all hold the same weights.

    Args:
        sha256: The hash of this process's weights.
        accelerator: The ``accelerate.Accelerator`` that connects the processes.

    Raises:
        RuntimeError: The hashes differ; raised on every process.
    """
    from accelerate.utils import gather_object

    hashes = gather_object([sha256])
    if len(set(hashes)) > 1:
        held = ", ".join(f"process {rank}: {str(value)[:12]}" for rank, value in enumerate(hashes))
        raise RuntimeError(
            f"Weights differ between processes after compression ({held}); process "
            f"{accelerator.process_index} stops. Use GPUs of one model, or a single process."
        )
