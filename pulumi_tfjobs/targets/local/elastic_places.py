"""Where the workers of an elastic Horovod run can be, and what has happened there. Standard library only.

elastic_driver.py loads it into the training environment's interpreter, and answers Horovod from it.

Horovod never again uses a host on which a worker has failed, so that one killed process would take everything on its
host along. (With a cooldown it does, but starts nothing there where it cannot form a world without that host.)
Therefore each worker is a host of its own, and whoever takes a lost worker's place is a new one.

Horovod would also have all wait until a new worker has loaded TensorFlow, and fail where that takes long or another is
lost meanwhile. So newcomers are started before Horovod hears of them, with the ranks that they will have, and are held
at the rendezvous, the first thing that Horovod asks of them, until all of them have come. Then their hosts are offered,
and a world is formed with them at once. Where that is another one than expected, because a worker was lost just then,
they are started again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Container, Mapping
from typing import NamedTuple

# A script's own error (exit code 1 to 127) is given one more try, a loss that is the machine's some more, in a row.
MOST_ERRORS = 2
MOST_LOSSES = 5
# A worker that has trained for so long counts as healthy: what was before is forgotten.
STEADY_SECONDS = 600.0
LONGEST_PAUSE_SECONDS = 30.0
# After how long the workers are told once more of a new host that they have not taken in. Horovod tells them once, and
# they may miss it: while they meet, or twice within a second. It asks for hosts every second.
NUDGE_SECONDS = 0.9


class Outcome(NamedTuple):
    """What is to be done about a worker's end. Nothing, where there is neither."""

    again: Mapping[str, str] | None = None
    """The variables with which to start it again at once: Horovod has it in its world already."""
    give_up: str = ""
    """Why the run has failed."""


class Life:
    """A worker's process, from its start to its end."""

    def __init__(self, index: int, host: str, now: float) -> None:
        self.index = index
        self.host = host
        self.started_at = now
        self.env: Mapping[str, str] = {}
        self.assigned = False
        """Whether Horovod has it in a world."""
        self.first = 0
        """The number of the first world that it is in."""
        self.joined = 0
        """The last world to whose rendezvous it has come: from then on others may have met it."""
        self.met = 0
        """The last world in which it has met all the others."""
        self.rank = 0
        """Of a newcomer: the rank that it will have."""
        self.came = False
        """Of a newcomer: whether it has come to the rendezvous, where it is held until :attr:`gate` is set."""
        self.gate = threading.Event()
        self.admitted = False
        """Of a newcomer: whether it may go on from there."""
        self.unwanted = False
        """It was told a rank that it will not have, and is being ended."""
        self.ended = threading.Event()
        """Set once Horovod is to know of its end, with ``code``."""
        self.code = 0


class Newcomer(NamedTuple):
    """A worker to start, and the rank and size of the world that it will be in."""

    life: Life
    rank: int
    size: int


class Place:
    """A place for a worker. Its host gets a new name with each worker."""

    def __init__(self, host: str = "") -> None:
        self.host = host
        """As Horovod knows it; empty while it does not."""
        self.next = ""
        """Its name with the newcomer."""
        self.offered_at: float | None = None
        self.index: int | None = None
        self.life: Life | None = None
        self.code: int | None = None
        """How the last worker here ended, None before the first."""
        self.failures: list[int] = []
        self.due = 0.0
        """Not before is there a new worker."""
        self.world = 0
        """The world that was when the last worker was lost."""


