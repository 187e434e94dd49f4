"""What a preview says of a job beside its class, and that it is what an update then does: estimates, runs of one's own,
checkpoints to resume from, changed files, and a store that cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs import lifecycle
from pulumi_tfjobs.errors import InvalidInputs, LaunchFailed
from pulumi_tfjobs.lifecycle import Current, Planned, ensuring, planning
from pulumi_tfjobs.plan import JobPlan, describing, diff
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import JobSpec
from pulumi_tfjobs.store.runs import RunStore
from pulumi_tfjobs.targets.base import Capabilities
from tests.helpers.fake_target import DEADLINE, FakeTarget, World
from tests.helpers.jobs import URN, Job, described, put, text_of, tree

OTHER = URN + "-other"
THIRD = URN + "-third"


@pytest.fixture
def job(tmp_path: Path, world: World) -> Job:
    world.on_launch = ended()
    return Job(tmp_path / "program")


@pytest.fixture
def broken(home: Path) -> Iterator[None]:
    """Nobody can read the index."""
    with damaged(home):
        yield


@contextlib.contextmanager
def damaged(home: Path) -> Iterator[None]:
    root = home / "stores" / "default"
    root.mkdir(parents=True, exist_ok=True)
    kept = {path: path.read_bytes() for path in root.glob("index.db*")}
    for path in kept:
        path.unlink()
    (root / "index.db").write_bytes(b"no index at all, whatever it says" * 100)
    yield
    (root / "index.db").unlink()
    for path, content in kept.items():
        path.write_bytes(content)


def ended(phase: str = phases.SUCCEEDED, seconds: float = 12.5) -> Any:
    return lambda state: state._replace(phase=phase, finished_at=state.started_at + seconds)


def finished_run(store: RunStore, number: int, seconds: float | None, **fields: Any) -> str:
    """A run of the job mnist that took so long."""
    job = fields.pop("job", "mnist")
    run = store.reserve(f"{job}-{number}", f"{job}{number}", job, {"target": {"kind": "fake"}}, URN)
    store.add_attempt(run.run_id, 0)
    started = 1000.0
    finished = None if seconds is None else started + seconds
    store.set_status(run.run_id, fields.pop("status", phases.SUCCEEDED), finished, started=started)
    return run.run_id


def current_of(result: lifecycle.RunResult) -> Current:
    """The resource's run, as its state has it after an update."""
    outputs = result.outputs
    return Current(
        run_id=outputs["runId"],
        digest=outputs["digest"],
        status=outputs["status"],
        metrics=outputs["metrics"],
        generation=result.generation,
    )


async def planned_for(
    spec: JobSpec, current: Current | None = None, *, urn: str = URN, forced: bool = False, changes: Any = ()
) -> Planned:
    own = await lifecycle.own(spec, urn, current)
    return await lifecycle.settle(own, changes=changes, current=current, forced=forced)


async def said_of(planned: Planned, urn: str = URN) -> JobPlan:
    return await lifecycle.describe(planned, urn=urn, name="mnist")


# What it takes


@pytest.mark.parametrize(
    ("durations", "seconds", "runs"),
    [
        ([], None, 0),
        ([60.0], 60.0, 1),
        ([10.0, 1000.0, 20.0], 20.0, 3),
        ([10.0, 20.0], 15.0, 2),
        # Of the newest twenty: the first five, which took longer, are not asked any more.
        ([9999.0] * 5 + [10.0] * 20, 10.0, 20),
    ],
)
async def test_an_estimate_is_the_median_of_the_newest_finished_runs(
    job: Job, durations: list[float], seconds: float | None, runs: int
) -> None:
    store = job.store
    for number, duration in enumerate(durations):
        finished_run(store, number, duration)
    # Neither what failed, nor what has not ended, nor another job tells anything.
    finished_run(store, 100, 77777.0, status=phases.FAILED)
    finished_run(store, 101, None, status=phases.RUNNING)
    finished_run(store, 102, 77777.0, job="resnet")
    said = await described(job.check(distributedBackend="mpi", nodeCount=2))
    assert (said.klass, said.needs.seconds, said.needs.runs, said.needs.slots) == ("train", seconds, runs, 2)
    assert said.needs.hours == (None if seconds is None else pytest.approx(2 * seconds / 3600))
    assert said.needs.cost is None
    assert "2 slots" in said.row
    assert ("~" in said.row) == (seconds is not None)


