"""Waiting for a run that ends early, and trouble on the way: the run's id and what is known of it is never lost."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.lifecycle import ensuring
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.runs import RunStore
from tests.helpers.fake_target import World
from tests.helpers.jobs import Job, is_locked, put


@pytest.fixture
def job(tmp_path: Path, world: World) -> Job:
    return Job(tmp_path / "program")


def ended(phase: str = phases.SUCCEEDED, **fields: Any) -> Any:
    """A launch that ends at once."""
    return lambda state: state._replace(phase=phase, finished_at=state.started_at + 12.5, **fields)


# Waiting that ends early


async def test_a_cancelled_update_leaves_the_run_alone_and_says_how_to_go_on(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    waiting = job.start(cancelled=cancelled)
    launch = await world.launched()
    await world.until(lambda world: world.watchers == 1)
    cancelled.set()
    result = await waiting
    assert world.stops == []
    assert world.watchers == 0
    assert result.id.endswith(launch.run_id)
    assert result.outputs["status"] == "running"
    (reason,) = result.failure
    assert reason.startswith(f"the update was cancelled; {launch.run_id} goes on in the background. To follow it: ")
    for command in ("tfjobs logs -f", "tfjobs attach", "tfjobs stop"):
        assert f"`{command} {launch.run_id}`" in reason
    # The next update finds it again.
    again = job.start()
    await world.until(lambda world: world.watchers == 1)
    await world.change(launch.run_id, 1, phase=phases.SUCCEEDED)
    assert (await again).outputs["status"] == "succeeded"
    assert len(world.launches) == 1


async def test_a_cancelled_update_stops_the_run_where_the_job_says_so(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    waiting = job.start(cancelled=cancelled, onCancel="stop", stopGraceSeconds=3)
    launch = await world.launched()
    await world.until(lambda world: world.watchers == 1)
    cancelled.set()
    result = await waiting
    assert world.stops == [(launch.run_id, 1, 3.0)]
    assert result.outputs["status"] == "cancelled"
    assert "was stopped (onCancel: stop)" in result.failure[0]


async def test_a_run_that_ends_well_while_it_is_being_stopped_has_ended_well(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    world.on_stop = ended()
    waiting = job.start(cancelled=cancelled, onCancel="stop")
    await world.until(lambda world: world.watchers == 1)
    cancelled.set()
    result = await waiting
    assert result.failure == []
    assert result.outputs["status"] == "succeeded"


async def test_a_run_that_cannot_be_stopped_is_not_called_stopped(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    world.on_stop = lambda state: state._replace(phase=phases.STOPPING, reason="worker-0 does not end")
    waiting = job.start(cancelled=cancelled, onCancel="stop")
    await world.until(lambda world: world.watchers == 1)
    cancelled.set()
    (reason,) = (await waiting).failure
    assert "could not be stopped (onCancel: stop): worker-0 does not end" in reason


async def test_the_timeout_ends_waiting_and_nothing_else(job: Job, world: World) -> None:
    result = await job.ensure(timeout=0.05)
    assert "the timeout of this operation was reached" in result.failure[0]
    assert "goes on in the background" in result.failure[0] or "before" in result.failure[0]
    assert world.stops == []


async def test_the_timeout_stops_the_run_where_the_job_says_so(job: Job, world: World) -> None:
    waiting = job.start(timeout=0.5, onCancel="stop")
    launch = await world.launched()
    result = await waiting
    assert world.stops == [(launch.run_id, 1, 10.0)]
    assert result.outputs["status"] == "cancelled"
    assert result.failure[0].startswith("the timeout of this operation was reached; ")


async def test_cancelled_before_the_launch_nothing_runs(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    world.prepare_gate = asyncio.Event()
    waiting = job.start(cancelled=cancelled)
    await world.until(lambda world: bool(world.prepared))
    cancelled.set()
    result = await waiting
    assert result.outputs["status"] == "pending"
    assert "Nothing of it runs" in result.failure[0]
    assert world.launches == []
    # The lock is free and the attempt is taken up again.
    world.prepare_gate = None
    world.on_launch = ended()
    assert (await job.ensure()).outputs["attempt"] == 1


async def test_cancelled_in_the_launch_it_is_known_what_runs(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    world.launch_gate = asyncio.Event()
    waiting = job.start(cancelled=cancelled)
    launch = await world.launched()
    cancelled.set()
    for _ in range(50):  # turns of the event loop: the cancellation reaches whatever it can reach
        await asyncio.sleep(0)
    # The launch is seen through, and nobody else may start this run meanwhile.
    assert not waiting.done()
    assert is_locked(os.path.join(launch.folder.root, "start.lock"))
    world.launch_gate.set()
    result = await waiting
    assert result.outputs["status"] == "running"
    assert "goes on in the background" in result.failure[0]


async def test_cancelled_when_it_has_already_ended_it_is_simply_done(job: Job, world: World) -> None:
    world.on_launch = ended()
    await job.ensure()
    cancelled = asyncio.Event()
    cancelled.set()
    result = await job.ensure(cancelled=cancelled)
    assert result.failure == []
    assert result.outputs["status"] == "succeeded"


# Trouble


async def test_a_failed_run_says_who_failed_first_and_shows_its_last_lines(job: Job, world: World) -> None:
    def fail(state: RunState) -> RunState:
        replica = state.replicas[0]._replace(phase="failed", exit_code=3)
        put(replica.log, "ValueError: no data\n")
        return state._replace(phase=phases.FAILED, replicas=(replica,), first_failure="worker-0", exit_code=3,
                              finished_at=1_700_000_001.0)  # fmt: skip

    world.on_launch = fail
    result = await job.ensure()
    (reason,) = result.failure
    assert reason.startswith(f"{job.check().run_id} failed: worker-0 failed first: it exited with code 3. Logs: ")
    assert "`pulumi up` makes a new attempt" in reason
    ((name, text),) = result.tails
    assert name == "worker-0"
    assert text.endswith("ValueError: no data")
    assert result.outputs["exitCode"] == 3


async def test_a_target_that_stops_answering_is_an_error_and_never_the_end_of_the_run(job: Job, world: World) -> None:
    waiting = job.start()
    launch = await world.launched()
    await world.until(lambda world: world.watchers == 1)
    world.unavailable = True
    await world.notify()
    result = await waiting
    assert result.failure == ["the fake target does not answer"]
    assert result.id.endswith(launch.run_id)
    run = job.store.get(launch.run_id)
    assert run is not None
    assert run.status == result.outputs["status"] == "running"


async def test_a_target_that_does_not_answer_when_cancelled_is_said(job: Job, world: World) -> None:
    cancelled = asyncio.Event()
    world.prepare_gate = asyncio.Event()
    waiting = job.start(cancelled=cancelled)
    await world.until(lambda world: bool(world.prepared))
    world.unavailable = True
    cancelled.set()
    (reason,) = (await waiting).failure
    assert reason.startswith("the update was cancelled, and what became of ")
    assert reason.endswith("the fake target does not answer")


async def test_a_run_that_vanishes_is_told(job: Job, world: World) -> None:
    waiting = job.start()
    await world.until(lambda world: world.watchers == 1)
    world.states.clear()
    await world.notify()
    assert "vanished while it was waited for" in (await waiting).failure[0]


async def test_a_run_that_is_removed_while_it_is_started_is_told(job: Job, world: World) -> None:
    spec = job.check()
    reserve = RunStore.reserve

    def then_remove(store: RunStore, *args: Any, **more: Any) -> Any:
        run = reserve(store, *args, **more)
        with store._writing() as connection:
            connection.execute("DELETE FROM runs")
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunStore, "reserve", then_remove)
        result = await job.ensure(spec)
    assert "was removed while it was being started" in result.failure[0]
    assert world.launches == []


async def test_a_run_folder_that_cannot_be_written_is_told_with_the_runs_id(
    job: Job, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, value: Any, **_: bool) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(ensuring, "write_json", full)
    result = await job.ensure()
    assert "No space left on device" in result.failure[0]
    assert "free disk space" in result.failure[0]
    assert result.id.endswith(job.check().run_id)


async def test_a_store_that_cannot_be_used_is_raised_for_there_is_no_run(job: Job, world: World, home: Path) -> None:
    put(home, "a file")
    with pytest.raises(StoreError, match="TFJOBS_HOME"):
        await job.ensure()


async def test_ended_from_outside_nothing_is_left_waiting(job: Job, world: World) -> None:
    waiting = job.start()
    await world.until(lambda world: world.watchers == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert world.watchers == 0
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
