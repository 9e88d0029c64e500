# SPDX-License-Identifier: Apache-2.0
"""kick-mini: bundled model and data, of a made-up world.

Both are embedded in the package and have names: ``pretrained=kick-mini`` and ``data_dir=mini``. A
folder of one's own that is called so is named ``./kick-mini`` and ``./mini``.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "DATA",
    "DATA_NAME",
    "MODEL",
    "MODEL_NAME",
    "data_folder",
    "model_folder",
    "model_name",
]

MODEL_NAME, DATA_NAME = "kick-mini", "mini"
MODEL = Path(__file__).with_name("mini") / "model"
"""Folder of the embedded model."""
DATA = Path(__file__).with_name("mini") / "data"
"""Data directory of the embedded world."""


def model_folder(name: str) -> str:
    """Folder of a model: the bundled one for its name; other names unchanged, but for ``~``.

    >>> model_folder("Qwen/Qwen3-0.6B")
    'Qwen/Qwen3-0.6B'
    """
    # Names of the Hub pass: a Path would change OWNER/./NAME.
    return str(MODEL) if name == MODEL_NAME else os.path.expanduser(name)  # noqa: PTH111


def model_name(folder: str) -> str:
    """Name of a model: kick-mini for the bundled one, other names unchanged.

    >>> model_name(model_folder("kick-mini"))
    'kick-mini'
    """
    return MODEL_NAME if folder == str(MODEL) else folder


def data_folder(name: str) -> str:
    """Data directory: the bundled one for its name, other names unchanged.

    >>> data_folder("./mini")
    './mini'
    """
    return str(DATA) if name == DATA_NAME else name
