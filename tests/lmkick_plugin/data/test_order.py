# SPDX-License-Identifier: Apache-2.0
"""Every prefix of an order is spread."""

from __future__ import annotations

import pytest

from lmkick_plugin.data.order import spread


@pytest.mark.parametrize("count", [0, 1, 2, 3, 62, 148, 1000])
def test_every_prefix_is_spread(count: int) -> None:
    order = spread(count)
    assert sorted(order) == list(range(count))
    for taken in range(1, count + 1):
        chosen = sorted(order[:taken])
        gaps = [b - a for a, b in zip([-1, *chosen], [*chosen, count], strict=True)]
        # No gap is longer than four times what an even spread would leave; in the order of the
        # text, the first half's would be half of all.
        assert max(gaps) <= 4 * count / taken + 1
    if count > 100:
        assert count - 10 > 4 * count / 10 + 1  # the control: the first ten leave such a gap
