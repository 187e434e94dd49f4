"""Files of a volume go through a helper pod: made when needed, shared, gone when done; and the connection may break.

The pod's own program runs here, behind as much of an API server as it needs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes import helper_pod, storage_claim
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.collecting import collect
from pulumi_tfjobs.targets.kubernetes.options import Options, StoragePlace
from pulumi_tfjobs.targets.kubernetes.storage import Storage, has_checkpoints, open_storage, place_source, remove_run
from tests.helpers.fake_files_api import FakeFilesApi

RUN = "mnist-0123456789ab"
ENDED = RunState(run_id=RUN, attempt=1, phase="succeeded")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FakeFilesApi]:
    (tmp_path / "storage").mkdir()
    async with FakeFilesApi(tmp_path).running() as running:
        yield running


@pytest.fixture
def options(api: FakeFilesApi) -> Options:
    return make_options(api)


@pytest.fixture
async def connection(options: Options) -> AsyncIterator[Connection]:
    async with await Connection.open(options) as connection:
        yield connection


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


async def test_files_go_there_and_back_and_the_pod_is_gone_after(
    api: FakeFilesApi, options: Options, connection: Connection, here: RunFolder, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(3_000_001))
    async with storage_of(options, connection) as storage:
        await place_source(storage, "d1", b"archive")
        await place_source(storage, "d1", b"another")
        await storage.put(f"runs/{RUN}/outputs/large", str(large))
        await storage.put(f"runs/{RUN}/outputs/empty", os.devnull)
        for number in range(700):
            (tmp_path / f"storage/runs/{RUN}/outputs/{number}").write_text(str(number))
        assert not await has_checkpoints(storage, RUN)
        os.mkfifo(tmp_path / f"storage/runs/{RUN}/outputs/pipe")
    assert (tmp_path / "storage/sources/d1.tar.gz").read_bytes() == b"archive"
    assert api.pods == {}

    (note,) = await collect(options, connection, here, 1, ENDED)
    assert "outputs/pipe" in note
    assert digest(os.path.join(here.outputs, "large")) == digest(str(large))
    assert len(os.listdir(here.outputs)) == 702
    assert Path(here.outputs, "699").read_text() == "699"
    assert len(api.created) == 2
    assert api.pods == {}
    assert api.created[0]["metadata"]["name"] == api.created[1]["metadata"]["name"]
    assert await collect(options, connection, here, 1, ENDED) == ()
    assert len(api.created) == 2  # nobody is asked once all is here

    async with storage_of(options, connection) as storage:
        await remove_run(storage, RUN)
        await remove_run(storage, RUN)
    assert not (tmp_path / f"storage/runs/{RUN}").exists()


async def test_a_connection_that_breaks_is_taken_up_where_it_was(
    api: FakeFilesApi, options: Options, connection: Connection, here: RunFolder, tmp_path: Path
) -> None:
    outputs = tmp_path / f"storage/runs/{RUN}/outputs"
    outputs.mkdir(parents=True)
    for number in range(30):
        (outputs / str(number)).write_bytes(os.urandom(100_000))
    api.cut_after = 1_500_000
    assert await collect(options, connection, here, 1, ENDED) == ()
    assert len(api.commands) > 1
    for number in range(30):
        assert digest(os.path.join(here.outputs, str(number))) == digest(str(outputs / str(number)))
    assert not os.path.exists(os.path.join(here.root, ".collecting"))


async def test_two_users_share_the_pod_and_the_last_one_removes_it(
    api: FakeFilesApi, options: Options, connection: Connection
) -> None:
    first, second = storage_of(options, connection), storage_of(options, connection)
    await asyncio.gather(first.has("a"), second.has("a"))
    assert len(api.created) == 1
    await first.close()
    assert len(api.pods) == 1
    assert not await second.has("b")
    await second.close()
    assert api.pods == {}


async def test_a_pod_that_has_ended_or_is_ending_is_replaced(
    api: FakeFilesApi, options: Options, connection: Connection
) -> None:
    async with storage_of(options, connection) as storage:
        await storage.has("a")
        (pod,) = api.pods.values()
        await storage._hang_up()  # type: ignore[attr-defined]
        pod["status"] = {"phase": "Failed", "reason": "DeadlineExceeded"}
        assert not await storage.has("a")
        (pod,) = api.pods.values()
        await storage._hang_up()  # type: ignore[attr-defined]
        Path(pod["work"], "closing").touch()  # nobody has used it for a while
        assert not await storage.has("a")
    assert len(api.created) == 3


async def test_why_a_pod_does_not_run_is_told(
    api: FakeFilesApi, options: Options, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper_pod, "_HOPELESS_SECONDS", 0.1)
    monkeypatch.setattr(helper_pod, "_UNPLACED_SECONDS", 0.1)
    monkeypatch.setattr(helper_pod, "_START_SECONDS", 0.5)
    waiting = {"reason": "ImagePullBackOff", "message": "no such image tf:3"}
    unplaced = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    api.events = [{"message": "Multi-Attach error for volume", "lastTimestamp": "2025-01-01T00:00:00Z"}]
    for status, words in (
        (
            {"phase": "Pending", "containerStatuses": [{"name": "files", "state": {"waiting": waiting}}]},
            "no such image",
        ),
        ({"phase": "Pending", "conditions": [unplaced]}, "0/3 nodes are available"),
        ({"phase": "Pending"}, "Multi-Attach error"),
        ({"phase": "Failed", "message": "python3: not found"}, "python3: not found"),
    ):
        api.pods.clear()
        api.status = status
        with pytest.raises(TargetUnavailable, match=words):
            await storage_of(options, connection).has("a")


async def test_trouble_in_the_pod_is_told_in_its_words(
    api: FakeFilesApi, options: Options, connection: Connection, here: RunFolder, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(storage_claim, "_TRIES", 1)
    (tmp_path / "storage/runs").write_text("in the way")
    async with storage_of(options, connection) as storage:
        with pytest.raises(TargetUnavailable, match=r"File exists|Not a directory"):
            await storage.put("runs/a/b", os.devnull)
        assert not await storage.has("other")  # the session is good for more
    api.exec_status = 403
    (note,) = await collect(options, connection, here, 1, ENDED)
    assert "pods/exec" in note
    assert "storage.url" in note


def test_the_program_can_be_given_to_a_pod() -> None:
    """Kubernetes replaces $(NAME) in variables."""
    body = helper_pod.helper_pod(make_options(None))
    (container,) = body["spec"]["containers"]
    assert "$(" not in container["env"][0]["value"]
    assert len(container["env"][0]["value"]) < 100_000
    assert body["spec"]["activeDeadlineSeconds"] == 900
    assert not body["spec"]["automountServiceAccountToken"]
    claims = [
        volume["persistentVolumeClaim"] for volume in body["spec"]["volumes"] if "persistentVolumeClaim" in volume
    ]
    assert claims == [{"claimName": "data"}]
    other = helper_pod.helper_pod(make_options(None, image="tf:2"))
    assert other["metadata"]["name"] != body["metadata"]["name"]


def test_no_node_is_added_for_a_helper_pod() -> None:
    selector = {"pool": "gpu", "kubernetes.io/arch": "arm64"}
    spec = helper_pod.helper_pod(make_options(None, node_selector=selector))["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "arm64"}
    assert "pool" in str(spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"])
    bound = make_options(None, node_selector=selector, storage=StoragePlace(host_path="/data"), allow_host_path=True)
    assert helper_pod.helper_pod(bound)["spec"]["nodeSelector"] == selector


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def make_options(api: FakeFilesApi | None, **changes: Any) -> Options:
    credentials = {"kubeconfig": api.kubeconfig} if api else {}
    options = Options(image="tf:1", storage=StoragePlace(claim="data"), credentials=credentials)
    return dataclasses.replace(options, **changes)
