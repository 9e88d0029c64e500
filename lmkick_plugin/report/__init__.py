# SPDX-License-Identifier: Apache-2.0
"""Paired statistics, comparisons, tables and the report from lm-eval's result files.

Nothing here needs torch or lm-eval: results of any model, made anywhere, are read from their files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["write_report"]


def write_report(
    results: Sequence[Path],
    output: Path,
    *,
    labels: Mapping[Path, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    tolerance: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a report on all evaluations in some folders.

    Args:
        results: Result folders of lm-eval, searched with all below them, or results files.
        output: Folder of the report: ``report.html``, ``report.md``, ``cells.csv``, ``plots/``.
        labels: What to call the runs in a folder: a name, or ``field=value,field=value`` with
            fields of the ``kick`` record, for runs of other model types.
        metrics: Headline metrics by task; ``metric`` or ``metric,filter``.
        tolerance: e0 of matching.
        resamples: Of each paired bootstrap.
        seed: Of all resamples.
        progress: Whether to show bars on standard error.

    Returns:
        The page.

    Raises:
        ResultsError: Nothing can be read, a label or metric is wrong, or the extra ``report`` is
            not installed.
        StatisticsError: A setting is out of range.
        OSError: The report cannot be written.
    """
    from lmkick_plugin.report.task_pairings import Settings
    from lmkick_plugin.report.writing import write

    settings = Settings(
        tolerance=tolerance, resamples=resamples, seed=seed, metrics=dict(metrics or {})
    )
    page, _ = write(results, output, labels=labels, settings=settings, progress=progress)
    return page
