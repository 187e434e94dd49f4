"""Ranks, as Horovod's own test (test/single/test_run.py) expects them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tfjobs.spec.horovod import Host, Slot, assign, hostfile, hosts_of, rank_environment
from pulumi_tfjobs.spec.model import Horovod


def test_two_hosts_with_two_slots() -> None:
    assert assign([Host("worker-0", 2), Host("worker-1", 2)], 4) == (
        Slot("worker-0", 0, 0, 0, 4, 2, 2),
        Slot("worker-0", 1, 1, 0, 4, 2, 2),
        Slot("worker-1", 2, 0, 1, 4, 2, 2),
        Slot("worker-1", 3, 1, 1, 4, 2, 2),
    )


def test_hosts_that_differ() -> None:
    assert assign([Host("worker-0", 1), Host("worker-1", 2)], 3) == (
        Slot("worker-0", 0, 0, 0, 3, 1, 2),
        Slot("worker-1", 1, 0, 1, 3, 2, 2),
        Slot("worker-1", 2, 1, 0, 3, 2, 1),
    )


def test_fewer_ranks_than_slots_leave_the_last_host_idle() -> None:
    assert assign([Host("worker-0", 2), Host("worker-1", 2)], 2) == (
        Slot("worker-0", 0, 0, 0, 2, 2, 1),
        Slot("worker-0", 1, 1, 0, 2, 2, 1),
    )


@pytest.mark.parametrize("size", [0, 3])
def test_ranks_without_slots_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=f"{size} ranks .* 2 slots"):
        assign([Host("a", 2)], size)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any))
def test_ranks_are_a_numbering(slots: Any) -> None:
    places = assign([Host(f"h{i}", count) for i, count in enumerate(slots)])
    assert [place.rank for place in places] == list(range(sum(slots)))
    for host in {place.hostname for place in places}:
        local = [place for place in places if place.hostname == host]
        assert [place.local_rank for place in local] == list(range(local[0].local_size))
    for number in {place.local_rank for place in places}:
        cross = [place for place in places if place.local_rank == number]
        assert [place.cross_rank for place in cross] == list(range(cross[0].cross_size))


def test_hostfiles() -> None:
    hosts = hosts_of(Horovod(nodes=2, processes_per_node=3))
    assert hostfile(hosts) == "node-0 slots=3\nnode-1 slots=3\n"
    assert hostfile(hosts, "mpich") == "node-0:3\nnode-1:3\n"


def test_a_ranks_variables() -> None:
    env = rank_environment(assign([Host("a", 1), Host("b", 2)])[2])
    assert env == {
        "HOROVOD_RANK": "2",
        "HOROVOD_SIZE": "3",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
        "HOROVOD_HOSTNAME": "b",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "{{rendezvous:host}}",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": "{{rendezvous:port}}",
        "HOROVOD_GLOO_IFACE": "{{rendezvous:iface}}",
    }


def test_mpi_gives_the_ranks_itself() -> None:
    env = rank_environment(assign([Host("a", 1)])[0], "mpi")
    assert env == {"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi"}
