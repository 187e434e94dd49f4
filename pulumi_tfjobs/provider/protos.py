"""The engine's protocol messages, without the Pulumi SDK.

``import pulumi`` takes about a second, and the generated message modules are all that a plugin needs to answer. They
live inside that package, so its parents are stood in for by empty modules while they are loaded, and the stand-ins are
taken away again. The message modules stay where a later ``import pulumi`` finds them: loading them twice would register
their descriptors twice, which protobuf refuses.
"""

# ruff: noqa: TC004 - the modules are imported below, in their own way

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pulumi.runtime.proto import (
        engine_pb2,
        engine_pb2_grpc,
        errors_pb2,
        plugin_pb2,
        provider_pb2,
        provider_pb2_grpc,
        status_pb2,
    )

__all__ = [
    "engine_pb2",
    "engine_pb2_grpc",
    "errors_pb2",
    "import_pulumi",
    "plugin_pb2",
    "provider_pb2",
    "provider_pb2_grpc",
    "status_pb2",
]

_PACKAGE = "pulumi.runtime.proto"
_NAMES = (
    "alias_pb2",
    "engine_pb2",
    "engine_pb2_grpc",
    "errors_pb2",
    "plugin_pb2",
    "provider_pb2",
    "provider_pb2_grpc",
    "status_pb2",
)


def _load() -> dict[str, ModuleType]:
    if "pulumi" in sys.modules:
        return {name: import_module(f"{_PACKAGE}.{name}") for name in _NAMES}
    spec = find_spec("pulumi")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(
            "the Pulumi SDK is not installed beside pulumi_tfjobs; expected: the package `pulumi` in the same "
            "environment; to fix: pip install --force-reinstall pulumi-tfjobs"
        )
    stand_ins = {}
    folder = next(iter(spec.submodule_search_locations))
    for name in ("pulumi", "pulumi.runtime", _PACKAGE):
        module = ModuleType(name)
        module.__path__ = [os.path.join(folder, *name.split(".")[1:])]
        stand_ins[name] = module
    sys.modules.update(stand_ins)
    try:
        return {name: import_module(f"{_PACKAGE}.{name}") for name in _NAMES}
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def import_pulumi() -> Any:
    """The real ``pulumi`` package, loaded now where it is not yet (a second). Safe to call from a thread."""
    pulumi = import_module("pulumi")
    package = import_module(_PACKAGE)
    for name in _NAMES:
        # An import that finds its module already loaded does not bind it in the parent, as a first one would.
        if not hasattr(package, name):
            setattr(package, name, sys.modules[f"{_PACKAGE}.{name}"])
    return pulumi


if not TYPE_CHECKING:
    globals().update(_load())
