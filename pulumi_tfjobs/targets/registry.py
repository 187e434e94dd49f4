"""Finds target classes by kind, lazily: a program that uses one target loads no other.

Other distributions add targets with the entry point group ``pulumi_tfjobs.targets`` (name = kind, value = class).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from pulumi_tfjobs.targets.base import Target

BUILT_IN = {
    "kubernetes": "pulumi_tfjobs.targets.kubernetes:KubernetesTarget",
    "local": "pulumi_tfjobs.targets.local:LocalTarget",
}


def kinds() -> list[str]:
    """Every kind that can be asked for, sorted."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group="pulumi_tfjobs.targets"))})


def target_class(kind: str) -> type[Target]:
    """The class of that kind. Raises KeyError where there is none."""
    where = BUILT_IN.get(kind)
    if where is None:
        for entry in entry_points(group="pulumi_tfjobs.targets"):
            if entry.name == kind:
                where = entry.value
                break
        else:
            raise KeyError(kind)
    module, _, name = where.partition(":")
    found: type[Target] = getattr(import_module(module), name)
    return found
