"""Arguments of :class:`~pulumi_tfjobs.sdk.clusters.aks.AksGpuCluster`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pulumi

from pulumi_tfjobs.sdk.clusters.args import GpuAddonsArgs
from pulumi_tfjobs.sdk.types import _Value

# VM size (without "Standard_", lower case, version left out) -> its GPUs.
_GPUS = {
    "nc4as_t4": 1, "nc8as_t4": 1, "nc16as_t4": 1, "nc64as_t4": 4,
    "nc6s": 1, "nc12s": 2, "nc24s": 4, "nc24rs": 4, "nd40rs": 8,
    "nc24ads_a100": 1, "nc48ads_a100": 2, "nc96ads_a100": 4,
    "nd96asr": 8, "nd96amsr_a100": 8,
    "nc40ads_h100": 1, "nc80adis_h100": 2, "nd96isr_h100": 8, "nd96isr_h200": 8,
    "nv6ads_a10": 0, "nv12ads_a10": 0, "nv18ads_a10": 0, "nv36ads_a10": 1, "nv36adms_a10": 1, "nv72ads_a10": 2,
}  # fmt: skip


def gpus_of(vm_size: str) -> int | None:
    """How many GPUs a VM of the size has; 0 for sizes of families without; None: not known here."""
    name = re.sub(r"_v\d+$", "", vm_size.lower().removeprefix("standard_"))
    if name in _GPUS:
        return _GPUS[name] or None
    return None if name.startswith("n") else 0


@dataclass(frozen=True)
class NodePool(_Value):
    """Nodes of a kind that jobs run on: from ``min_count`` up to ``max_count``, as many as queued pods need.

    Args:
        name: Lower-case letters and digits, at most 12, a letter first (AKS' rule).
        vm_size: Such as ``"Standard_NC24ads_A100_v4"``. Sizes without a GPU are taken too, for parameter servers.
        min_count: Nodes that are always there (default 0: an idle pool costs nothing).
        max_count: The most nodes (default 1).
        gpus: GPUs of a node. Default: known from the size.
        spot: Whether they are spot VMs: cheap, and taken away at any time (default False).
        eviction: What becomes of a spot VM that is taken away: ``"Delete"`` (default) or ``"Deallocate"``, whose disks
            go on to cost.
        max_price: The most that a spot VM may cost an hour, in USD (default -1: as much as a regular one).
        labels: Further labels of the nodes.
        taints: Further taints, as ``"key=value:NoSchedule"``.
        zones: Availability zones.
        disk_gb: Size of the nodes' disk. Default: AKS'.
        mig_profile: MIG slices of every GPU, as AKS calls them: ``"MIG1g"`` …
    """

    name: str
    vm_size: str
    min_count: int = 0
    max_count: int = 1
    gpus: int | None = None
    spot: bool = False
    eviction: Literal["Delete", "Deallocate"] = "Delete"
    max_price: pulumi.Input[float] = -1.0
    labels: Mapping[str, pulumi.Input[str]] | None = None
    taints: Sequence[str] | None = None
    zones: Sequence[str] | None = None
    disk_gb: pulumi.Input[int] | None = None
    mig_profile: pulumi.Input[str] | None = None


@dataclass(frozen=True)
class SystemPool(_Value):
    """The nodes of the cluster's own services and of the controllers. They are never 0.

    Args:
        vm_size: Default ``"Standard_D4s_v5"``.
        min_count: Default 1.
        max_count: Default 3.
        zones: Availability zones.
    """

    vm_size: pulumi.Input[str] = "Standard_D4s_v5"
    min_count: int = 1
    max_count: int = 3
    zones: Sequence[str] | None = None


@dataclass(frozen=True)
class Network(_Value):
    """The cluster's network.

    Args:
        address_space: Of the virtual network (default ``"10.224.0.0/12"``).
        subnet: Of the nodes, within it (default ``"10.224.0.0/16"``).
        subnet_id: A subnet that is there; then no network is made.
        pod_cidr: Addresses of pods, of no meaning outside (default ``"192.168.0.0/16"``).
        authorized_ips: Ranges that may reach the API server. Default: all.
        private: Whether the API server has no public address (default False).
    """

    address_space: pulumi.Input[str] = "10.224.0.0/12"
    subnet: pulumi.Input[str] = "10.224.0.0/16"
    subnet_id: pulumi.Input[str] | None = None
    pod_cidr: pulumi.Input[str] = "192.168.0.0/16"
    authorized_ips: Sequence[pulumi.Input[str]] | None = None
    private: bool = False


@dataclass(frozen=True)
class RunStorage(_Value):
    """Where runs keep what they write: a storage account with a share, or container, for each namespace.

    Args:
        enabled: Whether there is one (default True).
        type: ``"files"`` (default: Azure Files, a real file system) or ``"blob"`` (object storage, cheaper; mounted by
            blobfuse with the nodes' identity, no key).
        size: Of each share, in whole GiB (default ``"1024Gi"``); only what is used is paid for.
        sku: Of the account (default ``"Standard_LRS"``).
        protect: Whether Pulumi refuses to delete it, and so what runs have kept (default False).
    """

    enabled: bool = True
    type: Literal["files", "blob"] = "files"
    size: str = "1024Gi"
    sku: pulumi.Input[str] = "Standard_LRS"
    protect: bool = False


@dataclass(frozen=True)
class ContainerRegistry(_Value):
    """A private registry that the nodes may pull from.

    Args:
        enabled: Whether one is made (default True).
        sku: Default ``"Basic"``.
        registry_id: Resource id of a registry that is there; then none is made.
    """

    enabled: bool = True
    sku: pulumi.Input[str] = "Basic"
    registry_id: pulumi.Input[str] | None = None


@dataclass(frozen=True)
class Logs(_Value):
    """Log Analytics of the cluster.

    Args:
        enabled: Whether there is a workspace (default True).
        retention_days: How long logs are kept (default 30).
        daily_gb: The most that is taken in a day (default 5; -1: no limit).
        containers: Whether the output of all pods goes there too, which is paid by size (default False: a job's logs
            come back with its run).
    """

    enabled: bool = True
    retention_days: pulumi.Input[int] = 30
    daily_gb: pulumi.Input[float] = 5.0
    containers: bool = False


class AksGpuClusterArgs(GpuAddonsArgs, total=False):
    """Arguments of AksGpuCluster: those of its own, and those of GpuAddons, which goes into the cluster.

    Args:
        location: Azure region. Default: the provider's.
        resource_group_name: A resource group that is there. Default: one is made.
        cluster_name: Of the AKS cluster. Default: the resource's name and some digits. A resource's name that Azure
            does not take, or longer than 20, is shortened to what it takes, here and in all other names.
        pools: Node pools for jobs (at least one). Required.
        system_pool: The nodes of the cluster's own services.
        kubernetes_version: Default: the one that our tests run against.
        tier: ``"Free"`` (default) or ``"Standard"``, with an uptime guarantee.
        network: The cluster's network.
        registry: A private registry.
        run_storage: Where runs keep what they write.
        logs: Log Analytics.
        admin_groups: Object ids of Entra groups that administer the cluster. Then local accounts are switched off.
        addons: Whether GpuAddons goes into the cluster (default True).
        tags: Azure tags of everything.
    """

    location: pulumi.Input[str] | None
    resource_group_name: pulumi.Input[str] | None
    cluster_name: pulumi.Input[str] | None
    pools: Sequence[NodePool]
    system_pool: SystemPool | None
    kubernetes_version: pulumi.Input[str] | None
    tier: pulumi.Input[Literal["Free", "Standard"]] | None
    network: Network | None
    registry: ContainerRegistry | bool | None
    run_storage: RunStorage | bool | None
    logs: Logs | bool | None
    admin_groups: Sequence[pulumi.Input[str]] | None
    addons: bool | None
    tags: Mapping[str, pulumi.Input[str]] | None


OWN = tuple(name for name in AksGpuClusterArgs.__annotations__ if name not in GpuAddonsArgs.__annotations__)
Given = Mapping[str, Any]
