# SPDX-License-Identifier: Apache-2.0
"""The safetensors files of a folder: what they say they hold, checked against their size.

Only headers are read; a tensor is read when it is asked for, one at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Shards", "StoredTensor", "weight_files"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a header describes it.

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
            said = _read_header(file)
            metadata |= said.pop("__metadata__", {})
            tensors |= {name: _stored(file, name, entry) for name, entry in said.items()}
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
    """The files that transformers reads a folder's weights from: safetensors, else PyTorch's.

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
            names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise _damaged(path, f"it is no index of weights ({error!r})") from error
        files = [folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise _damaged(folder / missing[0], f"it is not there{more}, and {index} names it")
        return files
    return []


def _read_header(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(file, f"it has {size} bytes and ends within its header")
        text = stream.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        wanted = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _damaged(file, "its header is not that of a safetensors file") from error
    if size != wanted:
        raise _damaged(file, f"it has {size} bytes, and its header describes {wanted}")
    return header


def _stored(file: Path, name: str, entry: Mapping[str, Any]) -> StoredTensor:
    try:
        begin, end = entry["data_offsets"]
        shape = tuple(int(size) for size in entry["shape"])
        tensor = StoredTensor(file, str(entry["dtype"]), shape, int(end) - int(begin))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, f"its header describes {name} in a way that is no tensor") from error
    bits = _BITS.get(tensor.dtype)
    if bits is not None and tensor.bytes * 8 != tensor.numel * bits:
        raise _damaged(
            file,
            f"{name} has {tensor.bytes} bytes, which is not {tensor.dtype} of shape {tensor.shape}",
        )
    return tensor


def _damaged(file: Path, what: str) -> ValueError:
    return SettingsError(
        f"{file}: {what}: the checkpoint is damaged or was copied in part. Copy or download that "
        "file again."
    )
