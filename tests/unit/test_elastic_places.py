"""Where the workers of an elastic run can be: when a lost one is replaced, and when the run is given up."""

from __future__ import annotations

from pulumi_tfjobs.targets.local.elastic_places import (
    MOST_ERRORS,
    MOST_LOSSES,
    NUDGE_SECONDS,
    STEADY_SECONDS,
    Life,
    Newcomer,
    Places,
)

KILLED = 137


def env(host: str, rank: int, size: int) -> dict[str, str]:
    return {"HOROVOD_HOSTNAME": host, "HOROVOD_RANK": str(rank), "HOROVOD_SIZE": str(size)}


class World:
    """Places, with the parts of Horovod and of the driver played: who is in the world, who is started and ended."""

    def __init__(self, start: int = 2, least: int = 1, most: int | None = None) -> None:
        self.now = 100.0
        self.places = Places(start=start, minimum=least, maximum=most or start, clock=lambda: self.now)
        self.hosts: list[str] = []
        self.lives: dict[str, Life] = {}
        self.form()

    def form(self) -> list[str]:
        """Horovod forms a world of all hosts that it knows and on which nobody is lost; what it does about each."""
        alive = [host for host in self.hosts if not self.lives[host].ended.is_set()]
        new = [host for host in self.places.hosts() if host not in self.lives]
        self.hosts = self.places.in_order([*alive, *new], alive)
        self.places.formed(dict(enumerate(self.hosts)))
        done = []
        for rank, host in enumerate(self.hosts):
            if host in new:
                self.lives[host], what = self.places.start(host, rank, env(host, rank, len(self.hosts)))
                done.append(what)
        return done

    def meet(self) -> World:
        for rank in range(len(self.hosts)):
            self.places.joined(rank)
        for rank, host in enumerate(self.hosts):
            self.places.met(rank)
            self.places.trains(host)
        return self

    def lose(self, index: int, code: int = KILLED) -> str:
        """What follows: nothing, ``again``, or why the run is given up."""
        outcome = self.places.ended(index, code)
        return outcome.give_up or ("again" if outcome.again is not None else "")

    def tick(self) -> tuple[list[Newcomer], list[int]]:
        started, unwanted = self.places.tick()
        for life, rank, size in started:
            life.env = env(life.host, rank, size)
        return started, [life.index for life in unwanted]

    def newcomers(self) -> list[tuple[int, int, int]]:
        """Index, rank and size of those that are to be started now."""
        return [(life.index, rank, size) for life, rank, size in self.tick()[0]]

    def replace(self, index: int, code: int = KILLED) -> None:
        """It is lost, the others meet, the next one comes, and all meet."""
        assert self.lose(index, code) == ""
        self.form()
        self.meet()
        self.now += 60.0
        ((_, rank, _),) = self.newcomers()
        assert self.places.newcomer(rank) is not None
        self.tick()
        assert self.form() == ["admit"]
        self.meet()


def test_workers_are_counted_by_their_first_ranks() -> None:
    places = Places(start=3, minimum=1, maximum=3)
    first, second, third = places.hosts()
    places.formed({0: third, 1: first, 2: second})
    assert [places.start(host, rank, {})[0].index for rank, host in enumerate([third, first, second])] == [0, 1, 2]


def test_hosts_that_were_there_keep_their_ranks_and_new_ones_follow_by_number() -> None:
    available = {"host-10", "host-9", "host-2", "host-1"}
    assert Places.in_order(available, ["host-3", "host-2", "host-1"]) == ["host-2", "host-1", "host-9", "host-10"]


def test_a_lost_worker_is_replaced_once_the_others_have_met_without_it() -> None:
    world = World().meet()
    before = world.places.hosts()
    assert world.lose(0) == ""
    assert world.newcomers() == []
    world.form()
    assert world.newcomers() == [], "the others are meeting"
    world.meet()
    assert world.newcomers() == [(0, 1, 2)]
    assert world.places.hosts() == before, "it has not come yet"
    newcomer = world.places.newcomer(1)
    assert newcomer is not None
    assert not newcomer.gate.is_set()
    world.tick()
    assert len(set(world.places.hosts()) - set(before)) == 1
    assert world.form() == ["admit"]
    assert newcomer.gate.is_set()
    assert newcomer.admitted


def test_where_the_others_are_too_few_it_is_replaced_at_once() -> None:
    world = World(least=2).meet()
    world.lose(1)
    assert world.newcomers() == [(1, 1, 2)]


def test_a_member_is_not_held_at_the_rendezvous() -> None:
    world = World(start=3).meet()
    world.lose(2)
    world.form()
    world.meet()
    world.newcomers()
    assert [world.places.newcomer(rank) is None for rank in range(3)] == [True, True, False]


