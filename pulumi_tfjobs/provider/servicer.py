"""The engine's requests to the plugin, one method each: who answers them, and what becomes of an error."""

# ruff: noqa: N802, ARG002 - names and arguments are those of the protocol

from __future__ import annotations

import functools
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio
from google.protobuf import empty_pb2

from pulumi_tfjobs.provider import faults
from pulumi_tfjobs.provider.component import TYPES as COMPONENT_TYPES
from pulumi_tfjobs.provider.component import Components
from pulumi_tfjobs.provider.engine_log import EngineLog
from pulumi_tfjobs.provider.faults import Unsupported
from pulumi_tfjobs.provider.protos import plugin_pb2, provider_pb2, provider_pb2_grpc
from pulumi_tfjobs.provider.schema import SCHEMA_FILE
from pulumi_tfjobs.provider.training_job import TYPE as JOB_TYPE
from pulumi_tfjobs.provider.training_job import TrainingJobs
from pulumi_tfjobs.provider.urns import resource_type

PLUGIN_FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "pulumi-plugin.json")

_Method = TypeVar("_Method", bound=Callable[..., Awaitable[Any]])


def _rpc(method: _Method) -> _Method:
    """Whatever goes wrong in an RPC becomes a clean status."""

    @functools.wraps(method)
    async def guarded(self: Servicer, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - no traceback reaches a user
            subject = getattr(request, "urn", "") or getattr(request, "type", "")
            await faults.abort(context, error, method.__name__, subject)

    return guarded  # type: ignore[return-value]


def version() -> str:
    """The plugin's version, from its pulumi-plugin.json: quicker to read than the distribution's metadata."""
    return str(json.loads(_read(PLUGIN_FILE))["version"])


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


class Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """The plugin ``tfjobs``."""

    def __init__(self, jobs: TrainingJobs, components: Components, log: EngineLog) -> None:
        self._jobs = jobs
        self._components = components
        self._log = log

    # Getting to know each other

    @_rpc
    async def Handshake(
        self, request: provider_pb2.ProviderHandshakeRequest, context: Any
    ) -> provider_pb2.ProviderHandshakeResponse:
        self._begin(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(
            accept_secrets=True, accept_resources=True, accept_outputs=True, supports_autonaming_configuration=False
        )

    @_rpc
    async def Attach(self, request: plugin_pb2.PluginAttach, context: Any) -> empty_pb2.Empty:
        self._begin(request.address)
        return empty_pb2.Empty()

    def _begin(self, engine_address: str) -> None:
        self._log.connect(engine_address)
        self._jobs.begin()

    @_rpc
    async def GetPluginInfo(self, request: empty_pb2.Empty, context: Any) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=version())

    @_rpc
    async def GetSchema(self, request: provider_pb2.GetSchemaRequest, context: Any) -> provider_pb2.GetSchemaResponse:
        if request.version != 0:
            raise Unsupported(f"there is no schema of version {request.version}. Expected: 0. Update pulumi_tfjobs")
        return provider_pb2.GetSchemaResponse(schema=_read(SCHEMA_FILE))

    # The provider itself: nothing to configure

    @_rpc
    async def CheckConfig(self, request: provider_pb2.CheckRequest, context: Any) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    @_rpc
    async def DiffConfig(self, request: provider_pb2.DiffRequest, context: Any) -> provider_pb2.DiffResponse:
        # Another version of the plugin never replaces the runs that an earlier one made.
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    @_rpc
    async def Configure(self, request: provider_pb2.ConfigureRequest, context: Any) -> provider_pb2.ConfigureResponse:
        self._jobs.begin()
        self._components.versioned = request.name != "default"
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, acceptResources=True, acceptOutputs=True
        )

    # Resources

    @_rpc
    async def Check(self, request: provider_pb2.CheckRequest, context: Any) -> provider_pb2.CheckResponse:
        _known_type(request.urn)
        return await self._jobs.check(request)

    @_rpc
    async def Diff(self, request: provider_pb2.DiffRequest, context: Any) -> provider_pb2.DiffResponse:
        _known_type(request.urn)
        return await self._jobs.diff(request)

    @_rpc
    async def Create(self, request: provider_pb2.CreateRequest, context: Any) -> provider_pb2.CreateResponse:
        _known_type(request.urn)
        return await self._jobs.create(request)

    @_rpc
    async def Read(self, request: provider_pb2.ReadRequest, context: Any) -> provider_pb2.ReadResponse:
        _known_type(request.urn)
        return await self._jobs.read(request)

    @_rpc
    async def Update(self, request: provider_pb2.UpdateRequest, context: Any) -> provider_pb2.UpdateResponse:
        _known_type(request.urn)
        return await self._jobs.update(request)

    @_rpc
    async def Delete(self, request: provider_pb2.DeleteRequest, context: Any) -> empty_pb2.Empty:
        _known_type(request.urn)
        await self._jobs.delete(request)
        return empty_pb2.Empty()

    @_rpc
    async def Cancel(self, request: empty_pb2.Empty, context: Any) -> empty_pb2.Empty:
        await self._jobs.farewell()
        self._jobs.cancel()
        return empty_pb2.Empty()

    # Components

    @_rpc
    async def Construct(self, request: provider_pb2.ConstructRequest, context: Any) -> provider_pb2.ConstructResponse:
        if request.type not in COMPONENT_TYPES:
            known = ", ".join(COMPONENT_TYPES)
            raise Unsupported(f"there is no component {request.type}. Expected one of: {known}. Correct the type")
        return await self._components.construct(request, context, self._log.address)

    # What this provider does not have

    @_rpc
    async def Call(self, request: provider_pb2.CallRequest, context: Any) -> provider_pb2.CallResponse:
        raise Unsupported(f"tfjobs has no methods, so {request.tok} cannot be called. Use the resource's outputs")

    @_rpc
    async def Invoke(self, request: provider_pb2.InvokeRequest, context: Any) -> provider_pb2.InvokeResponse:
        raise Unsupported(f"tfjobs has no functions, so {request.tok} cannot be invoked. Use a resource's outputs")

    @_rpc
    async def Parameterize(self, request: Any, context: Any) -> Any:
        raise Unsupported("tfjobs takes no parameters. Add it without any: pulumi package add <path of the plugin>")

    @_rpc
    async def GetMapping(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetMappingResponse()

    @_rpc
    async def GetMappings(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetMappingsResponse()

    async def List(self, request: Any, context: Any) -> None:  # type: ignore[override] # the only stream, never begun
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "tfjobs cannot list runs for the engine. Look into the run store"
        )


def _known_type(urn: str) -> None:
    found = resource_type(urn)
    if found != JOB_TYPE:
        raise Unsupported(f"there is no resource {found}. Expected: {JOB_TYPE}. Correct its type")


def make_server(directory: str, log: EngineLog) -> tuple[grpc.aio.Server, TrainingJobs]:
    """A server that is not bound yet, and the jobs that it serves."""
    jobs = TrainingJobs(directory, log)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", 400 * 1024 * 1024),
            ("grpc.max_send_message_length", 400 * 1024 * 1024),
            # Two plugins must never share a port: each is one engine's.
            ("grpc.so_reuseport", 0),
            # The engine may ask hundreds of things at once; waiting for the loop must not fail a request.
            ("grpc.server_max_unrequested_time_in_server", 30 * 60),
        ]
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Servicer(jobs, Components(), log), server)
    return server, jobs
