# SPDX-License-Identifier: Apache-2.0
"""Hands cells to workers that may die, and tries again what a dead one was at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lmkick_plugin.sweep.jobs import Order

__all__ = ["Backend", "Ended", "Lost", "Task", "run_orders"]


@dataclass(frozen=True)
class Task:
    """A task of a worker's cell has ended."""

    worker: Any
    task: str
    state: str
    seconds: float


@dataclass(frozen=True)
class Ended:
    """A worker has finished its cell; ``cell.json`` says how."""

    worker: Any


@dataclass(frozen=True)
class Lost:
    """A worker is dead."""

    worker: Any
    reason: str


class Backend(Protocol):
    """Where workers live."""

    @property
    def size(self) -> int:
        """How many workers there may be at once."""

    def start(self) -> Any:
        """Start a worker."""

    def submit(self, worker: Any, order: Order) -> None:
        """Give a cell to a worker that is idle."""

    def wait(self, busy: Sequence[Any]) -> Sequence[Task | Ended | Lost]:
        """Wait until something happens to one of these workers."""

    def stop(self, worker: Any) -> None:
        """End a worker."""

    def close(self) -> None:
        """Let go of what the workers had in common."""


@dataclass
class _Seat:
    worker: Any
    group: str | None = None
    order: Order | None = None


def run_orders(
    backend: Backend,
    orders: Sequence[Order],
    *,
    retries: int,
    again: Callable[[Order], Order | None],
    told: Callable[[Order, str, str, float], None],
    given_up: Callable[[Order, str], None],
) -> None:
    """Run all cells.

    A worker gets cells of the model that it holds as long as there are some, then of the model
    with most cells left. What a dead worker was at goes to a new one.

    Args:
        backend: Where workers live.
        orders: The cells, in the order they are wanted.
        retries: How often a cell is tried again.
        again: What is left to do of a cell whose worker died; None where it is done.
        told: Told of each task that has ended.
        given_up: Told of a cell whose workers died too often, with the last one's end.
    """
    waiting = list(orders)
    deaths: Counter[str] = Counter()
    seats: list[_Seat] = []
    try:
        while waiting or any(seat.order for seat in seats):
            _fill(backend, seats, waiting)
            busy = [seat.worker for seat in seats if seat.order is not None]
            for event in backend.wait(busy):
                seat = next(seat for seat in seats if seat.worker is event.worker)
                order = seat.order
                if order is None:
                    continue
                if isinstance(event, Task):
                    told(order, event.task, event.state, event.seconds)
                    continue
                seat.order = None
                if isinstance(event, Lost):
                    seats.remove(seat)
                    backend.stop(seat.worker)
                    deaths[order.cell.name] += 1
                    if deaths[order.cell.name] > retries:
                        given_up(order, event.reason)
                    elif (rest := again(order)) is not None:
                        waiting.insert(0, rest)
    finally:
        for seat in seats:
            backend.stop(seat.worker)


def _fill(backend: Backend, seats: list[_Seat], waiting: list[Order]) -> None:
    """Give every idle worker a cell, and start workers while there are cells for them."""
    for seat in seats:
        if seat.order is None and waiting:
            _give(backend, seat, waiting, seats)
    while waiting and len(seats) < backend.size:
        seat = _Seat(backend.start())
        seats.append(seat)
        _give(backend, seat, waiting, seats)


def _give(backend: Backend, seat: _Seat, waiting: list[Order], seats: Sequence[_Seat]) -> None:
    own = [order for order in waiting if order.cell.group == seat.group]
    if not own:
        # A model that nobody holds yet comes first, then the one with most cells left.
        held = {other.group for other in seats if other is not seat}
        left = Counter(order.cell.group for order in waiting)
        group = max(left, key=lambda name: (name not in held, left[name]))
        own = [order for order in waiting if order.cell.group == group]
    order = own[0]
    waiting.remove(order)
    seat.group, seat.order = order.cell.group, order
    backend.submit(seat.worker, order)
