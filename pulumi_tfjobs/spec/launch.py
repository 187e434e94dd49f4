"""The launch plan: exactly what a target will start. Pure data, JSON-able; preview shows it, a target runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# A replica's address is known only to the target (a free port here, a DNS name there). Where an environment value
# or an argument needs one, the plan holds this placeholder and the target puts the address in.
ADDRESS = "{{{{address:{type}:{index}}}}}"
# The members of the cluster within a TF_CONFIG: a thousand replicas would name all thousand of them, each.
CLUSTER = "{{tf_config:cluster}}"


def address(replica_type: str, index: int) -> str:
    """``{{address:worker:0}}``: replaced by the target with ``host:port`` of that replica."""
    return ADDRESS.format(type=replica_type, index=index)


@dataclass(frozen=True)
class ReplicaPlan:
    """One process to start.

    ``argv`` starts with ``{{python}}`` (the environment's interpreter, which the target fills in).
    ``env`` is merged over the user's variables and the target's own; values may hold address placeholders.
    ``needs_port``: the replica listens on a port of its own. ``slot``: whether it takes an accelerator/slot.
    ``decides``: part of the success policy (launchers and evaluators do not).
    """

    type: str
    index: int
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    node: int = 0
    local_rank: int = 0
    needs_port: bool = False
    slot: bool = True

    @property
    def name(self) -> str:
        return f"{self.type}-{self.index}"


@dataclass(frozen=True)
class Rendezvous:
    """How ranks find each other. ``gloo``: Horovod's rendezvous server with ``slots`` (one dict per rank: hostname,
    rank, local_rank, cross_rank, size, local_size, cross_size). ``mpi``: one mpirun starts all ``worker`` replicas.
    ``elastic``: Horovod's elastic driver starts them, and starts lost ones again, as long as ``min_workers`` live: as
    many as ``world_size`` at first, then up to ``max_workers``, each a host of its own to Horovod."""

    kind: Literal["gloo", "mpi", "elastic"]
    slots: tuple[dict[str, Any], ...] = ()
    min_workers: int = 0
    max_workers: int = 0


@dataclass(frozen=True)
class LaunchPlan:
    """Everything a target needs to start a run, less secrets and addresses.

    ``replicas`` are all that there can be at once; of an elastic job, ``world_size`` of them are there at the start.
    ``env`` applies to every replica. ``success_policy`` is ``default`` (chief, else worker 0) or ``all_workers``.
    Durations are seconds. ``software`` is the environment in a few words, to be shown. ``retries``: how often the
    target starts a failed group again, where the failure is one of ``retry_on``; ``ps_restarts``: how often each
    parameter server alone. ``priority``: higher goes first in the target's queue. ``max_log_bytes``: the most that one
    replica's log takes. ``resume_from``: id of the run whose checkpoints it begins with. ``cluster``: what
    :data:`CLUSTER` stands for in values of ``env``, with address placeholders of its own; empty where there is none.
    """

    run_id: str
    job: str
    digest: str
    replicas: tuple[ReplicaPlan, ...]
    world_size: int
    env: dict[str, str] = field(default_factory=dict)
    hostfile: str = ""
    rendezvous: Rendezvous | None = None
    success_policy: Literal["default", "all_workers"] = "default"
    max_run_duration_seconds: float | None = None
    stop_grace_seconds: float = 10.0
    use_gpu: bool = False
    software: str = ""
    retries: int = 0
    retry_on: tuple[str, ...] = ("infrastructure",)
    retry_backoff_seconds: float = 10.0
    ps_restarts: int = 0
    priority: int = 0
    max_log_bytes: int = 256 * 1024 * 1024
    resume_from: str = ""
    cluster: str = ""

    def tf_config(self, replica: ReplicaPlan) -> str:
        """The replica's TF_CONFIG, addresses still to be put in; empty where it has none."""
        return replica.env.get("TF_CONFIG", "").replace(CLUSTER, self.cluster)

    @property
    def slots(self) -> int:
        """How many slots the run takes while it runs."""
        return sum(1 for replica in self.replicas if replica.slot)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def launch_plan_from_json(data: dict[str, Any]) -> LaunchPlan:
    """The inverse of :meth:`LaunchPlan.to_json`."""
    rendezvous = data.get("rendezvous")
    return LaunchPlan(
        **{
            **data,
            "replicas": tuple(
                ReplicaPlan(**{**replica, "argv": tuple(replica["argv"])}) for replica in data["replicas"]
            ),
            "rendezvous": None
            if rendezvous is None
            else Rendezvous(**{**rendezvous, "slots": tuple(rendezvous["slots"])}),
            "retry_on": tuple(data.get("retry_on", ("infrastructure",))),
        }
    )