class Places:
    """Where workers can be, as Horovod's discovery wants to know it, and what has happened there.

    A lost worker is replaced once the others have met in a world without it: they go on at once. Where they are too few
    for that, it is replaced right away. Further losses in a row are followed by a pause.
    """

    def __init__(self, *, start: int, minimum: int, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self._clock = clock
        self._lock = threading.RLock()
        self._names = 0
        self._worlds = 0
        self._nudged_at = 0.0
        self._ranks: dict[int, str] = {}
        self._training: set[str] = set()
        self._places = [Place(self._name()) for _ in range(start)]
        self._newcomers: list[Place] = []
        """The places of those who will join together."""
        self._unwanted: list[Life] = []
        self._members: list[Life] = []
        """Those whom they will join."""

    def _name(self) -> str:
        self._names += 1
        return f"host-{self._names}"

    # What Horovod asks and does

    def hosts(self) -> dict[str, int]:
        """Host -> slots. The host of a lost worker stays until there is another one: that it is gone, the others notice
        sooner by themselves, and Horovod would have them meet without passing on what they have learned."""
        with self._lock:
            return {place.host: 1 for place in self._places if place.host}

    @staticmethod
    def in_order(available: Collection[str], previous: list[str]) -> list[str]:
        """Hosts in the order of their ranks: those that were there before stay first, new ones follow by their numbers.

        Horovod's own does the first half of this and leaves the order of new hosts to chance.
        """
        first = [host for host in previous if host in available]
        added = [host for host in available if host not in first]
        return [*first, *sorted(added, key=lambda host: int(host.rpartition("-")[2]))]

    def nudges(self, assigned: Container[str]) -> bool:
        """Whether it is time to tell the workers once more that a host is there which is not ``assigned`` a rank."""
        now = self._clock()
        with self._lock:
            waiting = [
                place.offered_at
                for place in self._places
                if place.offered_at is not None and place.host not in assigned
            ]
            if not waiting or now < max([self._nudged_at, *waiting]) + NUDGE_SECONDS:
                return False
            self._nudged_at = now
            return True

    def formed(self, ranks: Mapping[int, str]) -> None:
        """A world has been formed: rank -> host."""
        with self._lock:
            self._worlds += 1
            self._ranks = dict(ranks)
            for place in self._newcomers:
                if place.life is not None and place.host in ranks.values():
                    place.life.assigned, place.life.first, place.offered_at = True, self._worlds, None
            self._newcomers = [place for place in self._newcomers if place.host not in ranks.values()]

    def start(self, host: str, rank: int, env: Mapping[str, str]) -> tuple[Life, str]:
        """Horovod wants a worker on this host. What is to be done: ``start`` it, ``admit`` the newcomer that is there,
        or ``end`` that one, because it was told something else; then it is started again. The index of a worker of the
        start is its first rank."""
        with self._lock:
            place = next(place for place in self._places if place.host == host)
            life, what = place.life, "admit"
            if life is None:
                if place.index is None:
                    place.index = self._free_index(rank)
                life, what = Life(place.index, host, self._clock()), "start"
                place.life, life.assigned, life.first = life, True, self._worlds
            elif life.env != env:
                life.unwanted, what = True, "end"
            life.env, life.admitted = env, what == "admit"
            life.gate.set()
            return life, what

    def _free_index(self, wanted: int) -> int:
        taken = {other.index for other in self._places}
        return wanted if wanted not in taken else min(set(range(self.maximum)) - taken)

    # Newcomers

    def tick(self) -> tuple[list[Newcomer], list[Life]]:
        """Who is to be started now, and who is to be ended."""
        now = self._clock()
        with self._lock:
            if self._members != self._living():
                self._send_away()
            if not self._newcomers:
                self._newcomers, self._members = self._vacant(now), self._living()
                for place in self._newcomers:
                    place.next = self._name()
            size = len(self._members) + len(self._newcomers)
            started = []
            for rank, place in enumerate(self._newcomers, len(self._members)):
                if place.life is None and now >= place.due:
                    if place.index is None:
                        place.index = self._free_index(rank)
                    place.life = Life(place.index, place.next, now)
                    place.life.rank = rank
                    started.append(Newcomer(place.life, rank, size))
            self._offer(now)
            unwanted, self._unwanted = self._unwanted, []
            return started, unwanted

    def _offer(self, now: float) -> None:
        """Horovod may know of the newcomers once all have come."""
        if all(place.life is not None and place.life.came for place in self._newcomers):
            for place in self._newcomers:
                if place.host != place.next:
                    place.host, place.offered_at = place.next, now

    def _vacant(self, now: float) -> list[Place]:
        """Places for newcomers, where there are members whom they could join."""
        living = self._living()
        have_met = all(life.met == self._worlds for life in living)
        too_few = len(living) < self.minimum
        if not living or not (have_met or too_few) or any(p.life is not None and p.life.unwanted for p in self._places):
            return []
        return [
            place
            for place in self._places
            if place.life is None
            and place.code != 0
            and (place.code is not None or not place.host)  # else Horovod is about to start it
            and now >= place.due
            and (too_few or self._worlds > place.world)
        ]

    def _send_away(self) -> None:
        """The members are not the same any more, and the newcomers were told wrong ranks."""
        for place in self._newcomers:
            if place.offered_at is not None:
                place.host, place.offered_at = "", None
            if place.life is not None:
                place.life.unwanted = True
                place.life.gate.set()
                self._unwanted.append(place.life)
        self._newcomers = []

    def newcomer(self, rank: int) -> Life | None:
        """The newcomer who has come to the rendezvous as this rank; it is to be held there. None for a member."""
        with self._lock:
            for place in self._places:
                life = place.life
                if life is not None and not life.assigned and life.rank == rank:
                    life.came = True
                    return life
            return None

    # What workers do

    def joined(self, rank: int) -> None:
        """The worker of this rank has come to the rendezvous."""
        with self._lock:
            life = self._of_rank(rank)
            if life is not None:
                life.joined = self._worlds

    def met(self, rank: int) -> None:
        """The worker of this rank has met all the others."""
        with self._lock:
            life = self._of_rank(rank)
            if life is not None:
                life.met = self._worlds

    def trains(self, host: str) -> None:
        """The worker on this host has begun its training. Once those of the start all have, there is room for more."""
        with self._lock:
            self._training.add(host)
            if all(place.host in self._training for place in self._places):
                self._places += [Place() for _ in range(self.maximum - len(self._places))]

    def ended(self, index: int, code: int) -> Outcome:
        """A worker has ended."""
        now = self._clock()
        with self._lock:
            place = next(place for place in self._places if place.index == index)
            life = place.life
            assert life is not None
            if life.unwanted and life.assigned:
                outcome = Outcome(again=life.env)
            elif life.unwanted or code == 0:
                outcome = Outcome()
            else:
                outcome = self._failed(place, life, code, now)
            if outcome.again is not None:
                life.started_at, life.joined, life.unwanted = now, 0, False
                return outcome
            life.gate.set()
            place.life = None
            if not life.unwanted:
                place.code = code
            if code == 0 and not life.assigned:
                self._send_away()  # it will not join them, and the others of the newcomers were told that it would
            if life.assigned:
                place.world = self._worlds
            if life.assigned and not outcome.give_up:
                life.code = code
                life.ended.set()
            return outcome

    def _failed(self, place: Place, life: Life, code: int, now: float) -> Outcome:
        if now - life.started_at >= STEADY_SECONDS:
            place.failures.clear()
        place.failures.append(code)
        errors = [failure for failure in place.failures if failure < 128]
        name = f"worker-{life.index}"
        if code < 128 and life.assigned and not life.joined:
            # No other can be the cause, and those that wait for it would wait in vain.
            return Outcome(give_up=f"{name} had not joined the others before")
        if len(errors) >= MOST_ERRORS:
            return Outcome(give_up=f"{name} failed {len(errors)} times in a row by its script's own error")
        if len(place.failures) >= MOST_LOSSES:
            return Outcome(give_up=f"{name} was lost {len(place.failures)} times in a row")
        meeting = any(other.met != self._worlds for other in self._living())
        if meeting and life.assigned and life.host in self._ranks.values():
            return self._lost_at_a_meeting(name, life, code)
        count = len(place.failures)
        place.due = now + (0.0 if count == 1 else min(2.0 ** (count - 2), LONGEST_PAUSE_SECONDS))
        return Outcome()

    def _lost_at_a_meeting(self, name: str, life: Life, code: int) -> Outcome:
        """The others wait for it in Horovod, which does not hear there that it is gone."""
        met_by = any(other is not life and other.joined == self._worlds for other in self._living())
        if code >= 128 and life.first == self._worlds and not (life.joined and met_by):
            return Outcome(again=life.env)
        return Outcome(give_up=f"{name} was lost while the workers met, and the others cannot go on without it")

    def _living(self) -> list[Life]:
        """The living members of the world that is, or is to be."""
        return [place.life for place in self._places if place.life is not None and place.life.assigned]

    def _of_rank(self, rank: int) -> Life | None:
        host = self._ranks.get(rank)
        return next((life for life in self._living() if life.host == host), None)

    @property
    def living(self) -> int:
        """How many workers live that are, or were, in a world."""
        with self._lock:
            return len(self._living())

    @property
    def failed(self) -> bool:
        """Whether a worker has failed whose place has not been taken."""
        with self._lock:
            return any(place.code for place in self._places if place.life is None)
