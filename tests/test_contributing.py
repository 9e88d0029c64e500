# SPDX-License-Identifier: Apache-2.0
"""The map of modules in CONTRIBUTING.md names each of them, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_map_of_modules_is_complete() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text.split("`lmkick_plugin/`, module by module:")[1].split("###")[0]
    named = re.findall(r"`([a-z_]+/?)`", rows)
    folder = ROOT / "lmkick_plugin"
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    assert len(named) == len(set(named))
    assert set(named) == modules | packages
