"""The schema's part about cluster components: their inputs, outputs and the types in them.

Everything comes from the Python SDK's classes, descriptions included.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pulumi_tfjobs.provider.schema_targets import PACKAGE, argument_texts, camel, described, schema_of

_REQUIRED = {"AksGpuCluster": ["pools"]}
_SECRET = frozenset({"kubeconfig"})


_ARGS = (
    "Addon", "DevicePlugin", "Kubeflow", "Subject", "SharedStorage", "JobNamespace", "Flavor", "Quota", "Queue",
    "WorkloadPriority", "PodPriority",
)  # fmt: skip
_AKS_ARGS = ("NodePool", "SystemPool", "Network", "RunStorage", "ContainerRegistry", "Logs")


def _sdk(module: str) -> Any:
    # By name: the plugin serves the schema's file, and only whoever writes that file loads the SDK.
    return import_module(f"pulumi_tfjobs.sdk.clusters.{module}")


def cluster_types() -> dict[str, Any]:
    """Token → type of what is in the components' arguments."""
    classes = [getattr(_sdk("args"), name) for name in _ARGS]
    classes += [getattr(_sdk("aks_args"), name) for name in _AKS_ARGS]
    return {f"{PACKAGE}:index:{cls.__name__}": described(cls) for cls in classes}


def cluster_components() -> dict[str, Any]:
    """Token → component resource."""
    addons = _inputs(_sdk("args").GpuAddonsArgs)
    # These are of a cluster that is there.
    aks = {key: value for key, value in addons.items() if key not in {"kubeconfig", "context"}}
    aks |= {key: value for key, value in _inputs(_sdk("aks_args").AksGpuClusterArgs).items() if key not in addons}
    return {
        f"{PACKAGE}:index:GpuAddons": _component(_sdk("addons").GpuAddons, addons),
        f"{PACKAGE}:index:AksGpuCluster": _component(_sdk("aks").AksGpuCluster, aks),
    }


def _component(cls: type, inputs: Mapping[str, Any]) -> dict[str, Any]:
    texts = argument_texts(cls, "Attributes")
    outputs = {}
    for name, text in texts.items():
        schema = _OUTPUTS.get(name, {"type": "string"})
        outputs[camel(name)] = {**schema, "description": text, **({"secret": True} if name in _SECRET else {})}
    doc = (cls.__doc__ or "").partition("\n\n    Attributes:")[0]
    return {
        "description": " ".join(doc.replace("``", "`").split()),
        "isComponent": True,
        "inputProperties": dict(inputs),
        "requiredInputs": _REQUIRED.get(cls.__name__, []),
        "properties": outputs,
        "required": sorted(outputs),
    }


_TEXTS = {"type": "array", "items": {"type": "string"}}
_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
_TARGET = {"$ref": f"#/types/{PACKAGE}:index:KubernetesTarget"}
# What is not a text.
_OUTPUTS: dict[str, dict[str, Any]] = {
    "target": _TARGET,
    "targets": {"type": "object", "additionalProperties": _TARGET},
    "namespaces": _TEXTS,
    "queues": _TEXTS,
    "submitters": _MAP,
    "versions": _MAP,
}


def _inputs(cls: Any) -> dict[str, Any]:
    # pulumi.Input names its Output by text, in its own module.
    hints = typing.get_type_hints(cls, localns={"Output": list, "T": Any})
    found: dict[str, Any] = {}
    for base in (*getattr(cls, "__orig_bases__", ()), cls):
        for name, text in argument_texts(base).items():
            secret = {"secret": True} if name in _SECRET else {}
            found[camel(name)] = {**schema_of(hints[name]), "description": text, **secret}
    return found
