"""Objects of Kubernetes as plain data, and as resources of pulumi-kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

MANAGED = {"app.kubernetes.io/managed-by": "pulumi-tfjobs"}
EXTRA = 'pip install "pulumi-tfjobs[clusters]"'


def metadata(name: str, namespace: str | None = None, **more: Any) -> dict[str, Any]:
    """Metadata with our label; empty parts are left out."""
    labels = {**MANAGED, **(more.pop("labels", None) or {})}
    found = {"name": name, "namespace": namespace, "labels": labels, **more}
    return {key: value for key, value in found.items() if value is not None}


class KubernetesObject(pulumi.CustomResource):
    """One object, of whichever kind: the same resource that pulumi-kubernetes' typed classes register.

    Typed classes cannot say all of them: Kueue's WorkloadPriorityClass has fields beside ``spec``.
    """

    metadata: pulumi.Output[Any]

    def __init__(self, name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        version, kind = manifest["apiVersion"], manifest["kind"]
        group = version if "/" in version else f"core/{version}"
        own = pulumi.ResourceOptions(version=_plugin_version())
        if kind == "Secret":
            own.additional_secret_outputs = ["data", "stringData"]
        super().__init__(f"kubernetes:{group}:{kind}", name, dict(manifest), pulumi.ResourceOptions.merge(opts, own))


def _plugin_version() -> str:
    kubernetes()
    from importlib.metadata import version

    return version("pulumi-kubernetes")


def kubernetes() -> Any:
    """The module ``pulumi_kubernetes``. Raises RunError, with how to install it, where it is missing."""
    try:
        import pulumi_kubernetes
    except ImportError as error:
        raise pulumi.RunError(f"cluster components need pulumi-kubernetes, which is not installed: {EXTRA}") from error
    return pulumi_kubernetes


def after(resources: Sequence[pulumi.Resource], value: Any) -> pulumi.Output[Any]:
    """The value, known once the resources are there: what uses it is made after them and deleted before.

    A component has no id; its URN comes when all that is inside is there (of ConfigFile: has been waited for).
    """
    there = (item.id if isinstance(item, pulumi.CustomResource) else item.urn for item in resources)
    return pulumi.Output.all(value, *there).apply(lambda found: found[0])
