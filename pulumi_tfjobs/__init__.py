"""GPU compute clusters and TensorFlow training jobs as resources of one Pulumi program.

::

    import pulumi, pulumi_tfjobs as tfjobs

    job = tfjobs.TensorFlow("mnist", source_directory="./src", entry_script="train.py",
                            script_params={"--epochs": 3})
    pulumi.export("accuracy", job.metrics["accuracy"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pulumi_tfjobs.sdk.clusters.addons import GpuAddons
    from pulumi_tfjobs.sdk.clusters.aks import AksGpuCluster
    from pulumi_tfjobs.sdk.clusters.aks_args import (
        ContainerRegistry,
        Logs,
        Network,
        NodePool,
        RunStorage,
        SystemPool,
    )
    from pulumi_tfjobs.sdk.clusters.args import (
        Addon,
        DevicePlugin,
        Flavor,
        JobNamespace,
        Kubeflow,
        PodPriority,
        Queue,
        Quota,
        SharedStorage,
        Subject,
        WorkloadPriority,
    )
    from pulumi_tfjobs.sdk.components import TensorFlow
    from pulumi_tfjobs.sdk.resources import TrainingJob
    from pulumi_tfjobs.sdk.types import (
        ComputeTarget,
        Distribution,
        Horovod,
        KubernetesTarget,
        LocalTarget,
        MultiWorker,
        ParameterServer,
        Single,
        Storage,
        Volume,
    )

__all__ = [
    "Addon",
    "AksGpuCluster",
    "ComputeTarget",
    "ContainerRegistry",
    "DevicePlugin",
    "Distribution",
    "Flavor",
    "GpuAddons",
    "Horovod",
    "JobNamespace",
    "Kubeflow",
    "KubernetesTarget",
    "LocalTarget",
    "Logs",
    "MultiWorker",
    "Network",
    "NodePool",
    "ParameterServer",
    "PodPriority",
    "Queue",
    "Quota",
    "RunStorage",
    "SharedStorage",
    "Single",
    "Storage",
    "Subject",
    "SystemPool",
    "TensorFlow",
    "TrainingJob",
    "Volume",
    "WorkloadPriority",
]

_MODULES = {
    "TensorFlow": "pulumi_tfjobs.sdk.components",
    "TrainingJob": "pulumi_tfjobs.sdk.resources",
    "GpuAddons": "pulumi_tfjobs.sdk.clusters.addons",
    "AksGpuCluster": "pulumi_tfjobs.sdk.clusters.aks",
    **dict.fromkeys(
        ("ContainerRegistry", "Logs", "Network", "NodePool", "RunStorage", "SystemPool"),
        "pulumi_tfjobs.sdk.clusters.aks_args",
    ),
    **dict.fromkeys(
        (
            "Addon",
            "DevicePlugin",
            "Flavor",
            "JobNamespace",
            "Kubeflow",
            "PodPriority",
            "Queue",
            "Quota",
            "SharedStorage",
            "Subject",
            "WorkloadPriority",
        ),
        "pulumi_tfjobs.sdk.clusters.args",
    ),
}

if not TYPE_CHECKING:  # a type checker must see that there is no other name

    def __getattr__(name: str) -> Any:
        # Lazy: the plugin and a run's supervisor import submodules and must not pay for the Pulumi SDK (a second).
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_MODULES.get(name, "pulumi_tfjobs.sdk.types")), name)
