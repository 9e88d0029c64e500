# SPDX-License-Identifier: Apache-2.0
"""Commands killed while they write: the next run of the same work ends well and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compressors.files import unfinished
from lmkick_plugin.files import check_folder
from tests.faults import places

# Runs a command in a child that dies at its N-th write, with no chance to tidy up, then again.
KILLED = """
import os, signal, sys
from pathlib import Path
from lmkick_plugin import cli, files

name, at, *command = sys.argv[1:]
whole = getattr(Path, name)
left = int(at)

def die(*args, **kwargs):
    global left
    left -= 1
    if left:
        return whole(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

child = os.fork()
if child == 0:
    setattr(Path, name, die)
    os._exit(cli.main(command))
killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
left = len(list(Path(sys.argv[-1]).parent.rglob(".lmkick-*")))
print("\\nfound", killed, left, cli.main(command))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("name", "at", "command", "written"),
    [
        ("replace", 1, "report {root}/runs/run", "report.html"),
        ("replace", 2, "report {root}/runs/run", "report.md"),
        ("replace", 2, "export {root}/runs/run", ""),
        ("replace", 1, "compare {root}/runs/run {root}/runs/run2", "table.csv"),
    ],
)
def test_the_next_run_removes_what_a_killed_one_left(
    name: str, at: int, command: str, written: str, tmp_path: Path
) -> None:
    places.make_results(tmp_path)
    out = tmp_path / "out" / ("table.csv" if "compare" in command else "folder")
    out.parent.mkdir()
    option = "--csv" if "compare" in command else "-o"
    arguments = [*command.format(root=tmp_path).split(), option, str(out)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, name, str(at), *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"found {-signal.SIGKILL} 1 0", done.stdout + done.stderr
    assert list(out.parent.rglob(".lmkick-*")) == []
    assert (out if "compare" in command else out / written).exists()


def test_a_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    mine = unfinished(tmp_path / "probe").name
    (tmp_path / mine.replace(f"-{os.getpid()}-", f"-{dead.pid}-")).write_bytes(b"killed here")
    check_folder("--output_path", tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []
