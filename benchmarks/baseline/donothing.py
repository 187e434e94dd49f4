"""A provider that does nothing, written as the SDK's documentation has it: a servicer of `pulumi.provider.server`
with the few methods that a resource needs, on the SDK's own messages. It copies inputs to outputs and decodes nothing.

`Resource` has no outputs of its own. `Shaped` has those of a training job, constant and of the same size, so that the
engine, the state file and the program have as much to carry as with jobs; nothing stands behind them either.
`Waiting` makes the file that it is told of, and waits until the update is cancelled.
"""

# ruff: noqa: N802, ARG002 - names and arguments are those of the protocol

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import grpc.aio
import pulumi
import pulumi.provider
from google.protobuf import empty_pb2, struct_pb2
from pulumi.provider.server import ProviderServicer
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

TYPE = "donothing:index:Resource"
SHAPED = "donothing:index:Shaped"
WAITING = "donothing:index:Waiting"
_FILE = {"inputProperties": {"file": {"type": "string"}}}
SCHEMA = {"name": "donothing", "version": "0.1.0", "resources": {TYPE: {}, SHAPED: {}, WAITING: _FILE}}
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

_RUN = "/tmp/tfjobs-bench-abcdefgh/home/stores/default/runs/job-100-0123456789ab"
OUTPUTS = {
    "runId": "job-100-0123456789ab",
    "digest": "0123456789abcdef" * 4,
    "status": "succeeded",
    "reason": "",
    "attempt": 1,
    "exitCode": 0,
    "startedAt": "2026-01-01T00:00:00.000Z",
    "finishedAt": "2026-01-01T00:00:00.050Z",
    "durationSeconds": 0.05,
    "metrics": {},
    "outputsDir": f"{_RUN}/outputs",
    "checkpointsDir": f"{_RUN}/checkpoints",
    "logs": {"worker-0": f"{_RUN}/attempts/1/replicas/worker-0.log"},
    "tfConfig": {},
    "hostfile": "",
    "worldSize": 1,
    "restarts": 0,
    "worldSizes": [],
    "source": {"train.py": "0123456789ab"},
    "__referrer": "urn:pulumi:stack-1::bench::tfjobs:index:TrainingJob::job-100",
}
_KNOWN, _LATER = struct_pb2.Struct(), struct_pb2.Struct()
_KNOWN.update(OUTPUTS)
_LATER.update(dict.fromkeys(OUTPUTS, UNKNOWN))


class DoNothing(ProviderServicer):
    cancelled: asyncio.Event

    async def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version="0.1.0")

    async def GetSchema(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetSchemaResponse(schema=json.dumps(SCHEMA))

    async def CheckConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    async def DiffConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    async def Configure(self, request: Any, context: Any) -> Any:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, acceptResources=True, acceptOutputs=True
        )

    async def Check(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    async def Diff(self, request: Any, context: Any) -> Any:
        same = request.old_inputs == request.news
        kind = provider_pb2.DiffResponse
        return kind(changes=kind.DIFF_NONE if same else kind.DIFF_SOME)

    async def Create(self, request: Any, context: Any) -> Any:
        if f"::{WAITING}::" in request.urn and not request.preview:
            os.close(os.open(request.properties["file"], os.O_CREAT | os.O_WRONLY))
            await self.cancelled.wait()
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "cancelled")
        response = provider_pb2.CreateResponse(id="" if request.preview else "nothing", properties=request.properties)
        if f"::{SHAPED}::" in request.urn:
            response.properties.MergeFrom(_LATER if request.preview else _KNOWN)
        return response

    async def Update(self, request: Any, context: Any) -> Any:
        return provider_pb2.UpdateResponse(properties=request.news)

    async def Delete(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    async def Cancel(self, request: Any, context: Any) -> Any:
        self.cancelled.set()
        return empty_pb2.Empty()


class Resource(pulumi.CustomResource):
    """The program's side of it."""

    def __init__(self, name: str, **properties: Any) -> None:
        super().__init__(TYPE, name, properties, pulumi.ResourceOptions(version="0.1.0"))


class Shaped(pulumi.CustomResource):
    """The same with a job's outputs."""

    def __init__(self, name: str, **properties: Any) -> None:
        outputs = {key: None for key in OUTPUTS if key not in {"source", "__referrer"}}
        super().__init__(SHAPED, name, {**properties, **outputs}, pulumi.ResourceOptions(version="0.1.0"))


async def serve() -> None:
    server = grpc.aio.server()
    DoNothing.cancelled = asyncio.Event()
    servicer = DoNothing(pulumi.provider.Provider("0.1.0"), sys.argv[1:], engine_address=sys.argv[1])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main() -> None:
    asyncio.run(serve())
