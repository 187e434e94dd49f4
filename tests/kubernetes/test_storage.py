"""Files of a volume claim through the helper pod, in a real pod: there, back, and when the pod is killed under way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes.api import PODS
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.collecting import collect
from pulumi_tfjobs.targets.kubernetes.options import Options, StoragePlace, Volume
from pulumi_tfjobs.targets.kubernetes.placing import Shelf
from pulumi_tfjobs.targets.kubernetes.storage import (
    Entry,
    Storage,
    has_checkpoints,
    open_storage,
    place_source,
    remove_run,
)
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.rig.cluster import Cluster

RUN = "digits-0123456789ab"
ENDED = RunState(run_id=RUN, attempt=1, phase="succeeded")
LARGE = 64_000_000
SECONDS = 60.0


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """What the claim ``data`` is, on this machine."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
async def connection(rig_node: Cluster, volume: Path) -> AsyncIterator[Connection]:
    with rig_node.namespace() as namespace:
        spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        name = f"{namespace}-data"
        rig_node.api.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    **spec,
                    "capacity": {"storage": "1Gi"},
                    "hostPath": {"path": str(volume)},
                    "claimRef": {"namespace": namespace, "name": "data"},
                },
            }
        )
        rig_node.api.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data", "namespace": namespace},
                "spec": {**spec, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
            }
        )
        claim = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/data"
        rig_node.api.wait(claim, lambda found: found["status"].get("phase") == "Bound", "the claim to be bound")
        async with await Connection.open(options_of(rig_node, namespace)) as connection:
            yield connection


def options_of(cluster: Cluster, namespace: str) -> Options:
    volumes = (
        Volume(mount_path=item["mountPath"], host_path=item["hostPath"], read_only=True)
        for item in cluster.python_volumes(sys.executable)
    )
    return Options(
        kubeconfig=str(cluster.kubeconfig),
        namespace=namespace,
        image=cluster.python_image(),
        image_pull_policy="Never",
        python=sys.executable,
        node_selector={"kubernetes.io/hostname": cluster.node_name},
        allow_host_path=True,
        volumes=tuple(volumes),
        storage=StoragePlace(claim="data", path="team/jobs"),
    )


@pytest.fixture
def options(rig_node: Cluster, connection: Connection) -> Options:
    return options_of(rig_node, connection.namespace)


@pytest.fixture
def here(tmp_path: Path) -> RunFolder:
    folder = RunFolder(str(tmp_path / "store" / "runs" / RUN))
    for path in (folder.outputs, folder.checkpoints, folder.logs, folder.attempt(1).root):
        os.makedirs(path)
    return folder


def storage_of(options: Options, connection: Connection) -> Storage:
    storage = open_storage(options, connection)
    assert storage is not None
    return storage


async def test_there_and_back(
    connection: Connection,
    options: Options,
    here: RunFolder,
    volume: Path,
    tmp_path: Path,
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        for _ in range(LARGE // 1_000_000):
            file.write(os.urandom(1_000_000))
    root = volume / "team/jobs"
    async with storage_of(options, connection) as storage:
        await place_source(storage, "d1", b"archive")
        placed = (root / "sources/d1.tar.gz").stat()
        await place_source(storage, "d1", b"archive")
        assert (root / "sources/d1.tar.gz").stat() == placed
        await storage.put(f"runs/{RUN}/outputs/large", str(large))
        small = tmp_path / "small"
        for number in range(300):
            small.write_text(f"{number}\n" * 100)
            await storage.put(f"runs/{RUN}/outputs/{number % 7}/{number}", str(small))
        assert not await has_checkpoints(storage, RUN)
        await storage.put(f"runs/{RUN}/checkpoints/ckpt-1", str(small))
        assert await has_checkpoints(storage, RUN)
    await gone(connection)
    assert await collect(options, connection, here, 1, ENDED) == ()
    assert digest(os.path.join(here.outputs, "large")) == digest(str(large))
    for number in range(300):
        assert Path(here.outputs, f"{number % 7}/{number}").read_text() == f"{number}\n" * 100
    assert os.listdir(here.checkpoints) == []
    async with storage_of(options, connection) as storage:
        await remove_run(storage, RUN)
    assert os.listdir(root / "runs") == []
    await gone(connection)


async def test_a_preview_starts_no_pod_to_look_for_checkpoints(
    rig_node: Cluster, connection: Connection, options: Options, here: RunFolder
) -> None:
    target = KubernetesTarget(options)

    def pods_ever() -> set[str]:
        path = f"/api/v1/namespaces/{connection.namespace}/events"
        return {
            item["involvedObject"]["name"] for item in rig_node.api.items(path, fieldSelector="involvedObject.kind=Pod")
        }

    assert await target.look_for_checkpoints(here) is None
    assert await KubernetesTarget(replace(options, storage=None)).look_for_checkpoints(here) is False
    assert pods_ever() == set()
    assert await target.has_checkpoints(here) is False
    assert len(pods_ever()) == 1, "an update looks through a pod"
    Path(here.checkpoints, "ckpt-1").write_text("brought here")
    assert await target.look_for_checkpoints(here) is True


async def test_a_pod_that_is_killed_under_way_is_replaced(
    rig_node: Cluster,
    connection: Connection,
    options: Options,
    here: RunFolder,
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = volume / "team/jobs/runs" / RUN / "outputs"
    outputs.mkdir(parents=True)
    for number in range(8):
        (outputs / str(number)).write_bytes(os.urandom(6_000_000))
    (outputs / "device").symlink_to("/dev/zero")
    placed: list[str] = []
    place = Shelf.place

    def place_and_kill(self: Shelf, entry: Entry, temporary: str) -> None:
        """The pod is killed when some files are here and some are not."""
        placed.append(entry.path)
        place(self, entry, temporary)
        if len(placed) == 2:
            pods = f"/api/v1/namespaces/{connection.namespace}/pods"
            (pod,) = rig_node.api.get(pods)["items"]
            rig_node.api.raw("DELETE", f"{pods}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})
            psutil.wait_procs([process for process in psutil.process_iter() if is_of_helper(process)], SECONDS)

    monkeypatch.setattr(Shelf, "place", place_and_kill)
    (note,) = await asyncio.wait_for(collect(options, connection, here, 1, ENDED), SECONDS)
    assert "outputs/device" in note
    assert sorted(placed) == [str(number) for number in range(8)]  # each once
    for number in range(8):
        assert digest(os.path.join(here.outputs, str(number))) == digest(str(outputs / str(number)))
    await gone(connection)


def is_of_helper(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("TFJOBS_FILES_PROGRAM" in part for part in process.cmdline())
    return False


async def gone(connection: Connection) -> None:
    """The helper pod is deleted by whoever used it last."""

    async def none() -> bool:
        return not await connection.list(PODS, connection.namespace)

    await until(none)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + SECONDS
    while not await true():
        assert time.monotonic() < end, "it does not come to that"
        await asyncio.sleep(0.01)


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
