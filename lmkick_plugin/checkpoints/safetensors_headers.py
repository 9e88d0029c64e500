# SPDX-License-Identifier: Apache-2.0
"""Headers of a folder's safetensors files; tensors are read on request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compressors.errors import SettingsError
from lmkick_plugin.files import parse_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Shards", "StoredTensor", "weight_files"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6, "C64": 64,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor, as its header describes it.

    Attributes:
        file: The file that holds it.
        dtype: As safetensors calls it: ``F16``, ``I32``, ``F8_E4M3``.
        shape: Its shape.
        bytes: Its size.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Shards:
    """All safetensors files of one model.

    Attributes:
        files: The files, in order of their names.
        tensors: Their tensors by name.
        metadata: What the headers say beside tensors.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Shards | None:
        """Read the headers of a folder's files.

        Args:
            folder: A local folder.

        Returns:
            None where it holds no safetensors model.

        Raises:
            SettingsError: A file is missing, cut short or damaged; the message names it.
        """
        files = weight_files(folder)
        if not files or files[0].suffix != ".safetensors":
            return None
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for file in files:
            found, said = _read_header(file)
            tensors |= found
            metadata |= said
        return cls(tuple(files), tensors, metadata)

    @cached_property
    def bytes_on_disk(self) -> int:
        """Size of the files."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def bytes_of_tensors(self) -> int:
        """Size of the tensors, headers left out."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """Read one tensor into main memory."""
        from safetensors import safe_open

        with safe_open(self.tensors[name].file, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def weight_files(folder: Path) -> list[Path]:
    """Weight files that transformers reads from a folder: safetensors, else PyTorch's.

    Raises:
        SettingsError: An index names a file that is not there, or cannot be read.
    """
    for index, single in ((_INDEX, _SINGLE), ("pytorch_model.bin.index.json", "pytorch_model.bin")):
        path = folder / index
        if (folder / single).is_file():
            return [folder / single]
        if not path.is_file():
            continue
        try:
            names = sorted(set(parse_json(path.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise _damaged(path, f"not an index of weights ({error!r})") from error
        if not names or any(Path(str(name)).name != name for name in names):
            raise _damaged(path, f"expected names of files in this folder, found {names[:1]}")
        files = [folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise _damaged(folder / missing[0], f"it does not exist{more}, but {index} names it")
        return files
    return []


def _read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors and metadata of a file, checked against its size."""
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(file, framework="np") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            for name in opened.keys():  # noqa: SIM118  # not a mapping
                part = opened.get_slice(name)
                shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                size = math.prod(shape) * _BITS[dtype] // 8
                tensors[name] = StoredTensor(file, dtype, shape, size)
    except SafetensorError as error:
        raise _damaged(file, str(error)) from error
    except KeyError as error:
        raise SettingsError(f"{file}: unknown safetensors type {error}. Update lmkick.") from error
    return tensors, metadata


def _damaged(file: Path, what: str) -> ValueError:
    return SettingsError(
        f"{file}: {what}: the checkpoint is damaged or incomplete. Copy or download the file again."
    )
