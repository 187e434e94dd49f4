from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from google.protobuf import struct_pb2

from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.component import Components
from pulumi_tfjobs.provider.engine_log import EngineLog
from pulumi_tfjobs.provider.protos import (
    engine_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    status_pb2,
)
from pulumi_tfjobs.provider.servicer import Servicer
from pulumi_tfjobs.provider.training_job import TrainingJobs
from tests.provider.fakes import DEADLINE, FakeDiffer, FakeEngine, FakeLifecycle

URN = "urn:pulumi:dev::project::tfjobs:index:TrainingJob::mnist"
INPUTS = {"sourceDirectory": "./src", "entryScript": "train.py"}
# The engine takes 16 MiB of error details; this side's default is 16 KiB.
CLIENT = [("grpc.max_metadata_size", 16 << 20), ("grpc.absolute_max_metadata_size", 16 << 20)]


@dataclass
class Plugin:
    """A plugin's server in this process, an engine that listens, and a client in the engine's place."""

    stub: provider_pb2_grpc.ResourceProviderStub
    engine: FakeEngine
    lifecycle: FakeLifecycle
    differ: FakeDiffer
    log: EngineLog
    engine_address: str
    timeout: float = field(default=DEADLINE)

    async def call(self, rpc: str, request: Any) -> Any:
        return await getattr(self.stub, rpc)(request, timeout=self.timeout)

    async def fails(self, rpc: str, request: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(rpc, request)
        return caught.value

    async def check(self, inputs: dict[str, Any] | struct_pb2.Struct, olds: Any = None, urn: str = URN) -> Any:
        news = inputs if isinstance(inputs, struct_pb2.Struct) else wire.encode(inputs)
        return await self.call("Check", provider_pb2.CheckRequest(urn=urn, news=news, olds=olds))

    async def create(
        self, inputs: struct_pb2.Struct, *, preview: bool = False, timeout: float = 0, urn: str = URN
    ) -> Any:
        request = provider_pb2.CreateRequest(urn=urn, properties=inputs, preview=preview, timeout=timeout)
        return await self.call("Create", request)

    async def checked(self, inputs: dict[str, Any], urn: str = URN) -> struct_pb2.Struct:
        response = await self.check(inputs, urn=urn)
        assert not response.failures
        return response.inputs


def init_failure(error: grpc.aio.AioRpcError) -> provider_pb2.ErrorResourceInitFailed:
    """What the engine would read from the error's details."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    found = provider_pb2.ErrorResourceInitFailed()
    assert status.details[0].Unpack(found)
    assert status.code == error.code().value[0]
    return found


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFJOBS_HOME", str(tmp_path / "home"))


@pytest.fixture
async def engine() -> AsyncIterator[tuple[FakeEngine, str]]:
    server, servicer = grpc.aio.server(), FakeEngine()
    engine_pb2_grpc.add_EngineServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def plugin(engine: tuple[FakeEngine, str], tmp_path: Any) -> AsyncIterator[Plugin]:
    servicer, address = engine
    lifecycle, differ, log = FakeLifecycle(), FakeDiffer(), EngineLog(interval=0.001)
    jobs = TrainingJobs(str(tmp_path), log, lifecycle=lifecycle, differ=differ)
    server = grpc.aio.server()
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Servicer(jobs, Components(), log), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CLIENT) as channel:
        stub = provider_pb2_grpc.ResourceProviderStub(channel)
        await stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address=address), timeout=DEADLINE)
        yield Plugin(stub, servicer, lifecycle, differ, log, address)
    await log.close()
    await server.stop(None)
