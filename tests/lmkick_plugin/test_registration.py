# SPDX-License-Identifier: Apache-2.0
"""The bridge to lm-eval: what it registers, when, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import lmkick_autoload
from lmkick_plugin import registration

BUILT_IN = Path("/harness/tasks")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins for the modules of lm-eval that registration touches."""

    class Registry(dict[str, str]):
        def register(self, name: str, target: str) -> None:
            self[name] = target

    class TaskIndex:
        @staticmethod
        def build(paths: Any, *, resolve_includes: bool = True) -> dict[str, Any]:
            return {"paths": list(paths), "resolve_includes": resolve_includes}

    tasks = ModuleType("lm_eval.tasks")
    tasks.__file__ = str(BUILT_IN / "__init__.py")
    registry = Registry(hf="lm_eval.models.huggingface:HFLM")
    monkeypatch.setitem(
        sys.modules, "lm_eval.api.registry", SimpleNamespace(model_registry=registry)
    )
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", tasks)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks._index", SimpleNamespace(TaskIndex=TaskIndex))
    return SimpleNamespace(registry=registry, index=TaskIndex)


def test_model_is_registered_by_name_only(harness: SimpleNamespace) -> None:
    assert registration.MODEL_NAME not in harness.registry
    registration.register_model()
    assert harness.registry[registration.MODEL_NAME] == registration.MODEL_TARGET


def test_model_from_an_entry_point_is_kept(harness: SimpleNamespace) -> None:
    harness.registry["kick"] = "by entry point"
    registration.register_model()
    assert harness.registry["kick"] == "by entry point"


def test_our_folder_comes_between_built_in_and_included(harness: SimpleNamespace) -> None:
    before = harness.index.build([BUILT_IN, Path("/mine")])["paths"]
    registration.register_tasks()
    after = harness.index().build([BUILT_IN, Path("/mine")], resolve_includes=False)
    assert before == [BUILT_IN, Path("/mine")]
    assert after["paths"] == [BUILT_IN, registration.TASK_FOLDER, Path("/mine")]
    assert after["resolve_includes"] is False


@pytest.mark.parametrize(
    "paths",
    [
        [BUILT_IN, registration.TASK_FOLDER],  # an entry point put it there
        [BUILT_IN, Path("/mine"), registration.TASK_FOLDER / ".." / "task_yaml"],
        [Path("/mine")],  # include_defaults=False
    ],
)
def test_nothing_is_added_twice_or_unasked(harness: SimpleNamespace, paths: list[Path]) -> None:
    registration.register_tasks()
    assert harness.index.build(paths)["paths"] == paths


def test_every_name_of_ours_begins_with_one_of_our_prefixes() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[registration.TASK_FOLDER], include_defaults=False)
    assert {"kick", "recall_kick", "mmlu_kick_anatomy"} <= set(manager.all_tasks)
    assert [n for n in manager.all_tasks if not n.startswith(registration.OUR_PREFIXES)] == []
    used = {
        p for name in manager.all_tasks for p in registration.OUR_PREFIXES if name.startswith(p)
    }
    assert used == set(registration.OUR_PREFIXES)


def test_registering_twice_wraps_once(harness: SimpleNamespace) -> None:
    registration.register_tasks()
    once = harness.index.build
    registration.register_tasks()
    assert harness.index.build is once


