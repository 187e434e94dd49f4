"""The queue for slots: whose turn it is, and tickets that outlive their runs or are no tickets."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import queue, scheduling, statefile, turns
from pulumi_tfjobs.targets.local.processes import start_ticks
from pulumi_tfjobs.targets.local.queue import Queue, open_handles, snapshot
from pulumi_tfjobs.targets.local.scheduling import Ticket, due
from pulumi_tfjobs.targets.local.turns import Turns

OWN = (os.getpid(), start_ticks(os.getpid()) or 0)


def ticket(run_id: str, slots: int = 1, capacity: int = 4, priority: int = 0, **more: Any) -> Ticket:
    return Ticket(run_id, 1, slots, capacity, priority, *OWN, **more)


# Whose turn it is


def line(*slots: int, holding: tuple[int, ...] = (), **more: Any) -> list[Ticket]:
    """Tickets of one capacity: those that hold slots, then those that wait in this order."""
    return [
        ticket(f"job-{number}", size, number=number, granted=number <= len(holding), **more)
        for number, size in enumerate((*holding, *slots), 1)
    ]


def turn_of(tickets: list[Ticket], now: float = 0.0) -> list[int]:
    return [each.number for each in due(tickets, now)]


def test_all_or_nothing_and_in_order() -> None:
    assert turn_of(line(2, 2, 1)) == [1, 2]
    assert turn_of(line(3, 3)) == [1]
    assert turn_of(line(4, holding=(1,))) == []


def test_a_higher_priority_goes_first() -> None:
    tickets = [ticket("low", 4, number=1), ticket("high", 4, priority=1, number=2)]
    assert turn_of(tickets) == [2]


@pytest.mark.parametrize(("holding", "head", "small", "starts"), [
    ((2,), 3, 1, True),  # the fourth slot is of no use to the head
    ((2,), 4, 1, False),
    ((1, 1), 3, 1, False),  # one of them may end alone: the head needs the free ones then
    ((1, 1), 3, 2, False),
    ((3,), 4, 1, False),
    ((3,), 3, 1, True),
    ((2, 1), 3, 1, False),  # the two may end first
])  # fmt: skip
def test_a_small_run_passes_where_it_cannot_delay_the_head(
    holding: tuple[int, ...], head: int, small: int, starts: bool
) -> None:
    tickets = line(head, small, holding=holding)
    assert turn_of(tickets) == ([len(tickets)] if starts else [])


def test_a_small_run_passes_where_it_ends_in_time() -> None:
    holder = ticket("holds", 3, number=1, granted=True, until=100.0)
    head = ticket("head", 4, number=2)
    assert turn_of([holder, head, ticket("short", 1, number=3, seconds=60.0)], 40.0) == [3]
    assert turn_of([holder, head, ticket("short", 1, number=3, seconds=60.0)], 41.0) == []
    assert turn_of([holder._replace(until=None), head, ticket("short", 1, number=3, seconds=60.0)], 0.0) == []


def test_a_run_that_can_never_start_holds_nobody_up() -> None:
    tickets = [ticket("large", 5, priority=9, number=1), ticket("small", 4, number=2)]
    assert turn_of(tickets) == [2]


def test_each_is_judged_by_its_own_capacity() -> None:
    holder = ticket("holds", 3, 8, number=1, granted=True)
    assert turn_of([holder, ticket("one", 2, 4, number=2)]) == []
    assert turn_of([holder, ticket("one", 2, 8, number=2)]) == [2]
    assert turn_of([holder, ticket("one", 1, 4, number=2), ticket("other", 5, 8, number=3)]) == [2]


jobs = st.lists(
    st.tuples(
        st.integers(1, 5),  # slots
        st.sampled_from([3, 4, 4, 4]),  # capacity
        st.integers(0, 2),  # priority
        st.integers(0, 12),  # when it comes
        st.integers(1, 9),  # how long it runs
        st.one_of(st.none(), st.integers(9, 15)),  # its time limit
    ),
    max_size=25,
)


class World:
    """Runs on a machine, in steps of time."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.ends: dict[int, int] = {}
        self.started: dict[int, int] = {}
        self.lasts: dict[int, int] = {}

    def enter(self, job: Ticket, lasts: int) -> None:
        number = 1 + max(self.lasts, default=0)
        self.tickets.append(job._replace(number=number))
        self.lasts[number] = lasts

    def step(self, now: int) -> None:
        """What ends, ends; those start whose turn it is."""
        self.tickets = [each for each in self.tickets if self.ends.get(each.number, now + 1) > now]
        for each in due(self.tickets, now):
            taken = sum(other.slots for other in self.tickets if other.granted)
            assert taken + each.slots <= each.capacity, "more slots than there are"
            self.tickets[self.tickets.index(each)] = each.with_slots(now)
            self.started[each.number] = now
            self.ends[each.number] = now + self.lasts[each.number]


