# SPDX-License-Identifier: Apache-2.0
"""Tell lm-eval about lmkick when, and only when, somebody imports lm-eval.

lm-eval 0.4.12 and 0.4.13 do not read the entry points that lmkick declares. So this module,
installed at the root of site-packages and called from ``lmkick_autoload.pth`` (from Python 3.15 on:
``lmkick_autoload.start``) when an interpreter starts, puts one finder on ``sys.meta_path``. It
waits for three modules of lm-eval, calls a function of ours right after each of them has run, and
takes itself out. Until then it imports nothing but ``sys``.

``LMKICK_NO_AUTOLOAD=1`` turns it off. A failure is a warning, never a broken interpreter.
"""

import sys

__all__ = ["install"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# lm-eval's module -> module and function of ours to call once it has run
_WATCHED = {
    "lm_eval.models": ("lmkick_plugin.registration", "register_model"),
    "lm_eval.tasks": ("lmkick_plugin.registration", "register_tasks"),
    "lm_eval._cli.run": ("lmkick_plugin.cli.run", "check_lm_eval_runs"),
}


class LmkickFinder:
    """A meta-path finder that finds nothing itself: it waits for three modules of lm-eval."""

    def __init__(self) -> None:
        self.waiting = dict(_WATCHED)

    def find_spec(
        self,
        name: str,
        path: "Sequence[str] | None" = None,  # noqa: ARG002 - the protocol's
        target: "ModuleType | None" = None,  # noqa: ARG002
    ) -> "ModuleSpec | None":
        """Return a watched module's own spec, its loader's ``exec_module`` wrapped; else None."""
        call = self.waiting.pop(name, None)
        if call is None:
            return None
        try:
            if not self.waiting and self in sys.meta_path:
                sys.meta_path.remove(self)
            # This comes back here for the same name, which is no longer waited for.
            import importlib.util

            spec = importlib.util.find_spec(name)
            if spec is not None and spec.loader is not None:
                _call_after(spec.loader, name, *call)
        except Exception as error:  # noqa: BLE001 - see _warn
            _warn(error)
            return None
        return spec


def _call_after(loader: "Loader", name: str, ours: str, function: str) -> None:
    """Make ``loader.exec_module`` of module ``name`` end with ``<ours>.<function>()``."""
    run = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        run(module)
        if module.__name__ != name:  # a loader of a zip archive serves many modules
            return
        try:
            from importlib import import_module

            getattr(import_module(ours), function)()
        except Exception as error:  # noqa: BLE001 - see _warn
            _warn(error)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _warn(error: Exception) -> None:
    """Say that something failed here; nothing may come out of this module as an exception."""
    if sys.stderr is not None:
        print(
            f"lmkick: could not introduce itself to lm-eval ({type(error).__name__}: {error}); "
            "`lmkick run` does without, LMKICK_NO_AUTOLOAD=1 silences this",
            file=sys.stderr,
        )


def install() -> None:
    """Put one finder on ``sys.meta_path``; called when the interpreter starts."""
    try:
        # site has imported os by now, so this is not an import of ours.
        environ = getattr(sys.modules.get("os"), "environ", {})
        if environ.get("LMKICK_NO_AUTOLOAD", "0") not in ("", "0"):
            return
        # Compared by name: an editable install may hold a second copy of this module.
        if any(type(finder).__name__ == LmkickFinder.__name__ for finder in sys.meta_path):
            return
        sys.meta_path.insert(0, LmkickFinder())
    except Exception as error:  # noqa: BLE001 - see _warn
        _warn(error)
