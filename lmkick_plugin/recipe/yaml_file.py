# SPDX-License-Identifier: Apache-2.0
"""Reader of YAML configurations; errors name the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from compressors.errors import SettingsError
from lmkick_plugin.files import read_settings

__all__ = ["read_yaml"]


class _Loader(yaml.SafeLoader):
    """YAML loader that reads ``2:4`` as text and refuses repeated keys."""


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
        if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *defaults, which flatten_mapping reads
            continue
        key = loader.construct_object(key_node, deep=True)
        try:
            before = seen.get(key)
            seen[key] = key_node.start_mark.line + 1
        except TypeError:
            continue  # a key that is a list or mapping: PyYAML itself says so below
        if before is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key!r} is already set in line {before}", key_node.start_mark
            )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_once)


# Far more than a configuration holds; a few lines of nested aliases expand to billions.
_MOST_NODES = 100_000


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of nodes below one, aliases expanded.

    Raises:
        yaml.YAMLError: There are too many, or a node is inside itself.
    """
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_NODES + 1  # until it is known: a node inside itself is too many
        parts = (
            [part for pair in node.value for part in pair]
            if (isinstance(node, yaml.MappingNode))
            else node.value
            if isinstance(node, yaml.SequenceNode)
            else []
        )
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    if sizes[id(node)] > _MOST_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"more than {_MOST_NODES:,} values with all aliases", node.start_mark
        )
    return sizes[id(node)]


def read_yaml(path: Path, expected: str = "models, tasks, recipes and output") -> dict[str, Any]:
    """Read a configuration.

    Args:
        path: The file.
        expected: Keys that it holds, for messages.

    Returns:
        Its contents.

    Raises:
        SettingsError: It cannot be read, is not YAML (with the line), or not a mapping.
    """
    try:
        text = read_settings(path).decode("utf-8")
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path}: cannot be read: {cause}. Give a YAML file.") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _size(node, {})
        found = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SettingsError(f"{path}{where}: not YAML: {problem}.") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: nested too deeply for a configuration.") from error
    if not isinstance(found, dict):
        raise SettingsError(
            f"{path}: expected a mapping with {expected}, not {type(found).__name__}."
        )
    return found