def test_newcomers_that_were_told_ranks_of_another_world_are_sent_away_and_started_anew() -> None:
    world = World(start=3).meet()
    world.lose(2)
    world.form()
    world.meet()
    assert world.newcomers() == [(2, 2, 3)]
    world.lose(1)
    assert world.tick() == ([], [2])
    world.form()
    world.meet()
    assert world.newcomers() == [], "it has not ended yet"
    assert world.lose(2) == ""
    assert world.newcomers() == [(1, 1, 3), (2, 2, 3)]


def test_a_newcomer_whose_world_is_another_at_the_last_moment_is_started_again() -> None:
    world = World(start=3).meet()
    world.lose(2)
    world.form()
    world.meet()
    world.newcomers()
    newcomer = world.places.newcomer(2)
    world.tick()
    world.lose(1)
    assert world.form() == ["end"]
    assert newcomer is not None
    assert not newcomer.admitted
    assert world.lose(2) == "again"
    assert newcomer.env == env(newcomer.host, 1, 2)
    assert world.newcomers() == [], "the others are meeting it"


def test_losses_in_a_row_are_followed_by_longer_pauses() -> None:
    world = World().meet()
    for pause in (0.0, 1.0, 2.0, 4.0):
        world.lose(1)
        world.form()
        world.meet()
        if pause:
            world.now += pause - 0.1
            assert world.newcomers() == []
            world.now += 0.1
        assert world.newcomers() == [(1, 1, 2)]
        world.places.newcomer(1)
        world.tick()
        world.form()
        world.meet()


def test_a_worker_that_is_lost_again_and_again_ends_the_run_unless_it_was_healthy_between() -> None:
    for healthy in (False, True):
        world = World().meet()
        for _ in range(MOST_LOSSES - 1):
            world.replace(1)
        world.now += STEADY_SECONDS if healthy else 0.0
        assert world.lose(1) == ("" if healthy else f"worker-1 was lost {MOST_LOSSES} times in a row")


def test_an_error_of_the_script_is_given_one_more_try() -> None:
    world = World().meet()
    world.replace(1, 3)
    assert f"worker-1 failed {MOST_ERRORS} times in a row" in world.lose(1, 3)


def test_errors_of_newcomers_count_too() -> None:
    world = World().meet()
    world.lose(1)
    world.form()
    world.meet()
    for told in ("", f"worker-1 failed {MOST_ERRORS} times in a row by its script's own error"):
        assert world.newcomers() == [(1, 1, 2)]
        assert world.lose(1, 3) == told
        world.now += 60.0


def test_an_error_before_it_came_to_the_others_is_its_own() -> None:
    assert "worker-0 had not joined" in World().lose(0, 1)


def test_a_worker_of_the_start_that_is_killed_before_the_others_know_of_it_is_started_again() -> None:
    world = World()
    assert world.lose(1) == "again"
    world.places.joined(0)
    assert world.lose(1) == "again", "the other one waits for it"
    assert world.places.living == 2


def test_one_that_others_have_met_or_that_was_in_an_earlier_world_cannot_be_missed_at_a_meeting() -> None:
    world = World()
    world.places.joined(0)
    world.places.joined(1)
    assert "worker-0 was lost while the workers met" in world.lose(0)
    world = World(start=3).meet()
    world.lose(2)
    world.form()
    assert "worker-0 was lost while the workers met" in world.lose(0)


def test_there_is_room_for_more_once_all_of_the_start_train_and_they_join_together() -> None:
    world = World(start=1, most=3)
    assert world.newcomers() == []
    world.meet()
    assert world.newcomers() == [(1, 1, 3), (2, 2, 3)]
    world.places.newcomer(1)
    world.tick()
    assert len(world.places.hosts()) == 1
    world.places.newcomer(2)
    world.tick()
    assert world.form() == ["admit", "admit"]
    assert world.newcomers() == []


def test_the_workers_are_told_of_a_new_host_until_they_have_taken_it_in() -> None:
    world = World().meet()
    world.lose(1)
    world.form()
    world.meet()
    world.newcomers()
    world.places.newcomer(1)
    world.tick()
    nudged = []
    for _ in range(4):
        world.now += NUDGE_SECONDS / 1.9
        nudged.append(world.places.nudges(world.hosts))
    assert nudged == [False, True, False, True]
    world.now += NUDGE_SECONDS
    assert not world.places.nudges(list(world.places.hosts()))


def test_a_worker_that_has_finished_is_no_loss() -> None:
    world = World().meet()
    before = world.places.hosts()
    assert world.lose(0, 0) == ""
    world.now += 60.0
    assert world.newcomers() == []
    assert (world.places.hosts(), world.places.failed, world.places.living) == (before, False, 1)
