"""Replicas as pods: JobSets at a Kubernetes cluster."""

from __future__ import annotations

from typing import Any

__all__ = ["KubernetesTarget"]


def __getattr__(name: str) -> Any:
    if name != "KubernetesTarget":  # the bootstrap's modules are imported without it
        raise AttributeError(name)
    from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget

    return KubernetesTarget
