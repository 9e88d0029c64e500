# SPDX-License-Identifier: Apache-2.0
"""Tree of common prefixes of token rows, and the choice of those worth computing once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Node", "common_prefixes", "worth_it"]

#: Common prefixes below this many others are not looked at: nested ones save less and less.
_DEEPEST = 64

_Ints = NDArray[np.int64]


@dataclass(slots=True)
class Node:
    """Common prefix: its length, the rows that diverge right after it, and longer ones below."""

    depth: int
    rows: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    level: int = 0


def _shared(one: _Ints, other: _Ints) -> int:
    """Length of the common prefix of two rows."""
    size = min(len(one), len(other))
    differ = np.flatnonzero(one[:size] != other[:size])
    return int(differ[0]) if len(differ) else size


def common_prefixes(rows: Sequence[_Ints]) -> list[Node]:
    """All common prefixes of sorted rows; the first node is the empty one, children follow."""
    nodes = [Node(0)]
    open_nodes = [0]
    before = 0
    for row in range(len(rows)):
        after = _shared(rows[row], rows[row + 1]) if row + 1 < len(rows) else 0
        if after > before:
            open_nodes.append(_new_child(nodes, open_nodes[-1], after))
        nodes[open_nodes[-1]].rows.append(row)
        while nodes[open_nodes[-1]].depth > after:
            closed = open_nodes.pop()
            outer = nodes[open_nodes[-1]]
            if outer.depth < after:
                # A prefix between the two: it takes the closed one as its first child.
                outer.children.remove(closed)
                between = _new_child(nodes, open_nodes[-1], after)
                nodes[between].children.append(closed)
                open_nodes.append(between)
        before = after
    return nodes


def _new_child(nodes: list[Node], parent: int, depth: int) -> int:
    nodes.append(Node(depth))
    nodes[parent].children.append(len(nodes) - 1)
    return len(nodes) - 1


def _top_down(nodes: list[Node]) -> list[int]:
    """Nodes in order, parents before children; levels set, nodes that are too deep dissolved."""
    order = [0]
    for number in order:
        node = nodes[number]
        while node.level == _DEEPEST and node.children:
            inner = nodes[node.children.pop()]
            node.rows += inner.rows
            node.children += inner.children
        for child in node.children:
            nodes[child].level = node.level + 1
        order += node.children
    return order


def worth_it(nodes: list[Node], lengths: Sequence[int], overhead: int) -> set[int]:
    """Choose the prefixes with the lowest total cost.

    The cost of what lies inside a prefix depends on how much of it is there already, which is the
    length of the nearest prefix around it that is computed. So each node has one cost for each of
    the prefixes around it, found from the innermost outwards.

    Args:
        nodes: The tree.
        lengths: Tokens of each row.
        overhead: What a step costs beside its tokens. It breaks up batches, too: half a forward
            pass more, on average.
    """
    order = _top_down(nodes)
    around: dict[int, list[int]] = {0: []}
    for number in order:
        for child in nodes[number].children:
            around[child] = [*around[number], nodes[number].depth]
    costs: dict[int, _Ints] = {}
    better: dict[int, NDArray[np.bool_]] = {}
    for number in reversed(order):
        node = nodes[number]
        inside = np.zeros(len(around[number]) + 1, dtype=np.int64)
        for child in node.children:
            inside += costs.pop(child)
        starts = np.array([*around[number], node.depth], dtype=np.int64)
        inside += sum(lengths[row] for row in node.rows) - len(node.rows) * starts
        once = (node.depth - starts[:-1]) + 3 * overhead // 2 + inside[-1]
        better[number] = once < inside[:-1]
        costs[number] = np.minimum(once, inside[:-1])
    chosen: set[int] = set()
    nearest = {0: 0}
    for number in order:
        if number and better[number][nearest[number]]:
            chosen.add(number)
            nearest[number] = nodes[number].level
        for child in nodes[number].children:
            nearest[child] = nearest[number]
    return chosen
