# SPDX-License-Identifier: Apache-2.0
"""Who may import whom. Lazy and TYPE_CHECKING imports count."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

# Folders and modules of lmkick_plugin; each imports only those before it.
PLUGIN = [
    *("bundled", "files", "terminal", "lm_eval_patches", "registration"),
    *("recipe", "record", "results", "metrics", "data", "checkpoints", "loading", "judge"),
    *("inference", "tasks", "model", "preflight", "report", "profile", "sweep", "cli", "__main__"),
]
# Of compressors; calibration reads data sets, the rest above obs meets models.
CORE = [
    *(
        "defaults",
        "errors",
        "files",
        "number_formats",
        "base",
        "patterns",
        "grid",
        "float_grid",
        "quantization_grid",
        "matmul",
    ),
    *("statistics", "obs", "methods", "report", "blocks"),
    *("calibration", "allocation", "resume", "cache", "driver"),
]
# The maths needs torch alone (and Triton, in its one kernel).
MATHS = {*CORE[: CORE.index("methods") + 1]} - {"files"}
MODELS = {"accelerate", "filelock", "numpy", "safetensors", "tqdm", "transformers"}
DATA = {"datasets", "huggingface_hub"}


def imported(source: str) -> Iterator[tuple[str, int]]:
    """Yield each module that ``source`` imports, and the line; a relative import as ``"."``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield ".", node.lineno
                continue
            yield str(node.module), node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def modules(package: Path) -> dict[str, Path]:
    """Files of a package by dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def edges(package: Path) -> Iterator[tuple[str, str, str]]:
    """Yield ``importer, imported, file:line`` for imports between modules of a package."""
    known = modules(package)
    for name, path in known.items():
        for module, line in imported(path.read_text(encoding="utf-8")):
            if module in known and module != package.name:
                yield name, module, f"{path.relative_to(package.parent)}:{line}"


def backward(package: Path, order: Sequence[str]) -> list[str]:
    """Imports of a package's folders that run against ``order``, or name what is not in it."""
    found = []
    for importer, module, place in edges(package):
        if importer == package.name:
            continue  # the package itself offers its public names
        here, there = importer.split(".")[1], module.split(".")[1]
        if here not in order or there not in order or order.index(there) > order.index(here):
            found.append(f"{place} imports {module}")
    return found


def outside(package: Path, allowed: dict[str, set[str]]) -> list[str]:
    """Imports of third-party packages that are not ``allowed`` for the importing folder."""
    found = []
    for name, path in modules(package).items():
        folder = name.split(".")[1] if "." in name else ""
        for module, line in imported(path.read_text(encoding="utf-8")):
            top = module.split(".")[0]
            ours = top in sys.stdlib_module_names or top == package.name
            if not ours and top not in allowed.get(folder, set()):
                found.append(f"{path.name}:{line} imports {module}")
    return found


def cycles(package: Path) -> list[list[str]]:
    """Modules that import each other, however indirectly."""
    graph: dict[str, set[str]] = {}
    for importer, module, _ in edges(package):
        if importer != module and importer != package.name:
            graph.setdefault(importer, set()).add(module)
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for there in graph.get(stack.pop(), set()) - seen:
                seen.add(there)
                stack.append(there)
        reach[start] = seen
    return [
        sorted({a, *(b for b in reach[a] if a in reach.get(b, ()))}) for a in reach if a in reach[a]
    ]


@pytest.mark.parametrize(("package", "order"), [("lmkick_plugin", PLUGIN), ("compressors", CORE)])
def test_imports_run_one_way(repository: Path, package: str, order: list[str]) -> None:
    assert backward(repository / package, order) == []
    assert cycles(repository / package) == []


def core_packages(repository: Path) -> dict[str, set[str]]:
    """Third-party packages that folders of compressors may import."""
    rules = {name: {"torch"} | (set() if name in MATHS else MODELS) for name in CORE}
    rules["defaults"] = rules["errors"] = rules["files"] = set()
    rules["obs"] |= {"triton"}
    rules["calibration"] |= DATA
    rules[""] = set()
    return rules


def test_the_core_needs_neither_harness_nor_plugin(repository: Path) -> None:
    assert outside(repository / "compressors", core_packages(repository)) == []


def test_few_modules_stand_in_the_root(repository: Path) -> None:
    assert len(list((repository / "lmkick_plugin").glob("*.py"))) - 1 <= 12  # beside __init__


@pytest.mark.parametrize("folder", ["lmkick_plugin", "compressors", "task_yaml", "tools"])
def test_nobody_imports_relatively_or_upwards(repository: Path, folder: str) -> None:
    above = {"task_yaml", "tests", "tools"} - {folder}
    found = [
        f"{name}:{line} imports {module}"
        for name, path in modules(repository / folder).items()
        for module, line in imported(path.read_text(encoding="utf-8"))
        if module.split(".")[0] in above or module == "."
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("import lm_eval", "outside"),
        ("from lmkick_plugin.model import KickLM", "outside"),
        ("def f():\n    import transformers", "outside"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import compressors.driver",
            "order",
        ),
        ("from compressors import driver", "order"),
        ("from compressors.driver import run", "order"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, repository: Path, line: str, broken: str) -> None:
    folder = tmp_path / "compressors"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "driver.py").write_text("run = 1", encoding="utf-8")
    (folder / "patterns.py").write_text(line, encoding="utf-8")
    assert bool(backward(folder, CORE)) is (broken == "order")
    assert bool(outside(folder, core_packages(repository))) is (broken == "outside")


def test_a_cycle_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "compressors"
    folder.mkdir()
    for name, other in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        (folder / f"{name}.py").write_text(f"from compressors.{other} import x", encoding="utf-8")
    assert cycles(folder) == [["compressors.a", "compressors.b", "compressors.c"]] * 3


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("lmkick_plugin", {"torch", "lm_eval", "transformers", "numpy"}),
        ("lmkick_plugin.cli", {"torch", "lm_eval", "transformers", "numpy"}),
        ("lmkick_plugin.registration", {"torch", "lm_eval", "transformers", "numpy"}),
        ("lmkick_plugin.recipe.arguments", {"torch", "lm_eval", "transformers"}),
        ("compressors", {"torch", "lm_eval", "transformers", "datasets", "accelerate"}),
    ],
)
def test_import_stays_light(repository: Path, module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert module in result.stdout.split()
    assert unwanted & set(result.stdout.split()) == set()