@settings(deadline=None)
@given(jobs)
def test_all_start_in_the_end_and_equals_in_order(described: list[Any]) -> None:
    world = World()
    entered = {}
    for now in range(400):
        for index, (slots, capacity, priority, comes, lasts, limit) in enumerate(described):
            if comes == now:
                world.enter(ticket(f"job-{index}", slots, capacity, priority, seconds=limit), lasts)
                entered[max(world.lasts)] = (slots, capacity, priority, limit)
        world.step(now)
    assert set(world.started) == {number for number, (slots, capacity, *_) in entered.items() if slots <= capacity}
    alike: dict[Any, list[int]] = {}
    for number in sorted(world.started):
        alike.setdefault(entered[number], []).append(world.started[number])
    for starts in alike.values():
        assert starts == sorted(starts)


def start_of_the_head(holding: list[Any], slots: int, stream: list[Any]) -> tuple[int, float | None]:
    """When a run of so many slots starts that is next, while others hold slots (slots, how long, whether that is their
    limit too) and a stream of more never ceases; and when it must, by the limits of the former."""
    world = World()
    for size, lasts, limited in holding:
        world.enter(ticket("holds", size, seconds=lasts if limited else None), lasts)
    world.step(0)
    holders = [each for each in world.tickets if each.granted]
    world.tickets = list(holders)
    world.enter(ticket("head", slots), 1)
    head = max(world.lasts)
    reserved = scheduling._latest_start(sum(each.slots for each in holders) + slots - 4, holders)
    for now in range(200):
        for size, lasts, limited in stream:
            world.enter(ticket("small", size, seconds=lasts if limited else None), lasts)
        world.tickets = world.tickets[:60]  # the ones behind these never matter
        world.step(now)
        if head in world.started:
            return world.started[head], reserved
    raise AssertionError("starved")


sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.booleans())
unlimited = st.tuples(st.integers(1, 3), st.integers(1, 9), st.just(False))


@settings(deadline=None)
@given(st.lists(sizes, max_size=4), st.integers(1, 4), st.lists(unlimited, min_size=1, max_size=3))
def test_a_stream_of_small_runs_never_delays_the_head(holding: Any, slots: int, stream: Any) -> None:
    assert start_of_the_head(holding, slots, stream) == start_of_the_head(holding, slots, [])


@settings(deadline=None)
@given(st.lists(sizes, max_size=4), st.integers(1, 4), st.lists(sizes, min_size=1, max_size=3))
def test_with_time_limits_the_head_starts_by_its_reservation(holding: Any, slots: int, stream: Any) -> None:
    alone, reserved = start_of_the_head(holding, slots, [])
    start, _ = start_of_the_head(holding, slots, stream)
    assert alone <= start <= max(alone, reserved or 0)


# The folder


