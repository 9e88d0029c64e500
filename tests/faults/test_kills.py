# SPDX-License-Identifier: Apache-2.0
"""Commands killed while they write: the next run of the same work ends well and leaves nothing."""

from __future__ import annotations

import json
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


# As KILLED, but dies before a file gets its name, and for several commands: libraries are imported
# once.
KILLED_AT = """
import json, os, re, signal, sys
from pathlib import Path
import lmkick_plugin.model, lmkick_plugin.sweep.runner
from lmkick_plugin import cli

def forked(function):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(function())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def killed(pattern, at, command):
    left = at
    for name in ("replace", "rename"):
        def named(path, target, whole=getattr(Path, name)):
            nonlocal left
            left -= bool(re.search(pattern, str(target)))
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(path, target)
        setattr(Path, name, named)
    return cli.main(command)

for pattern, at, command in json.loads(sys.argv[1]):
    ends = forked(lambda: killed(pattern, at, command)), forked(lambda: cli.main(command))
    print("\\nfound", *ends)
"""

SWEEP = "sweep {root}/yaml/good.yaml --limit 2 --output {out}/folder"
STUDY = (
    "study seeds --tasks kick_freebaseqa --limit 2 --no_dense --device cpu --output {out}/folder "
    "--metadata data_dir={root}/data --seeds 0 1 --model_args pretrained={model},compressor=wanda,"
    "sparsity=0.5,calibration={root}/texts/good.txt,nsamples=2,seqlen=32"
)
MAGNITUDE = (
    "compress --pretrained {model} --compressor magnitude --sparsity 0.5 --device cpu "
    "--output {out}/folder "
)
#: What has no name yet when the process dies, and which time; command; files of the next run.
AT = [
    (r"/samples_", 1, SWEEP, "results_*.json"),
    (r"/results_", 1, SWEEP, "results_*.json"),  # cell.json names it already
    (r"/cell\.json$", 1, SWEEP, "results_*.json"),
    (r"/cell\.json$", 2, SWEEP, "results_*.json"),
    (r"/results_", 2, STUDY, "results_*.json"),
    (r"/block_0001", 1, MAGNITUDE + "--resume-dir {out}/resume", "model.safetensors"),
    (r"/block_0001", 1, MAGNITUDE + "--compress-cache {out}/cache", "model.safetensors"),
    (r"/report\.json$", 1, MAGNITUDE + "--compress-cache {out}/cache", "model.safetensors"),
    (r"/folder$", 1, MAGNITUDE + "--compress-cache {out}/cache", "model.safetensors"),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_work_goes_on_where_a_file_had_no_name_yet(
    tmp_path: Path, tiny_model_dir: Path, repository: Path
) -> None:
    places.make_data(tmp_path)
    places.make_texts(tmp_path)
    places.make_yaml(tmp_path, tiny_model_dir)
    outs = [tmp_path / "outs" / str(number) for number in range(len(AT))]
    points = []
    for out, (pattern, at, command, _) in zip(outs, AT, strict=True):
        out.mkdir(parents=True)
        names = {"root": tmp_path, "out": out, "model": tiny_model_dir}
        points.append((pattern, at, command.format(**names).split()))
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, json.dumps(points)], cwd=repository,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.startswith("found")]
    assert found == [f"found {-signal.SIGKILL} 0"] * len(AT), done.stdout + done.stderr
    for out, (*_, command, written) in zip(outs, AT, strict=True):
        files = list((out / "folder").rglob(written))
        assert len(files) == (2 if command == STUDY else 1), command
        assert all(path.stat().st_size for path in files)
        for left in (".lmkick-*", ".unfinished", "*.partial"):
            assert list(out.rglob(left)) == [], command
        for cell in out.rglob("cell.json"):
            assert json.loads(cell.read_text())["state"] == "done"


def test_a_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    mine = unfinished(tmp_path / "probe").name
    (tmp_path / mine.replace(f"-{os.getpid()}-", f"-{dead.pid}-")).write_bytes(b"killed here")
    check_folder("--output_path", tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []
