# SPDX-License-Identifier: Apache-2.0
"""Processor files of a multimodal checkpoint, copied into saved folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["processor_files"]

_NAMES = (
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "audio_tokenizer_config.json", "chat_template.json",
)  # fmt: skip


def processor_files(pretrained: object, arguments: Mapping[str, Any]) -> tuple[Path, ...]:
    """Find them in a folder, or in the Hub's cache.

    Args:
        pretrained: Name or path of the model; an object has none.
        arguments: ``revision``, ``subfolder`` and ``cache_dir`` that it was loaded with.

    Returns:
        Those that are there; none for a model of text alone.
    """
    if not isinstance(pretrained, str):
        return ()
    from transformers.utils.hub import cached_file

    which = {key: arguments[key] for key in ("revision", "cache_dir") if arguments.get(key)}
    found = [
        cached_file(
            pretrained,
            name,
            subfolder=str(arguments.get("subfolder") or ""),
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **which,
        )
        for name in _NAMES
    ]
    return tuple(Path(path) for path in found if path is not None)
