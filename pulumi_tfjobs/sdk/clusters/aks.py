"""The component AksGpuCluster: a GPU cluster on Azure, from nothing to a compute target."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pulumi
from typing_extensions import Unpack

from pulumi_tfjobs.sdk.clusters import aks_pools, aks_storage
from pulumi_tfjobs.sdk.clusters.addons import GpuAddons, check_addons
from pulumi_tfjobs.sdk.clusters.aks_args import (
    OWN,
    AksGpuClusterArgs,
    ContainerRegistry,
    Logs,
    Network,
    NodePool,
    RunStorage,
    SystemPool,
)
from pulumi_tfjobs.sdk.clusters.aks_base import (
    ACR_PULL,
    NETWORK_CONTRIBUTOR,
    STORAGE_BLOB_DATA_CONTRIBUTOR,
    Surroundings,
    check_names,
)
from pulumi_tfjobs.sdk.clusters.args import JobNamespace
from pulumi_tfjobs.sdk.clusters.names import AZURE_LENGTH, label
from pulumi_tfjobs.sdk.clusters.objects import KubernetesObject, kubernetes
from pulumi_tfjobs.sdk.clusters.taking import Taking
from pulumi_tfjobs.sdk.types import KubernetesTarget
from pulumi_tfjobs.spec import pins

AKS_GPU_CLUSTER = "tfjobs:index:AksGpuCluster"


class _Read:
    """The arguments, read and checked; raises InvalidComponent with all that is wrong."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        taking = Taking()
        found = taking.arguments(AksGpuClusterArgs, given)
        self.plain = {name: found.get(name) for name in OWN}
        if "pools" not in found:
            taking.problem("pools", "not given", "at least one NodePool", "say which VMs jobs run on")
        self.pools = taking.many(NodePool, found.get("pools", []), "pools")
        self.system = taking.one(SystemPool, found.get("system_pool", {}), "system_pool") or SystemPool()
        self.network = taking.one(Network, found.get("network", {}), "network") or Network()
        self.registry = taking.one(ContainerRegistry, found.get("registry", True), "registry") or ContainerRegistry()
        self.storage = taking.one(RunStorage, found.get("run_storage", True), "run_storage") or RunStorage()
        self.logs = taking.one(Logs, found.get("logs", True), "logs") or Logs()
        self.with_addons: bool = found.get("addons", True)
        self.addons = {name: value for name, value in found.items() if name not in OWN}
        self.namespaces = list(
            taking.many(JobNamespace, self.addons.get("namespaces", [JobNamespace("tfjobs")]), "namespaces")
        )
        target = self.addons.get("target")
        self.target = None if target is None else taking.one(KubernetesTarget, target, "target")
        for name in ("kubeconfig", "context"):
            if name in self.addons:
                taking.problem(
                    name, "given", "nothing: the component makes the cluster", "use GpuAddons, or leave it out"
                )
        aks_pools.check(taking, self.pools, self.system)
        aks_storage.check(taking, self.storage)
        check_names(taking, self.plain["resource_group_name"], self.plain["cluster_name"])
        if not taking.problems:
            self._complete()
            check_addons({**self.addons, "namespaces": self.namespaces}, taking)
        taking.done()

    def _complete(self) -> None:
        """What GpuAddons is told of the pools, unless the program says it."""
        self.addons.setdefault("tolerations", aks_pools.tolerations(self.pools))
        self.addons.setdefault("flavors", [aks_pools.flavor(pool) for pool in aks_pools.in_order(self.pools)])
        self.addons.setdefault("queues", [aks_pools.queue(self.pools)])
        if (chosen := aks_pools.selector(self.pools)) is not None:
            self.addons.setdefault("node_selector", chosen)


