"""Horovod's ranks: which process is which, and how it is told.

The assignment is Horovod's own (its ``get_host_assignments``): ranks are given out host by host. ``local_rank``
counts the processes of one host; ``cross_rank`` counts the hosts that have a process with that local rank, and
``cross_size`` is how many these are, so it differs by local rank where hosts have different numbers of slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pulumi_tfjobs.spec.model import Controller, Horovod

# Known only once the target has opened the rendezvous; the target puts the values in.
RENDEZVOUS_HOST = "{{rendezvous:host}}"
RENDEZVOUS_PORT = "{{rendezvous:port}}"
RENDEZVOUS_IFACE = "{{rendezvous:iface}}"

RESERVED_VARIABLES = frozenset(
    {
        "HOROVOD_RANK",
        "HOROVOD_SIZE",
        "HOROVOD_LOCAL_RANK",
        "HOROVOD_LOCAL_SIZE",
        "HOROVOD_CROSS_RANK",
        "HOROVOD_CROSS_SIZE",
        "HOROVOD_HOSTNAME",
        "HOROVOD_CONTROLLER",
        "HOROVOD_CPU_OPERATIONS",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR",
        "HOROVOD_GLOO_RENDEZVOUS_PORT",
        "HOROVOD_GLOO_IFACE",
        "HOROVOD_ELASTIC",
    }
)
"""What a job may not set itself. Horovod's tunables (``HOROVOD_FUSION_THRESHOLD``, ``HOROVOD_TIMELINE``) are free."""


class Host(NamedTuple):
    """A host (here a simulated node) and how many processes it takes."""

    name: str
    slots: int


class Slot(NamedTuple):
    """One rank's place, as Horovod's ``SlotInfo``."""

    hostname: str
    rank: int
    local_rank: int
    cross_rank: int
    size: int
    local_size: int
    cross_size: int

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


def hosts_of(distribution: Horovod) -> tuple[Host, ...]:
    """The hosts of a job: ``node-0``, ``node-1`` … with ``processes_per_node`` slots each."""
    return tuple(Host(f"node-{index}", distribution.processes_per_node) for index in range(distribution.nodes))


def assign(hosts: Sequence[Host], size: int | None = None) -> tuple[Slot, ...]:
    """Places for ``size`` ranks (default: every slot), in rank order.

    Args:
        hosts: Hosts in the order in which they are filled; hosts without slots are passed over.
        size: How many ranks there are.

    Raises:
        ValueError: More ranks than slots, or fewer than one.
    """
    total = sum(host.slots for host in hosts)
    wanted = total if size is None else size
    if not 1 <= wanted <= total:
        raise ValueError(f"{wanted} ranks asked for on hosts with {total} slots")
    places: list[tuple[str, int, int]] = []
    local_sizes: list[int] = []
    cross_sizes: dict[int, int] = {}
    for host in hosts:
        taken = min(host.slots, wanted - len(places))
        for local_rank in range(taken):
            places.append((host.name, local_rank, cross_sizes.get(local_rank, 0)))
            local_sizes.append(taken)
            cross_sizes[local_rank] = cross_sizes.get(local_rank, 0) + 1
    return tuple(
        Slot(
            hostname=hostname,
            rank=rank,
            local_rank=local_rank,
            cross_rank=cross_rank,
            size=wanted,
            local_size=local_sizes[rank],
            cross_size=cross_sizes[local_rank],
        )
        for rank, (hostname, local_rank, cross_rank) in enumerate(places)
    )


def hostfile(hosts: Iterable[Host], style: Literal["openmpi", "mpich"] = "openmpi") -> str:
    """The text of a hostfile: ``node-0 slots=2`` (Open MPI) or ``node-0:2`` (MPICH, Intel MPI), a line each host."""
    line = "{0} slots={1}\n" if style == "openmpi" else "{0}:{1}\n"
    return "".join(line.format(host.name, host.slots) for host in hosts if host.slots > 0)


def rank_environment(slot: Slot, controller: Controller = "gloo") -> dict[str, str]:
    """Environment variables that tell one process its rank.

    With ``gloo`` the rendezvous' address, port and interface are placeholders. With ``mpi`` only the controller is
    named: ranks come from ``mpirun``.
    """
    if controller == "mpi":
        return {"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi"}
    return {
        "HOROVOD_RANK": str(slot.rank),
        "HOROVOD_SIZE": str(slot.size),
        "HOROVOD_LOCAL_RANK": str(slot.local_rank),
        "HOROVOD_LOCAL_SIZE": str(slot.local_size),
        "HOROVOD_CROSS_RANK": str(slot.cross_rank),
        "HOROVOD_CROSS_SIZE": str(slot.cross_size),
        "HOROVOD_HOSTNAME": slot.hostname,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": RENDEZVOUS_HOST,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": RENDEZVOUS_PORT,
        "HOROVOD_GLOO_IFACE": RENDEZVOUS_IFACE,
    }


def elastic_environment() -> dict[str, str]:
    """What every worker of an elastic job is told by the plan; the rest, its rank included, comes from the driver."""
    return {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo", "HOROVOD_ELASTIC": "1"}
