"""What the cluster components install, each version in one place: what our tests run against, where they can.

Here and not beside the components, because the Kubernetes target's advice ("JobSet is not installed: …") names the same
versions.
"""

from __future__ import annotations

# Kubernetes of a new AKS cluster: major.minor, the cloud picks the newest patch.
KUBERNETES = "1.33"

JOBSET = "v0.8.2"
KUEUE = "v0.10.0"
TRAINING_OPERATOR = "v1.9.0"
MPI_OPERATOR = "v0.6.0"
NVIDIA_DEVICE_PLUGIN = "0.17.1"

KUEUE_API = "kueue.x-k8s.io/v1beta1"

NVIDIA_CHART = "nvidia-device-plugin"
NVIDIA_CHARTS = "https://nvidia.github.io/k8s-device-plugin"


def jobset_manifest(version: str = JOBSET) -> str:
    """Address of JobSet's manifests."""
    return f"https://github.com/kubernetes-sigs/jobset/releases/download/{version}/manifests.yaml"


def kueue_manifest(version: str = KUEUE) -> str:
    """Address of Kueue's manifests."""
    return f"https://github.com/kubernetes-sigs/kueue/releases/download/{version}/manifests.yaml"


def mpi_operator_manifest(version: str = MPI_OPERATOR) -> str:
    """Address of the MPI operator's manifests (MPIJob v2beta1)."""
    return f"https://raw.githubusercontent.com/kubeflow/mpi-operator/{version}/deploy/v2beta1/mpi-operator.yaml"


def training_operator_folder(version: str = TRAINING_OPERATOR) -> str:
    """Address of the training operator's kustomization (TFJob v1, MPIJob v1)."""
    return f"https://github.com/kubeflow/training-operator/tree/{version}/manifests/overlays/standalone"
