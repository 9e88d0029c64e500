# SPDX-License-Identifier: Apache-2.0
"""Fields of the ``kick`` record, in the order of tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from lmkick_plugin.recipe.methods import OWN_SETTINGS

__all__ = ["RECIPE", "RECORD_FIELDS", "calibration_text"]

# Whether a field identifies model and recipe; the others say what came out, where and how fast.
_FIELDS = {
    "compressor": True,
    "pattern": True,
    "requested_sparsity": True,
    "achieved_sparsity": False,
    "num_bits": True,
    "group_size": True,
    "symmetric": True,
    "number_format": True,
    **dict.fromkeys(OWN_SETTINGS, True),
    "true_sequential": True,
    "allocation": True,
    "owl_lambda": True,
    "owl_threshold": True,
    "calibration": True,
    "calibration_sources": False,
    "nsamples": True,
    "seqlen": True,
    "seed": True,
    "bos": False,
    "base_model": True,
    "base_revision": True,
    "revision": True,
    "subfolder": True,
    "adapter": True,
    "earlier": True,
    "weights_sha256": False,
    "total_parameters": False,
    "nonzero_parameters": False,
    "bytes_dense": False,
    "bytes_best_format": False,
    "seconds": False,
    "device": False,
    "dtype": True,
    "chat_template": False,
    "truncated_prompts": False,
    "versions": False,
    "prefix_reuse": False,
    "save_format": True,
    "from_cache": False,
    "ragged_matrices": False,
    "layer_summary": False,
    "checkpoint": False,
    "profile": False,
}

RECORD_FIELDS = tuple(_FIELDS)
"""All but ``layers``, which is a separate table."""

RECIPE = tuple(name for name, identifies in _FIELDS.items() if identifies)
"""Fields that identify a model and recipe."""


def calibration_text(record: Mapping[str, Any]) -> str:
    """Name of a record's calibration text, with the local files that were read under that name.

    >>> file = {"source": "c4", "origin": "data_dir", "file": "/data/web_text/train.jsonl"}
    >>> calibration_text({"calibration": "c4", "calibration_sources": [file]})
    'c4 (read from web_text/train.jsonl)'
    """
    name = str(record.get("calibration") or "")
    sources = record.get("calibration_sources")
    files = [
        "/".join(PurePath(str(one["file"])).parts[-2:])
        for one in (sources if isinstance(sources, list | tuple) else ())
        if isinstance(one, Mapping) and one.get("file") and one.get("origin") != "hub"
    ]
    files = [file for file in dict.fromkeys(files) if not name.endswith(file)]
    return f"{name} (read from {', '.join(files)})" if name and files else name
