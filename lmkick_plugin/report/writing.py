# SPDX-License-Identifier: Apache-2.0
"""Writing a report: page, text, table and pictures into one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from compressors.files import write_atomically
from lmkick_plugin.report.cells_csv import cells_csv
from lmkick_plugin.report.evidence import gather
from lmkick_plugin.report.markdown import render_markdown
from lmkick_plugin.report.models import collect
from lmkick_plugin.report.page import render_page
from lmkick_plugin.report.page_content import build
from lmkick_plugin.report.summary import Summary
from lmkick_plugin.report.task_pairings import Settings
from lmkick_plugin.results.results_file import ResultsError

__all__ = ["check_extra", "write"]


def check_extra() -> None:
    """Check that what the report is drawn with is installed, before anything is read.

    Raises:
        ResultsError: It is not; the message is the line that installs it.
    """
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ResultsError(f"a report needs {' and '.join(missing)}: pip install 'lmkick[report]'")


def write(
    results: Sequence[Path],
    output: Path,
    *,
    labels: Mapping[Path, str] | None = None,
    settings: Settings | None = None,
    progress: bool = False,
) -> tuple[Path, list[Summary]]:
    """Read results and write everything; see :func:`lmkick_plugin.report.write_report`.

    Returns:
        The page, and the sentence and table of every model.
    """
    check_extra()
    from lmkick_plugin.report.plots import draw_all

    collection = collect(results, labels=labels)
    output.mkdir(parents=True, exist_ok=True)
    evidence = gather(collection, settings, progress=progress)
    content = build(evidence, output)
    write_atomically(output / "cells.csv", cells_csv(evidence, content.summaries))
    drawings = draw_all(content.figures, output / "plots", progress=progress)
    write_atomically(output / "report.md", render_markdown(content))
    page = output / "report.html"
    write_atomically(page, render_page(content, drawings))
    return page, content.summaries
