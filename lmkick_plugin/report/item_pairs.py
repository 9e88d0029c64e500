# SPDX-License-Identifier: Apache-2.0
"""Pair two runs' items by content, or refuse where the items differ.

Items are matched by content, so results of different machines, orders or numbers of processes go
together, and results that only look alike do not. Without samples, what can be seen in the results
files decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from compressors.errors import LmkickError
from lmkick_plugin.report.formatting import plural
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.results.samples import Sample
from lmkick_plugin.terminal import plain

__all__ = ["MismatchError", "Pair", "pair_items", "visible_differences"]

Pair: TypeAlias = tuple[Sample, Sample]

# Where a difference in prompts can come from: words for people, part of the file, key in it.
_PROMPT_CAUSES = (
    ("chat template", None, "chat_template_sha"),
    ("system instruction", None, "system_instruction_sha"),
    ("few-shot examples as turns", None, "fewshot_as_multiturn"),
    ("seed of the few-shot examples", "config", "fewshot_seed"),
)
_OF_SHOTS = ("fewshot_as_multiturn", "fewshot_seed")


class MismatchError(LmkickError, ValueError):
    """Two runs with different items; the message lists the differences."""


def pair_items(task: str, dense: ResultsFile, compressed: ResultsFile) -> dict[str, list[Pair]]:
    """Match one task's items of two evaluations by content.

    Documents can repeat (MMLU's do), so an item is a document's fingerprint and its number among
    the documents with that fingerprint.

    Args:
        task: Name of the task.
        dense: First evaluation.
        compressed: Second evaluation.

    Returns:
        Pairs of items by filter name.

    Raises:
        MismatchError: If data, references, prompts, settings, filters or task versions differ.
        ResultsError: Where samples were not logged.
        SamplesError: Where a samples file is broken.
    """
    versions = [file.mapping("versions").get(task) for file in (dense, compressed)]
    first, second = dense.samples(task), compressed.samples(task)
    differences = []
    if versions[0] != versions[1]:
        differences.append(f"version {versions[0]} of the task against {versions[1]} (all items)")
    if first.keys() != second.keys():
        names = [", ".join(sorted(side)) for side in (first, second)]
        differences.append(f"filters {names[0]} against {names[1]} (all items)")
    paired = {}
    for name in first.keys() & second.keys():
        pairs, only_first, only_second = _match(first[name], second[name])
        found = _differences(task, dense, compressed, pairs, only_first, only_second)
        differences += [line for line in found if line not in differences]
        paired[name] = pairs
    if differences:
        lines = (f"{plain(task)}: {plain(difference)}" for difference in differences)
        raise MismatchError("\n".join(lines))
    return dict(sorted(paired.items()))


def _match(first: Sequence[Sample], second: Sequence[Sample]) -> tuple[list[Pair], int, int]:
    """Pairs in the first run's order, and the number of unpaired items of each."""
    left, right = _numbered(first), _numbered(second)
    pairs = [(sample, right[key]) for key, sample in left.items() if key in right]
    return pairs, len(left) - len(pairs), len(right) - len(pairs)


def _numbered(samples: Sequence[Sample]) -> dict[tuple[str, int], Sample]:
    seen: dict[str, int] = {}
    keyed = {}
    for sample in samples:
        number = seen.get(sample.doc_hash, 0)
        seen[sample.doc_hash] = number + 1
        keyed[sample.doc_hash, number] = sample
    return keyed


def _differences(
    task: str,
    dense: ResultsFile,
    compressed: ResultsFile,
    pairs: Sequence[Pair],
    only_first: int,
    only_second: int,
) -> list[str]:
    """Differences between items, one line each."""
    lines = []
    if only_first or only_second:
        limits = [file.mapping("config").get("limit") for file in (dense, compressed)]
        cause = f"; limit {limits[0]} against {limits[1]}" if limits[0] != limits[1] else ""
        lines.append(
            f"data: {plural(only_first, 'item')} only in the first,"
            f" {only_second} only in the second, {len(pairs)} in both{cause}"
        )
    counts = {
        "reference answers": sum(a.target != b.target for a, b in pairs),
        "prompts": sum(a.prompt != b.prompt for a, b in pairs),
        "request settings": sum(a.settings != b.settings for a, b in pairs),
    }
    for what, count in counts.items():
        if count:
            causes = _prompt_causes(task, dense, compressed) if what == "prompts" else ""
            lines.append(f"{what} differ for {count} of {len(pairs)} items{causes}")
    return lines


def _prompt_causes(task: str, dense: ResultsFile, compressed: ResultsFile) -> str:
    causes = []
    shots = [file.mapping("n-shot").get(task) for file in (dense, compressed)]
    if shots[0] != shots[1]:
        causes.append(f"few-shot: {shots[0]} against {shots[1]}")
    causes += [f"{words}: {values}" for words, _, values in _other_causes(dense, compressed)]
    return f" ({'; '.join(causes)})" if causes else ""


def _other_causes(first: ResultsFile, second: ResultsFile) -> Iterator[tuple[str, str, str]]:
    """Words, key and values of the settings of `_PROMPT_CAUSES` that differ."""
    for words, part, key in _PROMPT_CAUSES:
        values = [(f.mapping(part) if part else f.data).get(key) for f in (first, second)]
        if values[0] != values[1]:
            yield words, key, _against(*values)


def _against(first: object, second: object, *, limit: int = 12) -> str:
    shown = ("none" if value is None else plain(value)[:limit] for value in (first, second))
    return " against ".join(shown)


def visible_differences(task: str, first: ResultsFile, second: ResultsFile) -> list[str]:
    """Why two evaluations of a task differ in their questions.

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
    hashes = [file.mapping("task_hashes").get(task) for file in (first, second)]
    same = None not in hashes and hashes[0] == hashes[1]
    for words, key, both in _other_causes(first, second):
        matters = not same and all(_shapes_prompts(key, task, file) for file in (first, second))
        if key not in _OF_SHOTS or matters:
            found.append(f"{words} {both}")
    found += _other_requests(task, first, second)
    if not found and None not in hashes and not same:
        found.append("other data or prompts (task_hashes differ)")
    return found


def _shapes_prompts(key: str, task: str, file: ResultsFile) -> bool:
    """Whether a setting of the few-shot examples changes prompts of a task."""
    if not file.mapping("n-shot").get(task):
        return False
    if key == "fewshot_as_multiturn":  # without a template, turns are joined to one text
        return None not in (file.data.get(key), file.data.get("chat_template_sha"))
    config = file.mapping("configs").get(task)
    shots = config.get("fewshot_config") if isinstance(config, dict) else None
    # Without samples to draw from, the task brings its own.
    fixed = isinstance(shots, dict) and (
        shots.get("sampler") == "first_n" or shots.get("samples") == []
    )
    return not fixed and file.mapping("config").get(key) is not None


def _other_requests(task: str, first: ResultsFile, second: ResultsFile) -> list[str]:
    """Generation settings that differ, in a line; none where either file does not say them."""
    configs = [file.mapping("configs").get(task) for file in (first, second)]
    one, other = (c.get("generation_kwargs") if isinstance(c, dict) else None for c in configs)
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return []
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    differing = [f"{plain(n)} {_against(one.get(n), other.get(n), limit=40)}" for n in names]
    return [f"request settings: {', '.join(differing)}"] if differing else []


def _effective(task: str, file: ResultsFile) -> int | None:
    counts = file.mapping("n-samples").get(task)
    effective = counts.get("effective") if isinstance(counts, dict) else None
    return effective if isinstance(effective, int) else None
