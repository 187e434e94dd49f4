"""From a spec to a launch plan: replicas, their ranks and roles, arguments and environment."""

from __future__ import annotations

from typing import Literal

from pulumi_tfjobs.spec import horovod, tf_config
from pulumi_tfjobs.spec.launch import LaunchPlan, Rendezvous, ReplicaPlan
from pulumi_tfjobs.spec.model import Horovod, JobSpec, MultiWorker, ParameterServer, Single
from pulumi_tfjobs.spec.software import framework_text
from pulumi_tfjobs.spec.validate import input_variable, substitute

PYTHON = "{{python}}"

# The order in which ranks are counted: the chief leads, as TensorFlow's own cluster resolvers have it.
_RANKED = (tf_config.CHIEF, tf_config.WORKER)
_NAMES = {
    "chief": "chief",
    "worker": "worker",
    "ps": "parameter server",
    "evaluator": "evaluator",
}


def build_plan(spec: JobSpec, run_id: str | None = None) -> LaunchPlan:
    """What a target starts for this spec.

    ``run_id``: where the run has one already (a renamed job keeps it); default the spec's own. A spec with unknown
    values gives a plan that can be shown and not launched: its digest, and the run id where none is given, are empty.

    ``env`` holds the user's variables less the secret ones, which the target gets by another way.
    """
    digest = "" if spec.unknown else spec.digest
    name = run_id or ("" if spec.unknown else spec.run_id)
    hosts = horovod.hosts_of(spec.distribution) if isinstance(spec.distribution, Horovod) else ()
    elastic = isinstance(spec.distribution, Horovod) and spec.distribution.elastic
    if elastic:
        replicas = _elastic(spec)
        size = sum(host.slots for host in hosts)
    else:
        replicas = _horovod(spec) if isinstance(spec.distribution, Horovod) else _roles(spec)
        size = sum(1 for replica in replicas if replica.type in _RANKED)
    variables = {key: text for key, text in spec.environment_variables.items() if key not in spec.secret_variables}
    return LaunchPlan(
        run_id=name,
        job=spec.name,
        digest=digest,
        replicas=replicas,
        world_size=size,
        env={
            # Without it, a line of progress is seen when a buffer is full, and the last lines of a crash are lost.
            "PYTHONUNBUFFERED": "1",
            **variables,
            **{input_variable(item.name): item.path for item in spec.inputs},
            "TFJOBS_RUN_ID": name,
            "TFJOBS_JOB": spec.name,
            **({} if elastic else {"TFJOBS_WORLD_SIZE": str(size)}),  # elastic: it changes, and hvd.size() tells
        },
        hostfile=horovod.hostfile(hosts),
        rendezvous=_rendezvous(spec),
        success_policy=_policy(spec),
        max_run_duration_seconds=spec.max_run_duration_seconds,
        stop_grace_seconds=spec.stop_grace_seconds,
        use_gpu=spec.use_gpu,
        software=framework_text(spec.environment),
        retries=spec.retries,
        retry_on=spec.retry_on,
        retry_backoff_seconds=spec.retry_backoff_seconds,
        ps_restarts=spec.parameter_server_restarts,
        priority=spec.priority,
        max_log_bytes=spec.max_log_bytes,
        resume_from=spec.resume_from,
        cluster=tf_config.cluster_text(spec.distribution),
    )


def preview_summary(plan: LaunchPlan, *, software: bool = True) -> str:
    """The plan in a line: ``2 workers (Horovod, Gloo), 2 slots, tensorflow-cpu 2.15.1``, the last part if asked for."""
    counts: dict[str, int] = {}
    for replica in plan.replicas:
        counts[replica.type] = counts.get(replica.type, 0) + 1
    members = ", ".join(_count(number, _NAMES.get(name, name)) for name, number in counts.items())
    if plan.rendezvous is not None and plan.rendezvous.kind == "elastic":
        low, high = plan.rendezvous.min_workers, plan.rendezvous.max_workers
        members = _count(high, "worker") if low == high else f"{low}–{high} workers"
        members += " (Horovod elastic, Gloo)"
    elif plan.rendezvous is not None:
        members += f" (Horovod, {'Gloo' if plan.rendezvous.kind == 'gloo' else 'MPI'})"
    elif len(plan.replicas) == 1:
        members = "1 process"
    slots = _count(plan.slots, "GPU" if plan.use_gpu else "slot")
    return ", ".join(part for part in (members, slots, plan.software if software else "") if part)


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _policy(spec: JobSpec) -> Literal["default", "all_workers"]:
    # A collective has no member that could be missed, so that each of them decides.
    collective = isinstance(spec.distribution, Horovod | MultiWorker)
    return "all_workers" if collective else spec.success_policy


