# SPDX-License-Identifier: Apache-2.0
"""Groups of tasks in lm-eval's results: MMLU, its categories and its subjects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lmkick_plugin.results.runs import Run

__all__ = ["children_of", "leaves_of", "ordered"]


def children_of(run: Run) -> dict[str, list[str]]:
    """Members of every group in a run.

    Args:
        run: The run; where its files differ the newest counts.

    Returns:
        Names of tasks and groups directly under each group.
    """
    return {
        str(group): file.children(str(group))
        for file in reversed(run.files)
        for group in file.mapping("group_subtasks")
        if file.children(str(group))
    }


def leaves_of(name: str, children: Mapping[str, Sequence[str]]) -> list[str]:
    """Tasks anywhere under a group.

    Args:
        name: A group or a task.
        children: From `children_of`.

    Returns:
        The tasks, each once; the name itself for a task.
    """
    leaves: list[str] = []
    waiting, seen = [name], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in children:
            waiting += reversed(children[node])
        else:
            leaves.append(node)
    return leaves


def ordered(
    tasks: Sequence[str], children: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Groups, each before its members, and tasks.

    Args:
        tasks: Tasks to include; groups without any of them are left out.
        children: From `children_of`.

    Yields:
        Every name once, and the groups it is under, outermost first.
    """
    members = {child for names in children.values() for child in names}
    # Outermost first; members too, so that a group which (absurdly) holds itself hides nothing.
    names = sorted([*children, *tasks], key=lambda name: name in members)
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in reversed(names)]
    seen = set()
    while waiting:
        name, path = waiting.pop()
        if name in seen or not set(leaves_of(name, children)) & set(tasks):
            continue
        seen.add(name)
        yield name, path
        waiting += [(child, (*path, name)) for child in reversed(children.get(name, []))]
