"""The queue for the slots of a store, common to all runs of the machine. Standard library only.

``<store>/slots/`` holds one empty file for each run that waits or holds slots; all there is to know is in its name, so
there are no half-written tickets, and a full disk takes nothing from anybody::

    <number>.<waiting|holds>.<slots>.<capacity>.<priority>.<pid>.<start ticks>.<guardian>.<guardian ticks>
        .<most ms>.<until ms>.<attempt>.<run id>

Numbers are given under a lock (``slots/lock``) and order the runs: no clock does. A ticket is good as long as the lock
of the run's attempt is held, that is, until its supervisor has ended and nothing of the run lives; so it is void after
any kind of death, and after a reboot. Whoever looks removes void tickets. A run changes no ticket but its own: each
looks by itself whether it has its turn (scheduling.py) and takes its slots under the lock.

Nobody polls: whoever changes the queue rings those that have their turn and those that are next, by a SIGCHLD to their
supervisors, which waits in a pipe of theirs until they read it. Where a run is killed and cannot ring, its end wakes
the two that are next, and the one directly behind it. So an end costs some looks and not one for everybody who waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import scheduling, statefile
from pulumi_tfjobs.targets.local.processes import is_same, open_process
from pulumi_tfjobs.targets.local.scheduling import Ticket

BELL = signal.SIGCHLD

_FIELDS = 13
# So many that are next are told of each change. Those farther back see their new position when they look again.
_RUNG = 16
# So many that are next watch those that hold slots.
_WATCHING = 2
# The lock is held for a moment only. A process that was stopped just then must not stop all others.
_LOCK_SECONDS = 1.0
_LOCK_PAUSE = 0.002


class Turn(NamedTuple):
    """Whether a run has its slots, and else why not.

    ``position``: 1 is next, None where it does not wait or can never start. ``waiting``: how many runs wait.
    ``free``: slots of its target that nobody holds. ``holders``: (pid, start ticks) of processes whose end matters.
    """

    granted: bool
    position: int | None
    waiting: int
    free: int
    reason: str
    holders: list[tuple[int, int]]


class Place(NamedTuple):
    """A run in the queue, or with slots, as others see it. ``position`` as in :class:`Turn`."""

    run_id: str
    attempt: int
    slots: int
    priority: int
    granted: bool
    position: int | None


class Prospect(NamedTuple):
    """What a run would find if it came now. ``ahead``: how many runs that wait would go first, 0 where it would get its
    slots at once. ``free``: as in :class:`Turn`. ``holders``: how many runs hold slots."""

    free: int
    ahead: int
    holders: int


class Queue:
    """One run's part in the queue that is in this folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._own: Ticket | None = None

    def enter(self, ticket: Ticket) -> None:
        """Join at the end. Raises OSError; BlockingIOError where the queue's lock is not to be had just now."""
        if ticket.slots <= 0:
            self._own = ticket.with_slots(0.0)  # it takes nothing from anybody
            return
        with _alone(self._folder):
            others = _read(self._folder)
            number = 1 + max((other.number for other in others), default=0)
            own = ticket._replace(number=number)
            self._create(own)
            self._own = own
        if any(other.priority < own.priority and not other.granted for other in others):
            self._ring([*others, own])  # their positions are other ones now

    def look(self) -> Turn:
        """Take the slots where it is this run's turn. Raises OSError; BlockingIOError as :meth:`enter`."""
        own = self._own
        assert own is not None
        if own.granted:
            return Turn(True, None, 0, 0, "", [])
        with _alone(self._folder):
            found = _read(self._folder)
            if all(ticket.number != own.number for ticket in found):
                self._create(own)  # somebody has tidied up by hand
            tickets, void = _living(self._folder, found, own)
            for ticket in void:
                with contextlib.suppress(OSError):
                    os.unlink(self._path(ticket))
            now = time.monotonic()
            if own in scheduling.due(tickets, now):
                granted = own.with_slots(now)
                os.rename(self._path(own), self._path(granted))
                tickets = [granted if ticket is own else ticket for ticket in tickets]
                self._own = own = granted
        if void or own.granted:
            self._ring(tickets)
        return _turn(own, tickets)

    def leave(self) -> None:
        """Give the slots, or the place in the queue, back. Raises OSError; the end of the run will do it then."""
        own, self._own = self._own, None
        if own is None or own.slots <= 0:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(own))
        others = _read(self._folder)
        if any(not other.granted for other in others):
            self._ring(_living(self._folder, others)[0])

    def _create(self, ticket: Ticket) -> None:
        os.close(os.open(self._path(ticket), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def _path(self, ticket: Ticket) -> str:
        return os.path.join(self._folder, _name(ticket))

    def _ring(self, tickets: list[Ticket]) -> None:
        """Tell those whose turn it is and those that are next to look."""
        queue = scheduling.waiting(tickets)[:_RUNG]
        told = {ticket.number: ticket for ticket in [*queue, *scheduling.due(tickets, time.monotonic())]}
        if self._own is not None:
            told.pop(self._own.number, None)
        for ticket in told.values():
            _signal(ticket)


def open_handles(processes: Iterable[tuple[int, int]]) -> list[int] | None:
    """A handle for each (pid, start ticks) that becomes readable when it ends; None where one cannot be watched."""
    handles: list[int] = []
    for pid, ticks in processes:
        handle = open_process(pid, ticks)
        if handle is None:
            for opened in handles:
                os.close(opened)
            return None
        handles.append(handle)
    return handles


def snapshot(folder: str) -> list[Place]:
    """Those that hold slots, then those that wait, the next one first, then those that can never start. Changes
    nothing. Raises OSError."""
    tickets = _good(folder)
    queue = scheduling.waiting(tickets)
    never = [ticket for ticket in tickets if not (ticket.granted or ticket.possible)]
    return [
        *(_place(ticket, None) for ticket in scheduling.holding(tickets)),
        *(_place(ticket, position) for position, ticket in enumerate(queue, 1)),
        *(_place(ticket, None) for ticket in never),
    ]


def prospect(folder: str, ticket: Ticket) -> Prospect:
    """How it would go with this ticket if it were entered now. Changes nothing. Raises OSError."""
    tickets = _good(folder)
    own = ticket._replace(number=1 + max((other.number for other in tickets), default=0))
    joined = [*tickets, own]
    queue = scheduling.waiting(joined)
    at_once = not own.slots or own in scheduling.due(joined, time.monotonic())
    return Prospect(
        free=max(0, own.capacity - scheduling.used(tickets)),
        ahead=queue.index(own) if own in queue and not at_once else 0,
        holders=len(scheduling.holding(tickets)),
    )


def _good(folder: str) -> list[Ticket]:
    """The good tickets, as somebody sees them who takes no part."""
    with contextlib.ExitStack() as stack:
        # A listing that meets a ticket's change of name may show it twice or not at all. Where there is no lock to be
        # had, that is still better than no answer.
        with contextlib.suppress(OSError):
            stack.enter_context(_alone(folder, create=False))
        found = _read(folder)
    return _living(folder, found)[0]


def _place(ticket: Ticket, position: int | None) -> Place:
    return Place(ticket.run_id, ticket.attempt, ticket.slots, ticket.priority, ticket.granted, position)


# What a run is told


def _turn(own: Ticket, tickets: list[Ticket]) -> Turn:
    if own.granted:
        return Turn(True, None, 0, 0, "", [])
    queue = scheduling.waiting(tickets)
    free = max(0, own.capacity - scheduling.used(tickets))
    if not own.possible:
        reason = (
            f"needs {_slots(own.slots)}, and its compute target has {own.capacity}: it can never start. Stop it, and "
            "give the target more slots or the job fewer processes"
        )
        return Turn(False, None, len(queue), free, reason, [])
    ahead = queue.index(own)
    watched = queue[ahead - 1 : ahead] if ahead else []
    if ahead < _WATCHING:
        watched = scheduling.holding(tickets) + watched
    return Turn(False, ahead + 1, len(queue), free, _reason(own, free, ahead), [_watch(ticket) for ticket in watched])


def _reason(own: Ticket, free: int, ahead: int) -> str:
    """``waits for 3 slots: 2 of 4 free, 1 run ahead``."""
    text = f"waits for {_slots(own.slots)}: {free} of {own.capacity} free"
    if free >= own.slots:
        text += ", kept for the run that is next"
    return f"{text}, {ahead} {'run' if ahead == 1 else 'runs'} ahead"


def _slots(count: int) -> str:
    return f"{count} {'slot' if count == 1 else 'slots'}"


def _watch(ticket: Ticket) -> tuple[int, int]:
    """The process that the run ends with: its guardian where its supervisor has already ended."""
    if is_same(ticket.pid, ticket.start_ticks):
        return ticket.pid, ticket.start_ticks
    return ticket.guardian, ticket.guardian_ticks


def _signal(ticket: Ticket) -> None:
    handle = open_process(ticket.pid, ticket.start_ticks)
    if handle is None:
        return
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(handle, BELL)
    os.close(handle)


# The folder


@contextlib.contextmanager
def _alone(folder: str, *, create: bool = True) -> Iterator[None]:
    """While held, nobody else enters or takes slots. Raises BlockingIOError where it cannot be had for a while."""
    path = os.path.join(folder, "lock")
    if create:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    elif not os.path.exists(path):
        raise FileNotFoundError(path)
    until = time.monotonic() + _LOCK_SECONDS
    while (handle := statefile.take_lock(path)) is None:
        if time.monotonic() >= until:
            raise BlockingIOError(f"{path} has been held for more than {_LOCK_SECONDS:g} s")
        time.sleep(_LOCK_PAUSE)
    try:
        yield
    finally:
        os.close(handle)


def _read(folder: str) -> list[Ticket]:
    """All tickets, void ones too. What is no ticket is passed over."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [ticket for ticket in map(_parse, names) if ticket is not None]


def _living(folder: str, tickets: list[Ticket], own: Ticket | None = None) -> tuple[list[Ticket], list[Ticket]]:
    """Good tickets, and void ones. One's own is good without asking."""
    good: list[Ticket] = [] if own is None else [own]
    void: list[Ticket] = []
    for ticket in tickets:
        if own is None or ticket.number != own.number:
            (good if _lives(folder, ticket) else void).append(ticket)
    return good, void


def _lives(folder: str, ticket: Ticket) -> bool:
    run = RunFolder(os.path.join(os.path.dirname(folder), "runs", ticket.run_id))
    try:
        return statefile.is_locked(run.attempt(ticket.attempt).lock)
    except OSError:  # it cannot be asked for
        return is_same(ticket.pid, ticket.start_ticks)


def _name(ticket: Ticket) -> str:
    """The ticket as the name of its file."""
    parts = (
        f"{ticket.number:08}",
        "holds" if ticket.granted else "waiting",
        ticket.slots,
        ticket.capacity,
        ticket.priority,
        ticket.pid,
        ticket.start_ticks,
        ticket.guardian,
        ticket.guardian_ticks,
        _milliseconds(ticket.seconds),
        _milliseconds(ticket.until),
        ticket.attempt,
        ticket.run_id,
    )
    return ".".join(map(str, parts))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else str(round(seconds * 1000))


def _parse(name: str) -> Ticket | None:
    """The ticket of that name, None where it is something else."""
    parts = name.split(".", _FIELDS - 1)
    if len(parts) != _FIELDS or parts[1] not in {"holds", "waiting"}:
        return None
    try:
        number, slots, capacity, priority, pid, ticks, guardian, guardian_ticks = map(int, (parts[0], *parts[2:9]))
        seconds, until = (None if part == "-" else int(part) / 1000 for part in parts[9:11])
        attempt = int(parts[11])
    except ValueError:
        return None
    if min(number, slots, pid, ticks, attempt) < 1:
        return None
    return Ticket(
        run_id=parts[12],
        attempt=attempt,
        slots=slots,
        capacity=capacity,
        priority=priority,
        pid=pid,
        start_ticks=ticks,
        guardian=guardian,
        guardian_ticks=guardian_ticks,
        seconds=seconds,
        number=number,
        granted=parts[1] == "holds",
        until=until,
    )
