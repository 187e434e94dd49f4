"""What a workload asks of a cluster: its pods by kind, from the object itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.kubernetes.engines import ENGINES
from pulumi_tfjobs.targets.kubernetes.members import groups
from pulumi_tfjobs.targets.kubernetes.objects import Request, Source
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.packing import Need
from pulumi_tfjobs.targets.kubernetes.quantities import THOUSAND, of_pod

_EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"


def workload_of(options: Options, plan: LaunchPlan) -> dict[str, Any]:
    """The workload as it would be made for the plan, but for its source and secrets, which take no room."""
    request = Request(
        options=options,
        plan=plan,
        run_id=plan.run_id,
        attempt=1,
        python=options.python,
        source=Source("image", digest=""),
        boot=b"",
    )
    return ENGINES[options.engine].objects(request)[-1]


def needs_of(workload: Mapping[str, Any]) -> tuple[Need, ...]:
    """The pods of a JobSet, TFJob or MPIJob."""
    annotations = (workload.get("metadata") or {}).get("annotations") or {}
    return tuple(_need(kind, count, spec, annotations) for kind, count, spec in _templates(workload))


def needs_of_plan(options: Options, plan: LaunchPlan) -> tuple[Need, ...]:
    """The pods that a plan would have. ``slots`` of each: its GPUs, or without GPUs its replicas that take a slot."""
    slots = {group.type: group.slots for group in groups(plan)}
    return tuple(
        need._replace(
            slots=need.request.get(options.gpu_resource, 0) // THOUSAND if plan.use_gpu else slots.get(need.type, 0)
        )
        for need in needs_of(workload_of(options, plan))
    )


def _templates(workload: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Replica type, number of pods, and their spec."""
    spec = workload.get("spec") or {}
    for job in spec.get("replicatedJobs") or ():
        inner = (job.get("template") or {}).get("spec") or {}
        count = int(job.get("replicas", 1)) * int(inner.get("parallelism", 1))
        yield str(job.get("name")), count, (inner.get("template") or {}).get("spec") or {}
    for kind, item in {**(spec.get("tfReplicaSpecs") or {}), **(spec.get("mpiReplicaSpecs") or {})}.items():
        yield kind.lower(), int(item.get("replicas", 1)), (item.get("template") or {}).get("spec") or {}


def _need(kind: str, count: int, spec: Mapping[str, Any], annotations: Mapping[str, str]) -> Need:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return Need(
        pods=count,
        request=of_pod(spec),
        selector=dict(spec.get("nodeSelector") or {}),
        tolerations=tuple(spec.get("tolerations") or ()),
        affinity=tuple(required.get("nodeSelectorTerms") or ()),
        limits={f"limits.{name}": value for name, value in of_pod(spec, "limits").items()},
        type=kind,
        apart=annotations.get(_EXCLUSIVE, ""),
    )
