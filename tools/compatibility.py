# SPDX-License-Identifier: Apache-2.0
"""Tests that other versions of other packages need, each in an environment of its own.

    .venv/bin/python -m tools.compatibility [NAME ...]

An environment holds what differs and sees all else in the one that runs this, so it takes minutes
and little space. What cannot be installed, or not in time, is said in one line and is no failure;
a failed test is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path

#: Seconds for all of it.
LIMIT = 900
FOLDER = Path(sys.prefix + "-compatibility")


@dataclass(frozen=True)
class Environment:
    """Packages put before those at hand, and the tests run there (arguments of pytest)."""

    packages: tuple[str, ...]
    tests: tuple[str, ...]


ENVIRONMENTS = {
    # The lower bounds of pyproject.toml; the suite itself runs with lm_eval 0.4.13.
    "oldest": Environment(
        ("lm_eval==0.4.12", "transformers==5.17.0"),
        ("tests/test_compatibility.py", "tests/lmkick_plugin/test_registration.py"),
    ),
    # gptqmodel asks for numpy 2.2.6 and brings torchao, which is slow and noisy to import.
    "gptq": Environment(
        ("gptqmodel==7.6.0", "optimum==2.3.0", "torchao==0.18.0"),
        (
            "tests/test_compatibility.py::test_gptq_folder_in_gptqmodel_and_transformers",
            "tests/lmkick_plugin/checkpoints/test_formats.py",
            "tests/lmkick_plugin/loading/test_precompressed.py",
            "-kgptq or torchao",
        ),
    ),
}


def make(name: str, packages: tuple[str, ...], end: float) -> Path:
    """Make an environment by ``end`` (of ``time.monotonic``); return its interpreter.

    Raises:
        subprocess.SubprocessError: Something could not be installed, or not in time.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if (folder / ".installed").is_file() and (folder / ".installed").read_text() == repr(packages):
        return python
    venv.create(folder, with_pip=False, symlinks=True, clear=True)
    # Added like a site-packages folder, so that its .pth files count: lmkick's own are among them.
    at_hand = sysconfig.get_path("purelib")
    here = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(here, "at_hand.pth").write_text(f"import site; site.addsitedir({at_hand!r})\n")
    # Packages without a wheel are built with what is here: an environment for each costs a minute.
    for what in (("setuptools>=79",), packages):
        command = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install"]
        subprocess.run(
            [*command, "--no-build-isolation", *what],
            check=True, timeout=left(end), capture_output=True, text=True,
        )  # fmt: skip
    (folder / ".installed").write_text(repr(packages))
    return python


def left(end: float) -> float:
    """Seconds until ``end``, at least a moment."""
    return max(end - time.monotonic(), 0.1)


def run(name: str, end: float) -> bool:
    """Install and test one environment; whether its tests passed, or could not be run."""
    environment = ENVIRONMENTS[name]
    what, begin = " ".join(environment.packages), time.monotonic()
    try:
        python = make(name, environment.packages, end)
    except subprocess.SubprocessError as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        print(f"compatibility {name}: NOT RUN, {what} not installed: {lines[-1]}", flush=True)
        return True
    installed = time.monotonic()
    # A test has as long as all together: on a busy machine LIMIT ends it, which is no failure.
    command = [str(python), "-m", "pytest", "--quiet", "-rs", "-p", "no:cacheprovider"]
    command.append(f"--timeout={LIMIT}")
    variables = {"GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1"}
    try:
        done = subprocess.run(
            [*command, *environment.tests],
            check=False, timeout=left(end), env={**os.environ, **variables},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(f"compatibility {name}: NOT RUN to its end within {LIMIT} s, {what}", flush=True)
        return True
    passed = done.returncode == 0
    print(
        f"compatibility {name}: {what}: {'passed' if passed else 'FAILED'} "
        f"({installed - begin:.0f} s to install, {time.monotonic() - installed:.0f} s of tests)",
        flush=True,
    )
    return passed


if __name__ == "__main__":
    names = sys.argv[1:] or list(ENVIRONMENTS)
    end = time.monotonic() + LIMIT
    outcomes = [run(name, end) for name in names]  # all of them, whatever the first ends in
    sys.exit(0 if all(outcomes) else 1)