class AksGpuCluster(pulumi.ComponentResource):
    """A GPU cluster on Azure Kubernetes Service, with node pools that grow from 0, a registry, storage for runs, logs,
    and what jobs need in it (GpuAddons).

    Attributes:
        target: Compute target of the first namespace: goes straight into a job.
        targets: Namespace -> its compute target.
        kubeconfig: Of the cluster (secret).
        cluster_name: Name of the AKS cluster.
        cluster_id: Its resource id.
        resource_group_name: Its resource group.
        node_resource_group: AKS' own resource group, of the nodes.
        oidc_issuer_url: For federated credentials of workload identities.
        kubelet_client_id: Client id of the nodes' identity.
        jobs_client_id: Client id of the identity that jobs' pods have.
        registry_server: Where images are pushed to (empty: no registry of ours).
        storage_account: Name of the account of the runs' storage (empty: none).
        log_workspace_id: Resource id of the Log Analytics workspace (empty: none).
    """

    target: KubernetesTarget
    targets: dict[str, KubernetesTarget]
    kubeconfig: pulumi.Output[str]
    cluster_name: pulumi.Output[str]
    cluster_id: pulumi.Output[str]
    resource_group_name: pulumi.Output[str]
    node_resource_group: pulumi.Output[str]
    oidc_issuer_url: pulumi.Output[str]
    kubelet_client_id: pulumi.Output[str]
    jobs_client_id: pulumi.Output[str]
    registry_server: pulumi.Output[str]
    storage_account: pulumi.Output[str]
    log_workspace_id: pulumi.Output[str]

    addons: GpuAddons | None

    def __init__(
        self, resource_name: str, /, opts: pulumi.ResourceOptions | None = None, **args: Unpack[AksGpuClusterArgs]
    ) -> None:
        """``args`` are those of :class:`~pulumi_tfjobs.sdk.clusters.aks_args.AksGpuClusterArgs`.

        ``opts`` are Pulumi's. Raises InvalidComponent with everything that is wrong.
        """
        read = _Read(args)
        super().__init__(AKS_GPU_CLUSTER, resource_name, {}, opts)
        self._given_name, self._read = resource_name, read
        self._name = label(resource_name, AZURE_LENGTH)
        plain = read.plain
        base = Surroundings(self, self._name, plain["resource_group_name"], plain["location"], plain["tags"])
        self._base = base
        subnet = base.subnet(read.network)
        workspace = base.workspace(read.logs)
        cluster = self._cluster(subnet, workspace)
        self.cluster = cluster
        self._outputs_of(cluster, workspace)
        jobs = base.federate(read.namespaces, self.oidc_issuer_url)
        self.jobs_client_id = jobs.client_id
        self._in_cluster(self._pull_and_store(jobs), self._pools(subnet), jobs)
        self.register_outputs(self.outputs())

    def outputs(self) -> Mapping[str, Any]:
        """Every output by its camelCase name."""
        from pulumi_tfjobs.sdk.outputs import camel

        names = [name for name in AksGpuCluster.__annotations__ if name not in {"target", "targets", "addons"}]
        return {
            "target": self.target.to_inputs(),
            "targets": {name: target.to_inputs() for name, target in self.targets.items()},
            **{camel(name): getattr(self, name) for name in names},
        }

    def target_for(self, namespace: str | None = None, *, pool: str | None = None, **options: Any) -> KubernetesTarget:
        """The compute target of a namespace (default: the first), on one pool (default: whichever the queue gives).

        ``options`` are further options of KubernetesTarget. KeyError: there is no such namespace or pool.
        """
        target = self.target if namespace is None else self.targets[namespace]
        if pool is not None:
            chosen = {item.name: item for item in self._read.pools}[pool]
            target = replace(
                target,
                node_selector={aks_pools.POOL: pool},
                tolerations=aks_pools.tolerations([chosen]) or None,
            )
        return replace(target, **options)

    # Azure

    def _cluster(self, subnet_id: Any, workspace: Any) -> Any:
        from pulumi_azure_native.containerservice import ManagedCluster

        read, plain = self._read, self._read.plain
        identity = self._base.identity("control-plane")
        joins = self._base.role("network", NETWORK_CONTRIBUTOR, identity.principal_id, subnet_id)
        groups = plain["admin_groups"]
        access: dict[str, Any] = {"enable_private_cluster": read.network.private}
        if read.network.authorized_ips:
            access["authorized_ip_ranges"] = list(read.network.authorized_ips)
        watched = read.logs.enabled and read.logs.containers
        cluster = ManagedCluster(
            self._name,
            # Its name in Azure is fixed where the program gives it, else Pulumi's.
            resource_name_=plain["cluster_name"],
            kubernetes_version=plain["kubernetes_version"] or pins.KUBERNETES,
            dns_prefix=self._name,
            sku={"name": "Base", "tier": plain["tier"] or "Free"},
            identity={"type": "UserAssigned", "user_assigned_identities": [identity.id]},
            enable_rbac=True,
            aad_profile=None if not groups else {"managed": True, "admin_group_object_ids": list(groups)},
            disable_local_accounts=bool(groups),
            oidc_issuer_profile={"enabled": True},
            security_profile={"workload_identity": {"enabled": True}},
            api_server_access_profile=access,
            agent_pool_profiles=[aks_pools.system_pool(read.system, subnet_id)],
            auto_scaler_profile={"scale_down_unneeded_time": "10m", "skip_nodes_with_system_pods": "false"},
            auto_upgrade_profile={"upgrade_channel": "patch", "node_os_upgrade_channel": "NodeImage"},
            network_profile={
                "network_plugin": "azure",
                "network_plugin_mode": "overlay",
                "network_policy": "cilium",
                "network_dataplane": "cilium",
                "pod_cidr": read.network.pod_cidr,
                "service_cidr": "172.31.0.0/16",
                "dns_service_ip": "172.31.0.10",
            },
            storage_profile={
                "file_csi_driver": {"enabled": True},
                "blob_csi_driver": {"enabled": read.storage.enabled and read.storage.type == "blob"},
            },
            addon_profiles={
                "omsagent": {
                    "enabled": True,
                    "config": {"logAnalyticsWorkspaceResourceID": workspace.id, "useAADAuth": "true"},
                }
            }
            if watched
            else None,
            tags=self._base.tags,
            # The autoscaler changes the count, patches the version.
            opts=self._base.child(depends_on=[joins], ignore_changes=["agentPoolProfiles[0].count"]),
            **self._base.place,
        )
        if workspace is not None:
            self._base.diagnostics(cluster, workspace)
        return cluster

    def _outputs_of(self, cluster: Any, workspace: Any) -> None:
        from pulumi_azure_native.containerservice import list_managed_cluster_user_credentials_output

        credentials = list_managed_cluster_user_credentials_output(
            resource_group_name=self._base.group,
            resource_name=cluster.name,
            opts=pulumi.InvokeOutputOptions(parent=self),
        )
        self.kubeconfig = pulumi.Output.secret(
            credentials.kubeconfigs.apply(lambda found: base64.b64decode(found[0].value).decode())
        )
        self.cluster_name = cluster.name
        self.cluster_id = cluster.id
        self.resource_group_name = pulumi.Output.from_input(self._base.group)
        self.node_resource_group = cluster.node_resource_group
        self.oidc_issuer_url = cluster.oidc_issuer_profile.apply(lambda profile: profile.issuer_url)
        self._kubelet = cluster.identity_profile.apply(lambda profiles: profiles["kubeletidentity"])
        self.kubelet_client_id = self._kubelet.apply(lambda profile: profile.client_id)
        none = pulumi.Output.from_input("")
        self.registry_server = self.storage_account = none
        self.log_workspace_id = none if workspace is None else workspace.id

    def _pull_and_store(self, jobs: Any) -> aks_storage.Account | None:
        read = self._read
        kubelet = self._kubelet.apply(lambda profile: profile.object_id)
        if read.registry.enabled:
            registry, self.registry_server = self._base.registry(read.registry)
            self._base.role("pull", ACR_PULL, kubelet, registry)
        if not read.storage.enabled:
            return None
        account = aks_storage.Account(self._name, read.storage, self._base.place, self._base.child, self._base.tags)
        self.storage_account = account.account.name
        if read.storage.type == "blob":
            self._base.role("kubelet-blobs", STORAGE_BLOB_DATA_CONTRIBUTOR, kubelet, account.account.id)
            self._base.role("jobs-blobs", STORAGE_BLOB_DATA_CONTRIBUTOR, jobs.principal_id, account.account.id)
        return account

    def _pools(self, subnet_id: Any) -> list[pulumi.Resource]:
        from pulumi_azure_native.containerservice import AgentPool

        return [
            AgentPool(
                f"{self._name}-{pool.name}",
                agent_pool_name=pool.name,
                resource_name_=self.cluster.name,
                resource_group_name=self._base.group,
                vnet_subnet_id=subnet_id,
                tags=self._base.tags,
                # The autoscaler changes the count.
                opts=self._base.child(ignore_changes=["count"]),
                **aks_pools.agent_pool(pool),
            )
            for pool in self._read.pools
        ]

    # In the cluster

    def _in_cluster(self, account: aks_storage.Account | None, pools: list[pulumi.Resource], jobs: Any) -> None:
        read = self._read
        self._provider: pulumi.ProviderResource = kubernetes().Provider(
            f"{self._name}-cluster", kubeconfig=self.kubeconfig, opts=self._base.child(depends_on=pools)
        )
        self.addons = None
        if not read.with_addons:
            self.target = KubernetesTarget(
                name=self._given_name, kubeconfig=self.kubeconfig, tolerations=read.addons["tolerations"]
            )
            self.targets = {}
            return
        spaces = [self._space(item, account, jobs) for item in read.namespaces]
        target = read.target or KubernetesTarget()
        # Pods with it get a token of the jobs' identity.
        own = {"azure.workload.identity/use": "true"}
        labels = pulumi.Output.from_input(target.pod_labels or {}).apply(lambda given: {**own, **given})
        given = {
            **read.addons,
            "namespaces": spaces,
            "kubeconfig": self.kubeconfig,
            "target": replace(target, pod_labels=labels),
        }
        self.addons = GpuAddons(
            self._given_name,
            # What is in the cluster goes with it.
            opts=self._base.child(provider=self._provider, deleted_with=self.cluster),
            **given,
        )
        self.targets = self.addons.targets
        self.target = self.addons.target

    def _space(self, given: JobNamespace, account: aks_storage.Account | None, jobs: Any) -> JobNamespace:
        """The namespace with its storage, and the jobs' identity at its service account."""
        storage = given.storage
        if account is not None and storage is None and "storage" not in self._read.addons:
            storage = account.volume(given.name, self.kubelet_client_id, self._object)
        annotations = {
            "azure.workload.identity/client-id": jobs.client_id,
            **(given.service_account_annotations or {}),
        }
        return replace(given, storage=storage, service_account_annotations=annotations)

    def _object(self, logical: str, manifest: Mapping[str, Any]) -> KubernetesObject:
        opts = self._base.child(provider=self._provider, deleted_with=self.cluster)
        return KubernetesObject(f"{self._name}-{logical}", manifest, opts)
