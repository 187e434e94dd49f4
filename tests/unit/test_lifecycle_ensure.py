"""Create and Update: the run that a content names is made once, waited for, and gone on with after anything."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import EnvironmentBuildFailed, LaunchFailed
from pulumi_tfjobs.lifecycle import ensuring
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.store.runs import RunStore
from tests.helpers.fake_target import World
from tests.helpers.jobs import URN, Job, put, text_of


@pytest.fixture
def job(tmp_path: Path, world: World) -> Job:
    return Job(tmp_path / "program")


def ended(phase: str = phases.SUCCEEDED, **fields: Any) -> Any:
    """A launch that ends at once."""
    return lambda state: state._replace(phase=phase, finished_at=state.started_at + 12.5, **fields)


# A new run


async def test_a_new_job_is_reserved_prepared_launched_waited_for_and_told(job: Job, world: World) -> None:
    running = job.start(secrets={"TOKEN": "hush"})
    launch = await world.launched()
    await world.until(lambda world: world.watchers == 1)
    assert not running.done()
    folder = launch.folder
    put(folder.metrics, '{"step": 1, "accuracy": 0.5}\n{"step": 2, "accuracy": 0.75}\n')
    await world.change(
        launch.run_id, 1, phase=phases.SUCCEEDED, finished_at=1_700_000_042.5, exit_code=0, hostfile="localhost slots=1"
    )
    result = await running
    spec = job.check()
    assert result.id == f"fake/default/{spec.run_id}"
    assert result.failure == []
    assert result.tails == []
    worker = folder.attempt(1).replica_log("worker-0")
    assert result.outputs == {
        "runId": spec.run_id,
        "digest": spec.digest,
        "status": "succeeded",
        "reason": "",
        "attempt": 1,
        "exitCode": 0,
        "startedAt": "2023-11-14T22:13:20.000Z",
        "finishedAt": "2023-11-14T22:14:02.500Z",
        "durationSeconds": 42.5,
        "metrics": {"accuracy": 0.75},
        "outputsDir": folder.outputs,
        "checkpointsDir": folder.checkpoints,
        "logs": {"worker-0": worker},
        "tfConfig": {},
        "hostfile": "localhost slots=1",
        "worldSize": 1,
        "restarts": 0,
        "worldSizes": [],
    }
    assert (launch.attempt, launch.environment, launch.secrets) == (1, "the-interpreter", {"TOKEN": "hush"})
    assert launch.plan.run_id == spec.run_id
    # What was launched is a private copy of the source, and the plan beside it.
    assert text_of(folder.attempt(1).source + "/train.py") == "print('training')\n"
    assert json.loads(text_of(folder.attempt(1).plan))["run_id"] == spec.run_id
    run = job.store.get(spec.run_id)
    assert run is not None
    assert (run.status, run.finished, run.attempts) == ("succeeded", 1_700_000_042.5, 1)
    assert job.texts[0] == "reserving the run"
    assert [text for text in job.texts if text in {"preparing", "copying the source", "launching"}] == [
        "preparing",
        "copying the source",
        "launching",
    ]
    assert (job.progress[-1].text, job.progress[-1].final) == ("succeeded, 42s, accuracy 0.75", True)


async def test_how_it_goes_is_told_while_it_runs(job: Job, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensuring, "PROGRESS_SECONDS", 0.01)
    told = asyncio.Event()
    append = job.progress.append

    def progress(line: Any) -> None:
        append(line)
        if "loss 0.5" in line.text:
            told.set()

    monkeypatch.setattr(job, "progress", type("Lines", (), {"append": staticmethod(progress)})())
    running = job.start()
    launch = await world.launched()
    await world.until(lambda world: world.watchers == 1)
    put(launch.folder.metrics, '{"step": 7, "loss": 0.5}\n')
    await asyncio.wait_for(told.wait(), 10)
    await world.change(launch.run_id, 1, phase=phases.SUCCEEDED)
    await running


async def test_the_record_is_there_before_anything_is_prepared(job: Job, world: World) -> None:
    world.prepare_gate = asyncio.Event()
    running = job.start(tags={"team": "a"})
    await world.until(lambda world: bool(world.prepared))
    spec = job.check()
    record = job.store.record(spec.run_id)
    assert record is not None
    assert record["target"] == {"kind": "fake", "store": "default", "color": "none"}
    assert record["inputs"]["tags"] == {"team": "a"}
    assert job.store.references(spec.run_id) == [URN]
    world.on_launch = ended()
    world.prepare_gate.set()
    await running


# A run that is there already


async def test_a_living_run_is_adopted_and_not_launched_again(job: Job, world: World) -> None:
    first, second = job.start(), None
    launch = await world.launched()
    second = job.start(urn=URN + "2")
    await world.until(lambda world: world.watchers == 2)
    await world.change(launch.run_id, 1, phase=phases.SUCCEEDED)
    results = await asyncio.gather(first, second)
    assert len(world.launches) == 1
    assert [result.action for result in results] == ["launched", "waited"]
    assert results[0] == results[1]._replace(action="launched")
    assert job.store.references(launch.run_id) == [URN, URN + "2"]


async def test_two_at_once_launch_one_attempt(job: Job, world: World) -> None:
    world.prepare_gate = asyncio.Event()
    world.on_launch = ended()
    both = [job.start(), job.start(urn=URN + "2")]
    await world.until(lambda world: bool(world.prepared))
    world.prepare_gate.set()
    results = await asyncio.gather(*both)
    assert len(world.launches) == 1
    assert len(world.prepared) == 1
    assert [result.outputs["attempt"] for result in results] == [1, 1]
    run = job.store.get(results[0].outputs["runId"])
    assert run is not None
    assert run.attempts == 1


async def test_two_plugins_at_once_launch_one_attempt(job: Job, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two stores, as two processes have them: the lock is on the run's folder, not in this process.
    monkeypatch.setattr(ensuring, "open_store", lambda name: RunStore(job.store.root))
    await test_two_at_once_launch_one_attempt(job, world)


async def test_a_finished_run_is_returned_as_it_is(job: Job, world: World) -> None:
    world.on_launch = ended()
    first = await job.ensure()
    again = await job.ensure()
    assert again == first._replace(action="reused")
    assert len(world.launches) == 1
    assert len(world.prepared) == 1


@pytest.mark.parametrize("phase", sorted(phases.TERMINAL - {phases.SUCCEEDED}))
async def test_a_run_that_ended_badly_gets_a_new_attempt(job: Job, world: World, phase: str) -> None:
    world.on_launch = ended(phase, reason="it went wrong")
    first = await job.ensure()
    assert first.outputs["status"] == phase
    assert "it went wrong" in first.failure[0]
    world.on_launch = ended()
    second = await job.ensure()
    assert second.id == first.id
    assert second.failure == []
    assert [launch.attempt for launch in world.launches] == [1, 2]
    assert second.outputs["attempt"] == 2
    assert world.launches[0].folder.checkpoints == world.launches[1].folder.checkpoints


async def test_an_attempt_that_was_reserved_and_never_launched_is_launched_once(job: Job, world: World) -> None:
    world.prepare_error = EnvironmentBuildFailed("no such package", log="/log")
    failed = await job.ensure()
    assert failed.id == f"fake/default/{job.check().run_id}"
    assert failed.outputs["status"] == "pending"
    assert failed.outputs["reason"] == failed.failure[0] == "no such package\nThe whole log: /log"
    assert world.launches == []
    world.prepare_error = None
    world.on_launch = ended()
    result = await job.ensure()
    assert [launch.attempt for launch in world.launches] == [1]
    assert result.outputs["status"] == "succeeded"


async def test_a_launch_that_fails_is_told_with_the_runs_id(job: Job, world: World) -> None:
    world.launch_error = LaunchFailed("no interpreter")
    result = await job.ensure()
    assert result.id.endswith(job.check().run_id)
    assert result.failure == ["no interpreter"]


async def test_a_content_known_under_another_name_keeps_its_id(job: Job, world: World) -> None:
    world.on_launch = ended()
    first = await job.ensure(job.check(name="first"))
    second = await job.ensure(job.check(name="second"), urn=URN + "2")
    assert second.id == first.id
    assert second.outputs["runId"].startswith("first-")
    assert len(world.launches) == 1
    assert job.store.references(second.outputs["runId"]) == [URN, URN + "2"]


async def test_a_changed_source_is_another_run(job: Job, world: World) -> None:
    world.on_launch = ended()
    first = await job.ensure()
    (job.source / "train.py").write_text("print('other')\n")
    second = await job.ensure()
    assert second.id != first.id
    assert len(world.launches) == 2


async def test_a_source_that_changes_between_check_and_launch_is_not_run(job: Job, world: World) -> None:
    spec = job.check()
    (job.source / "train.py").write_text("print('other')\n")
    result = await job.ensure(spec)
    assert "changed while it was being copied" in result.failure[0]
    assert world.launches == []


# What is waited for


async def test_submitted_returns_once_it_is_launched(job: Job, world: World) -> None:
    world.on_launch = lambda state: state._replace(phase=phases.STARTING)
    result = await job.ensure(waitFor="submitted")
    assert result.failure == []
    assert result.outputs["status"] == "starting"
    assert (job.progress[-1].text, job.progress[-1].final) == ("starting", True)


async def test_running_returns_once_it_runs(job: Job, world: World) -> None:
    world.on_launch = lambda state: state._replace(phase=phases.STARTING)
    waiting = job.start(waitFor="running")
    launch = await world.launched()
    await world.until(lambda world: world.watchers == 1)
    assert not waiting.done()
    await world.change(launch.run_id, 1, phase=phases.RUNNING)
    assert (await waiting).outputs["status"] == "running"


async def test_running_is_told_when_the_run_fails_before(job: Job, world: World) -> None:
    world.on_launch = ended(phases.FAILED)
    assert (await job.ensure(waitFor="running")).failure != []


# Outputs


async def test_what_json_has_no_number_for_is_text_and_curves_are_kept(job: Job, world: World) -> None:
    waiting = job.start()
    launch = await world.launched()
    put(launch.folder.metrics, '{"step": 1, "loss": 2, "up": Infinity}\n{"step": 2, "loss": NaN}\n')
    await world.change(launch.run_id, 1, phase=phases.FAILED, finished_at=1_700_000_001.0)
    result = await waiting
    assert result.outputs["metrics"] == {"loss": "nan", "up": "inf"}
    json.dumps(result.outputs, allow_nan=False)
    curves = json.loads(text_of(launch.folder.curves), parse_constant=pytest.fail)
    assert curves == {"loss": [[1, 0.0, 2.0], [2, 0.0, "nan"]], "up": [[1, 0.0, "inf"]]}


async def test_the_curves_are_those_of_the_last_attempt(job: Job, world: World) -> None:
    world.on_launch = ended(phases.FAILED)
    failed = await job.ensure()
    folder = world.launches[0].folder
    put(folder.metrics, '{"step": 1, "loss": 2}\n')
    put(folder.curves, "{}")
    os.utime(folder.curves, (1_600_000_000, 1_600_000_000))
    world.on_launch = ended()
    assert (await job.ensure()).id == failed.id
    assert json.loads(text_of(folder.curves)) == {"loss": [[1, 0.0, 2.0]]}
    before = os.stat(folder.curves)
    await job.ensure()  # nothing is written again for a run that is done
    assert os.stat(folder.curves) == before
