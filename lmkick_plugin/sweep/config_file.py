# SPDX-License-Identifier: Apache-2.0
"""Reads the YAML of a sweep, with the line of what cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from compressors.errors import SettingsError

__all__ = ["read_yaml"]


class _Loader(yaml.SafeLoader):
    """YAML without two of its traps: ``2:4`` is text here, and a key that stands twice an error."""


# YAML 1.1 reads 2:4 as a number to the base of 60: 124.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:int"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789")
)


def _mapping_once(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        try:
            before = seen.setdefault(key, line)
        except TypeError:
            continue  # a key that is a list or mapping: PyYAML itself says so below
        if before != line:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key!r} stands in line {before} already", key_node.start_mark
            )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_once)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Args:
        path: The file.

    Returns:
        Its contents.

    Raises:
        SettingsError: It cannot be read, is no YAML (with the line), or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}. Give a YAML file.") from error
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SettingsError(f"{path}{where}: not YAML: {problem}.") from error
    if not isinstance(found, dict):
        raise SettingsError(
            f"{path}: expected a mapping with models, tasks, recipes and output, and found "
            f"{type(found).__name__}."
        )
    return found
