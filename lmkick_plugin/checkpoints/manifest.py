# SPDX-License-Identifier: Apache-2.0
"""``kick.json``: files and record of a saved folder.

.. code-block:: json

    {
      "kick_json": 1,
      "storage": "dense",
      "record": {"compressor": "wanda", "weights_sha256": "...", "...": "..."},
      "files": {"model.safetensors": {"bytes": 1234, "sha256": "..."}}
    }

``storage`` is one of ``dense``, ``gptq`` and ``compressed-tensors``. ``record`` has the keys of
``results["config"]["kick"]``, of the model as it was evaluated before it was saved; what depends on
an evaluation (``chat_template``, ``truncated_prompts``) is null. ``files`` are the weights' files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.files import parse_json

__all__ = ["MANIFEST", "Manifest", "SavedFile", "describe_file", "read_manifest"]

#: Name of the file.
MANIFEST = "kick.json"
#: Version of what it holds; other versions are not read.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file of weights.

    Attributes:
        bytes: Its size.
        sha256: The hash of its content.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``kick.json``.

    Attributes:
        storage: ``dense``, ``gptq`` or ``compressed-tensors``.
        record: The record of the model that was saved.
        files: The files of weights by name.
    """

    storage: str
    record: Mapping[str, Any]
    files: Mapping[str, SavedFile]

    def to_json(self) -> str:
        """The text of the file."""
        content = {
            "kick_json": _VERSION,
            "storage": self.storage,
            "record": dict(self.record),
            "files": {
                name: {"bytes": file.bytes, "sha256": file.sha256}
                for name, file in self.files.items()
            },
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def check_sizes(self, folder: Path) -> None:
        """Find a weight file that is missing or truncated; reads no content.

        Args:
            folder: Where the files are.

        Raises:
            SettingsError: Naming the file.
        """
        for name, file in self.files.items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != file.bytes:
                raise SettingsError(
                    f"{path} {_state(found)}, but {MANIFEST} says {file.bytes} bytes: the "
                    "checkpoint is damaged or incomplete. Copy it again, or save it again."
                )


def read_manifest(folder: str | Path) -> Manifest | None:
    """Read ``kick.json`` of a folder.

    Args:
        folder: A local folder.

    Returns:
        None where there is none.

    Raises:
        SettingsError: It cannot be read, or is of another version.
    """
    path = Path(folder) / MANIFEST
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. {_remedy()}") from error
    try:
        version = content["kick_json"]
        if version != _VERSION:
            raise SettingsError(
                f"{path} has version {version!r}, but this lmkick reads {_VERSION}. Use the lmkick "
                f"that wrote it, or delete {MANIFEST}: the model loads without it."
            )
        files = {
            str(name): SavedFile(int(file["bytes"]), str(file["sha256"]))
            for name, file in content["files"].items()
        }
        return Manifest(str(content["storage"]), dict(content["record"]), files)
    except SettingsError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"{path} is not a {MANIFEST} of lmkick: {error!r}. {_remedy()}"
        ) from error


def describe_file(path: Path) -> SavedFile:
    """Size and hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
        return SavedFile(file.tell(), digest.hexdigest())


def _remedy() -> str:
    return f"Copy the folder again, or delete {MANIFEST}: the model loads without it."


def _state(size: int | None) -> str:
    return "does not exist" if size is None else f"has {size} bytes"
