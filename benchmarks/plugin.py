"""The real plugin as a process, and a client in the engine's place."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import empty_pb2, struct_pb2
from typing_extensions import Self

from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.protos import engine_pb2_grpc, provider_pb2, provider_pb2_grpc

PROGRAM = "pulumi-resource-tfjobs"
NOBODY = "127.0.0.1:1"  # an engine that is not there: nothing is said to it
DEADLINE = 300.0


def installed_plugin() -> str:
    """The console script beside this interpreter, the one that the engine starts."""
    path = os.path.join(sysconfig.get_path("scripts"), PROGRAM)
    if not os.path.exists(path):
        raise SystemExit(f"there is no {PROGRAM} beside {sys.executable}. To fix: make setup")
    return path


def start(program: str, engine: str, **options: Any) -> tuple[subprocess.Popen[bytes], int, float]:
    """Start a plugin: its process, its port, and the seconds from exec to the port."""
    began = time.monotonic()
    process = subprocess.Popen([program, engine], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options)
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.monotonic() - began
    if not line:
        raise SystemExit(f"{program} did not say a port (exit code {process.wait()})")
    return process, int(line), seconds


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Engine(engine_pb2_grpc.EngineServicer):
    """Takes what the plugin says, and shows nothing."""

    def Log(self, request: Any, context: Any) -> empty_pb2.Empty:  # noqa: N802, ARG002 - the protocol's name
        return empty_pb2.Empty()


class Workplace:
    """Folders that are removed afterwards, and an engine's log service that listens."""

    def __init__(self) -> None:
        self.root = tempfile.mkdtemp(prefix="tfjobs-bench-")
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        engine_pb2_grpc.add_EngineServicer_to_server(_Engine(), self._server)
        self.engine = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        self._count = 0

    def path(self, name: str) -> str:
        """A path nothing has been at."""
        self._count += 1
        return os.path.join(self.root, f"{self._count}-{name}")

    @property
    def home(self) -> str:
        """Where the runs of the benchmarks are kept."""
        return os.path.join(self.root, "home")

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PULUMI_", "TFJOBS_", "PYTHON"))}
        caches = {key: value for key, value in os.environ.items() if key.startswith("PULUMI_TFJOBS_")}
        return {**kept, **caches, "TFJOBS_HOME": self.home, **more}

    def close(self) -> None:
        self._server.stop(None)
        shutil.rmtree(self.root, ignore_errors=True)


class Plugin:
    """A plugin that has just been started and configured, as each `pulumi up` has one."""

    def __init__(self, place: Workplace) -> None:
        self.process, port, _ = start(installed_plugin(), place.engine, env=place.environment(), cwd=place.root)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = provider_pb2_grpc.ResourceProviderStub(self._channel)
        self._stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address=place.engine), timeout=DEADLINE)
        self._stub.Configure(provider_pb2.ConfigureRequest(), timeout=DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        end(self.process)

    def check(self, name: str, inputs: Mapping[str, Any]) -> struct_pb2.Struct:
        request = provider_pb2.CheckRequest(urn=_urn(name), news=wire.encode(inputs))
        response = self._stub.Check(request, timeout=DEADLINE)
        if response.failures:
            raise SystemExit("\n".join(f"{failure.property}: {failure.reason}" for failure in response.failures))
        found: struct_pb2.Struct = response.inputs
        return found

    def preview(self, name: str, checked: struct_pb2.Struct) -> dict[str, Any]:
        """What a preview says of the outputs."""
        request = provider_pb2.CreateRequest(urn=_urn(name), properties=checked, preview=True)
        return wire.decode(self._stub.Create(request, timeout=DEADLINE).properties)

    def create(self, name: str, checked: struct_pb2.Struct) -> tuple[float, dict[str, Any]]:
        """When the request was sent (monotonic seconds), and the outputs once the run has ended."""
        request = provider_pb2.CreateRequest(urn=_urn(name), properties=checked)
        began = time.monotonic()
        response = self._stub.Create(request, timeout=DEADLINE)
        return began, wire.decode(response.properties)


def _urn(name: str) -> str:
    return f"urn:pulumi:dev::bench::tfjobs:index:TrainingJob::{name}"