async def test_a_clock_that_was_set_back_gives_no_negative_time(job: Job) -> None:
    finished_run(job.store, 1, -50.0)
    assert (await described(job.check())).needs.seconds == 0.0


async def test_a_target_with_a_price_says_what_a_launch_costs(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    priced = Capabilities(slots=8, gpus=0, hourly_price=0.5, currency="EUR")
    monkeypatch.setattr(FakeTarget, "capabilities", lambda _: priced)
    spec = job.check(distributedBackend="mpi", nodeCount=4)
    said = await described(spec)
    assert (said.needs.cost, said.needs.currency) == (None, "EUR")
    finished_run(job.store, 1, 1800.0)
    said = await described(spec)
    assert (said.needs.hours, said.needs.cost, said.needs.currency) == (2.0, 1.0, "EUR")
    await job.ensure(spec)
    # What launches nothing takes nothing.
    said = await said_of(await planned_for(spec, urn=OTHER))
    assert (said.klass, said.needs.hours, said.needs.cost) == ("reuse", 0.0, 0.0)


async def test_what_is_described_names_replicas_target_and_software(job: Job) -> None:
    said = await described(job.check(distributedBackend="ps", workerCount=2, parameterServerCount=1))
    assert said.launches is True
    assert said.run_id == job.check(distributedBackend="ps", workerCount=2, parameterServerCount=1).run_id
    assert len(said.digest) == 64
    assert said.target == "fake"
    assert said.needs.world_size >= 2
    assert "worker" in said.needs.replicas
    assert set(said.tf_config) >= {"worker-0", "ps-0"}
    assert next(iter(said.tf_config)) == "worker-0"
    assert JobPlan.model_validate(said.to_json()) == said


async def test_a_finished_run_of_another_resource_is_reused(job: Job, world: World) -> None:
    world.on_launch = ended()
    first = await job.ensure(urn=OTHER)
    put(job.store.folder(first.outputs["runId"]).metrics, '{"accuracy": 0.97}\n')
    planned = await planned_for(job.check(), urn=URN)
    said = await said_of(planned)
    assert (said.klass, said.launches, said.run_id) == ("reuse", False, first.outputs["runId"])
    assert said.reuses is not None
    assert (said.reuses.run_id, said.reuses.metric) == (first.outputs["runId"], "accuracy 0.97")
    assert f"reuses run {first.outputs['runId']} (accuracy 0.97, " in said.row
    outputs = await lifecycle.reused_outputs(planned)
    second = await job.ensure(urn=URN)
    assert outputs == second.outputs
    assert second.action == "reused"
    assert len(world.launches) == 1


async def test_a_run_of_another_name_keeps_its_id_in_the_preview_too(job: Job) -> None:
    first = await job.ensure(urn=OTHER, name="earlier")
    said = await said_of(await planned_for(job.check(), urn=URN))
    assert (said.klass, said.run_id) == ("reuse", first.outputs["runId"])
    assert said.run_id.startswith("earlier-")


@pytest.mark.parametrize("phase", [phases.FAILED, phases.CANCELLED, phases.TIMED_OUT, phases.INTERRUPTED])
async def test_a_run_that_ended_badly_is_never_reused(job: Job, world: World, phase: str) -> None:
    world.on_launch = ended(phase)
    failed = await job.ensure(urn=OTHER)
    planned = await planned_for(job.check(), urn=URN)
    assert (planned.decision.klass, planned.decision.launches) == ("attempt", True)
    assert failed.outputs["runId"] in planned.decision.reason
    assert await lifecycle.reused_outputs(planned) is None
    world.on_launch = ended()
    assert (await job.ensure(urn=URN)).action == "launched"


async def test_a_run_whose_folder_was_deleted_is_trained_again(job: Job, world: World) -> None:
    result = await job.ensure()
    shutil.rmtree(job.store.folder(result.outputs["runId"]).root)
    planned = await planned_for(job.check(), urn=OTHER)
    assert planned.decision.klass == "train"


@pytest.mark.parametrize("step", ["prepare", "launch"])
@pytest.mark.parametrize("wait_for", ["submitted", "running", "succeeded"])
async def test_a_run_that_could_not_be_launched_is_launched_next_time(
    job: Job, world: World, step: str, wait_for: str
) -> None:
    setattr(world, f"{step}_error", LaunchFailed("no disk"))
    spec = job.check(waitFor=wait_for)
    result = await job.ensure(spec)
    assert result.failure
    for current, urn in ((current_of(result), URN), (None, OTHER)):
        said = await said_of(await planned_for(spec, current, urn=urn), urn)
        assert (said.klass, said.launches) == ("train", True)
    setattr(world, f"{step}_error", None)
    assert (await job.ensure(spec)).action == "launched"


async def test_a_run_that_somebody_is_just_preparing_is_waited_for(job: Job, world: World) -> None:
    world.prepare_gate = asyncio.Event()
    running = job.start()
    await world.until(lambda world: bool(world.prepared))
    assert (await described(job.check())).klass == "attach"
    world.prepare_gate.set()
    await running


async def test_a_target_that_does_not_answer_is_a_note(job: Job, world: World) -> None:
    world.on_launch = lambda state: state
    running = job.start()
    await world.launched()
    world.unavailable = True
    said = await said_of(await planned_for(job.check(), urn=OTHER))
    assert any("does not answer" in note for note in said.notes), said.notes
    world.unavailable = False
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_looking_at_it_changes_nothing(job: Job, home: Path) -> None:
    result = await job.ensure()
    before = (tree(home), tree(job.directory))
    for spec in (job.check(), job.check(rerun="x"), job.check(reuse=False)):
        for current in (None, current_of(result)):
            for urn in (URN, OTHER):
                await said_of(await planned_for(spec, current, urn=urn))
    assert (tree(home), tree(job.directory)) == before


async def test_the_usual_case_asks_nobody(job: Job, world: World, broken: None) -> None:
    spec = job.check()
    current = Current("mnist-1", spec.digest, phases.SUCCEEDED, {"accuracy": 0.9})
    world.unavailable = True
    planned = await lifecycle.settle(spec, changes=(), current=current)
    said = lifecycle.unchanged(planned, urn=URN, name="mnist")
    assert (said.klass, said.run_id, said.row) == (
        "nothing",
        "mnist-1",
        "mnist  nothing  nothing that matters has changed",
    )
    assert said.replaces is not None
    assert said.replaces.metric == "accuracy 0.9"


# A store that cannot be read


@pytest.mark.parametrize(
    "changes", [{}, {"reuse": False}, {"resumeFrom": "mnist-0123456789ab"}, {"distributedBackend": "mpi"}]
)
@pytest.mark.parametrize("exists", [False, True])
async def test_a_store_that_cannot_be_read_is_a_note_and_no_failure(
    job: Job, broken: None, changes: dict[str, Any], exists: bool
) -> None:
    spec = job.check(**changes)
    current = Current("mnist-old", "0" * 64, phases.SUCCEEDED, {"accuracy": 0.9}) if exists else None
    found = diff({**job.inputs, "rerun": "x"}, job.inputs, old_digest="0" * 64, new_digest=spec.digest)
    said = await said_of(await planned_for(spec, current, changes=found if exists else ()))
    expected = "resume" if "resumeFrom" in changes else "retrain" if exists else "train"
    assert (said.klass, said.launches) == (expected, True)
    assert any("could not be read" in note for note in said.notes)
    assert said.needs.seconds is None
    if exists:
        assert said.replaces is not None
        assert said.replaces.metric == "accuracy 0.9"


async def test_what_the_state_says_counts_where_the_store_cannot_be_read(job: Job, home: Path) -> None:
    spec = job.check()
    with damaged(home):
        for status, klass in ((phases.FAILED, "attempt"), (phases.RUNNING, "attach")):
            planned = await lifecycle.settle(spec, changes=(), current=Current("mnist-1", spec.digest, status))
            assert planned.decision.klass == klass
            assert planned.trouble


# What the program ignores


@pytest.mark.parametrize("phase", [phases.SUCCEEDED, phases.FAILED])
async def test_a_run_whose_change_is_ignored_stays_as_it_is(job: Job, world: World, phase: str) -> None:
    world.on_launch = ended(phase)
    current = current_of(await job.ensure())
    put(job.source / "train.py", "print('another')\n")
    planned = await planned_for(job.check(), current)
    assert planned.decision.launches is False
    assert not planned.decision.replaces
    assert planned.decision.klass == ("nothing" if phase == phases.SUCCEEDED else "metadata")
    # Nor is it waited for; and what is said is said of the run that stays.
    planned = await planned_for(job.check(), current._replace(status=phases.RUNNING))
    said = await said_of(planned)
    assert (said.klass, said.launches, said.run_id, said.digest) == (
        "metadata",
        False,
        current.run_id,
        current.digest,
    )


# A run of one's own: reuse=False


async def up(job: Job, urn: str = URN, **changes: Any) -> tuple[JobPlan, lifecycle.RunResult]:
    """A new resource: what the preview said, and what the update did. They must be the same."""
    spec = job.check(**changes)
    planned = await planned_for(spec, urn=urn)
    said = await said_of(planned, urn)
    result = await job.ensure(spec, urn=urn)
    assert said.launches == (result.action == "launched"), (said, result)
    assert (said.run_id, said.digest) == (result.outputs["runId"], result.outputs["digest"])
    return said, result


async def test_others_runs_are_passed_over_and_ones_own_is_adopted(job: Job, world: World) -> None:
    said, first = await up(job, OTHER)
    assert (said.klass, first.generation) == ("train", 0)
    said, second = await up(job, URN, reuse=False)
    assert (said.klass, second.generation) == ("train", 1)
    assert second.outputs["runId"] != first.outputs["runId"]
    said, third = await up(job, THIRD, reuse=False)
    assert (said.klass, third.generation) == ("train", 2)
    # As after a crash before the state was written: what it has reserved is its own.
    said, again = await up(job, URN, reuse=False)
    assert (said.klass, again.generation) == ("reuse", 1)
    assert again.outputs == second.outputs
    assert len(world.launches) == 3
    # Whoever may reuse takes the first.
    said, reused = await up(job, URN + "-fourth")
    assert (said.klass, reused.outputs["runId"]) == ("reuse", first.outputs["runId"])


async def test_what_the_resource_has_stays_its_own(job: Job) -> None:
    await job.ensure(urn=OTHER)
    spec = job.check(reuse=False)
    result = await job.ensure(spec, urn=URN)
    for changes in ({}, {"reuse": True}):
        for forced in (False, True):
            planned = await planned_for(job.check(**{"reuse": False, **changes}), current_of(result), forced=forced)
            assert planned.spec.digest == result.outputs["digest"]
            assert planned.decision.klass == ("reuse" if forced else "nothing")


async def test_what_the_resource_has_in_one_store_is_not_its_own_in_another(job: Job, world: World) -> None:
    elsewhere = {"computeTarget": {"kind": "fake", "store": "elsewhere"}}
    await job.ensure(urn=OTHER, reuse=False, **elsewhere)
    here = await job.ensure(reuse=False)
    spec = job.check(reuse=False, **elsewhere)
    planned = await planned_for(spec, current_of(here), forced=True)
    result = await job.ensure(spec)
    assert (planned.decision.launches, planned.spec.digest) == (True, result.outputs["digest"])
    assert result.action == "launched"


async def test_going_back_to_an_earlier_content_trains_again(job: Job, world: World) -> None:
    _, first = await up(job, URN, reuse=False, rerun="a")
    _, second = await up(job, URN, reuse=False, rerun="b")
    # The engine deletes what was replaced.
    job.store.drop_reference(first.outputs["runId"], URN)
    said, third = await up(job, URN, reuse=False, rerun="a")
    assert (said.klass, third.generation) == ("train", 2)
    assert len({first.id, second.id, third.id}) == 3
    assert len(world.launches) == 3


async def test_a_run_that_failed_and_was_given_up_is_tried_again(job: Job, world: World) -> None:
    world.on_launch = ended(phases.FAILED)
    _, first = await up(job, URN, reuse=False)
    job.store.drop_reference(first.outputs["runId"], URN)
    world.on_launch = ended()
    said, second = await up(job, OTHER, reuse=False)
    assert (said.klass, second.generation, second.outputs["attempt"]) == ("attempt", 1, 2)


async def test_a_run_that_others_share_is_not_ones_own(job: Job) -> None:
    # Both refer to it; then one wants a run that nobody else has (and its state was lost, or Pulumi replaces it).
    await up(job, URN)
    await up(job, OTHER)
    said, result = await asyncio.wait_for(up(job, URN, reuse=False), DEADLINE)
    assert (said.klass, result.generation) == ("train", 1)


async def test_two_at_once_get_a_run_each(job: Job, world: World) -> None:
    spec = job.check(reuse=False)
    results = await asyncio.gather(*(job.ensure(spec, urn=URN + str(number)) for number in range(6)))
    assert {result.generation for result in results} == set(range(1, 7))
    assert len({result.id for result in results}) == len(world.launches) == 6


async def test_a_run_that_another_job_of_the_update_takes_is_passed_over(job: Job) -> None:
    spec = job.check(reuse=False)
    first = await lifecycle.own(spec, URN, None)
    second = await lifecycle.own(spec, OTHER, None, {first.digest})
    assert (first.generation, second.generation) == (1, 2)
    assert (await job.ensure(spec, urn=URN)).outputs["digest"] == first.digest
    assert (await job.ensure(spec, urn=OTHER)).outputs["digest"] == second.digest


def test_a_run_is_reserved_alone_by_one_only(job: Job) -> None:
    barrier = threading.Barrier(8)
    found: dict[str, bool] = {}

    def reserve(urn: str) -> None:
        barrier.wait(DEADLINE)
        record = {"target": {"kind": "fake"}}
        found[urn] = job.store.reserve("mnist-1", "1" * 64, "mnist", record, urn, alone=True) is not None

    threads = [threading.Thread(target=reserve, args=(f"urn-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    (winner,) = (urn for urn, has in found.items() if has)
    assert len(found) == 8
    assert job.store.references("mnist-1") == [winner]
    # Asked again, it is still its own.
    assert job.store.reserve("mnist-1", "1" * 64, "mnist", {"target": {"kind": "fake"}}, winner, alone=True)


# Starting from another run's checkpoints


async def kept(job: Job, *names: str, **changes: Any) -> str:
    """A finished run that has kept checkpoints; its id."""
    run_id = str((await job.ensure(urn=OTHER, **changes)).outputs["runId"])
    for name in names:
        put(Path(job.store.folder(run_id).checkpoints) / name, f"{name} of the first")
    return run_id


async def test_a_run_begins_with_a_copy_of_the_other_ones_checkpoints(job: Job, world: World) -> None:
    origin = await kept(job, "ckpt-1", "deep/ckpt-2")
    said, result = await up(job, resumeFrom=origin, scriptParams={"--epochs": 5})
    assert (said.klass, said.launches) == ("resume", True)
    folder = job.store.folder(result.outputs["runId"])
    assert tree(Path(folder.checkpoints)) == tree(Path(job.store.folder(origin).checkpoints))
    assert f"copying the checkpoints of {origin}" in job.texts
    # It is a copy.
    put(Path(folder.checkpoints) / "ckpt-1", "another")
    assert text_of(Path(job.store.folder(origin).checkpoints) / "ckpt-1") == "ckpt-1 of the first"
    # Done once: the same again is reused.
    said, again = await up(job, resumeFrom=origin, scriptParams={"--epochs": 5})
    assert (said.klass, again.action) == ("reuse", "reused")


class Interrupted(BaseException):
    """The process ends here."""


async def test_a_crash_while_copying_leaves_nothing_behind(
    job: Job, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = await kept(job, "ckpt-1", "ckpt-2")
    copytree = shutil.copytree

    def cut_off(source: str, destination: str, **options: Any) -> None:
        copytree(source, destination, **options)
        os.remove(os.path.join(destination, "ckpt-2"))
        raise Interrupted

    spec = job.check(resumeFrom=origin)
    target = ensuring._Ensuring(spec, {}, job.progress.append)
    await asyncio.to_thread(target.reserve, job.inputs, URN, asyncio.get_running_loop(), new=True)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", cut_off)
        with pytest.raises(Interrupted):
            await target._take_checkpoints()
    assert os.listdir(target.folder.checkpoints) == []
    said = await said_of(await planned_for(spec))
    assert (said.klass, said.launches) == ("resume", True)
    result = await job.ensure(spec)
    assert result.failure == []
    folder = Path(target.folder.root)
    assert sorted(os.listdir(folder / "checkpoints")) == ["ckpt-1", "ckpt-2"]
    assert not (folder / ".resuming").exists()


async def test_a_crash_between_the_copy_and_the_launch_copies_nothing_twice(job: Job, world: World) -> None:
    origin = await kept(job, "ckpt-1")
    world.launch_error = RuntimeError("the machine went away")
    spec = job.check(resumeFrom=origin)
    with pytest.raises(RuntimeError):
        await job.ensure(spec)
    mine = Path(job.store.folder(spec.run_id).checkpoints)
    inode = (mine / "ckpt-1").stat().st_ino
    shutil.rmtree(job.store.folder(origin).checkpoints)  # it is not needed any more
    world.launch_error = None
    result = await job.ensure(spec)
    assert (result.failure, result.action) == ([], "launched")
    assert (mine / "ckpt-1").stat().st_ino == inode


async def test_a_retry_keeps_its_own_checkpoints(job: Job, world: World) -> None:
    origin = await kept(job, "ckpt-1")
    world.on_launch = ended(phases.FAILED)
    _, failed = await up(job, resumeFrom=origin)
    mine = Path(job.store.folder(failed.outputs["runId"]).checkpoints)
    put(mine / "ckpt-9", "its own")
    (mine / "ckpt-1").unlink()
    world.on_launch = ended()
    said, again = await up(job, resumeFrom=origin)
    assert (said.klass, again.outputs["attempt"]) == ("attempt", 2)
    assert tree(mine) == {"ckpt-9": b"its own"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "/full"), shutil.Error([("a", "b", "bad")])])
async def test_checkpoints_that_cannot_be_copied_are_a_message(
    job: Job, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    origin = await kept(job, "ckpt-1")

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ensuring.shutil, "copytree", fails)
    result = await job.ensure(resumeFrom=origin)
    (failure,) = result.failure
    assert "checkpoints" in failure
    assert "None" not in failure
    assert result.outputs["runId"] == job.check(resumeFrom=origin).run_id


async def test_a_run_that_the_same_update_trains_first_can_be_resumed_from(job: Job) -> None:
    run_id = job.check().run_id
    planned = await planned_for(job.check(rerun="longer", resumeFrom=run_id))
    with pytest.raises(InvalidInputs):
        await said_of(planned)
    said = await lifecycle.describe(planned, urn=URN, name="mnist", coming={run_id})
    assert said.klass == "resume"
    assert any(run_id in note for note in said.notes)


async def test_a_preview_that_cannot_look_without_starting_something_says_so(job: Job, world: World) -> None:
    world.sees_checkpoints = False
    origin = await kept(job)
    spec = job.check(rerun="longer", resumeFrom=origin)
    said = await described(spec)
    assert said.klass == "resume"
    assert f"whether {origin} has checkpoints is seen before the run starts" in "\n".join(said.notes)
    with pytest.raises(InvalidInputs, match="has no checkpoints"):
        await job.ensure(spec)


@pytest.mark.parametrize("state", ["no such run", "nothing kept", "folder gone"])
async def test_a_run_that_cannot_be_resumed_from_is_said_before_anything_starts(
    job: Job, world: World, state: str, home: Path
) -> None:
    run_id = "mnist-0123456789ab"
    words = f"the store has no run {run_id}"
    if state != "no such run":
        run_id = await kept(job)
        words = f"{run_id} has no checkpoints"
    if state == "folder gone":
        shutil.rmtree(job.store.folder(run_id).checkpoints)
        words = f"the checkpoints of {run_id} cannot be read (No such file or directory)"
    spec = job.check(resumeFrom=run_id)
    launches = len(world.launches)
    for attempt in (lambda: described(spec), lambda: job.ensure(spec)):
        with pytest.raises(InvalidInputs) as caught:
            await attempt()
        (problem,) = caught.value.problems
        assert problem.path == "resumeFrom"
        assert words in problem.reason
        assert "Expected: the id of a run in the same store that has kept checkpoints" in problem.reason
        assert "To fix: `tfjobs runs` lists the ids" in problem.reason
    assert len(world.launches) == launches
    assert job.store.by_digest(spec.digest) is None


# Files


async def changed_files(job: Job, change: Any, **changes: Any) -> JobPlan:
    """What is said of the job's files after ``change`` was done to the source."""
    spec = job.check(**changes)
    old = {**job.inputs, **changes, "source": lifecycle.source_property(spec)}
    result = await job.ensure(spec)
    change(job.source)
    new_spec = job.check(**changes)
    new = {**job.inputs, **changes, "source": lifecycle.source_property(new_spec)}
    found = diff(old, new, old_digest=spec.digest, new_digest=new_spec.digest)
    return await said_of(await planned_for(new_spec, current_of(result), changes=found))


def told(said: JobPlan) -> dict[str, tuple[Any, ...]]:
    return {file.path: (file.kind, file.added, file.removed, file.note) for file in said.files}


async def test_lines_of_each_file_are_counted(job: Job) -> None:
    put(job.source / "train.py", "import os\nprint(1)\nprint(2)\n")
    put(job.source / "Makefile", "all:\n\ttrue\n")
    put(job.source / "gone.txt", "a\nb\n")
    put(job.source / "same.txt", "same")

    def change(source: Path) -> None:
        put(source / "train.py", "import os\nprint(1)\nprint(3)\nprint(4)\n")
        put(source / "Makefile", "all:\n\tfalse\n")
        put(source / "new.py", "x = 1\ny = 2\nz = 3\n")
        (source / "gone.txt").unlink()

    said = await changed_files(job, change)
    assert said.klass == "retrain"
    assert told(said) == {
        "train.py": ("update", 2, 1, ""),
        "Makefile": ("update", 1, 1, ""),
        "new.py": ("add", 3, 0, ""),
        "gone.txt": ("delete", 0, 2, ""),
    }
    diffs = {file.path: file.diff for file in said.files}
    assert "+print(4)" in diffs["train.py"]
    assert "-print(2)" in diffs["train.py"]
    assert "Makefile +1 −1 lines" in said.row


@pytest.mark.parametrize(
    ("after", "note"),
    [
        ("x = 1  # why\nprint(x)\n", "comments only"),
        ("x  =  1\n\nprint( x )\n", "whitespace only"),
        ("x = 2\nprint(x)\n", ""),
    ],
)
async def test_what_only_people_read_is_said_to_be_that(job: Job, after: str, note: str) -> None:
    put(job.source / "train.py", "x = 1\nprint(x)\n")
    said = await changed_files(job, lambda source: put(source / "train.py", after))
    assert said.klass == "retrain"  # the content counts, unless sourceDigest says otherwise
    assert told(said)["train.py"][3] == note
    assert (f"({note})" in said.row) == bool(note)


async def test_a_mode_alone_is_said_to_be_that(job: Job) -> None:
    said = await changed_files(job, lambda source: (source / "train.py").chmod(0o755))
    assert told(said) == {"train.py": ("update", None, None, "mode only")}


async def test_a_file_whose_old_content_is_not_there_any_more_is_only_named(job: Job) -> None:
    def change(source: Path) -> None:
        shutil.rmtree(job.store.sources)
        put(source / "train.py", "print('another')\n")

    said = await changed_files(job, change)
    assert told(said) == {"train.py": ("update", None, None, "")}
    assert "train.py changed" in said.row


async def test_what_is_no_file_is_not_told_as_one(job: Job) -> None:
    spec = job.check()
    result = await job.ensure(spec)
    inputs = {**job.inputs, "source": lifecycle.source_property(spec)}
    found = diff(inputs, {**inputs, "sourceDigest": "code"}, old_digest=spec.digest, new_digest="2" * 64)
    said = await said_of(await planned_for(job.check(rerun="x"), current_of(result), changes=found))
    assert "sourceDigest" in {change.path for change in said.changes}
    assert said.files == ()


# What is not known yet


async def test_tags_that_are_not_known_hide_no_other_change(job: Job) -> None:
    # No property shows that the data are others: the digest does, and a tag has no part in it.
    put(job.directory / "data" / "x.csv", "1,2")
    inputs = {**job.inputs, "inputs": {"data": "data"}, "tags": {"team": "a"}}
    result = await job.ensure(inputs=inputs["inputs"], tags=inputs["tags"])
    put(job.directory / "data" / "x.csv", "1,3")
    new = {**inputs, "tags": {}}
    unknown = frozenset({"tags.team"})
    spec = lifecycle.check(new, name="mnist", directory=str(job.directory), unknown=unknown)
    found = diff(
        inputs,
        new,
        old_digest=result.outputs["digest"],
        new_digest=None if spec.unknown else spec.digest,
        unknown=unknown,
    )
    planned = await planned_for(spec, current_of(result), changes=found)
    assert (planned.decision.klass, planned.decision.launches) == ("retrain", True)
    said = await described(spec)
    assert (said.klass, said.digest) == ("train", job.check(inputs={"data": "data"}).digest)


@pytest.mark.parametrize("path", ["name", "reuse", "waitFor", "rerun", 'scriptParams["--lr"]', "computeTarget.store"])
async def test_what_decides_and_is_not_known_leaves_the_class_open(job: Job, path: str) -> None:
    spec = lifecycle.check(job.inputs, name="mnist", directory=str(job.directory), unknown=frozenset({path}))
    said = await described(spec)
    assert (said.klass, said.launches, said.unknown) == ("unknown", None, (path,))


@pytest.mark.parametrize("path", ["nodeCount", "distribution", "distribution.workers", "distributedBackend"])
async def test_of_replicas_whose_number_is_not_known_nothing_is_told(job: Job, path: str) -> None:
    finished_run(job.store, 1, 60.0)
    top = path.partition(".")[0]
    given: dict[str, Any] = {} if top == "distribution" else {"distributedBackend": "multi_worker", "workerCount": 2}
    if path == "distribution.workers":
        given = {"distribution": {"kind": "multiWorker"}}
    given.pop(path, None)
    spec = lifecycle.check(
        {**job.inputs, **given}, name="mnist", directory=str(job.directory), unknown=frozenset({path})
    )
    said = await described(spec)
    assert (said.klass, said.needs.slots, said.needs.hours, said.tf_config) == ("unknown", 0, None, {})
    assert "slot" not in said.row
    assert path in said.row


@pytest.mark.parametrize("path", ["pipPackages[1]", "pythonVersion", "interpreterPath"])
async def test_of_software_that_is_not_known_nobody_says_whether_it_is_there(job: Job, path: str) -> None:
    inputs = {**job.inputs, "userManaged": False, "computeTarget": {"kind": "local", "slots": 1, "gpus": 0}}
    spec = lifecycle.check(inputs, name="mnist", directory=str(job.directory), unknown=frozenset({path}))
    assert (await described(spec)).environment.state == "unknown"


async def test_an_option_of_the_target_that_is_not_known_hides_no_other(job: Job, world: World) -> None:
    elsewhere = {"computeTarget": {"kind": "fake", "store": "elsewhere"}}
    first = await job.ensure(urn=OTHER, **elsewhere)
    world.slots = 1

    def check(*unknown: str, **changes: Any) -> JobSpec:
        inputs = {**job.inputs, **elsewhere, **changes}
        return lifecycle.check(inputs, name="mnist", directory=str(job.directory), unknown=frozenset(unknown))

    # The run is found in its store, whatever the number of slots will be.
    said = await described(check("computeTarget.slots"))
    assert (said.klass, said.run_id) == ("reuse", first.outputs["runId"])
    # And nobody says that it can never start, or what it costs, of a target that has yet to be made.
    said = await described(check("computeTarget.slots", distributedBackend="mpi", nodeCount=4))
    (note,) = said.notes
    assert "computeTarget.slots" in note
    assert said.needs.seconds is not None
    said = await described(check("computeTarget"))
    assert (said.klass, said.needs.seconds, said.target, said.environment.state) == ("unknown", None, "", "unknown")
    assert "kept" in describing.cost_text(said)


def test_one_reader_serves_a_process(home: Path) -> None:
    assert planning.peek("default") is planning.peek("default")
    assert planning.peek("other") is not planning.peek("default")
