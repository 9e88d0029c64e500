# SPDX-License-Identifier: Apache-2.0
"""Load saved folders and check them against ``kick.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin import bundled
from lmkick_plugin.checkpoints.checked_loader import CheckedLoader
from lmkick_plugin.checkpoints.manifest import MANIFEST, Manifest, read_manifest
from lmkick_plugin.recipe.pretrained import check_pretrained

__all__ = ["check_weights", "load"]


def load(folder: str | Path, **arguments: Any) -> Any:
    """Load a folder that :func:`lmkick_plugin.checkpoints.save` wrote.

    Args:
        folder: The folder; one without ``kick.json`` is loaded as transformers does.
        **arguments: Of ``AutoModelForCausalLM.from_pretrained``; the dtype defaults to the saved
            one.

    Returns:
        The model, in evaluation mode.

    Raises:
        SettingsError: There is no such folder; or a file or tensor is missing, cut short or
            damaged.
    """
    from transformers import AutoModelForCausalLM

    from lmkick_plugin.record.weights import survey_weights

    check_pretrained(str(folder))
    folder = bundled.model_folder(str(folder))
    manifest = read_manifest(folder)
    if manifest is not None:
        manifest.check_sizes(Path(folder))
    loader = CheckedLoader(AutoModelForCausalLM)
    model = loader.from_pretrained(folder, **{"dtype": "auto", **arguments})
    if manifest is not None:
        dtype = str(model.dtype).removeprefix("torch.")
        check_weights(folder, manifest, survey_weights(model).sha256, dtype)
    return model


def check_weights(
    folder: str | Path, manifest: Manifest, sha256: str | None, dtype: str
) -> bool | None:
    """Compare loaded weights with the saved ones.

    Args:
        folder: Where they came from, for the message.
        manifest: What ``kick.json`` says.
        sha256: The hash of the loaded weights; None where it is not known.
        dtype: What they were loaded in.

    Returns:
        True where they are the same; None where that cannot be told: they are packed, or were
        loaded in another dtype.

    Raises:
        SettingsError: They differ.
    """
    saved = manifest.record.get("weights_sha256")
    comparable = manifest.storage == "dense" and dtype == manifest.record.get("dtype")
    if not comparable or saved is None or sha256 is None:
        return None
    if saved != sha256:
        raise SettingsError(
            f"{folder}: the weights do not match {MANIFEST} ({sha256[:12]} loaded, "
            f"{str(saved)[:12]} saved): damaged or changed. Copy it again, save it again, or "
            f"delete {MANIFEST} to use it unchecked."
        )
    return True
