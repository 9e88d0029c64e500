# SPDX-License-Identifier: Apache-2.0
"""Compressed models as folders: saved, described, kept, and recognised again.

Nothing here imports torch before a function is called.
"""

from __future__ import annotations

from lmkick_plugin.checkpoints.formats import FORMATS
from lmkick_plugin.checkpoints.manifest import MANIFEST, Manifest, read_manifest

__all__ = ["FORMATS", "MANIFEST", "Manifest", "read_manifest"]
