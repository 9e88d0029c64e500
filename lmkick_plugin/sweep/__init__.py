# SPDX-License-Identifier: Apache-2.0
"""``lmkick sweep``: models x recipes x tasks, from one configuration, resumable.

From Python::

    from lmkick_plugin.sweep import run_sweep

    found = run_sweep({"models": [...], "tasks": [...], "recipes": [...], "output": "results"})
    print(found.folders, found.failures, found.seconds)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmkick_plugin.sweep.runner import CellResult, Progress, SweepResult, run_sweep

__all__ = ["CellResult", "Progress", "SweepResult", "run_sweep"]


def __getattr__(name: str) -> Any:
    """Import public names on first use; importing the package stays light."""
    if name in __all__:
        from lmkick_plugin.sweep import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
