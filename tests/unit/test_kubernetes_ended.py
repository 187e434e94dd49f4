"""How a run has ended whose workload and events are gone, from what its pods have kept on the storage."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from pulumi_tfjobs.errors import EndUnknown
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes.boot import leaving
from pulumi_tfjobs.targets.kubernetes.boot.output import Output
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.ended import kept_end
from pulumi_tfjobs.targets.kubernetes.handle import STOPPED, Handle, read_handle
from tests.helpers.fake_files_api import FakeFilesApi
from tests.helpers.kube_server import KubeServer, kube_server
from tests.unit.jobs import plan_of
from tests.unit.kubernetes_requests import HOROVOD_MPI, MULTI_WORKER, PS, PS_CHIEF, SINGLE
from tests.unit.test_kubernetes_attempts import Attempt
from tests.unit.test_kubernetes_helper_pod import make_options

LAUNCH = "abc123"
TWO = {"distribution": {"kind": "multiWorker", "workers": 2}}
BEGAN = 1000.0


class End(NamedTuple):
    """How a pod has ended. ``code`` None: it has begun, and no more is known."""

    code: int | None = 0
    at: float = 5.0
    cause: str = "replica"
    told: bool = False
    restart: int = 0
    reason: str = ""


def told(at: float = 5.0, restart: int = 0) -> End:
    return End(143, at, "order", told=True, restart=restart)


Ends = Mapping[str, End | list[End]]


class Keeper:
    """Writes on a storage as pods do."""

    def __init__(self, storage: Path, patch: pytest.MonkeyPatch) -> None:
        self.storage = storage
        self._patch = patch

    def keep(self, plan: LaunchPlan, ends: Ends, launch: str = LAUNCH) -> None:
        """``ends`` by pod: ``worker-0``."""
        root = self.storage.parent / "pod"
        root.mkdir(exist_ok=True)
        if not (root / "store").is_symlink():
            (root / "store").symlink_to(self.storage)
        for place, several in ends.items():
            for end in several if isinstance(several, list) else [several]:
                self._one(root, plan, place, end, launch)

    def _one(self, root: Path, plan: LaunchPlan, place: str, end: End, launch: str) -> None:
        kind, _, index = place.rpartition("-")
        own = {"LAUNCH": launch, "POD_TYPE": kind, "POD_INDEX": index, "RESTART": str(end.restart)}
        with self._patch.context() as patch:
            for name, value in own.items():
                patch.setenv(f"TFJOBS_{name}", value)
            patch.setenv("TFJOBS_POD_NAME", f"{place}-{end.restart}")
            clock = SimpleNamespace(time=lambda: BEGAN)
            patch.setattr(leaving, "time", clock)
            pod = leaving.Leaving(str(root), Output())
            pod.begin({"storage": True, "runId": plan.run_id, "attempt": 1})
            if end.code is not None:
                clock.time = lambda: BEGAN + end.at
                number = {"signal": end.code - 128} if end.code > 128 else {"code": end.code}
                how = {} if end.cause == "start" else {place: number}
                pod.keep(end.code, end.reason, end.cause, how, told=end.told)


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    (tmp_path / "storage").mkdir()
    return Keeper(tmp_path / "storage", monkeypatch)


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    async with kube_server() as made:
        yield made


def gone(server: KubeServer, root: Path, inputs: Mapping[str, Any] = SINGLE, **more: Any) -> Attempt:
    """An attempt of which nothing is at the cluster any more. Its storage is mounted here."""
    options = {"storage": {"claim": "data", "url": f"file://{root}/storage"}, **more}
    return Attempt(server, root, inputs, launch=LAUNCH, **options)


async def state_of(attempt: Attempt) -> RunState:
    found = await attempt.target.state(attempt.folder, 1)
    assert found is not None
    return found


async def look_at(attempt: Attempt) -> RunState:
    found = await attempt.target.look(attempt.folder, 1)
    assert found is not None
    return found


KUBEFLOW = {"engine": "kubeflow", "kind": "tfjob"}
MPIJOB = {"engine": "kubeflow", "kind": "mpijob"}
RETRIED = {"retries": 2}
LIVES = End(None)

PROVED: list[tuple[Mapping[str, Any], Mapping[str, Any], Ends, str, int, str]] = [
    (SINGLE, {}, {"worker-0": End(0)}, phases.SUCCEEDED, 0, ""),
    (SINGLE, {}, {"worker-0": [told(), End(0, restart=1)]}, phases.SUCCEEDED, 0, ""),
    (TWO, {}, {"worker-0": End(0), "worker-1": End(0, 9)}, phases.SUCCEEDED, 0, ""),
    # Who decides alone; the others are told to end then, whatever their clocks say.
    (PS, {}, {"worker-0": End(0, 5), "worker-1": told(4), "ps-0": LIVES}, phases.SUCCEEDED, 0, ""),
    (PS_CHIEF, {}, {"chief-0": End(0, 5), "worker-0": End(0, 1), "ps-0": End(1, 6)}, phases.SUCCEEDED, 0, ""),
    (HOROVOD_MPI, MPIJOB, {"launcher-0": End(0), "worker-0": told(), "worker-1": told()}, phases.SUCCEEDED, 0, ""),
    (SINGLE, {}, {"worker-0": End(3)}, phases.FAILED, 3, "worker-0 exited with code 3"),
    (SINGLE, {}, {"worker-0": End(137)}, phases.FAILED, 137, "worker-0 was ended by SIGKILL"),
    (TWO, {}, {"worker-0": told(5), "worker-1": End(1, 4)}, phases.FAILED, 1, "worker-1 exited with code 1"),
    (PS, {}, {"worker-0": told(5), "worker-1": LIVES, "ps-0": End(9, 4)}, phases.FAILED, 9, "ps-0 exited with code 9"),
    (RETRIED, {}, {"worker-0": End(3)}, phases.FAILED, 3, "worker-0 exited with code 3"),
    (RETRIED, {}, {"worker-0": [End(137), End(137, restart=2)]}, phases.FAILED, 137, "worker-0 was ended by SIGKILL"),
    (SINGLE, KUBEFLOW, {"worker-0": End(143)}, phases.FAILED, 143, "worker-0 was ended by SIGTERM"),
    (SINGLE, {}, {"worker-0": End(124, cause="time", reason="too long")}, phases.TIMED_OUT, 124, "too long"),
    (SINGLE, {}, {"worker-0": End(3, cause="start", reason="no tf")}, phases.FAILED, 3, "could not start: no tf"),
]


@pytest.mark.parametrize(("inputs", "more", "ends", "phase", "code", "reason"), PROVED)
async def test_what_pods_have_kept_is_the_end_of_the_run(
    server: KubeServer,
    tmp_path: Path,
    keeper: Keeper,
    inputs: Mapping[str, Any],
    more: Mapping[str, Any],
    ends: Ends,
    phase: str,
    code: int,
    reason: str,
) -> None:
    attempt = gone(server, tmp_path, inputs, **more)
    keeper.keep(attempt.plan, ends)
    for state in (await look_at(attempt), await state_of(attempt)):
        assert (state.phase, state.exit_code) == (phase, code)
        assert reason in state.reason
        assert reason or not state.reason
    shutil.rmtree(keeper.storage)
    assert await state_of(attempt) == state, "it is recorded now"


UNPROVED: list[tuple[Mapping[str, Any], Mapping[str, Any], Ends]] = [
    (SINGLE, {}, {}),
    (SINGLE, {}, {"worker-0": LIVES}),
    (SINGLE, {}, {"worker-0": told()}),
    (SINGLE, {}, {"worker-0": [End(0), End(None, restart=1)]}),
    (MULTI_WORKER, {}, {"worker-0": End(0), "worker-1": End(0)}),
    (PS, {}, {"worker-1": End(0), "ps-0": End(0)}),
    (HOROVOD_MPI, MPIJOB, {"worker-0": End(0), "worker-1": End(0)}),
    # Somebody has deleted it: one has heard of that later than the other, or has failed because of it.
    (TWO, {}, {"worker-0": told(4), "worker-1": End(1, 5)}),
    (TWO, {}, {"worker-0": LIVES, "worker-1": End(1, 5, told=True)}),
    # The group was to be started again.
    (SINGLE, {}, {"worker-0": End(143)}),
    (RETRIED, {}, {"worker-0": [End(137), End(137, restart=1)]}),
    ({**PS, "parameterServerRestarts": 1}, {}, {"ps-0": End(1), "worker-0": LIVES}),
]


@pytest.mark.parametrize(("inputs", "more", "ends"), UNPROVED)
async def test_what_proves_no_end(
    server: KubeServer,
    tmp_path: Path,
    keeper: Keeper,
    inputs: Mapping[str, Any],
    more: Mapping[str, Any],
    ends: Ends,
) -> None:
    attempt = gone(server, tmp_path, inputs, **more)
    keeper.keep(attempt.plan, ends)
    for state in (await look_at(attempt), await state_of(attempt)):
        assert (state.phase, state.exit_code) == (phases.INTERRUPTED, None)
        assert "was deleted in team by somebody else" in state.reason


async def test_what_each_replica_has_come_to(server: KubeServer, tmp_path: Path, keeper: Keeper) -> None:
    attempt = gone(server, tmp_path, PS)
    keeper.keep(attempt.plan, {"worker-0": End(7), "worker-1": End(0, 2), "ps-0": told(6), "ps-1": LIVES})
    state = await state_of(attempt)
    assert {item.name: (item.phase, item.exit_code) for item in state.replicas} == {
        "worker-0": (phases.FAILED, 7),
        "worker-1": (phases.SUCCEEDED, 0),
        "ps-0": ("ended", None),
        "ps-1": ("ended", None),
    }
    assert (state.first_failure, state.started_at, state.finished_at) == ("worker-0", BEGAN, BEGAN + 6)


async def test_only_what_this_launch_has_kept_counts(server: KubeServer, tmp_path: Path, keeper: Keeper) -> None:
    """An attempt of the same number was launched before, and its record was lost."""
    attempt = gone(server, tmp_path)
    keeper.keep(attempt.plan, {"worker-0": End(0)}, launch="before")
    assert (await look_at(attempt)).phase == phases.INTERRUPTED
    folder = keeper.storage / "runs" / attempt.plan.run_id / "attempts" / "1" / "ended" / LAUNCH / "0"
    folder.mkdir(parents=True)
    (folder / "worker-0.json").write_text('{"v": 1, "began": 3, "ended": ')
    (folder / "worker-0.json.tmp").write_text('{"v": 1}')
    (folder / "worker-1.json").write_text("[]")
    assert (await look_at(attempt)).phase == phases.INTERRUPTED
    keeper.keep(attempt.plan, {"worker-0": End(0)})
    assert (await state_of(attempt)).phase == phases.SUCCEEDED


async def test_a_storage_that_is_not_mounted_proves_nothing(server: KubeServer, tmp_path: Path, keeper: Keeper) -> None:
    attempt = gone(server, tmp_path)
    keeper.keep(attempt.plan, {"worker-0": End(0)})
    mounted = keeper.storage.rename(tmp_path / "elsewhere")
    for ask in (attempt.target.look, attempt.target.state):
        with pytest.raises(EndUnknown, match=r"is gone from team, and .* could not be read: .*no such folder.*To fix"):
            await ask(attempt.folder, 1)
    mounted.rename(keeper.storage)
    assert (await state_of(attempt)).phase == phases.SUCCEEDED


async def test_a_run_that_was_stopped_from_here_is_no_success(
    server: KubeServer, tmp_path: Path, keeper: Keeper
) -> None:
    attempt = gone(server, tmp_path)
    keeper.keep(attempt.plan, {"worker-0": End(0)})
    Path(attempt.at.stop).write_text(f"{STOPPED}\n")
    assert (await state_of(attempt)).phase == phases.CANCELLED


async def test_a_watch_that_sees_all_of_it_vanish(server: KubeServer, tmp_path: Path, keeper: Keeper) -> None:
    attempt = gone(server, tmp_path)
    await attempt.put_pod(deleted=5.0)
    async with aclosing(attempt.target.watch(attempt.folder, 1)) as states:
        assert (await anext(states)).phase == phases.STOPPING
        keeper.keep(attempt.plan, {"worker-0": End(0)})
        await server.take("pods", f"{attempt.name}-worker-0-0-abcde")
        found = [state async for state in states]
    assert [(state.phase, state.replicas[0].exit_code) for state in found] == [(phases.SUCCEEDED, 0)]


async def test_a_stop_tells_how_it_has_ended_before(server: KubeServer, tmp_path: Path, keeper: Keeper) -> None:
    attempt = gone(server, tmp_path, ttlSecondsAfterFinished=60)
    state = await attempt.target.stop(attempt.folder, 1)
    assert state is not None
    assert "the cluster has after 60 s (computeTarget.ttlSecondsAfterFinished)" in state.reason
    os.unlink(attempt.at.state)
    keeper.keep(attempt.plan, {"worker-0": End(0)})
    state = await attempt.target.stop(attempt.folder, 1)
    assert state is not None
    assert state.phase == phases.SUCCEEDED


# Through a pod


async def test_an_update_reads_it_through_a_pod_and_a_preview_starts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storage").mkdir()
    plan = plan_of({})
    Keeper(tmp_path / "storage", monkeypatch).keep(plan, {"worker-0": End(0)})
    async with FakeFilesApi(tmp_path).running() as api:
        options = make_options(api)
        handle = Handle("jobset", api.url, "jobs", "mnist-1", "uid", launch=LAUNCH)
        async with await Connection.open(options) as connection:
            assert (await kept_end(connection, options, plan, 1, handle, only_look=True)).end is None
            assert api.created == []
            found = await kept_end(connection, options, plan, 1, handle)
            assert found.end is not None
            assert found.end.phase == phases.SUCCEEDED
            assert (len(api.created), api.pods) == (1, {})
            api.exec_status = 403
            with pytest.raises(EndUnknown, match=r"not permitted.*To fix"):
                await kept_end(connection, options, plan, 1, handle)


async def test_no_pod_is_started_for_a_claim_that_is_gone(server: KubeServer, tmp_path: Path) -> None:
    attempt = gone(server, tmp_path, storage={"claim": "data"})
    assert (await state_of(attempt)).phase == phases.INTERRUPTED
    assert server.requests("POST") == []


# Launches of earlier versions


async def test_a_launch_without_a_name_has_kept_nothing(server: KubeServer, tmp_path: Path, keeper: Keeper) -> None:
    attempt = Attempt(server, tmp_path, storage={"claim": "data", "url": f"file://{keeper.storage}"})
    assert (await state_of(attempt)).phase == phases.INTERRUPTED


def test_a_handle_of_an_earlier_version(tmp_path: Path) -> None:
    at = AttemptFolder(str(tmp_path), 1)
    handle = Handle("jobset", "https://here", "team", "mnist-1", "uid", 1.0)
    known = {key: value for key, value in handle._asdict().items() if key != "launch"}
    (tmp_path / "handle.json").write_text(json.dumps({"v": 1, **known}))
    assert read_handle(at) == handle
