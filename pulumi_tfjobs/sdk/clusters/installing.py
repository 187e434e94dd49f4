"""What is installed from charts and manifests of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pulumi

from pulumi_tfjobs.sdk.clusters.args import Addon, DevicePlugin, Kubeflow
from pulumi_tfjobs.sdk.clusters.objects import kubernetes
from pulumi_tfjobs.sdk.clusters.taking import Taking
from pulumi_tfjobs.spec import pins

# Label of the nodes of our own GPU pools.
GPU_NODES = "tfjobs.pulumi.com/gpu"
Options = Callable[..., pulumi.ResourceOptions]

# Nodes that have a GPU, as those tell that label nodes; one is enough. The chart's own list lacks the last two.
_KNOWN = (
    {"feature.node.kubernetes.io/pci-10de.present": "true"},
    {"feature.node.kubernetes.io/cpu-model.vendor_id": "NVIDIA"},
    {"nvidia.com/gpu.present": "true"},
    {"kubernetes.azure.com/accelerator": "nvidia"},
    {GPU_NODES: "true"},
)
_TOLERATED: tuple[dict[str, str], ...] = (
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
    {"key": "CriticalAddonsOnly", "operator": "Exists"},
)


def manifests(
    name: str, given: Addon, address: Callable[[str], str], version: str, opts: pulumi.ResourceOptions
) -> pulumi.Resource:
    """What a release's manifests hold."""
    kubernetes()
    from pulumi_kubernetes.yaml.v2 import ConfigFile

    file = given.manifest or address(given.version or version)
    found: pulumi.Resource = ConfigFile(name, file=file, opts=opts)
    return found


def operators(name: str, given: Kubeflow, options: Options) -> list[pulumi.Resource]:
    """Kubeflow's operators."""
    found: list[pulumi.Resource] = []
    if given.training_operator:
        kubernetes()
        from pulumi_kubernetes.kustomize.v2 import Directory

        folder = pins.training_operator_folder(given.training_operator_version or pins.TRAINING_OPERATOR)
        found.append(Directory(f"{name}-training-operator", directory=folder, opts=options()))
    if given.mpi_operator:
        addon = Addon(version=given.mpi_operator_version)
        found.append(manifests(f"{name}-mpi-operator", addon, pins.mpi_operator_manifest, pins.MPI_OPERATOR, options()))
    return found


def check_operators(taking: Taking, given: Kubeflow) -> None:
    """Both operators cannot be in one cluster."""
    if given.training_operator and given.mpi_operator:
        taking.problem(
            "kubeflow",
            "both the training operator and the MPI operator",
            "one of them: the custom resource MPIJob can have one owner, and the first brings v1, the second v2beta1",
            "keep training_operator for TFJob and MPIJob v1, or mpi_operator for MPIJob v2beta1",
        )


def device_plugin(
    name: str, given: DevicePlugin, tolerations: Sequence[Mapping[str, Any]], opts: pulumi.ResourceOptions
) -> pulumi.Resource:
    """NVIDIA's device plugin, by its chart."""
    kubernetes()
    from pulumi_kubernetes.helm.v3 import Release

    found: pulumi.Resource = Release(
        name,
        name="nvidia-device-plugin",
        chart=pins.NVIDIA_CHART,
        version=given.version or pins.NVIDIA_DEVICE_PLUGIN,
        repository_opts={"repo": pins.NVIDIA_CHARTS},
        namespace=given.namespace,
        values=plugin_values(given, tolerations),
        # Where all pools are at 0 there is nothing that becomes ready.
        skip_await=True,
        opts=opts,
    )
    return found


def plugin_values(given: DevicePlugin, tolerations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Helm values: on which nodes it runs, and in spite of which taints."""
    tolerated: list[dict[str, Any]] = [dict(item) for item in _TOLERATED]
    tolerated += [dict(item) for item in (*tolerations, *(given.tolerations or ())) if item not in tolerated]
    terms = _KNOWN if given.node_labels is None else (given.node_labels,)
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {
                        "matchExpressions": [
                            {"key": key, "operator": "In", "values": [value]} for key, value in term.items()
                        ]
                    }
                    for term in terms
                ]
            }
        }
    }
    return merged({"tolerations": tolerated, "affinity": affinity}, given.values or {})


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The maps as one, the second wins; lists are replaced."""
    found = dict(base)
    for key, value in over.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found
