"""Which replicas are in which pod, where they listen, and whose end decides. Pure."""

from __future__ import annotations

from typing import NamedTuple

from pulumi_tfjobs.spec.launch import LaunchPlan, ReplicaPlan

PORT = 2222
RENDEZVOUS_PORT = 29500  # of Horovod, in the first worker's pod
MEETING_PORT = 29501  # where pods wait for each other, in the pod of rank 0 (with mpirun, in the launcher's)
SSH_PORT = 29502  # by which mpirun reaches the workers

CONTAINER = "training"

LAUNCHER = "launcher"
# The bootstrap's words for what it is in a pod of an MPIJob: the one that runs mpirun, one that lends its processors to
# ranks, and such a rank itself; and one that only leaves the launcher's address there. Without a word it runs the pod's
# replicas.
LAUNCH = "launch"
LEND = "lend"
RANK = "rank"
CALL = "call"


class Group(NamedTuple):
    """The pods of one replica type; ``pods[i]`` are the replicas in pod i."""

    type: str
    pods: tuple[tuple[ReplicaPlan, ...], ...]

    @property
    def slots(self) -> int:
        """How many slots each of its pods takes, at most."""
        return max(sum(1 for replica in pod if replica.slot) for pod in self.pods)


def groups(plan: LaunchPlan) -> tuple[Group, ...]:
    """The pods by replica type, in the order of the plan. Horovod has a pod for each node, all else one for each
    replica."""
    found: dict[str, dict[int, list[ReplicaPlan]]] = {}
    for replica in plan.replicas:
        place = replica.node if plan.rendezvous is not None else replica.index
        found.setdefault(replica.type, {}).setdefault(place, []).append(replica)
    return tuple(Group(name, tuple(tuple(pods[place]) for place in sorted(pods))) for name, pods in found.items())


def place_of(plan: LaunchPlan, replica: str) -> tuple[str, int] | None:
    """Type and number of the pod that a replica (``worker-3``) is in; None where there is no such replica."""
    for group in groups(plan):
        for number, pod in enumerate(group.pods):
            if any(item.name == replica for item in pod):
                return group.type, number
    return None


def lead(plan: LaunchPlan) -> tuple[str, int]:
    """Type and number of the pod of rank 0: the others wait for it."""
    for group in groups(plan):
        for number, pod in enumerate(group.pods):
            if any(member.env.get("TFJOBS_RANK") == "0" for member in pod):
                return group.type, number
    first = groups(plan)[0]
    return first.type, 0


def deciding(plan: LaunchPlan) -> tuple[str, ...]:
    """The replica types whose success is the run's: the chief, else the workers; with ``all_workers`` both."""
    types = [group.type for group in groups(plan)]
    chiefs = [name for name in types if name in {"chief", "master"}]
    workers = [name for name in types if name == "worker"]
    if plan.success_policy == "all_workers":
        return (*chiefs, *workers)
    return tuple(chiefs or workers)


def decisive(plan: LaunchPlan) -> tuple[tuple[str, int], ...]:
    """Type and number of the pods whose good ends together are the run's: all of the types that decide, or without a
    chief the first worker's."""
    types = deciding(plan)
    if plan.success_policy != "all_workers" and types == ("worker",):
        return (("worker", 0),)
    found = (group for group in groups(plan) if group.type in types)
    return tuple((group.type, number) for group in found for number in range(len(group.pods)))