@pytest.fixture
def meta_path(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """``sys.meta_path`` as it would be without an installed lmkick."""
    others = [
        finder
        for finder in sys.meta_path
        if type(finder).__name__ != lmkick_autoload.LmkickFinder.__name__
    ]
    monkeypatch.setattr(sys, "meta_path", others)
    return others


def test_one_finder_however_often_installed(meta_path: list[Any]) -> None:
    lmkick_autoload.install()
    lmkick_autoload.install()
    assert [type(finder).__name__ for finder in meta_path].count("LmkickFinder") == 1


@pytest.mark.parametrize(("value", "installed"), [("1", 0), ("yes", 0), ("0", 1), ("", 1)])
def test_switch(
    meta_path: list[Any], monkeypatch: pytest.MonkeyPatch, value: str, installed: int
) -> None:
    monkeypatch.setenv("LMKICK_NO_AUTOLOAD", value)
    lmkick_autoload.install()
    assert [type(finder).__name__ for finder in meta_path].count("LmkickFinder") == installed


# Modules called like lm-eval's, in a folder of their own: a start-up hook can only be tested in an
# interpreter that has not imported what it waits for.
FAKE_MODULES = {
    "lm_eval/__init__.py": "",
    "lm_eval/models/__init__.py": "ran = True",
    "lm_eval/tasks/__init__.py": "ran = True",
    "lm_eval/_cli/__init__.py": "",
    "lm_eval/_cli/run.py": "ran = True",
    "lm_eval/other.py": "",
    "lmkick_plugin/cli/__init__.py": "",
    "lmkick_plugin/cli/run.py": """
import sys
def check_lm_eval_runs(): print("run", sys.modules["lm_eval._cli.run"].ran)
""",
}


def run_with_fake_harness(tmp_path: Path, code: str, registration_code: str) -> str:
    """Run ``code`` with the fake harness and a stand-in for our registration; return output."""
    files = {**FAKE_MODULES, "lmkick_plugin/__init__.py": ""}
    files["lmkick_plugin/registration.py"] = registration_code
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    source = Path(lmkick_autoload.__file__)
    (tmp_path / source.name).write_bytes(source.read_bytes())
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],  # -S: without the hook of an installed lmkick
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout + result.stderr


RECORD = """
import sys
def register_model(): print("model", sys.modules["lm_eval.models"].ran)
def register_tasks(): print("tasks", sys.modules["lm_eval.tasks"].ran)
"""


def test_finder_waits_acts_once_and_leaves(tmp_path: Path) -> None:
    code = """
import sys
loaded = set(sys.modules)
import lmkick_autoload
lmkick_autoload.install()
print("imported", *sorted(set(sys.modules) - loaded))
def present(): return any(type(f).__name__ == "LmkickFinder" for f in sys.meta_path)
import lm_eval.other, json
print("waiting", present())
import lm_eval.models
print("waiting", present())
import lm_eval.tasks
print("waiting", present())
import lm_eval._cli.run
print("waiting", present())
import importlib
importlib.reload(lm_eval.tasks)
"""
    assert run_with_fake_harness(tmp_path, code, RECORD).splitlines() == [
        "imported lmkick_autoload",
        "waiting True",
        "model True",
        "waiting True",
        "tasks True",
        "waiting True",
        "run True",
        "waiting False",
    ]


@pytest.mark.parametrize("broken", ["raise RuntimeError('broken')", "def register_tasks(): 1/0"])
def test_a_failure_is_a_warning(tmp_path: Path, broken: str) -> None:
    code = """
import lmkick_autoload
lmkick_autoload.install()
import lm_eval.models, lm_eval.tasks
print("ran", lm_eval.models.ran, lm_eval.tasks.ran)
"""
    output = run_with_fake_harness(tmp_path, code, broken)
    assert "ran True True" in output
    assert "lmkick: could not introduce itself to lm-eval" in output
    assert "LMKICK_NO_AUTOLOAD=1" in output


def test_missing_harness_stays_missing(tmp_path: Path) -> None:
    code = """
import lmkick_autoload, sys
lmkick_autoload.install()
try:
    import lm_eval.tasks.nothing
except ModuleNotFoundError as error:
    print(error)
import shutil; shutil.rmtree("lm_eval")
for name in [name for name in sys.modules if name.startswith("lm_eval")]: del sys.modules[name]
try:
    import lm_eval.models
except ModuleNotFoundError as error:
    print(error)
"""
    output = run_with_fake_harness(tmp_path, code, RECORD)
    assert "No module named 'lm_eval.tasks.nothing'" in output
    assert "No module named 'lm_eval'" in output
    assert "Traceback" not in output
