"""The component GpuAddons: what an existing cluster needs for training jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pulumi
from typing_extensions import Unpack

from pulumi_tfjobs.sdk.clusters import access, installing, kueue
from pulumi_tfjobs.sdk.clusters.args import (
    Addon,
    DevicePlugin,
    Flavor,
    GpuAddonsArgs,
    JobNamespace,
    Kubeflow,
    PodPriority,
    Queue,
    SharedStorage,
    WorkloadPriority,
)
from pulumi_tfjobs.sdk.clusters.names import label
from pulumi_tfjobs.sdk.clusters.objects import KubernetesObject, after, kubernetes
from pulumi_tfjobs.sdk.clusters.taking import Taking
from pulumi_tfjobs.sdk.types import KubernetesTarget, Storage
from pulumi_tfjobs.spec import pins

GPU_ADDONS = "tfjobs:index:GpuAddons"
GPU = "nvidia.com/gpu"


class _Read:
    """The arguments, read and checked; what is wrong is in ``taking``."""

    def __init__(self, given: Mapping[str, Any], taking: Taking) -> None:
        found = taking.arguments(GpuAddonsArgs, given)
        self.kubeconfig: Any = found.get("kubeconfig")
        self.context: Any = found.get("context")
        self.namespaces = taking.many(JobNamespace, found.get("namespaces", [JobNamespace("tfjobs")]), "namespaces")
        self.plugin = taking.one(DevicePlugin, found.get("device_plugin", True), "device_plugin") or DevicePlugin()
        self.jobset = taking.one(Addon, found.get("jobset", True), "jobset") or Addon()
        self.kueue = taking.one(Addon, found.get("kueue", True), "kueue") or Addon()
        self.kubeflow = taking.one(Kubeflow, found.get("kubeflow", {}), "kubeflow") or Kubeflow()
        self.flavors = taking.many(Flavor, found.get("flavors", []), "flavors")
        self.queues = taking.many(Queue, found.get("queues", []), "queues")
        self.workload_priorities = taking.many(
            WorkloadPriority, found.get("workload_priorities", []), "workload_priorities"
        )
        self.pod_priorities = taking.many(PodPriority, found.get("pod_priorities", []), "pod_priorities")
        storage = found.get("storage")
        self.storage = None if storage is None else taking.one(SharedStorage, storage, "storage")
        self.gpu_resource: str = found.get("gpu_resource", GPU)
        self.tolerations: Sequence[Mapping[str, Any]] = found.get("tolerations", ())
        self.node_selector: Any = found.get("node_selector")
        target = found.get("target")
        self.target = None if target is None else taking.one(KubernetesTarget, target, "target")
        self._check(taking)

    def _check(self, taking: Taking) -> None:
        names = [item.name for item in self.namespaces]
        for index, item in enumerate(self.namespaces):
            taking.name(item.name, f"namespaces[{index}].name")
        priorities = {
            "workload_priorities": [item.name for item in self.workload_priorities],
            "pod_priorities": [item.name for item in self.pod_priorities],
        }
        for path, found in priorities.items():
            for index, name in enumerate(found):
                taking.name(name, f"{path}[{index}].name")
        if not names and not taking.problems:
            taking.problem("namespaces", "empty", "at least one JobNamespace", "leave it out for one named tfjobs")
        kueue.check(taking, self.flavors, self.queues, names)
        installing.check_operators(taking, self.kubeflow)

    def queue_of(self, namespace: str) -> str | None:
        """The first queue that a namespace may use."""
        return next((q.name for q in self.queues if q.namespaces is None or namespace in q.namespaces), None)


def check_addons(given: Mapping[str, Any], taking: Taking) -> None:
    """Note everything that is wrong with arguments of GpuAddons, without making anything."""
    _Read(given, taking)


class GpuAddons(pulumi.ComponentResource):
    """Makes an existing Kubernetes cluster ready for training jobs: NVIDIA's device plugin, JobSet, Kueue with queues
    and quotas, namespaces, permissions, priorities, shared storage.

    Attributes:
        target: Compute target of the first namespace: goes straight into a job.
        targets: Namespace -> its compute target.
        namespaces: The namespaces that jobs run in.
        queues: The queues.
        submitters: Namespace -> the service account in it that may submit jobs.
        versions: What was installed -> its version.
    """

    target: KubernetesTarget
    targets: dict[str, KubernetesTarget]
    namespaces: pulumi.Output[list[str]]
    queues: pulumi.Output[list[str]]
    submitters: pulumi.Output[dict[str, str]]
    versions: pulumi.Output[dict[str, str]]

    def __init__(
        self, resource_name: str, /, opts: pulumi.ResourceOptions | None = None, **args: Unpack[GpuAddonsArgs]
    ) -> None:
        """``args`` are those of :class:`~pulumi_tfjobs.sdk.clusters.args.GpuAddonsArgs`.

        ``opts`` are Pulumi's; name the cluster's provider there. Raises InvalidComponent with everything that is wrong.
        """
        taking = Taking()
        read = _Read(args, taking)
        taking.done()
        super().__init__(GPU_ADDONS, resource_name, {}, opts)
        self._name = resource_name
        self._read = read
        self._deleted_with = opts.deleted_with if opts is not None else None
        self._provider = self._own_provider(opts)
        versions = self._install()
        self._ready: dict[str, list[pulumi.Resource]] = {}
        self._prepare()
        self._queues()
        self.targets = {item.name: self.target_for(item.name) for item in read.namespaces}
        self.target = next(iter(self.targets.values()))
        self.namespaces = pulumi.Output.from_input([item.name for item in read.namespaces])
        self.queues = pulumi.Output.from_input([item.name for item in read.queues])
        self.submitters = pulumi.Output.from_input({item.name: access.SUBMITTER for item in read.namespaces})
        self.versions = pulumi.Output.from_input(versions)
        self.register_outputs(self.outputs())

    def outputs(self) -> Mapping[str, Any]:
        """Every output by its camelCase name."""
        return {
            "target": self.target.to_inputs(),
            "targets": {name: target.to_inputs() for name, target in self.targets.items()},
            "namespaces": self.namespaces,
            "queues": self.queues,
            "submitters": self.submitters,
            "versions": self.versions,
        }

    def target_for(self, namespace: str, **options: Any) -> KubernetesTarget:
        """The compute target of a namespace, with further options of it. KeyError: there is no such namespace."""
        read = self._read
        found = {item.name: item for item in read.namespaces}[namespace]
        storage = found.storage or read.storage
        kubeconfig = read.kubeconfig
        target = KubernetesTarget(
            name=self._name,
            kubeconfig=None if kubeconfig is None else pulumi.Output.secret(kubeconfig),
            context=read.context,
            namespace=after(self._ready[namespace], namespace),
            service_account=found.service_account,
            queue=read.queue_of(namespace),
            gpu_resource=None if read.gpu_resource == GPU else read.gpu_resource,
            tolerations=list(read.tolerations) or None,
            node_selector=read.node_selector,
            storage=None if storage is None else Storage(claim=storage.claim),
        )
        if read.target is not None:
            given = {item.name: getattr(read.target, item.name) for item in fields(read.target)}
            target = replace(target, **{name: value for name, value in given.items() if value is not None})
        return replace(target, **options)

    # What is made

    def _own_provider(self, opts: pulumi.ResourceOptions | None) -> pulumi.ProviderResource | None:
        """A provider for the given kubeconfig, unless the options name one."""
        read = self._read
        if read.kubeconfig is None and read.context is None:
            return None
        given = [opts.provider] if opts is not None and opts.provider is not None else []
        providers = (opts.providers if opts is not None else None) or []
        given += list(providers.values()) if isinstance(providers, Mapping) else (
            [providers] if isinstance(providers, pulumi.ProviderResource) else list(providers)
        )  # fmt: skip
        if any(provider.package == "kubernetes" for provider in given):
            return None
        kubeconfig = None if read.kubeconfig is None else pulumi.Output.secret(read.kubeconfig)
        provider: pulumi.ProviderResource = kubernetes().Provider(
            f"{self._name}-cluster",
            kubeconfig=kubeconfig,
            context=read.context,
            opts=pulumi.ResourceOptions(parent=self),
        )
        return provider

    def _options(
        self, depends_on: Sequence[pulumi.Resource] = (), *, protect: bool | None = None
    ) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self,
            provider=self._provider,
            depends_on=list(depends_on),
            deleted_with=self._deleted_with,
            protect=protect,
        )

    def _object(
        self, logical: str, manifest: Mapping[str, Any], *depends_on: pulumi.Resource, protect: bool | None = None
    ) -> KubernetesObject:
        return KubernetesObject(f"{self._name}-{logical}", manifest, self._options(depends_on, protect=protect))

    def _install(self) -> dict[str, str]:
        read, versions = self._read, {}
        self._engines: list[pulumi.Resource] = []
        if read.plugin.enabled:
            versions["nvidia-device-plugin"] = read.plugin.version or pins.NVIDIA_DEVICE_PLUGIN
            name = f"{self._name}-device-plugin"
            installing.device_plugin(name, read.plugin, read.tolerations, self._options())
        if read.jobset.enabled:
            versions["jobset"] = read.jobset.version or pins.JOBSET
            name = f"{self._name}-jobset"
            self._engines.append(
                installing.manifests(name, read.jobset, pins.jobset_manifest, pins.JOBSET, self._options())
            )
        self._engines += installing.operators(self._name, read.kubeflow, self._options)
        if read.kubeflow.training_operator:
            versions["training-operator"] = read.kubeflow.training_operator_version or pins.TRAINING_OPERATOR
        if read.kubeflow.mpi_operator:
            versions["mpi-operator"] = read.kubeflow.mpi_operator_version or pins.MPI_OPERATOR
        self._kueue: list[pulumi.Resource] = []
        if read.kueue.enabled:
            # It takes over the kinds of jobs that it finds when it starts.
            versions["kueue"] = read.kueue.version or pins.KUEUE
            name, opts = f"{self._name}-kueue", self._options(self._engines)
            self._kueue.append(installing.manifests(name, read.kueue, pins.kueue_manifest, pins.KUEUE, opts))
        return versions

    def _prepare(self) -> None:
        read, found = self._read, access.permissions()
        # Without them a job is refused, or worse: their webhooks, once registered, let nothing pass until they serve.
        controllers = [*self._engines, *self._kueue]
        bindings: list[pulumi.Resource] = []
        if access.rules(found, cluster_wide=True):
            # Its name is the component's: two components in one cluster must not take it from each other.
            name = f"{access.SUBMITTER}-{label(self._name, 63)}"
            self._object("submitter", access.cluster_role(name, found))
            bindings.append(self._object("submitters", access.cluster_role_binding(name, read.namespaces)))
        for item in read.namespaces:
            made = [self._object(f"{item.name}-namespace", access.namespace(item))] if item.create else []
            storage = item.storage or read.storage
            ready: list[pulumi.Resource] = [
                *made,
                *controllers,
                *bindings,
                self._object(f"{item.name}-account", access.job_account(item), *made),
                self._object(f"{item.name}-submitter-account", access.submitter_account(item.name), *made),
                self._object(f"{item.name}-submitter", access.role(item.name, found), *made),
                self._object(f"{item.name}-submitters", access.role_binding(item), *made),
            ]
            if storage is not None:
                claim = access.claim(storage, item.name)
                ready.append(self._object(f"{item.name}-storage", claim, *made, protect=storage.protect or None))
            self._ready[item.name] = ready
        for priority in read.pod_priorities:
            made = [self._object(f"{priority.name}-pod-priority", access.pod_priority(priority))]
            for ready in self._ready.values():
                ready.extend(made)

    def _queues(self) -> None:
        read = self._read
        flavors = {
            item.name: self._object(f"{item.name}-flavor", kueue.flavor(item), *self._kueue) for item in read.flavors
        }
        priorities: list[pulumi.Resource] = [
            self._object(f"{item.name}-workload-priority", kueue.workload_priority(item), *self._kueue)
            for item in read.workload_priorities
        ]
        everywhere = [item.name for item in read.namespaces]
        for ready in self._ready.values():
            ready.extend(priorities)
        for item in read.queues:
            where = list(item.namespaces) if item.namespaces is not None else everywhere
            used = [flavors[quota.flavor] for quota in item.quotas]
            manifest = kueue.cluster_queue(item, where, read.gpu_resource)
            queue = self._object(f"{item.name}-queue", manifest, *self._kueue, *used)
            for name in where:
                spaces = self._ready[name][:1]
                local = self._object(f"{name}-{item.name}-queue", kueue.local_queue(item.name, name), queue, *spaces)
                self._ready[name].append(local)
