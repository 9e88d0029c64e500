# SPDX-License-Identifier: Apache-2.0
"""Store of finished blocks, from which an interrupted compression continues.

A directory belongs to one compression: ``resume.json`` names the model's weights and configuration,
the recipe, the calibration tokens and the order of compression, and any difference is an error.
Each finished block is one safetensors file with the parameters that were compressed, the grids of
those that were quantized, its rows of the report and a checksum, put in place by a rename: it is
there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from compressors.base import Compressor
from compressors.blocks.find import Block
from compressors.errors import SettingsError
from compressors.files import home_expanded, write_atomically
from compressors.quantization_grid import QuantizationGrid
from compressors.report import LayerReport

__all__ = ["ResumeStore", "fingerprint"]

_log = logging.getLogger(__name__)
_FORMAT = "2"
#: Parts of a grid, stored beside the parameters as ``grid:MATRIX:PART``.
_GRID_PARTS = ("scale", "zero_point", "g_idx", "matrix_scale")
#: Parts of a configuration that say where and by what it was written, not what the model is.
_NOT_THE_MODEL = ("_name_or_path", "transformers_version")
_MEANING = {
    "weights": "the dense weights of the model",
    "config": "the configuration of the model",
    "recipe": "the compression settings",
    "calibration": "the calibration tokens",
    "true_sequential": "true_sequential",
    "allocation": "the allocation of the sparsity",
    "format": "the version of the directory's format",
}


def fingerprint(
    model: nn.Module,
    compressor: Compressor,
    calibration: Tensor | None,
    true_sequential: bool,
    allocation: Mapping[str, float] | Sequence[str | float] | None = None,
) -> dict[str, str]:
    """Everything that decides the compressed weights; large values by their SHA-256.

    Args:
        model: The dense model.
        compressor: The method with its settings.
        calibration: Token ids, int64 ``[samples, seqlen]``, or None.
        true_sequential: The order of compression.
        allocation: Sparsity of each block, or the rule that gives it, where it is not always the
            method's own.
    """
    config = getattr(model, "config", None)
    settings = config.to_dict() if config is not None else {}
    settings = {name: value for name, value in settings.items() if name not in _NOT_THE_MODEL}
    tokens = [] if calibration is None else [("tokens", calibration)]
    identity = {
        "format": _FORMAT,
        "weights": _digest([*model.named_parameters(), *model.named_buffers()]),
        "config": _sha256(json.dumps(settings, sort_keys=True, default=str).encode()),
        "recipe": repr(compressor),
        "calibration": _digest(tokens),
        "true_sequential": str(true_sequential),
    }
    if allocation is not None:
        stated = dict(allocation) if isinstance(allocation, Mapping) else list(allocation)
        identity["allocation"] = _sha256(json.dumps(stated, sort_keys=True).encode())
    return identity


class ResumeStore:
    """The finished blocks of one compression.

    Args:
        directory: Made if it is not there.
        identity: What :func:`fingerprint` returns.
        argument: What the user calls the directory, for messages.

    Raises:
        SettingsError: The directory holds another compression (what differs is named), or cannot
            be used.
    """

    def __init__(
        self, directory: str | Path, identity: Mapping[str, str], *, argument: str = "resume_dir"
    ) -> None:
        self._directory, self._argument = home_expanded(directory), argument
        header = self._directory / "resume.json"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            before = _read_header(header)
            if before is None:
                stray = sorted(self._directory.glob("block_*.safetensors"))
                if stray:
                    raise SettingsError(
                        f"{self._directory} holds finished blocks ({stray[0].name}, ...) without a "
                        "readable resume.json, so their compression is unknown; choose another "
                        f"{argument} or delete this one"
                    )
                write_atomically(header, (json.dumps(identity, indent=1) + "\n").encode())
        except OSError as error:
            raise SettingsError(
                f"{argument}={self._directory}: {error}; choose a writable folder"
            ) from error
        if before is not None:
            _require_same(self._directory, before, identity, argument)

    def save(
        self,
        index: int,
        block: Block,
        rows: Iterable[LayerReport],
        grids: Mapping[str, QuantizationGrid] | None = None,
    ) -> None:
        """Keep a finished block.

        Args:
            index: Its number in the model.
            block: The block with its compressed weights.
            rows: The report of its matrices.
            grids: The grids of those that were quantized.

        Raises:
            OSError: It cannot be written; what was kept before stays.
        """
        tensors = {name: p.data.cpu().contiguous() for name, p in block.parameters()}
        for name, grid in (grids or {}).items():
            for part in _GRID_PARTS:
                # Matrices that read the same input share the groups of their columns.
                if getattr(grid, part) is not None:
                    tensors[f"grid:{name}:{part}"] = getattr(grid, part).clone()
        metadata = {
            "sha256": _digest(sorted(tensors.items())),
            "layers": json.dumps([asdict(row) for row in rows]),
        }
        path = self._path(index)
        try:
            write_atomically(path, save(tensors, metadata))
        except OSError as error:
            raise OSError(
                error.errno,
                f"{path} cannot be written ({error.strerror or error}); make room there and run "
                f"again with the same {self._argument}: blocks that are finished are kept",
            ) from error

    def restore(
        self, blocks: Sequence[Block], grids: dict[str, QuantizationGrid] | None = None
    ) -> list[tuple[LayerReport, ...]]:
        """Load finished blocks into the model, up to the first missing one.

        A file that is damaged is named in the log, and its block counts as missing.

        Args:
            blocks: All blocks of the dense model.
            grids: Filled with the grids of the restored blocks.

        Returns:
            The report rows of each restored block, in order.
        """
        finished: list[tuple[LayerReport, ...]] = []
        for index, block in enumerate(blocks):
            path = self._path(index)
            if not path.exists():
                break
            try:
                rows, tensors, found = _read_block(path, block)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                _log.warning(
                    "%s is damaged (%s): compressing again from this block on",
                    path,
                    error,
                )
                break
            with torch.no_grad():
                for name, parameter in block.parameters():
                    parameter.data.copy_(tensors[name])
            if grids is not None:
                grids |= found
            finished.append(rows)
        return finished

    def _path(self, index: int) -> Path:
        return self._directory / f"block_{index:04d}.safetensors"


def _read_block(
    path: Path, block: Block
) -> tuple[tuple[LayerReport, ...], dict[str, Tensor], dict[str, QuantizationGrid]]:
    """Read and verify one file; raises on any fault."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    rows = tuple(LayerReport.from_dict(row) for row in json.loads(metadata["layers"]))
    if metadata["sha256"] != _digest(sorted(tensors.items())):
        raise ValueError("its checksum does not match")
    names_here = {matrix.name for matrix in block.matrices}
    if any(row.name not in names_here for row in rows):
        raise ValueError(f"it holds {rows[0].name}, of another block")
    grids = {}
    for row in rows:
        # A matrix whose columns were scaled has none.
        if f"grid:{row.name}:scale" in tensors and row.num_bits is not None:
            names = {part: f"grid:{row.name}:{part}" for part in _GRID_PARTS}
            parts = {part: tensors.pop(name) for part, name in names.items() if name in tensors}
            grids[row.name] = QuantizationGrid(
                num_bits=row.num_bits, number_format=row.number_format or "int", **parts
            )
    expected = {name: (p.shape, p.dtype) for name, p in block.parameters()}
    if expected != {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}:
        raise ValueError("it holds other tensors than the block")
    return rows, tensors, grids


def _read_header(path: Path) -> dict[str, str] | None:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return header if isinstance(header, dict) else None


def _require_same(
    directory: Path, before: Mapping[str, str], identity: Mapping[str, str], argument: str
) -> None:
    differing = [
        f"{meaning} ({_short(before.get(part))} there, {_short(identity.get(part))} now)"
        for part, meaning in _MEANING.items()
        if before.get(part) != identity.get(part)
    ]
    if differing:
        raise SettingsError(
            f"{argument}={directory} belongs to another compression: {'; '.join(differing)} "
            f"differ; choose another {argument}, or the model and settings of the first run"
        )


def _short(value: str | None) -> str:
    """Shorten checksums."""
    if value is None:
        return "nothing"
    return value[:12] if len(value) == 64 and " " not in value and "(" not in value else value


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(raw.numpy().data)
    return total.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
