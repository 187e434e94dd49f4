"""Arguments of :class:`~pulumi_tfjobs.sdk.clusters.addons.GpuAddons`, as values with a shape of their own.

Names and numbers of things are plain: they decide which resources there are, so a preview has to know them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pulumi

from pulumi_tfjobs.sdk.types import KubernetesTarget, _Value


@dataclass(frozen=True)
class Addon(_Value):
    """Something that is installed into the cluster from manifests.

    Args:
        enabled: Whether it is installed. False where the cluster has it already (default True).
        version: Another version than the one that our tests run against.
        manifest: Address or path of other manifests, for a cluster without a way out.
    """

    enabled: bool = True
    version: str | None = None
    manifest: str | None = None


@dataclass(frozen=True)
class DevicePlugin(_Value):
    """NVIDIA's device plugin, by its Helm chart: it makes GPUs a resource that pods can ask for.

    Args:
        enabled: Whether it is installed. False where the cluster has it, or the GPU operator (default True).
        version: Another version of the chart.
        namespace: Where it runs (default ``"kube-system"``).
        node_labels: Run it only on nodes that have all of these labels. Default: nodes that are known to have a GPU.
        tolerations: Further taints that it tolerates, in Kubernetes' own form.
        values: Helm values, merged over ours.
    """

    enabled: bool = True
    version: str | None = None
    namespace: str = "kube-system"
    node_labels: Mapping[str, str] | None = None
    tolerations: Sequence[Mapping[str, Any]] | None = None
    values: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Kubeflow(_Value):
    """Kubeflow's operators, for targets with ``engine="kubeflow"``. One of them: each brings its own MPIJob.

    Args:
        training_operator: TFJob v1 and MPIJob v1 (default False).
        mpi_operator: MPIJob v2beta1 (default False).
        training_operator_version: Another version than ours.
        mpi_operator_version: Another version than ours.
    """

    training_operator: bool = False
    mpi_operator: bool = False
    training_operator_version: str | None = None
    mpi_operator_version: str | None = None


@dataclass(frozen=True)
class Subject(_Value):
    """Somebody who may submit jobs, as RBAC calls them.

    Args:
        name: Name of the user, group or service account.
        type: ``"User"`` (default), ``"Group"`` or ``"ServiceAccount"``.
        namespace: Of a service account (default: the one that it submits to).
    """

    name: pulumi.Input[str]
    type: Literal["User", "Group", "ServiceAccount"] = "User"
    namespace: pulumi.Input[str] | None = None


@dataclass(frozen=True)
class SharedStorage(_Value):
    """A claim that all pods of a namespace can write to: outputs, checkpoints, event files.

    Args:
        size: Such as ``"500Gi"`` (default ``"100Gi"``).
        storage_class: A class that provides ReadWriteMany. Default: the cluster's default class; ``""``: none, for a
            volume that is there.
        claim: Name of the claim (default ``"tfjobs-runs"``).
        volume_name: A volume that is there and is to be bound.
        access_modes: Default ``["ReadWriteMany"]``.
        protect: Whether Pulumi refuses to delete it, and so what runs have kept (default False).
    """

    size: pulumi.Input[str] = "100Gi"
    storage_class: pulumi.Input[str] | None = None
    claim: str = "tfjobs-runs"
    volume_name: pulumi.Input[str] | None = None
    access_modes: Sequence[str] = ("ReadWriteMany",)
    protect: bool = False


@dataclass(frozen=True)
class JobNamespace(_Value):
    """A namespace that jobs run in.

    Args:
        name: Of the namespace.
        create: Whether it is made. False where it is there (default True).
        labels: Further labels.
        annotations: Annotations.
        pod_security: Level of Pod Security Admission that is enforced (default ``"baseline"``, which forbids folders of
            the node and privileged pods; ``""``: none of ours).
        service_account: Name of the pods' service account, which is made without any permission (default ``"tfjobs"``).
        service_account_annotations: For example of a cloud's workload identity.
        submitters: Who may submit jobs here, beside the service account ``tfjobs-submitter``.
        storage: Of this namespace; default: the component's.
    """

    name: str
    create: bool = True
    labels: Mapping[str, pulumi.Input[str]] | None = None
    annotations: Mapping[str, pulumi.Input[str]] | None = None
    pod_security: str = "baseline"
    service_account: str = "tfjobs"
    service_account_annotations: Mapping[str, pulumi.Input[str]] | None = None
    submitters: Sequence[Subject] = ()
    storage: SharedStorage | None = None


@dataclass(frozen=True)
class Flavor(_Value):
    """Nodes of a kind, as Kueue's ResourceFlavor: quotas are given by flavor.

    Args:
        name: Such as ``"a100"``.
        node_labels: Labels of these nodes; admitted pods get them as node selector.
        taints: Taints of these nodes, in Kubernetes' own form; only jobs that tolerate them are admitted.
        tolerations: What admitted pods are given to tolerate.
    """

    name: str
    node_labels: Mapping[str, pulumi.Input[str]] | None = None
    taints: Sequence[Mapping[str, Any]] | None = None
    tolerations: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Quota(_Value):
    """How much of a flavor a queue may use.

    Args:
        flavor: Name of the flavor.
        gpus: Number of GPUs (default 0: replicas without GPU only).
        cpu: CPUs, such as ``"64"``. Default: no limit.
        memory: Such as ``"512Gi"``. Default: no limit.
        gpu_resource: What a GPU of it is called. Default: the component's.
        borrowing_limit: The most GPUs that are borrowed from the cohort. Default: what the others leave.
        lending_limit: The most GPUs that are lent to it. Default: all.
    """

    flavor: str
    gpus: pulumi.Input[int] = 0
    cpu: pulumi.Input[str] | None = None
    memory: pulumi.Input[str] | None = None
    gpu_resource: str | None = None
    borrowing_limit: pulumi.Input[int] | None = None
    lending_limit: pulumi.Input[int] | None = None


@dataclass(frozen=True)
class Queue(_Value):
    """A queue: Kueue's ClusterQueue, and a LocalQueue of the same name in each of its namespaces.

    Args:
        name: What targets name as their ``queue``.
        quotas: By flavor, in the order in which flavors are tried.
        namespaces: Which namespaces may use it. Default: all of the component's.
        cohort: Queues of the same cohort lend each other what they do not use.
        strategy: ``"BestEffortFIFO"`` (default) or ``"StrictFIFO"``: a job that does not fit holds up those behind it.
        preempt: Whether a job of higher priority takes the place of one of lower (default True).
        reclaim: Whether what was lent is taken back by preemption (default True).
    """

    name: str
    quotas: Sequence[Quota]
    namespaces: Sequence[str] | None = None
    cohort: str | None = None
    strategy: Literal["BestEffortFIFO", "StrictFIFO"] = "BestEffortFIFO"
    preempt: bool = True
    reclaim: bool = True


@dataclass(frozen=True)
class WorkloadPriority(_Value):
    """Kueue's WorkloadPriorityClass: who is admitted first, without a say in where pods go.

    Args:
        name: What targets name as their ``workload_priority``.
        value: Higher is first.
        description: What it is for.
    """

    name: str
    value: pulumi.Input[int]
    description: pulumi.Input[str] | None = None


@dataclass(frozen=True)
class PodPriority(_Value):
    """Kubernetes' PriorityClass: which pods the scheduler places first.

    Args:
        name: What targets name as their ``priority_class``.
        value: Higher is first; below 1,000,000,000.
        preemption: Whether pods of lower priority are removed for it (default False).
        description: What it is for.
    """

    name: str
    value: pulumi.Input[int]
    preemption: bool = False
    description: pulumi.Input[str] | None = None


class GpuAddonsArgs(TypedDict, total=False):
    """Arguments of GpuAddons.

    Args:
        kubeconfig: Path of a kubeconfig, or its content (kept as a secret), for the target and, where the options name
            no provider of Kubernetes, for what is installed. Default: as ``kubectl`` finds it.
        context: The kubeconfig's context. Default: its current one.
        namespaces: Where jobs run. Default: one, ``"tfjobs"``.
        device_plugin: NVIDIA's device plugin.
        jobset: JobSet, which the target's default engine needs.
        kueue: Kueue, which ``queues`` need.
        kubeflow: Kubeflow's operators (default: none).
        flavors: Kinds of nodes.
        queues: Queues with their quotas. Default: none, and jobs start whenever there is room.
        workload_priorities: Kueue's priority classes.
        pod_priorities: Kubernetes' priority classes.
        storage: A shared claim in each namespace. Default: none.
        gpu_resource: What a GPU is called (default ``"nvidia.com/gpu"``).
        tolerations: Taints that the target's pods tolerate.
        node_selector: Labels that the target's nodes must have.
        target: Further options of the targets; they win over what the component knows.
    """

    kubeconfig: pulumi.Input[str] | None
    context: pulumi.Input[str] | None
    namespaces: Sequence[JobNamespace] | None
    device_plugin: DevicePlugin | bool | None
    jobset: Addon | bool | None
    kueue: Addon | bool | None
    kubeflow: Kubeflow | None
    flavors: Sequence[Flavor] | None
    queues: Sequence[Queue] | None
    workload_priorities: Sequence[WorkloadPriority] | None
    pod_priorities: Sequence[PodPriority] | None
    storage: SharedStorage | None
    gpu_resource: str | None
    tolerations: Sequence[Mapping[str, Any]] | None
    node_selector: Mapping[str, pulumi.Input[str]] | None
    target: KubernetesTarget | None
