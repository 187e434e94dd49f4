"""The plugin as a process: what the engine sees of its start and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import empty_pb2

from pulumi_tfjobs.provider.protos import provider_pb2_grpc
from tests.provider.fakes import DEADLINE

PLUGIN = [sys.executable, "-m", "pulumi_tfjobs.provider"]
NOBODY = "127.0.0.1:1"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(processes: list[subprocess.Popen[bytes]], *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen([*PLUGIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    processes.append(process)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def version_from(port: int) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = provider_pb2_grpc.ResourceProviderStub(channel)
        return str(stub.GetPluginInfo(empty_pb2.Empty(), timeout=DEADLINE).version)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_port_is_all_it_says_and_a_signal_ends_it(
    processes: list[subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    first, port = start(processes, NOBODY)
    second, other = start(processes, NOBODY)
    assert port != other
    assert version_from(port) == version_from(other) == "0.1.0"
    for process in (first, second):
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out, err) == (0, b"", b"")


def test_it_ends_when_the_engine_is_killed(processes: list[subprocess.Popen[bytes]]) -> None:
    # The engine: starts the plugin, passes its output on, and waits to be killed.
    code = f"import subprocess, sys; subprocess.Popen({[*PLUGIN, NOBODY]!r}).wait()"
    engine = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    processes.append(engine)
    assert engine.stdout is not None
    assert engine.stderr is not None
    port = int(engine.stdout.readline())
    assert version_from(port) == "0.1.0"
    engine.kill()
    # The plugin holds the other end of stderr: it closes when the plugin has ended.
    assert engine.stderr.read() == b""


def test_without_an_engine_it_waits_to_be_attached_to(processes: list[subprocess.Popen[bytes]]) -> None:
    process, port = start(processes)
    assert version_from(port) == "0.1.0"
    assert process.poll() is None


def test_it_starts_without_what_takes_long() -> None:
    code = (
        "import sys, pulumi_tfjobs.provider.__main__, pulumi_tfjobs.provider.servicer\n"
        "print([n for n in ('pulumi', 'pydantic', 'tensorboard', 'sqlite3', 'numpy', 'yaml', 'opentelemetry')"
        " if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_messages_loaded_first_are_those_of_the_sdk_loaded_later() -> None:
    code = """
from pulumi_tfjobs.provider import protos
import sys
assert "pulumi" not in sys.modules
pulumi = protos.import_pulumi()
import pulumi.provider.server
from pulumi.runtime.proto import provider_pb2, ConstructRequest
assert provider_pb2 is protos.provider_pb2 is pulumi.runtime.proto.provider_pb2
assert ConstructRequest is protos.provider_pb2.ConstructRequest
assert pulumi.__file__ and pulumi.Output
print("well")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("well\n", "")


def test_its_own_settings_do_not_reach_its_children() -> None:
    code = """
import os, sys
sys.argv = ["pulumi-resource-tfjobs", "127.0.0.1:1"]
from pulumi_tfjobs.provider import __main__ as plugin
def say(port):
    print(sorted(set(os.environ) & set(plugin._GRPC)), flush=True)
    os.kill(os.getpid(), 15)
plugin._say = say
plugin.main()
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    for given, expected in [({}, "[]"), ({"GRPC_VERBOSITY": "ERROR"}, "['GRPC_VERBOSITY']")]:
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **given}
        )
        assert found.stdout.strip() == expected


def test_help_says_how_to_attach() -> None:
    found = subprocess.run([*PLUGIN, "--help"], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout == ""
    assert "PULUMI_DEBUG_PROVIDERS" in found.stderr