def _argv(spec: JobSpec) -> tuple[str, ...]:
    where = {item.name: item.path for item in spec.inputs}
    texts = [text for flag, values in spec.script_params for text in (flag, *values)]
    return (PYTHON, spec.entry_script, *(substitute(text, where) for text in (*texts, *spec.arguments)))


def _common(replica_type: str, index: int, rank: int | None) -> dict[str, str]:
    env = {"TFJOBS_REPLICA_TYPE": replica_type, "TFJOBS_REPLICA_INDEX": str(index)}
    return env if rank is None else {**env, "TFJOBS_RANK": str(rank)}


def _horovod(spec: JobSpec) -> tuple[ReplicaPlan, ...]:
    assert isinstance(spec.distribution, Horovod)
    hosts = horovod.hosts_of(spec.distribution)
    nodes = {host.name: number for number, host in enumerate(hosts)}
    return tuple(
        ReplicaPlan(
            type=tf_config.WORKER,
            index=slot.rank,
            argv=_argv(spec),
            env={
                **_common(tf_config.WORKER, slot.rank, slot.rank),
                **horovod.rank_environment(slot, spec.distribution.controller),
            },
            node=nodes[slot.hostname],
            local_rank=slot.local_rank,
        )
        for slot in horovod.assign(hosts)
    )


def _elastic(spec: JobSpec) -> tuple[ReplicaPlan, ...]:
    """As many workers as there can be at once. Their ranks change, so that only Horovod's driver can tell them."""
    assert isinstance(spec.distribution, Horovod)
    return tuple(
        ReplicaPlan(
            type=tf_config.WORKER,
            index=index,
            argv=_argv(spec),
            env={**_common(tf_config.WORKER, index, None), **horovod.elastic_environment()},
            node=index // spec.distribution.processes_per_node,
        )
        for index in range(spec.distribution.max_workers or 0)
    )


def _roles(spec: JobSpec) -> tuple[ReplicaPlan, ...]:
    """Replicas that know their role by TF_CONFIG, parameter servers first: workers wait for them."""
    counts = tf_config.replica_counts(spec.distribution) or {tf_config.WORKER: 1}
    clustered = bool(tf_config.cluster(spec.distribution))
    taken, slots = [0] * spec.nodes, [0] * spec.nodes
    replicas = []
    for replica_type, count in counts.items():
        first = counts.get(tf_config.CHIEF, 0) if replica_type == tf_config.WORKER else 0
        for index in range(count):
            rank = first + index if replica_type in _RANKED else None
            # Ranks go round the nodes; what has no rank goes to where least is.
            node = rank % spec.nodes if rank is not None else taken.index(min(taken))
            env = _common(replica_type, index, rank)
            slot = replica_type != tf_config.PS  # it uses no accelerator
            config = tf_config.tf_config(spec.distribution, replica_type, index)
            if config:
                env["TF_CONFIG"] = config
            replicas.append(
                ReplicaPlan(
                    type=replica_type,
                    index=index,
                    argv=_argv(spec),
                    env=env,
                    node=node,
                    local_rank=slots[node] if slot else 0,
                    needs_port=clustered and replica_type != tf_config.EVALUATOR,
                    slot=slot,
                )
            )
            taken[node] += 1
            slots[node] += slot
    return tuple(replicas)


def _rendezvous(spec: JobSpec) -> Rendezvous | None:
    distribution = spec.distribution
    assert isinstance(distribution, Single | Horovod | ParameterServer | MultiWorker)
    if not isinstance(distribution, Horovod):
        return None
    if distribution.elastic:
        return Rendezvous(
            kind="elastic", min_workers=distribution.min_workers or 0, max_workers=distribution.max_workers or 0
        )
    slots = horovod.assign(horovod.hosts_of(distribution))
    return Rendezvous(kind=distribution.controller, slots=tuple(slot.to_json() for slot in slots))
