"""A run that begins at once where there is room, and does not where others were made at the same moment."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from pulumi_tfjobs.targets.kubernetes import capacity
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS
from pulumi_tfjobs.targets.kubernetes.claiming import Launch
from pulumi_tfjobs.targets.kubernetes.room import read_room
from tests.unit.test_kubernetes_capacity import FakeCluster, FakeConnection, due, job_set, launch_and_wait


def connection_of(cluster: FakeCluster, process: str, pace: int = 4) -> Any:
    """Of a process of its own: what one counts of its launches no other one knows."""
    found = FakeConnection(cluster, pace)
    found.server = f"https://{process}"
    return found


async def launch(cluster: FakeCluster, name: str, gpus: int, *, process: str = "", pace: int = 4) -> Launch:
    connection = connection_of(cluster, process or name, pace)
    async with Launch(connection, JOB_SETS, wanted=True) as launched:
        workload = await launched.claimed(job_set(name, 1, gpus))
        await connection.pause()
        made = await launched.confirm(cluster.create(workload))
        await capacity.admit(connection, made, since=launched.stepped_back)
    return launched


async def launch_and_wait_for_it(cluster: FakeCluster, name: str, gpus: int) -> None:
    pace = cluster.chance.choice((2, 4, 200))  # some are held up between any two steps
    await cluster.pause(cluster.chance.choice((1, 60, 1500)))
    await launch(cluster, name, gpus, pace=pace)
    for _ in range(8):
        if (await capacity.admit(connection_of(cluster, name, pace), cluster.job_sets[name])).ok:
            return


def begun(cluster: FakeCluster) -> set[str]:
    return {name for name, item in cluster.job_sets.items() if not item["spec"]["suspend"]}


async def test_where_there_is_room_it_is_made_to_begin() -> None:
    cluster = FakeCluster([8], random.Random(0))
    first = await launch(cluster, "a", 5)
    assert cluster.job_sets["a"]["metadata"]["resourceVersion"] == "101", "it was made so, and not changed"
    assert first.stepped_back is None
    await launch(cluster, "b", 4)
    assert begun(cluster) == {"a"}
    await launch(cluster, "c", 1)
    assert begun(cluster) == {"a"}, "who comes later does not pass by one who waits"


async def test_of_two_that_are_made_at_once_where_one_fits_one_begins() -> None:
    cluster = FakeCluster([8], random.Random(0))
    one, other = connection_of(cluster, "one"), connection_of(cluster, "other")
    async with Launch(one, JOB_SETS, wanted=True) as first, Launch(other, JOB_SETS, wanted=True) as second:
        workloads = [await first.claimed(job_set("a", 1, 8)), await second.claimed(job_set("b", 1, 8))]
        made = [cluster.create(workload) for workload in workloads]
        assert begun(cluster) == {"a", "b"}
        await first.confirm(made[0])
        await second.confirm(made[1])
    for name in ("a", "b", "a", "b"):
        await capacity.admit(connection_of(cluster, name), cluster.job_sets[name])
    assert len(begun(cluster)) == 1


async def test_hundreds_of_one_process_are_not_all_made_to_begin() -> None:
    cluster = FakeCluster([8], random.Random(0))
    launched = await asyncio.gather(*(launch(cluster, f"run-{n}", 1, process="same") for n in range(30)))
    assert len(begun(cluster)) == 8
    assert [one.stepped_back for one in launched] == [None] * 30


@pytest.mark.parametrize("seed", range(40))
async def test_in_the_end_no_more_have_begun_than_fit(seed: int) -> None:
    chance = random.Random(seed)
    cluster = FakeCluster([8], chance)
    names = chance.sample("abcdefgh", 5)
    sizes = {name: chance.choice((1, 3, 5, 8)) for name in names}
    # Some are made by a version that only lets in.
    await asyncio.gather(
        *(
            launch_and_wait_for_it(cluster, name, sizes[name])
            if chance.random() < 0.8
            else launch_and_wait(cluster, name, 1, sizes[name])
            for name in names
        )
    )
    assert cluster.taken() <= 8
    room = await read_room(connection_of(cluster, "looks"))
    assert not due(room), "nobody is left out who fits"
