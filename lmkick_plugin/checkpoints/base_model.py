# SPDX-License-Identifier: Apache-2.0
"""Dense base model that a compressed checkpoint states."""

from __future__ import annotations

import re
from pathlib import Path

from lmkick_plugin.files import parse_json

__all__ = ["stated_base"]

#: A name on the Hub that cannot be a path: OWNER/NAME.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CARD = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


def stated_base(folder: Path) -> tuple[str, str] | None:
    """Read a checkpoint's base model from its model card, or from its config.

    A card may name a base model of which the dense checkpoint was fine-tuned, or several that were
    merged: these are not what was compressed, and are not taken. Configs written by transformers
    4 name the model that was loaded.

    Args:
        folder: The checkpoint's.

    Returns:
        The dense model's name on the Hub, and the file that says it; None where none does.
    """
    name = _of_card(folder / "README.md")
    if name is not None:
        return name, "README.md"
    try:
        config = parse_json((folder / "config.json").read_bytes())
        name = _hub_name(config.get("_name_or_path"))
    except (OSError, ValueError, AttributeError):
        return None
    return None if name is None else (name, "config.json")


def _of_card(path: Path) -> str | None:
    import yaml

    try:
        header = _CARD.match(path.read_text(encoding="utf-8"))
        stated = yaml.safe_load(header[1]) if header is not None else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(stated, dict):
        return None
    if stated.get("base_model_relation") not in (None, "quantized"):
        return None
    base = stated.get("base_model")
    return _hub_name(base[0] if isinstance(base, list) and len(base) == 1 else base)


def _hub_name(value: object) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None
