"""Whose turn it is for slots. Pure, standard library only.

A run starts with all of its slots or not at all. Runs that wait are in order: a higher priority first, among equals the
one that came first. Each is judged by its own target's capacity, as targets that share a store may differ in it. A run
that needs more than that never starts, and holds nobody up.

The first that does not fit is the *head*. Those behind it may still start where that cannot delay the head:

- *whatever happens*: there is no way for the runs that hold slots to end, in whatever order, in which the head could
  start without the smaller run but not with it. (Four slots, one run holds two, the head needs three: the fourth slot
  is of no use to the head whatever ends, so a run of one slot may have it, for however long.) This needs no durations.
- *in time*: the smaller run has a time limit, those whose end the head waits for have one too, and it will have ended
  before the last of them must have (EASY backfill: the head's reservation is kept).

So a stream of small runs never starves a large one: what starts by the first rule changes nothing about when the head
starts, and what starts by the second is gone by its reservation. Only runs of a higher priority can go on passing a
lower one, which is what priorities are for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Ticket(NamedTuple):
    """A run's place in the queue, or the slots that it holds (``granted``).

    ``number``: order of entry. ``seconds``: how long it holds its slots at most, None where it has no time limit;
    ``until``: when it must have given them back, on the monotonic clock, once it has them.
    ``pid``, ``start_ticks``: its supervisor; ``guardian``, ``guardian_ticks``: what ends the run where that was killed.
    """

    run_id: str
    attempt: int
    slots: int
    capacity: int
    priority: int
    pid: int
    start_ticks: int
    guardian: int = 0
    guardian_ticks: int = 0
    seconds: float | None = None
    number: int = 0
    granted: bool = False
    until: float | None = None

    @property
    def possible(self) -> bool:
        """Whether it can ever start."""
        return self.slots <= self.capacity

    def with_slots(self, now: float) -> Ticket:
        """The ticket once it holds its slots."""
        return self._replace(granted=True, until=None if self.seconds is None else now + self.seconds)


def holding(tickets: Iterable[Ticket]) -> list[Ticket]:
    """Those that hold slots."""
    return [ticket for ticket in tickets if ticket.granted]


def waiting(tickets: Iterable[Ticket]) -> list[Ticket]:
    """Those that wait and can ever start, the next one first."""
    found = [ticket for ticket in tickets if not ticket.granted and ticket.possible]
    found.sort(key=lambda ticket: (-ticket.priority, ticket.number))
    return found


def used(tickets: Iterable[Ticket]) -> int:
    """How many slots are taken."""
    return sum(ticket.slots for ticket in tickets if ticket.granted)


def due(tickets: Iterable[Ticket], now: float) -> list[Ticket]:
    """Those that wait and whose turn it is, in order. They fit together."""
    tickets = list(tickets)
    holders = holding(tickets)
    taken = used(holders)
    head = None
    found = []
    for ticket in waiting(tickets):
        if taken + ticket.slots > ticket.capacity:
            head = head or ticket
        elif head is None or _spares(head, ticket, holders, now):
            found.append(ticket)
            holders.append(ticket.with_slots(now))
            taken += ticket.slots
    return found


def _spares(head: Ticket, ticket: Ticket, holders: list[Ticket], now: float) -> bool:
    """Whether the head starts no later for it that this one starts now."""
    missing = used(holders) + head.slots - head.capacity
    # Bit n: some of the holders have n slots together. Were these all that ended, the head could start from n = missing
    # on, and beside this run from n = missing + slots on: the numbers between are those that matter.
    sums = 1
    for holder in holders:
        sums |= sums << holder.slots
    if not (sums >> missing) & ((1 << ticket.slots) - 1):
        return True
    reserved = _latest_start(missing, holders)
    return ticket.seconds is not None and reserved is not None and now + ticket.seconds <= reserved


def _latest_start(missing: int, holders: list[Ticket]) -> float | None:
    """When so many slots must have become free, None where time limits do not tell."""
    limited = sorted((holder.until, holder.slots) for holder in holders if holder.until is not None)
    for until, slots in limited:
        missing -= slots
        if missing <= 0:
            return until
    return None
