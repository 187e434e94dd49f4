"""The component, built in the plugin for a program without the Python SDK: a fake engine registers its resources."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2

from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.component import integral, snake_case
from pulumi_tfjobs.provider.protos import engine_pb2_grpc, import_pulumi, provider_pb2
from pulumi_tfjobs.provider.wire import UNKNOWN, OutputValue, Secret
from tests.provider.conftest import Plugin
from tests.provider.fakes import DEADLINE, FakeEngine

import_pulumi()
from pulumi.runtime.proto import resource_pb2, resource_pb2_grpc  # noqa: E402

COMPONENT = "tfjobs:index:TensorFlow"
JOB = "tfjobs:index:TrainingJob"
FINISHED = {"runId": "mnist-1", "status": "succeeded", "metrics": {"accuracy": 0.97}, "worldSize": 2}


class FakeMonitor(resource_pb2_grpc.ResourceMonitorServicer):
    def __init__(self) -> None:
        self.registered: list[Any] = []
        self.outputs: dict[str, dict[str, Any]] = {}
        self.answer: dict[str, Any] = FINISHED

    async def SupportsFeature(self, request: Any, context: Any) -> Any:
        return resource_pb2.SupportsFeatureResponse(
            hasSupport=request.id in ("secrets", "resourceReferences", "outputValues")
        )

    async def RegisterResource(self, request: Any, context: Any) -> Any:
        self.registered.append(request)
        urn = f"urn:pulumi:dev::project::{request.type}::{request.name}"
        outputs = {**wire.decode(request.object), **self.answer} if request.custom else {}
        known = {"id": f"local/default/{request.name}-1"} if request.custom and self.answer else {}
        return resource_pb2.RegisterResourceResponse(urn=urn, object=wire.encode(outputs), **known)

    async def GetDeploymentInfo(self, request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "as older engines")

    async def RegisterResourceOutputs(self, request: Any, context: Any) -> empty_pb2.Empty:
        self.outputs[request.urn] = wire.decode(request.outputs)
        return empty_pb2.Empty()


@pytest.fixture
async def monitor(plugin: Plugin) -> AsyncIterator[tuple[FakeMonitor, str]]:
    """A fake engine with a loop of its own: the SDK talks to the engine's log without giving up the loop."""
    servicer, loop = FakeMonitor(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[Any, str]:
        server = grpc.aio.server()
        resource_pb2_grpc.add_ResourceMonitorServicer_to_server(servicer, server)
        engine_pb2_grpc.add_EngineServicer_to_server(FakeEngine(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, f"127.0.0.1:{port}"

    server, address = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(start(), loop))
    await plugin.call("Handshake", provider_pb2.ProviderHandshakeRequest(engine_address=address))
    yield servicer, address
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(server.stop(None), loop))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE)
    loop.close()


def request(address: str, inputs: dict[str, Any], **more: Any) -> Any:
    return provider_pb2.ConstructRequest(
        project="project",
        stack="dev",
        parallel=4,
        monitorEndpoint=address,
        type=COMPONENT,
        name="mnist",
        inputs=wire.encode(inputs),
        **more,
    )


async def test_the_component_is_the_job_with_its_outputs(plugin: Plugin, monitor: tuple[FakeMonitor, str]) -> None:
    engine, address = monitor
    inputs = {
        "sourceDirectory": "./src",
        "entryScript": "train.py",
        "scriptParams": {"--epochs": 3, "--learning-rate": 0.01},
        "nodeCount": 2,
        "distributedBackend": "mpi",
        "computeTarget": {"kind": "local", "slots": 4},
        "environmentVariables": {"TOKEN": Secret("hush")},
    }
    response = await plugin.call("Construct", request(address, inputs))
    assert response.urn == f"urn:pulumi:dev::project::{COMPONENT}::mnist"
    state = wire.decode(response.state)
    assert {key: state[key] for key in FINISHED} == FINISHED

    component, job = engine.registered
    assert (component.type, component.custom) == (COMPONENT, False)
    assert (job.type, job.name, job.parent) == (JOB, "mnist", response.urn)
    sent = wire.decode(job.object)
    # The SDK makes the whole map secret where one of its values is.
    assert sent["environmentVariables"] == Secret({"TOKEN": "hush"})
    assert {**sent, "environmentVariables": None} == {**inputs, "environmentVariables": None}
    job_urn = f"urn:pulumi:dev::project::{JOB}::mnist"
    assert list(response.stateDependencies["metrics"].urns) == [job_urn]


