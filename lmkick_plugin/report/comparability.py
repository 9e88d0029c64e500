# SPDX-License-Identifier: Apache-2.0
"""Settings under which a task was asked, and whether two runs agree on them.

Items themselves are matched in :mod:`lmkick_plugin.report.item_pairs`; this sees what can be seen
without them, so that runs without samples are not compared blindly either.
"""

from __future__ import annotations

from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.terminal import plain

__all__ = ["differences"]


def differences(task: str, first: ResultsFile, second: ResultsFile) -> list[str]:
    """Why a task of two evaluations is not the same task.

    Args:
        task: Name of the task.
        first: One evaluation.
        second: The other.

    Returns:
        Lines for people; none where nothing speaks against a comparison.
    """
    found = []
    counts = [_effective(task, file) for file in (first, second)]
    if None not in counts and counts[0] != counts[1]:
        limits = [file.mapping("config").get("limit") for file in (first, second)]
        cause = f" (limit {limits[0]} against {limits[1]})" if limits[0] != limits[1] else ""
        found.append(f"{counts[0]} items against {counts[1]}{cause}")
    for words, part in (("version", "versions"), ("few-shot", "n-shot")):
        values = [file.mapping(part).get(task) for file in (first, second)]
        if values[0] != values[1] and None not in values:
            found.append(f"{words} {plain(values[0])} against {plain(values[1])}")
    for words, key in (
        ("chat template", "chat_template_sha"),
        ("system instruction", "system_instruction_sha"),
    ):
        given = [file.data.get(key) for file in (first, second)]
        if given[0] != given[1]:
            shown = ["none" if value is None else plain(value)[:12] for value in given]
            found.append(f"{words} {shown[0]} against {shown[1]}")
    hashes = [file.mapping("task_hashes").get(task) for file in (first, second)]
    if not found and None not in hashes and hashes[0] != hashes[1]:
        found.append("other data or prompts (task_hashes differ)")
    return found


def _effective(task: str, file: ResultsFile) -> int | None:
    counts = file.mapping("n-samples").get(task)
    effective = counts.get("effective") if isinstance(counts, dict) else None
    return effective if isinstance(effective, int) else None
