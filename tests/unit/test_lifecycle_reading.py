"""Read and Delete: a run is gone only where that is certain, and ends only when nobody refers to it any more."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs import lifecycle
from pulumi_tfjobs.errors import EndUnknown, LaunchFailed, StoreError, TargetUnavailable
from pulumi_tfjobs.lifecycle.outputs import newest_metric
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from tests.helpers.fake_target import FakeTarget, World
from tests.helpers.jobs import URN, Job, described, put, there, tree


@pytest.fixture
def job(tmp_path: Path, world: World) -> Job:
    return Job(tmp_path / "program")


async def running(job: Job, **changes: Any) -> str:
    """The resource id of a run that lives."""
    return (await job.ensure(waitFor="submitted", **changes)).id


async def finished(job: Job, world: World, **changes: Any) -> str:
    world.on_launch = lambda state: state._replace(phase=phases.SUCCEEDED, finished_at=1_700_000_001.0)
    return (await job.ensure(**changes)).id


def folder_of(job: Job, resource_id: str) -> RunFolder:
    return job.store.folder(resource_id.rpartition("/")[2])


async def delete(job: Job, resource_id: str, *, urn: str = URN, **inputs: Any) -> None:
    await lifecycle.delete(resource_id, urn=urn, inputs=inputs, progress=job.progress.append)


# Read


async def test_a_run_is_read_as_create_returned_it(job: Job, world: World) -> None:
    distribution = {"kind": "parameterServer", "workers": 3, "parameterServers": 2}
    world.on_launch = lambda state: state._replace(phase=phases.SUCCEEDED, finished_at=1_700_000_001.0)
    created = await job.ensure(distribution=distribution)
    found = await lifecycle.read(created.id)
    assert found is not None
    assert found.outputs == created.outputs
    assert found.outputs["worldSize"] == 3
    assert found.inputs == {**job.inputs, "distribution": distribution}


async def test_what_became_of_a_run_since_is_seen_and_noted(job: Job, world: World) -> None:
    resource_id = await running(job)
    run_id = resource_id.rpartition("/")[2]
    await world.change(run_id, 1, phase=phases.FAILED, reason="worker-0 failed", finished_at=1_700_000_001.0)
    found = await lifecycle.read(resource_id)
    assert found is not None
    assert (found.outputs["status"], found.outputs["reason"]) == ("failed", "worker-0 failed")
    run = job.store.get(run_id)
    assert run is not None
    assert run.status == "failed"


async def test_a_run_that_was_never_launched_is_pending(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    cancelled.set()
    world.prepare_gate = asyncio.Event()
    created = await job.ensure(cancelled=cancelled)
    found = await lifecycle.read(created.id)
    assert found is not None
    assert found.outputs["status"] == "pending"
    assert found.outputs["worldSize"] == 1


@pytest.mark.parametrize(
    "resource_id",
    [
        "", "mnist-000000000000", "fake/mnist-000000000000", "fake/default/", "/default/mnist", "fake//mnist",
        "fake/default/mnist/more", "fake/../mnist", "fake/default/..", "fake/./mnist", "fake/default/nul\0",
    ],
)  # fmt: skip
async def test_an_id_of_nothing_is_definitely_nothing(job: Job, world: World, home: Path, resource_id: str) -> None:
    assert await lifecycle.read(resource_id) is None
    await delete(job, resource_id)
    assert not there(home)  # and asking for it created nothing


async def test_a_run_that_its_store_does_not_know_is_definitely_gone(job: Job, world: World) -> None:
    await running(job)
    assert await lifecycle.read("fake/default/mnist-000000000000") is None


async def test_a_store_that_is_not_here_does_not_make_a_run_vanish(job: Job, world: World, home: Path) -> None:
    for resource_id in ("fake/default/mnist-000000000000", "fake/other-store/mnist-000000000000"):
        with pytest.raises(TargetUnavailable, match="no run store"):
            await lifecycle.read(resource_id)
        await delete(job, resource_id)  # what is not here can be given up
    assert not there(home)


async def test_an_id_finds_its_run_in_the_store_that_it_names(job: Job, world: World) -> None:
    await finished(job, world)
    world.states.clear()
    resource_id = await finished(job, world, computeTarget={"kind": "fake", "store": "second"})
    assert resource_id.startswith("fake/second/")
    found = await lifecycle.read(resource_id)
    assert found is not None
    assert "/stores/second/" in found.outputs["outputsDir"]
    assert len(world.launches) == 2


async def test_a_target_that_is_not_known_here_does_not_make_a_run_vanish(job: Job) -> None:
    for operation in (lifecycle.read("mystery/default/mnist-0"), delete(job, "mystery/default/mnist-0")):
        with pytest.raises(
            TargetUnavailable, match=r"kind 'mystery', which is not installed.*fake, kubernetes, local.*To fix"
        ):
            await operation


async def test_a_target_that_does_not_answer_does_not_make_a_run_vanish(job: Job, world: World) -> None:
    resource_id = await running(job)
    world.unavailable = True
    with pytest.raises(TargetUnavailable):
        await lifecycle.read(resource_id)


async def test_a_damaged_record_does_not_make_a_run_vanish(job: Job, world: World) -> None:
    resource_id = await running(job)
    put(folder_of(job, resource_id).record, '{"inp')
    with pytest.raises(StoreError, match="missing or damaged"):
        await lifecycle.read(resource_id)
    with pytest.raises(StoreError, match="missing or damaged"):
        await delete(job, resource_id)
    assert world.stops == []
    assert job.store.references(resource_id.rpartition("/")[2]) == [URN]


async def test_a_run_whose_folder_is_gone_is_gone_and_can_be_made_again(job: Job, world: World) -> None:
    resource_id = await finished(job, world)
    folder = folder_of(job, resource_id)
    os.rename(folder.root, f"{folder.root}-moved")
    assert await lifecycle.read(resource_id) is None
    assert (await described(job.check())).klass == "train"
    world.states.clear()
    again = await job.ensure()
    assert again.id == resource_id
    assert again.outputs["status"] == "succeeded"
    assert len(world.launches) == 2


# Delete


async def test_the_last_reference_ends_the_run_and_keeps_what_it_made(job: Job, world: World) -> None:
    resource_id = await running(job)
    await running(job, urn=URN + "2")
    run_id = resource_id.rpartition("/")[2]
    put(folder_of(job, resource_id).outputs + "/model", "weights")
    await delete(job, resource_id)
    assert world.stops == []
    assert "other resources refer to it" in job.texts[-1]
    await delete(job, resource_id, urn=URN + "2", stopGraceSeconds=4)
    assert world.stops == [(run_id, 1, 4.0)]
    found = await lifecycle.read(resource_id)
    assert found is not None
    assert found.outputs["status"] == "cancelled"
    assert "outputs/model" in tree(Path(folder_of(job, resource_id).root))
    # What was deleted before is deleted again without ado.
    await delete(job, resource_id, urn=URN + "2")
    assert len(world.stops) == 1


async def test_a_run_that_lives_is_said_to_be_ended_and_a_finished_one_is_not(job: Job, world: World) -> None:
    alive = await running(job)
    await delete(job, alive)
    assert job.texts[-1] == f"ending {alive.rpartition('/')[2]}"
    done = await finished(job, world, rerun="again")
    before = len(job.texts)
    await delete(job, done)
    assert job.texts[before:] == []


async def test_artifacts_are_deleted_where_the_job_says_so(job: Job, world: World) -> None:
    resource_id = await finished(job, world)
    await delete(job, resource_id, deleteArtifacts=True)
    assert await lifecycle.read(resource_id) is None
    assert not there(folder_of(job, resource_id).root)
    world.states.clear()
    assert (await job.ensure()).id == resource_id
    assert len(world.launches) == 2


async def test_artifacts_that_others_refer_to_stay(job: Job, world: World) -> None:
    resource_id = await finished(job, world)
    await finished(job, world, urn=URN + "2")
    await delete(job, resource_id, deleteArtifacts=True)
    assert await lifecycle.read(resource_id) is not None


async def test_a_run_that_does_not_end_is_an_error_and_its_files_stay(job: Job, world: World) -> None:
    resource_id = await running(job)
    world.on_stop = lambda state: state._replace(phase=phases.STOPPING, reason="worker-0 hangs", supervisor_pid=4711)
    with pytest.raises(LaunchFailed, match=r"could not be ended: worker-0 hangs.*process 4711.*`pulumi destroy` again"):
        await delete(job, resource_id, deleteArtifacts=True)
    assert there(folder_of(job, resource_id).root)
    # The next destroy tries again, though the reference is gone.
    world.on_stop = lambda state: state._replace(phase=phases.CANCELLED)
    await delete(job, resource_id, deleteArtifacts=True)
    assert await lifecycle.read(resource_id) is None


async def test_a_target_that_does_not_answer_keeps_the_run(job: Job, world: World) -> None:
    resource_id = await running(job)
    world.unavailable = True
    with pytest.raises(TargetUnavailable):
        await delete(job, resource_id, deleteArtifacts=True)
    world.unavailable = False
    await delete(job, resource_id)
    assert len(world.stops) == 1


async def test_a_run_that_lives_no_more_is_deleted_though_nobody_can_say_how_it_ended(
    job: Job, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource_id = await running(job)

    async def state(*_: object) -> None:
        raise EndUnknown("the storage cannot be read")

    monkeypatch.setattr(FakeTarget, "state", state)
    with pytest.raises(EndUnknown):
        await lifecycle.read(resource_id)
    await delete(job, resource_id, deleteArtifacts=True)
    assert not there(folder_of(job, resource_id).root)


async def test_a_replaced_job_keeps_the_reference_to_its_new_run(job: Job, world: World) -> None:
    # Pulumi creates the replacement first, under the same URN, and deletes the old one then.
    old = await running(job)
    put(job.source / "train.py", "print('better')\n")
    new = await running(job)
    await delete(job, old)
    assert [run_id for run_id, _, _ in world.stops] == [old.rpartition("/")[2]]
    assert job.store.references(new.rpartition("/")[2]) == [URN]


async def test_a_replaced_run_keeps_what_it_made_though_the_job_says_delete(job: Job, world: World) -> None:
    # Also where the engine was killed between the two, so that the delete comes with a later update.
    old = await finished(job, world)
    new = await finished(job, world, rerun="again")
    await delete(job, old, deleteArtifacts=True)
    assert there(folder_of(job, old).root)
    await delete(job, new, deleteArtifacts=True)
    assert not there(folder_of(job, new).root)


async def test_a_run_that_the_job_came_back_to_is_no_longer_the_replaced_one(job: Job, world: World) -> None:
    first = await finished(job, world)
    second = await finished(job, world, rerun="again")
    await delete(job, first, deleteArtifacts=True)
    assert (await job.ensure()).id == first
    await delete(job, second, deleteArtifacts=True)
    await delete(job, first, deleteArtifacts=True)
    assert there(folder_of(job, second).root)
    assert not there(folder_of(job, first).root)


async def test_a_run_that_another_comes_to_need_while_it_is_ended_stays(job: Job, world: World) -> None:
    resource_id = await running(job)
    run_id = resource_id.rpartition("/")[2]

    def reserved_meanwhile(state: RunState) -> RunState:
        run, record = job.store.get(run_id), job.store.record(run_id)
        assert run is not None
        assert record is not None
        job.store.reserve(run_id, run.digest, run.job, record, URN + "2")
        return state._replace(phase=phases.CANCELLED)

    world.on_stop = reserved_meanwhile
    await delete(job, resource_id, deleteArtifacts=True)
    assert there(folder_of(job, resource_id).root)
    assert "other resources refer to it by now" in job.texts[-1]


async def test_a_number_too_large_for_a_float_is_a_metric_all_the_same(job: Job, world: World) -> None:
    resource_id = await running(job)
    put(folder_of(job, resource_id).metrics, '{"step": 1, "accuracy": ' + "9" * 400 + "}\n")
    assert newest_metric(folder_of(job, resource_id)) == "accuracy inf"
