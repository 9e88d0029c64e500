# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: the rules that keep the numerical core free of the harness."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The maths of compressors: torch, the standard library and each other.
MATHS = {
    *("gptq", "magnitude", "random", "rtn", "sparsegpt", "wanda"),
    "base",
    "checks",
    "columns",
    "factor",
    "grid",
    "obs",
    "obs_triton",
    "patterns",
    "products",
    "pruning",
    "statistics",
    "sweep_grids",
}
# What meets models and text may import these beside torch; only calibration reads data sets.
EDGES = {"accelerate", "filelock", "numpy", "safetensors", "tqdm", "transformers"}
CALIBRATION = {"datasets", "huggingface_hub"}
NEVER_IN_COMPRESSORS = {"lm_eval", "lmkick_plugin", "task_yaml"}


def imported(source: str) -> Iterator[tuple[str, int]]:
    """Yield each module that ``source`` imports, and the line; a relative import as ``"."``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." if node.level else str(node.module)), node.lineno


def offences(folder: Path, allowed: dict[str, set[str]] | None, forbidden: set[str]) -> list[str]:
    """List ``file:line imports module`` for each import that breaks a rule.

    Args:
        folder: package to look through.
        allowed: third-party top-level packages by file stem; None allows all but ``forbidden``.
        forbidden: top-level packages no file may import.

    """
    found = []
    for path in sorted(folder.rglob("*.py")):
        for module, line in imported(path.read_text(encoding="utf-8")):
            top = module.split(".")[0]
            if module == ".":
                bad = True  # lm-eval loads task helpers by path, where relative imports fail
            elif top in sys.stdlib_module_names or top == folder.name:
                bad = False
            else:
                bad = top in forbidden or (allowed is not None and top not in allowed[path.stem])
            if bad:
                found.append(f"{path.relative_to(folder.parent)}:{line} imports {module}")
    return found


def core_rules(folder: Path) -> dict[str, set[str]]:
    """Return the third-party packages each file of compressors may import."""
    rules = {}
    for path in folder.rglob("*.py"):
        rules[path.stem] = {"torch"} if path.stem in {*MATHS, "__init__"} else {"torch", *EDGES}
    rules["obs_triton"] = {"torch", "triton"}
    rules["calibration"] = {"torch", *EDGES, *CALIBRATION}
    return rules


def test_compressors_know_neither_harness_nor_plugin(repository: Path) -> None:
    folder = repository / "compressors"
    assert offences(folder, core_rules(folder), NEVER_IN_COMPRESSORS) == []


def test_maths_imports_maths_alone(repository: Path) -> None:
    folder = repository / "compressors"
    found = [
        f"{path.name}:{line} imports {module}"
        for path in folder.glob("*.py")
        if path.stem in MATHS
        for module, line in imported(path.read_text(encoding="utf-8"))
        if module.startswith("compressors") and module.removeprefix("compressors.") not in MATHS
    ]
    assert found == []


def test_plugin_does_not_import_task_folder(repository: Path) -> None:
    assert offences(repository / "lmkick_plugin", None, {"task_yaml"}) == []


def test_task_helpers_import_absolutely(repository: Path) -> None:
    assert offences(repository / "task_yaml", None, set()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import lm_eval",
        "from lmkick_plugin.model import KickLM",
        "def f():\n    import transformers",
        "from .base import Compressor",
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "compressors"
    folder.mkdir()
    (folder / "wanda.py").write_text(line, encoding="utf-8")
    assert len(offences(folder, core_rules(folder), NEVER_IN_COMPRESSORS)) == 1


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("lmkick_plugin", {"torch", "lm_eval", "transformers", "numpy"}),
        ("lmkick_plugin.cli", {"torch", "lm_eval", "transformers", "numpy"}),
        ("lmkick_plugin.registration", {"torch", "lm_eval", "transformers", "numpy"}),
        ("lmkick_plugin.arguments", {"torch", "lm_eval", "transformers"}),
        ("compressors", {"lm_eval", "transformers", "datasets", "accelerate"}),
    ],
)
def test_import_stays_light(repository: Path, module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert module in result.stdout.split()
    assert unwanted & set(result.stdout.split()) == set()
