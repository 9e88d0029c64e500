# SPDX-License-Identifier: Apache-2.0
"""``cell.json`` that somebody else wrote, or that was cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.sweep.cell_files import NAME, Ledger
from lmkick_plugin.terminal import CommandError

TASK = {"state": "done", "seconds": 1.5, "results": "m/results.json", "settings": {}}
WHOLE: dict[str, Any] = {
    "cell": "m/dense", "identity": {"model": {}}, "tasks": {"t": TASK}, "seconds": 2, "error": None
}  # fmt: skip


def opened(folder: Path, **changed: Any) -> Ledger:
    (folder / NAME).write_text(json.dumps({**WHOLE, **changed}), encoding="utf-8")
    return Ledger.open(folder, "m/dense", WHOLE["identity"])


@pytest.mark.parametrize(
    "changed",
    [
        {"tasks": []}, {"tasks": {"t": 3}}, {"tasks": {"t": {**TASK, "seconds": "long"}}},
        {"tasks": None}, {"seconds": "two"}, {"weights_sha256": 7}, {"bytes": "many"},
        {"error": "text"}, {"identity": [1]},
    ],
)  # fmt: skip
def test_other_types_count_as_nothing_done(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert opened(tmp_path).tasks == {"t": TASK}  # the control
    assert opened(tmp_path, **changed).tasks == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "9" * 5000, "[" * 100_000, '"text"', "\xff"])
def test_other_files_count_as_nothing_done(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    assert Ledger.open(tmp_path, "m/dense", {}).tasks == {}


@pytest.mark.parametrize(
    ("content", "done"),
    [(b"{}\n", True), (b'{"results": {' + b"1" * 99 + b"}}", True), (b"", False),
     (b'{"results": {', False), (b"\n", False)],
)  # fmt: skip
def test_a_results_file_that_was_cut_is_not_done(
    tmp_path: Path, content: bytes, done: bool
) -> None:
    ledger = opened(tmp_path)
    assert ledger.results("t", {}) is None
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "results.json").write_bytes(content)
    assert (ledger.results("t", {}) is not None) is done


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({}, {"A": "x"}, "its environment.A is None, now 'x'. Unset A, or give another output"),
        ({"A": "x"}, {}, "its environment.A is 'x', now None. Set A to that, or give another"),
        ({"A": "x"}, {"A": "y"}, "is 'x', now 'y'. Set A to that, or give another output"),
    ],
)
def test_another_environment_is_named_by_its_variable(
    tmp_path: Path, before: dict[str, str], now: dict[str, str], message: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "results.json").write_text("{}")
    settings = {"environment": before} if before else {}
    ledger = opened(tmp_path, tasks={"t": {**TASK, "settings": settings}})
    with pytest.raises(CommandError) as caught:
        ledger.results("t", {"environment": now} if now else {})
    assert message in str(caught.value)
