# SPDX-License-Identifier: Apache-2.0
"""Install lmkick for real, in environments of its own, and look at it through plain lm_eval.

An environment here is a new one whose heavy dependencies are links to those of the environment that
runs the tests, lmkick itself excepted; pip puts the wheel (or the editable install) into it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

PACKAGES = ("compressors", "lmkick_plugin", "task_yaml")
START_FILES = ("lmkick_autoload.py", "lmkick_autoload.pth", "lmkick_autoload.start")
TASK = "kick_freebaseqa"


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the back end that pip would call."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_all_it_needs_and_no_more(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    expected = {
        str(path.relative_to(repository))
        for package in PACKAGES
        for path in (repository / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert any(name.endswith(".yaml") for name in expected)
    assert {"compressors/py.typed", "lmkick_plugin/py.typed"} <= expected
    assert expected - names == set()
    others = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    assert names - expected == {*START_FILES, *others, f"{info}/licenses/LICENSE"}


def test_wheel_declares_what_lm_eval_may_read(wheel: Path) -> None:
    (distribution,) = metadata.distributions(path=[str(wheel)])
    declared = {(entry.group, entry.name, entry.value) for entry in distribution.entry_points}
    assert declared == {
        ("console_scripts", "lmkick", "lmkick_plugin.cli:main"),
        ("lm_eval.models", "kick", "lmkick_plugin.model:KickLM"),
        ("lm_eval.tasks", "lmkick", "task_yaml"),
    }


def test_both_start_files_call_the_same_function(repository: Path) -> None:
    path_file = (repository / "lmkick_autoload.pth").read_text(encoding="utf-8")
    start_file = (repository / "lmkick_autoload.start").read_text(encoding="utf-8")
    assert path_file == "import lmkick_autoload; lmkick_autoload.install()\n"
    assert start_file == "lmkick_autoload:install\n"


@dataclass(frozen=True)
class Environment:
    """A virtual environment and what to do with it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def files(self) -> set[str]:
        """Everything installed, byte code excepted."""
        return {
            str(path.relative_to(self.folder))
            for place in (self.packages, self.folder / "bin")
            for path in place.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }

    def pip(self, *arguments: str | Path) -> None:
        """Run the testing environment's pip on this one."""
        command = [sys.executable, "-m", "pip", "--quiet", "--python", self.python, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def run(self, *command: str | Path, **variables: str) -> str:
        """Run ``bin/<command>`` in an empty folder and return what it printed."""
        return printed(self.try_run(*command, **variables))

    def try_run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``bin/<command>`` in an empty folder."""
        name, *arguments = command
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LMKICK_"))
        }
        return subprocess.run(
            [self.folder / "bin" / name, *arguments],
            cwd=work,
            env={**inherited, **variables},
            capture_output=True,
            text=True,
            check=False,
        )


def make_environment(folder: Path) -> Environment:
    """Make an environment that has all of this one's packages but lmkick, and lm_eval's script."""
    venv.create(folder, with_pip=False, symlinks=True)
    environment = Environment(folder)
    links = folder / "dependencies"
    links.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(place).iterdir():
            if "lmkick" not in path.name and not (links / path.name).exists():
                (links / path.name).symlink_to(path)
    (environment.packages / "dependencies.pth").write_text(f"{links}\n", encoding="utf-8")
    script = folder / "bin" / "lm_eval"
    script.write_text(
        f"#!{environment.python}\n"
        "import sys\nfrom lm_eval.__main__ import cli_evaluate\nsys.exit(cli_evaluate())\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    return environment


LOOK = """
import json, sys
def waiting(): return sum(type(f).__name__ == "LmkickFinder" for f in sys.meta_path)
seen = {"at start": waiting(), "light": "torch" not in sys.modules}
import lm_eval.models, lm_eval.tasks
from lm_eval.api.registry import model_registry
from lm_eval.tasks._index import TaskIndex
seen["after import"] = waiting()
seen["light"] &= "torch" not in sys.modules
seen["model"] = "kick" in model_registry
seen["tasks"] = hasattr(TaskIndex.build, "adds_lmkick")
print(json.dumps(seen))
"""
# After the import it still waits for the command line, whose runs it checks.
KNOWN = {"at start": 1, "light": True, "after import": 1, "model": True, "tasks": True}
UNKNOWN = {**KNOWN, "at start": 0, "after import": 0, "model": False, "tasks": False}


def look(environment: Environment, first: str = "", **variables: str) -> dict[str, object]:
    """Run ``first`` in a new interpreter and report what lm-eval knows of lmkick there."""
    output = environment.run("python", "-c", first + LOOK, **variables)
    return dict(json.loads(output.splitlines()[-1]))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment with the wheel in it, which must go without a trace in the end."""
    environment = make_environment(tmp_path_factory.mktemp("environment") / "wheel")
    before = environment.files()
    assert look(environment) == UNKNOWN
    environment.pip("install", "--no-deps", "--no-index", wheel)
    assert environment.files() > before
    yield environment
    environment.pip("uninstall", "--yes", "lmkick")
    assert environment.files() == before
    assert look(environment) == UNKNOWN


Results = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def results(installed: Environment, tiny_model_dir: Path, data_dir: Path) -> Results:
    """What every way to start lm_eval printed; two at a time, each takes ten seconds or more."""
    evaluation = [
        *("run", "--model", "kick", "--tasks", TASK, "--limit", "2", "--device", "cpu"),
        *("--model_args", f"pretrained={tiny_model_dir},compressor=magnitude,sparsity=0.5"),
        *("--metadata", json.dumps({"data_dir": str(data_dir)})),
    ]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m"]
    from_python = f"""
from lm_eval import simple_evaluate
found = simple_evaluate(
    model="kick", tasks=[{TASK!r}], limit=2, device="cpu", bootstrap_iters=0,
    model_args=dict(pretrained={str(tiny_model_dir)!r}, compressor="magnitude", sparsity=0.5),
    metadata=dict(data_dir={str(data_dir)!r}),
)
print(found["config"]["kick"]["achieved_sparsity"])
"""
    commands: dict[str, list[str]] = {
        "lm_eval ls": ["lm_eval", "ls", "tasks"],
        "lm_eval run": ["lm_eval", *evaluation],
        "accelerate launch": ["python", *launch, "lm_eval", *evaluation],
        "simple_evaluate": ["python", "-c", from_python],
        "python -m lm_eval validate": ["python", "-m", "lm_eval", "validate", "--tasks", TASK],
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {
            name: pool.submit(installed.try_run, *command) for name, command in commands.items()
        }
    return {name: future.result() for name, future in running.items()}


def printed(result: subprocess.CompletedProcess[str]) -> str:
    """Return the standard output of a command that succeeded."""
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestWheel:
    """Plain lm_eval, in all the ways it is started, with the wheel installed."""

    def test_it_is_known_and_costs_nothing_before(self, installed: Environment) -> None:
        assert look(installed) == KNOWN

    def test_switch_turns_it_off(self, installed: Environment) -> None:
        assert look(installed, LMKICK_NO_AUTOLOAD="1") == UNKNOWN

    def test_explicit_way_needs_no_start_up_hook(self, installed: Environment) -> None:
        assert installed.run("lmkick", "--version").startswith("lmkick 0.")
        assert installed.run("python", "-m", "lmkick_plugin", "--version").startswith("lmkick 0.")
        first = "from lmkick_plugin.registration import register; register()\n"
        seen = look(installed, first, LMKICK_NO_AUTOLOAD="1")
        assert seen == {**KNOWN, "at start": 0, "after import": 0}

    def test_list(self, installed: Environment, results: Results) -> None:
        table = printed(results["lm_eval ls"]).splitlines()
        rows = [[cell.strip() for cell in line.split("|")] for line in table if "|" in line]
        places = {row[1]: row[2] for row in rows if len(row) > 3}
        assert {"kick", "kick_mmlu", "hellaswag"} <= set(places)
        assert Path(places[TASK]).is_relative_to(installed.packages / "task_yaml")

    @pytest.mark.parametrize("command", ["lm_eval run", "accelerate launch"])
    def test_run(self, results: Results, command: str) -> None:
        table = printed(results[command])
        assert "kick ({'pretrained'" in table
        assert f"|{TASK}" in table

    def test_evaluate_from_python(self, results: Results) -> None:
        assert printed(results["simple_evaluate"]).splitlines()[-1] == "0.5"

    def test_validate(self, results: Results) -> None:
        assert "All tasks found and valid" in printed(results["python -m lm_eval validate"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_editable_install(repository: Path, tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "editable")
    before = environment.files()
    install = ["install", "--no-deps", "--no-index", "--no-build-isolation", "--editable"]
    environment.pip(*install, repository)
    assert look(environment) == KNOWN
    folder = "from lmkick_plugin.registration import TASK_FOLDER; print(TASK_FOLDER)"
    assert environment.run("python", "-c", folder).strip() == str(repository / "task_yaml")
    environment.pip("uninstall", "--yes", "lmkick")
    assert environment.files() == before
    assert look(environment) == UNKNOWN


DOWNSTREAM = """
from pathlib import Path

from compressors import NM, CompressionReport, Wanda, compress_model
from lmkick_plugin.report import write_report

def prune(model: object) -> CompressionReport:
    report = compress_model(model, Wanda(pattern=NM(2, 4)))  # type: ignore[arg-type]
    reveal_type(report.sparsity)
    return report

page: Path = write_report([Path("results")], Path("report"))
Wanda(pattern=3)
"""


@pytest.mark.slow
def test_a_downstream_project_sees_the_types(tmp_path: Path) -> None:
    """py.typed is there and read: a right use passes, a wrong one is an error."""
    script = tmp_path / "downstream.py"
    script.write_text(DOWNSTREAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 'Revealed type is "float"' in done.stdout, done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert 'Argument "pattern" to "Wanda"' in errors[0]
