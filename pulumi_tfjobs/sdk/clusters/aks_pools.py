"""Node pools of AKS from typed arguments: pure, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pulumi_tfjobs.sdk.clusters.aks_args import NodePool, SystemPool, gpus_of
from pulumi_tfjobs.sdk.clusters.args import Flavor, Queue, Quota
from pulumi_tfjobs.sdk.clusters.installing import GPU_NODES
from pulumi_tfjobs.sdk.clusters.taking import Taking

POOL = "tfjobs.pulumi.com/pool"
# AKS puts both on the nodes of a spot pool; a pool that does not say so shows a difference for ever.
SPOT = "kubernetes.azure.com/scalesetpriority"
QUEUE = "default"
_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
_TAINT = re.compile(r"([^=:]+)(?:=([^:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)")
SYSTEM = "system"


def gpus(pool: NodePool) -> int:
    """GPUs of a node of the pool."""
    return pool.gpus if pool.gpus is not None else gpus_of(pool.vm_size) or 0


def check(taking: Taking, pools: Sequence[NodePool], system: SystemPool) -> None:
    """Everything that is wrong with the pools."""
    if not pools and not taking.problems:
        taking.problem("pools", "empty", "at least one NodePool", "say which VMs jobs run on")
    for index, pool in enumerate(pools):
        path = f"pools[{index}]"
        taking.name(
            pool.name, f"{path}.name", _NAME, "lower-case letters and digits, at most 12, a letter first (AKS' rule)"
        )
        if pool.name == SYSTEM:
            taking.problem(f"{path}.name", '"system"', "another name: the system pool has it", "rename it")
        _bounds(taking, path, pool.min_count, pool.max_count, 0)
        taking.name(pool.vm_size, f"{path}.vm_size", re.compile(r"\w+"), 'a size, such as "Standard_NC4as_T4_v3"')
        if pool.gpus is None and gpus_of(str(pool.vm_size)) is None:
            taking.problem(
                f"{path}.gpus", f"it is not known how many GPUs {pool.vm_size} has", "their number", "give gpus"
            )
        for number, taint in enumerate(pool.taints or ()):
            if not _TAINT.fullmatch(taint):
                taking.problem(f"{path}.taints[{number}]", f'"{taint}"', "key=value:NoSchedule", "write it that way")
    _bounds(taking, "system_pool", system.min_count, system.max_count, 1)


def _bounds(taking: Taking, path: str, low: Any, high: Any, least: int) -> None:
    for name, value in (("min_count", low), ("max_count", high)):
        if not isinstance(value, int):
            taking.problem(f"{path}.{name}", f"a {type(value).__name__}", "a whole number", "write it as it is")
            return
    if low < least:
        taking.problem(f"{path}.min_count", str(low), f"at least {least}", "raise it")
    if high < max(low, 1):
        taking.problem(f"{path}.max_count", str(high), f"at least {max(low, 1)}", "raise it, or lower min_count")


def taints(pool: NodePool) -> list[str]:
    """Taints of the pool's nodes: only jobs that know of them come there."""
    found = ["sku=gpu:NoSchedule"] if gpus(pool) else []
    if pool.spot:
        found.append(f"{SPOT}=spot:NoSchedule")
    return found + [taint for taint in pool.taints or () if taint not in found]


def labels(pool: NodePool) -> dict[str, Any]:
    """Labels of the pool's nodes."""
    found: dict[str, Any] = {POOL: pool.name}
    if gpus(pool):
        found[GPU_NODES] = "true"
    if pool.spot:
        found[SPOT] = "spot"
    return {**found, **(pool.labels or {})}


def tolerations(pools: Sequence[NodePool]) -> list[dict[str, Any]]:
    """What pods have to tolerate to run on any of the pools, sorted."""
    found: list[dict[str, Any]] = []
    for text in sorted({taint for pool in pools for taint in taints(pool)}):
        item = taint_object(text)
        value = item.get("value")
        rest = {"operator": "Equal", "value": value} if value else {"operator": "Exists"}
        found.append({"key": item["key"], **rest, "effect": item["effect"]})
    return found


def taint_object(text: str) -> dict[str, Any]:
    """``key=value:NoSchedule`` in Kubernetes' own form."""
    found = _TAINT.fullmatch(text)
    assert found is not None
    key, value, effect = found.groups()
    return {"key": key, **({"value": value} if value else {}), "effect": effect}


def agent_pool(pool: NodePool) -> dict[str, Any]:
    """Arguments of azure-native's AgentPool, less its place and name."""
    found: dict[str, Any] = {
        "mode": "User",
        "vm_size": pool.vm_size,
        "os_type": "Linux",
        "type": "VirtualMachineScaleSets",
        "enable_auto_scaling": True,
        "min_count": pool.min_count,
        "max_count": pool.max_count,
        "count": pool.min_count,
        "node_labels": labels(pool),
        "node_taints": taints(pool),
        "availability_zones": list(pool.zones) if pool.zones else None,
        "os_disk_size_gb": pool.disk_gb,
        "gpu_instance_profile": pool.mig_profile,
    }
    if pool.spot:
        found.update(scale_set_priority="Spot", scale_set_eviction_policy=pool.eviction, spot_max_price=pool.max_price)
    return {key: value for key, value in found.items() if value is not None}


def system_pool(pool: SystemPool, subnet_id: Any) -> dict[str, Any]:
    """The profile of the system pool."""
    found: dict[str, Any] = {
        "name": SYSTEM,
        "mode": "System",
        "vm_size": pool.vm_size,
        "os_type": "Linux",
        "type": "VirtualMachineScaleSets",
        "enable_auto_scaling": True,
        "min_count": pool.min_count,
        "max_count": pool.max_count,
        "count": pool.min_count,
        "vnet_subnet_id": subnet_id,
    }
    return {**found, "availability_zones": list(pool.zones)} if pool.zones else found


def flavor(pool: NodePool) -> Flavor:
    """The pool as a flavor of Kueue."""
    # Taints are left out: the flavor's tolerations are given to whatever is admitted to it.
    return Flavor(pool.name, node_labels={POOL: pool.name}, tolerations=tolerations([pool]) or None)


def in_order(pools: Sequence[NodePool]) -> list[NodePool]:
    """The order in which a queue tries them: those without GPU first, so that what needs none takes none; spot last."""
    return sorted(pools, key=lambda pool: (gpus(pool) > 0, pool.spot))


def queue(pools: Sequence[NodePool]) -> Queue:
    """One queue for all that the pools can grow to."""
    return Queue(QUEUE, [Quota(pool.name, gpus=gpus(pool) * pool.max_count) for pool in in_order(pools)])


def selector(pools: Sequence[NodePool]) -> Mapping[str, str] | None:
    """Where there is one pool, its nodes."""
    return {POOL: pools[0].name} if len(pools) == 1 else None
