# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, leftovers, and CSV without formulas."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compressors.files import csv_text, is_running, remove_leftovers, unfinished, write_atomically


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert [each.read_text() for each in path.parent.iterdir()] == ["old"]


def test_names_are_not_predictable_and_links_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert len({unfinished(path) for _ in range(100)}) == 100
    (tmp_path / "target").write_text("kept")
    path.symlink_to(tmp_path / "target")
    write_atomically(path, b"new")
    assert (path.is_symlink(), path.read_text()) == (False, "new")
    assert (tmp_path / "target").read_text() == "kept"


def test_only_leftovers_of_dead_processes_of_this_machine_go(tmp_path: Path, dead: int) -> None:
    assert is_running(os.getpid())
    assert not is_running(dead)
    own = unfinished(tmp_path / "x")
    left = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{dead}-"))
    folder = left.with_name(left.name.replace(left.name[-12:-8], "0000"))
    foreign = left.with_name(left.name.replace(".lmkick-", ".lmkick-elsewhere."))
    for path in (own, left, foreign):
        path.write_text("")
    folder.mkdir()
    (folder / "file").write_text("")
    assert set(remove_leftovers(tmp_path)) == {left, folder}
    assert set(tmp_path.iterdir()) == {own, foreign}


def test_writing_into_a_folder_removes_its_leftovers(tmp_path: Path, dead: int) -> None:
    own = unfinished(tmp_path / "x")
    own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{dead}-")).write_text("half")
    write_atomically(tmp_path / "x", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t=", "\r="])
def test_no_cell_is_a_formula(start: str) -> None:
    text = f"{start}cmd|' /C calc'!A0"
    (row,) = csv.reader(csv_text([[text, "a\nb", "c\x1b[31m"]]).splitlines())
    assert row[0].startswith("'")
    assert row[1:] == ["a b", "c?[31m"]


def test_numbers_stay_numbers() -> None:
    cells = ["-0.5", -0.5, 1e-9, None, "", "+3e2", True, "name"]
    assert csv_text([cells]) == "-0.5,-0.5,1e-09,,,+3e2,True,name\n"
