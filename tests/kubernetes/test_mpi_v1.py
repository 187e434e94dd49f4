"""Horovod over MPI as the MPIJob (v1) of training-operator, where a cluster has no other: mpirun, by kubectl into real
pods. A cluster has one kind of MPIJob, so that these tests have a cluster of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.environments.examples import default_spec
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.base import Silent
from tests.conformance.kubernetes_place import KubernetesPlace
from tests.conformance.place import plan_of, replica
from tests.conformance.suite import FOR_EVER
from tests.kubernetes.test_mpi import FOUR, SECRET, TWO, check_that_ranks_may_tidy_up
from tests.rig.cluster import Cluster
from tests.rig.node import NeedsRoot

pytestmark = [pytest.mark.slow, pytest.mark.training]

_API = "kubernetes.default.svc"  # the API server's certificate has this name, and not the node's address


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def _door(address: str, server: int) -> Iterator[int]:
    """A port of the node's own network that leads to the API server, as pods have none to the service `kubernetes`."""
    loop = asyncio.new_event_loop()
    ports: list[int] = []
    open_now, over = threading.Event(), asyncio.Event()

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        api_reader, api_writer = await asyncio.open_connection("127.0.0.1", server)
        await asyncio.gather(_pass_on(reader, api_writer), _pass_on(api_reader, writer))

    async def serve() -> None:
        async with await asyncio.start_server(come, address, 0) as door:
            ports.append(door.sockets[0].getsockname()[1])
            open_now.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert open_now.wait(10.0)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        made.add("training-operator-mpi")
        try:
            made.add_node(kubectl_delivery=True)
        except NeedsRoot as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture
async def mpi(cluster: Cluster, tmp_path: Path) -> AsyncIterator[KubernetesPlace]:
    """Where plain scripts are ranks: the interpreter is the one that has mpirun."""
    node = cluster.api.get(f"/api/v1/nodes/{cluster.node_name}")
    address = next(item["address"] for item in node["status"]["addresses"] if item["type"] == "InternalIP")
    python = environments.build(default_spec(horovod=True), Silent())
    volumes = [dict(volume) for volume in cluster.python_volumes(python)]
    with cluster.namespace() as namespace, _door(address, cluster.port("apiserver")) as port:
        there = {"KUBERNETES_SERVICE_HOST": _API, "KUBERNETES_SERVICE_PORT": str(port)}
        container = {"name": "training", "env": [{"name": name, "value": value} for name, value in there.items()]}
        patch = {"spec": {"containers": [container], "hostAliases": [{"ip": address, "hostnames": [_API]}]}}
        changes = {"engine": "kubeflow", "volumes": volumes, "podTemplatePatch": patch}
        place = KubernetesPlace(str(tmp_path), cluster, namespace, **changes)
        place.interpreter = python
        yield place
        await place.close()
    left = [pod for folder, attempt in place.launched for pod in place.alive(folder, attempt)]
    assert left == [], "pods outlived their run"


async def test_ranks_run_in_the_workers_pods(mpi: KubernetesPlace) -> None:
    state = await mpi.run(
        plan_of(FOUR, environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"})),
        """
        names = ('TFJOBS_RANK', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK')
        print(json.dumps([os.environ[name] for name in names] + [os.uname().nodename]))
        print('the token is', os.environ['TOKEN'])
        """,
        {"TOKEN": SECRET},
    )
    assert (state.phase, state.exit_code, state.reason) == (phases.SUCCEEDED, 0, "")
    for rank in range(4):
        name = f"worker-{rank}"
        said, token = mpi.log(state, name).splitlines()[-2:]
        pod = f"{state.run_id}-1-worker-{rank // 2}"
        assert json.loads(said) == [str(rank), str(rank), "4", str(rank % 2), pod]
        assert token == "the token is ***"
        assert replica(state, name).phase == phases.SUCCEEDED


async def test_the_rank_that_fails_is_named(mpi: KubernetesPlace) -> None:
    state = await mpi.run(plan_of(TWO), "if os.environ['TFJOBS_RANK'] == '1': sys.exit(7)\n" + FOR_EVER)
    assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "worker-1", 7), state
    assert state.reason == "worker-1 exited with code 7"


async def test_ranks_may_tidy_up_when_the_run_is_stopped(mpi: KubernetesPlace) -> None:
    await check_that_ranks_may_tidy_up(mpi)