class Store:
    """A store with runs whose locks this process holds, as their supervisors would."""

    def __init__(self, root: Path) -> None:
        self.folder = str(root / "slots")
        self.root = root
        self.locks: dict[str, int] = {}

    def queue(self, job: Ticket) -> Queue:
        lock = RunFolder(str(self.root / "runs" / job.run_id)).attempt(job.attempt).lock
        os.makedirs(os.path.dirname(lock))
        handle = statefile.take_lock(lock)
        assert handle is not None
        self.locks[job.run_id] = handle
        joined = Queue(self.folder)
        joined.enter(job)
        return joined

    def end(self, run_id: str) -> None:
        """As where the run's supervisor and guardian were killed."""
        os.close(self.locks.pop(run_id))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    for run_id in list(made.locks):
        made.end(run_id)


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the runs that were told to look."""
    told: list[str] = []
    monkeypatch.setattr(queue, "_signal", lambda each: told.append(each.run_id))
    return told


def test_runs_take_turns(store: Store, rung: list[str]) -> None:
    first, second, third = (store.queue(ticket(name, 3)) for name in ("first", "second", "third"))
    assert first.look().granted
    turn = second.look()
    assert (turn.granted, turn.position, turn.waiting, turn.free) == (False, 1, 2, 1)
    assert turn.reason == "waits for 3 slots: 1 of 4 free, 0 runs ahead"
    assert third.look().reason == "waits for 3 slots: 1 of 4 free, 1 run ahead"
    rung.clear()
    first.leave()
    assert rung == ["second", "third"]
    assert not third.look().granted, "the slots are the second's, even before that has looked"
    assert third.look().reason == "waits for 3 slots: 4 of 4 free, kept for the run that is next, 1 run ahead"
    assert second.look().granted
    assert second.look().granted, "it is not counted twice"
    assert third.look().position == 1
    second.leave()
    assert third.look().granted
    third.leave()
    assert os.listdir(store.folder) == ["lock"]


def test_what_waits_is_told_in_words(store: Store) -> None:
    assert store.queue(ticket("one", 1)).look().granted
    turn = store.queue(ticket("shrunk", 5)).look()
    assert (turn.granted, turn.position) == (False, None)
    assert turn.reason.startswith("needs 5 slots, and its compute target has 4: it can never start")
    assert store.queue(ticket("next", 3)).look().granted


def test_a_run_without_slots_waits_for_nobody(store: Store) -> None:
    assert store.queue(ticket("all", 4)).look().granted
    servers = store.queue(ticket("servers", 0))
    assert servers.look().granted
    servers.leave()
    assert not store.queue(ticket("other")).look().granted


def test_a_dead_run_gives_its_slots_back(store: Store, rung: list[str]) -> None:
    assert store.queue(ticket("dead", 4)).look().granted
    second, third = store.queue(ticket("second", 2)), store.queue(ticket("third", 2))
    turn = second.look()
    assert turn.holders == [OWN]
    assert not turn.granted
    store.end("dead")
    assert second.look().granted
    assert rung == ["third"], "it need not find out by itself"
    assert not [name for name in os.listdir(store.folder) if name.endswith(".dead")]
    assert third.look().granted


def test_a_dead_waiter_is_in_nobodys_way(store: Store) -> None:
    holder = store.queue(ticket("holder", 4))
    assert holder.look().granted
    store.queue(ticket("dead", 4, priority=5))
    behind = store.queue(ticket("behind", 4))
    assert behind.look().position == 2
    store.end("dead")
    assert behind.look().position == 1
    holder.leave()
    assert behind.look().granted


def test_a_run_is_watched_through_its_guardian_once_its_supervisor_is_gone(store: Store) -> None:
    gone = ticket("gone", 4)._replace(pid=2**22, guardian=OWN[0], guardian_ticks=OWN[1])
    assert store.queue(gone).look().granted
    turn = store.queue(ticket("next")).look()
    assert not turn.granted, "what it left may still live"
    assert turn.holders == [OWN]


def test_only_those_that_are_next_watch_those_that_hold(store: Store) -> None:
    assert store.queue(ticket("holder", 4)).look().granted
    watched = [len(store.queue(ticket(f"job-{n}", 4)).look().holders) for n in range(4)]
    assert watched == [1, 2, 1, 1]


def test_an_end_does_not_wake_everybody(store: Store, rung: list[str]) -> None:
    holder = store.queue(ticket("holder", 2))
    assert holder.look().granted
    for n in range(200):
        store.queue(ticket(f"job-{n}", 4))
    last = store.queue(ticket("last", 1, priority=-5, seconds=1.0))
    assert not last.look().granted
    rung.clear()
    began = time.perf_counter()
    holder.leave()
    assert rung == [f"job-{n}" for n in range(16)]
    assert time.perf_counter() - began < 1.0


def test_those_whose_turn_it_is_are_told_wherever_they_are(store: Store, rung: list[str]) -> None:
    assert store.queue(ticket("large", 3)).look().granted
    small = store.queue(ticket("small", 1))
    assert small.look().granted
    for n in range(20):
        store.queue(ticket(f"job-{n}", 3))
    store.queue(ticket("passes", 1, priority=-5))
    rung.clear()
    small.leave()
    assert "passes" in rung, "the slot is of no use to those before it"
    assert len(rung) == 17


def test_no_clock_orders_the_runs(store: Store) -> None:
    holder = store.queue(ticket("holder", 4))
    assert holder.look().granted
    names = ["one", "two", "three"]
    joined = {name: store.queue(ticket(name, 4)) for name in names}
    for age, name in enumerate(os.listdir(store.folder)):
        os.utime(os.path.join(store.folder, name), (age, age))
    assert [joined[name].look().position for name in names] == [1, 2, 3]


def test_what_is_no_ticket_is_passed_over(store: Store) -> None:
    os.makedirs(os.path.join(store.folder, "00000001.holds.4.4.0.1.1.1.1.-.-.1"))
    for name in (
        "x",
        ".",
        "00000002.holds",
        "00000002.holds.x.4.0.1.1.1.1.-.-.1.job",
        "9.holds.-4.4.0.1.1.1.1.-.-.1.j",
    ):
        with contextlib.suppress(IsADirectoryError), open(os.path.join(store.folder, name), "wb") as stream:
            stream.write(b"\xff\0")
    with open(os.path.join(os.fsencode(store.folder), b"\xff.holds"), "wb"):
        pass
    assert store.queue(ticket("job", 4)).look().granted


def test_a_folder_that_was_removed_comes_back(store: Store) -> None:
    holder, second = store.queue(ticket("holder", 4)), store.queue(ticket("second", 4))
    assert holder.look().granted
    for name in os.listdir(store.folder):
        os.unlink(os.path.join(store.folder, name))
    os.rmdir(store.folder)
    assert second.look().granted
    assert not store.queue(ticket("third")).look().granted
    holder.leave()


def test_a_snapshot_changes_nothing(store: Store) -> None:
    assert snapshot(store.folder) == []
    assert not os.path.exists(store.folder)
    assert store.queue(ticket("holds", 3)).look().granted
    store.queue(ticket("low", 2))
    store.queue(ticket("high", 2, priority=1))
    store.queue(ticket("never", 5))
    assert store.queue(ticket("dead", 1)).look().granted
    store.end("dead")
    before = sorted(os.listdir(store.folder))
    assert snapshot(store.folder) == [
        ("holds", 1, 3, 0, True, None),
        ("high", 1, 2, 1, False, 1),
        ("low", 1, 2, 0, False, 2),
        ("never", 1, 5, 0, False, None),
    ]
    assert sorted(os.listdir(store.folder)) == before


@given(
    st.builds(
        Ticket,
        run_id=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
        attempt=st.integers(1, 10**6),
        slots=st.integers(1, 10**4),
        capacity=st.integers(0, 10**4),
        priority=st.integers(-1000, 1000),
        pid=st.integers(1, 2**22),
        start_ticks=st.integers(1, 10**12),
        guardian=st.integers(0, 2**22),
        guardian_ticks=st.integers(0, 10**12),
        seconds=st.none() | st.integers(0, 10**9).map(float),
        number=st.integers(1, 10**12),
        granted=st.booleans(),
        until=st.none() | st.integers(0, 10**10).map(float),
    )
)
def test_a_ticket_is_its_name(made: Ticket) -> None:
    assert queue._parse(queue._name(made)) == made
    assert len(queue._name(made)) < 255


def test_handles_of_processes() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ticks = start_ticks(process.pid) or 0
        handles = open_handles([(process.pid, ticks), OWN])
        assert handles is not None
        assert len(handles) == 2
        for handle in handles:
            os.close(handle)
        assert open_handles([OWN, (process.pid, ticks + 1)]) is None, "the pid is another process's by now"
    assert open_handles([(process.pid, ticks)]) is None
    assert open_handles([]) == []


# A supervisor's view


def turns_of(store: Store, name: str) -> Turns:
    run = RunFolder(str(store.root / "runs" / name))
    plan = {
        "run_id": name,
        "replicas": [{"slot": True}, {"slot": False}],
        "priority": 0,
        "max_run_duration_seconds": None,
        "stop_grace_seconds": 10.0,
    }
    return Turns(run, run.attempt(1), plan, 1)


def test_a_queue_that_is_held_by_a_stopped_process_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_LOCK_SECONDS", 0.01)
    mine = turns_of(store, "job")
    os.makedirs(store.folder)
    lock = statefile.take_lock(os.path.join(store.folder, "lock"))
    assert lock is not None
    turn = mine.look()
    assert not turn.granted
    assert "cannot be used just now" in turn.reason
    assert snapshot(store.folder) == [], "and yet it can be read"
    os.close(lock)
    assert mine.look().granted
    mine.leave()


def test_patience_grows_with_the_way_ahead(store: Store) -> None:
    mine = turns_of(store, "job")
    pauses = []
    for position in (1, 200):
        with mine.watched(queue.Turn(False, position, 200, 0, "", [OWN])) as handles:
            assert len(handles) == 1
            pauses.append(mine.patience())
    assert pauses[0] < 6
    assert pauses[1] > 60
    with mine.watched(queue.Turn(False, 1, 1, 0, "", [(2**22, 1)])) as handles:
        assert handles == []
        assert mine.patience() == turns.UNWATCHED_SECONDS


@pytest.fixture
def full_store(tmp_path: Path) -> Iterator[Store]:
    """A store on a file system with room for few files."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=40", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    made = Store(tmp_path)
    yield made
    for run_id in list(made.locks):
        made.end(run_id)
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_takes_nobodys_turn(full_store: Store) -> None:
    first, second = full_store.queue(ticket("first", 4)), full_store.queue(ticket("second", 4))
    assert first.look().granted
    with pytest.raises(OSError, match="No space"):
        [(full_store.root / f"file-{n}").touch() for n in range(100)]
    assert not second.look().granted
    with pytest.raises(OSError, match="No space"):
        Queue(full_store.folder).enter(ticket("third"))
    first.leave()
    (full_store.root / "more").touch()  # what that has freed
    assert second.look().granted
    second.leave()


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start_and_a_reason_later(store: Store) -> None:
    waits, other = turns_of(store, "waits"), turns_of(store, "other")
    assert store.queue(ticket("holds", 1, 1)).look().granted
    assert not waits.look().granted
    os.rename(store.folder, store.folder + ".kept")
    with open(store.folder, "wb"):
        pass
    assert "the queue cannot be used just now" in waits.look().reason
    with pytest.raises(OSError, match="slots"):
        other.look()
    os.unlink(store.folder)
    os.rename(store.folder + ".kept", store.folder)
    assert waits.look().position == 1
