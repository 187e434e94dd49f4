"""A stand-in for the plugin of pulumi-kubernetes, which cannot be built from Go modules: `pulumi-resource-kubernetes`.

The engine runs it as it would the real one, so that all that the engine does is real: transforms, order, secrets,
state. What it is told to make it applies to the API server that ``STAND_IN_CLUSTER`` names (``<port>:<folder of the
certificates>``), or only remembers. Manifests of releases are not fetched: a ConfigFile is a component with nothing in
it, constructed once there is a line in the FIFO of its name in the folder ``STAND_IN_GATES`` (none: at once).
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import (
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

from pulumi_tfjobs.provider.wire import UNKNOWN, OutputValue, Secret, decode, encode
from tests.rig.api import Api

VERSION = "4.34.2"


def install(folder: Path) -> Path:
    """The folder with the plugin's program, for a project's ``plugins``."""
    program = folder / "kubernetes-plugin" / "pulumi-resource-kubernetes"
    program.parent.mkdir()
    root = Path(__file__).resolve().parents[2]
    program.write_text(f"#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m {__name__}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program.parent


class Kubernetes(provider_pb2_grpc.ResourceProviderServicer):
    def __init__(self, api: Api | None, gates: str) -> None:
        self._api, self._gates = api, gates

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> Any:
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True, acceptResources=False)

    def Check(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: Any) -> Any:
        same = plain(decode(request.old_inputs)) == plain(decode(request.news))
        kinds = provider_pb2.DiffResponse
        return kinds(changes=kinds.DIFF_NONE if same else kinds.DIFF_SOME)

    def Create(self, request: Any, context: Any) -> Any:
        inputs = plain(decode(request.properties))
        if not request.preview:
            self._apply(inputs)
        meta = inputs.get("metadata") or inputs
        name = "/".join(part for part in (meta.get("namespace"), meta.get("name")) if part)
        return provider_pb2.CreateResponse(id="" if request.preview else name, properties=request.properties)

    def Update(self, request: Any, context: Any) -> Any:
        if not request.preview:
            self._apply(plain(decode(request.news)))
        return provider_pb2.UpdateResponse(properties=request.news)

    def Read(self, request: Any, context: Any) -> Any:
        path = self._path(plain(decode(request.inputs)))
        there = self._api is None or not path or self._api.find(path) is not None
        return provider_pb2.ReadResponse(
            id=request.id if there else "", properties=request.properties, inputs=request.inputs
        )

    def Delete(self, request: Any, context: Any) -> Any:
        if self._api is not None and (path := self._path(plain(decode(request.properties)))):
            self._api.delete(path)
            self._api.wait_gone(path, seconds=60.0)
        return empty_pb2.Empty()

    def _apply(self, inputs: dict[str, Any]) -> None:
        if self._api is not None and self._path(inputs):
            self._api.apply(inputs)

    def _path(self, inputs: dict[str, Any]) -> str:
        """Where the object is in the cluster; empty: it is none (a chart's release)."""
        return self._api.path(inputs) if self._api is not None and "apiVersion" in inputs else ""

    def Construct(self, request: Any, context: Any) -> Any:
        if self._gates and not request.dryRun:
            with (Path(self._gates) / request.name).open() as gate:
                gate.readline()
        with grpc.insecure_channel(request.monitorEndpoint) as channel:
            monitor = resource_pb2_grpc.ResourceMonitorStub(channel)
            made = monitor.RegisterResource(
                resource_pb2.RegisterResourceRequest(
                    type=request.type, name=request.name, parent=request.parent, custom=False, acceptSecrets=True
                )
            )
            outputs = encode({"resources": []})
            monitor.RegisterResourceOutputs(resource_pb2.RegisterResourceOutputsRequest(urn=made.urn, outputs=outputs))
        return provider_pb2.ConstructResponse(urn=made.urn, state=outputs)

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()


def plain(value: Any) -> Any:
    """The value as the cluster would get it."""
    if isinstance(value, (Secret, OutputValue)):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not UNKNOWN}
    return [plain(item) for item in value if item is not UNKNOWN] if isinstance(value, list) else value


def main() -> None:
    """Say the port, serve until the engine ends this process."""
    port, _, certificates = os.environ.get("STAND_IN_CLUSTER", "").partition(":")
    api = Api(int(port), Path(certificates)) if port else None
    server = grpc.server(ThreadPoolExecutor(16))
    servicer = Kubernetes(api, os.environ.get("STAND_IN_GATES", ""))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    sys.stdout.write(f"{server.add_insecure_port('127.0.0.1:0')}\n")
    server.start()
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