async def test_dependencies_and_unknown_values_pass_through(plugin: Plugin, monitor: tuple[FakeMonitor, str]) -> None:
    engine, address = monitor
    engine.answer = {}
    other = "urn:pulumi:dev::project::random:index:Id::other"
    inputs = {
        "sourceDirectory": "./src",
        "entryScript": "train.py",
        "rerun": OutputValue(UNKNOWN, dependencies=(other,)),
    }
    response = await plugin.call("Construct", request(address, inputs, dryRun=True))
    job = engine.registered[1]
    assert wire.decode(job.object)["rerun"] in (UNKNOWN, OutputValue(UNKNOWN, dependencies=(other,)))
    assert list(job.propertyDependencies["rerun"].urns) == [other]
    assert wire.decode(response.state)["metrics"] is UNKNOWN


async def test_two_at_once_do_not_mix(plugin: Plugin, monitor: tuple[FakeMonitor, str]) -> None:
    engine, address = monitor
    first = request(address, {"sourceDirectory": "a", "entryScript": "a.py"})
    second = request(address, {"sourceDirectory": "b", "entryScript": "b.py"})
    second.name = "other"
    answers = await asyncio.gather(plugin.call("Construct", first), plugin.call("Construct", second))
    assert [answer.urn.rpartition("::")[2] for answer in answers] == ["mnist", "other"]
    jobs = {job.name: wire.decode(job.object)["entryScript"] for job in engine.registered if job.custom}
    assert jobs == {"mnist": "a.py", "other": "b.py"}


async def test_another_component_is_refused(plugin: Plugin, monitor: tuple[FakeMonitor, str]) -> None:
    wrong = request(monitor[1], {})
    wrong.type = "tfjobs:index:PyTorch"
    error = await plugin.fails("Construct", wrong)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "tfjobs:index:TensorFlow" in error.details()


async def test_an_engine_that_is_gone_gets_no_traceback(plugin: Plugin, monitor: tuple[FakeMonitor, str]) -> None:
    error = await plugin.fails("Construct", request("127.0.0.1:1", {"sourceDirectory": "a", "entryScript": "a.py"}))
    assert "Traceback" not in error.details()
    assert 'File "' not in error.details()


@pytest.mark.parametrize(
    ("camel", "snake"),
    [
        ("sourceDirectory", "source_directory"),
        ("processCountPerNode", "process_count_per_node"),
        ("useGpu", "use_gpu"),
        ("name", "name"),
    ],
)
def test_names(camel: str, snake: str) -> None:
    assert snake_case(camel) == snake


def test_whole_numbers_are_ints_again_all_the_way_down() -> None:
    assert repr(integral({"a": 3.0, "b": [1.0, 0.5, True, "3.0"]})) == "{'a': 3, 'b': [1, 0.5, True, '3.0']}"


@pytest.mark.parametrize(
    ("rpc", "message"),
    [
        ("Call", provider_pb2.CallRequest(tok="tfjobs:index:x")),
        ("Invoke", provider_pb2.InvokeRequest(tok="tfjobs:index:x")),
        ("Parameterize", provider_pb2.ParameterizeRequest()),
        ("Check", provider_pb2.CheckRequest(urn="urn:pulumi:dev::p::tfjobs:index:Nothing::x")),
    ],
)
async def test_what_it_does_not_have_is_said(plugin: Plugin, rpc: str, message: Any) -> None:
    error = await plugin.fails(rpc, message)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "tfjobs" in error.details()


async def test_cluster_components_are_built_too(plugin: Plugin, monitor: tuple[FakeMonitor, str]) -> None:
    engine, address = monitor
    inputs = {
        "kubeconfig": Secret("users: []\n"),
        "namespaces": [{"name": "vision", "podSecurity": "restricted"}],
        "flavors": [{"name": "a100"}],
        "queues": [{"name": "vision", "quotas": [{"flavor": "a100", "gpus": 8}]}],
        "target": {"kind": "kubernetes", "image": "example.org/train:1"},
    }
    wanted = request(address, inputs)
    wanted.type = "tfjobs:index:GpuAddons"
    response = await plugin.call("Construct", wanted)
    state = wire.split(wire.decode(response.state))
    target = state.plain["target"]
    assert (target["kind"], target["queue"], target["image"]) == ("kubernetes", "vision", "example.org/train:1")
    assert any(path.startswith("target") for path in state.secret), "the kubeconfig stays a secret"
    (queue,) = [item for item in engine.registered if item.type.endswith(":ClusterQueue")]
    (group,) = wire.decode(queue.object)["spec"]["resourceGroups"]
    assert group["flavors"][0]["resources"][2]["nominalQuota"] == "8"


async def test_wrong_arguments_of_a_component_are_said_in_words(
    plugin: Plugin, monitor: tuple[FakeMonitor, str]
) -> None:
    wanted = request(monitor[1], {"pools": [{"name": "A", "vmSize": "Standard_NC4as_T4_v3"}], "poolz": 1.0})
    wanted.type = "tfjobs:index:AksGpuCluster"
    error = await plugin.fails("Construct", wanted)
    assert "pools[0].name" in error.details()
    assert "poolz: there is no such argument" in error.details()
    assert "Traceback" not in error.details()
