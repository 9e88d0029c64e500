# SPDX-License-Identifier: Apache-2.0
"""Name of a model: a folder, a model of the Hub, or the bundled one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin import bundled
from lmkick_plugin.recipe.readers import check_path

__all__ = ["check_pretrained", "is_path"]


def is_path(name: str) -> bool:
    """Whether a name can only be that of a folder: the Hub has NAME and OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def check_pretrained(pretrained: Any) -> None:
    """Refuse a path without a model before the Hub is asked for it.

    Raises:
        SettingsError: A path that does not exist, or nothing at all.
    """
    if not isinstance(pretrained, str):
        if pretrained is None:
            raise SettingsError(
                "No model given. Add pretrained=NAME: a folder, or a model of the Hub."
            )
        return
    path = Path(bundled.model_folder(check_path("pretrained", pretrained)))
    if path.is_dir():
        return
    if path.is_file():
        raise SettingsError(f"pretrained={pretrained} is a file. Give the model's folder.")
    if is_path(pretrained):
        raise SettingsError(
            f"pretrained={pretrained}: no such folder. Give a saved model's folder (config.json, "
            "weights, tokenizer), or a model of the Hub as NAME or OWNER/NAME."
        )
