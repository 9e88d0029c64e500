# SPDX-License-Identifier: Apache-2.0
"""The end of ``lmkick sweep``: which run to ship, before anything else is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmkick_plugin.cli import main
from lmkick_plugin.sweep.runner import CellResult, SweepResult
from tests.lmkick_plugin.report.worlds import quiz, record
from tests.lmkick_plugin.run_files import Writer


def ended(folder: Path, *states: str) -> SweepResult:
    """A sweep whose cells came to these states."""
    cells = (CellResult(f"m/{i}", folder, {}, {}, s, {}, 1.0, {}) for i, s in enumerate(states))
    return SweepResult(folder, tuple(cells), 2.0)


def say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: SweepResult | None
) -> str:
    """What the command prints after a sweep that ended so."""
    config = found.output / "sweep.yaml" if found else Path("sweep.yaml")
    monkeypatch.setattr("lmkick_plugin.sweep.config.read_config", lambda *_, **__: None)
    monkeypatch.setattr("lmkick_plugin.cli.sweep.run_config", lambda *_, **__: (0, found))
    assert main(["sweep", str(config)]) == 0
    return capsys.readouterr().out


def test_a_sweep_ends_with_sentence_and_table(
    write: Writer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, kick in (("dense", record()), ("four", record("gptq", num_bits=4))):
        items = quiz("contains", 0.8, n=400)
        write(name, {"kick_freebaseqa": items}, record=kick, directions={"contains": True})
    said = say(monkeypatch, capsys, ended(write.folder, "done", "done"))
    lines = said.strip().splitlines()
    assert lines[0].startswith("gptq 4 bits (500 kB, 25 % of dense) is the smallest run that keeps")
    assert lines[2].split()[:2] == ["run", "size"]
    assert [line.split()[-1] for line in lines[4:6]] == ["dense", "keeps"]
    assert lines[-1] == f"as a page: lmkick report {write.folder} -o report"


def test_a_sweep_without_results_says_nothing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(monkeypatch, capsys, ended(tmp_path, "failed")) == ""
    assert say(monkeypatch, capsys, None) == ""
