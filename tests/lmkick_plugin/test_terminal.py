# SPDX-License-Identifier: Apache-2.0
"""Plain text, tables and atomic files."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressors.files import write_atomically
from lmkick_plugin.terminal import emit, plain, render_table


@given(st.text())
def test_plain_text_is_printable_and_one_line(text: str) -> None:
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)
    assert not any(c in plain(text) for c in "\n\r\t\x1b\x7f\u202e\u2028\ud800")


def test_plain_keeps_what_is_printable() -> None:
    assert plain("größe 漢字 50 %") == "größe 漢字 50 %"
    assert plain("\x1b[31mred") == "?[31mred"
    assert plain("a\nb") == "a b"
    assert plain("abcdefgh", limit=6) == "abc..."


def test_table_is_aligned() -> None:
    table = render_table(["name", "n"], [["a", "1"], ["longer", "1000"]])
    assert table.splitlines() == [
        "name       n",
        "------  ----",
        "a          1",
        "longer  1000",
    ]


def test_print_survives_a_narrow_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    emit("größe")
    sys.stdout.flush()
    assert raw.getvalue() == b"gr??e\n"


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    write_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, "new\n")
    assert path.read_bytes() == b"new\n"


def test_reading_results_needs_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys, lmkick_plugin.report.compare as c;"
        "print(sorted({'numpy', 'torch', 'lm_eval', 'scipy', 'datasets'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['numpy']"
