"""Runs of the same machine share the slots of their store."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import MultiWorker, ParameterServer
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import LocalTarget
from pulumi_tfjobs.targets.local.queue import snapshot
from pulumi_tfjobs.targets.local.turns import PATIENCE_SECONDS
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import DEADLINE, closing, plan_of, until, write

# Runs until it is told to end; says that it runs.
WAITS = "import time\nopen('outputs/here', 'w').close()\nwhile not os.path.exists('outputs/go'): time.sleep(0.01)\n"

# Takes a slot that no other replica has, as the kernel sees it, and fails where there is none.
TAKES_A_SLOT = """
import fcntl, time
for slot in range({count}):
    handle = os.open(f"{folder}/{{slot}}", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        continue
    open(f"outputs/{{slot}}", "w").close()
    time.sleep(0.1)
    sys.exit(0)
sys.exit(9)
"""

LAUNCHER = """
import asyncio, json, sys
from pulumi_tfjobs.spec.launch import launch_plan_from_json
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import LocalTarget

async def main(slots, runs):
    target = LocalTarget("another", slots=slots)
    await asyncio.gather(
        *(target.launch(launch_plan_from_json(plan), RunFolder(root), 1, sys.executable, {}) for plan, root in runs)
    )

asyncio.run(main(*json.loads(sys.stdin.read())))
"""


@pytest.fixture
async def place(local_place: LocalPlace) -> LocalPlace:
    return local_place


def job(name: str, workers: int, **fields: Any) -> LaunchPlan:
    return plan_of(MultiWorker(workers=workers) if workers > 1 else None, name=name, **fields)


async def launch_elsewhere(place: LocalPlace, plans: list[LaunchPlan], script: str, slots: int) -> list[RunFolder]:
    """Launch them from another process, as another stack would."""
    folders = [place.folder(plan.run_id) for plan in plans]
    for folder in folders:
        os.makedirs(folder.attempt(1).source)
        write(os.path.join(folder.attempt(1).source, "train.py"), "import json, os, sys\n" + script)
        place.launched.append((folder, 1))
    message = [slots, [(plan.to_json(), folder.root) for plan, folder in zip(plans, folders, strict=True)]]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", LAUNCHER],
        input=json.dumps(message),
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    return folders


async def when(place: LocalPlace, folder: RunFolder, phase: str, position: int | None = None) -> RunState:
    """The state once it has that phase, and waits in that position where one is given."""

    async def find() -> RunState:
        async with closing(place.target.watch(folder, 1)) as states:
            async for state in states:
                if state.phase == phase and position in {None, state.queue_position}:
                    return state
        raise AssertionError(f"the run ended without ever being {phase}")

    return await asyncio.wait_for(find(), DEADLINE)


async def runs(place: LocalPlace, folder: RunFolder) -> None:
    await until(lambda: place.output(folder, "here") is not None, f"{folder.run_id} runs")


async def end(place: LocalPlace, folder: RunFolder) -> RunState:
    write(os.path.join(folder.outputs, "go"))
    return await place.end(folder)


async def test_runs_share_the_slots(place: LocalPlace) -> None:
    place.target = LocalTarget(slots=2)
    first = await place.launch(job("first", 2), WAITS)
    await runs(place, first)
    second = await place.launch(job("second", 1), WAITS)
    third = await place.launch(job("third", 1, priority=1), WAITS)
    state = await when(place, third, phases.QUEUED)
    assert state.queue_position == 1, "a higher priority goes first"
    assert state.reason == "waits for 1 slot: 0 of 2 free, 0 runs ahead"
    await when(place, second, phases.QUEUED, position=2)
    stopped = await place.target.stop(second, 1)
    assert stopped is not None
    assert stopped.phase == phases.CANCELLED
    assert stopped.started_at is None
    assert (await end(place, first)).phase == phases.SUCCEEDED
    await runs(place, third)
    state = await end(place, third)
    assert (state.phase, state.reason, state.queue_position) == (phases.SUCCEEDED, "", None)
    assert os.listdir(first.slots) == ["lock"], "nothing of them is left"


async def test_fifty_runs_on_four_slots(place: LocalPlace, tmp_path: Path) -> None:
    chosen = random.Random(4)
    place.target = LocalTarget(slots=4)
    slots = tmp_path / "slot"
    slots.mkdir()
    script = TAKES_A_SLOT.format(count=4, folder=slots)
    plans = [
        job(
            f"job-{number}",
            chosen.choice([1, 1, 1, 2, 3, 4]),
            priority=chosen.choice([-1, 0, 0, 1]),
            max_run_duration_seconds=chosen.choice([None, 60.0]),
        )
        for number in range(50)
    ]
    elsewhere = asyncio.ensure_future(launch_elsewhere(place, plans[25:], script, 4))
    folders = await asyncio.gather(*(place.launch(plan, script) for plan in plans[:25]))
    folders += await elsewhere
    states = await asyncio.gather(*(place.end(folder) for folder in folders))
    assert [state.phase for state in states] == [phases.SUCCEEDED] * 50
    used = {name for folder in folders for name in os.listdir(folder.outputs)}
    assert used == {"0", "1", "2", "3"}, "all slots are of use"
    assert snapshot(folders[0].slots) == []


async def test_a_killed_supervisor_gives_its_slots_back_at_once(place: LocalPlace) -> None:
    place.target = LocalTarget(slots=2)
    first = await place.launch(job("first", 2), WAITS)
    await runs(place, first)
    waiters = [await place.launch(job(name, 1), WAITS) for name in ("second", "third")]
    for position, folder in enumerate(waiters, 1):
        await when(place, folder, phases.QUEUED, position)
    holder = await place.target.state(first, 1)
    assert holder is not None
    assert holder.supervisor_pid is not None
    killed = time.time()
    os.kill(holder.supervisor_pid, signal.SIGKILL)
    for folder in waiters:
        await runs(place, folder)
        state = await when(place, folder, phases.RUNNING)
        assert state.started_at is not None
        assert state.started_at - killed < PATIENCE_SECONDS, "it was told, and did not just look again after a while"
        await end(place, folder)
    assert (await place.end(first)).phase == phases.INTERRUPTED


async def test_a_waiter_that_is_killed_is_in_nobodys_way(place: LocalPlace) -> None:
    place.target = LocalTarget(slots=1)
    first = await place.launch(job("first", 1), WAITS)
    await runs(place, first)
    second = await place.launch(job("second", 1), WAITS)
    before = await when(place, second, phases.QUEUED, position=1)
    third = await place.launch(job("third", 1), WAITS)
    await when(place, third, phases.QUEUED, position=2)
    assert before.supervisor_pid is not None
    os.kill(before.supervisor_pid, signal.SIGKILL)
    await when(place, third, phases.QUEUED, position=1)
    assert (await place.end(second)).phase == phases.INTERRUPTED
    await end(place, first)
    await runs(place, third)
    assert (await end(place, third)).phase == phases.SUCCEEDED


async def test_stacks_share_the_slots_each_by_its_own_capacity(place: LocalPlace) -> None:
    place.target = LocalTarget(slots=3)
    first = await place.launch(job("first", 2), WAITS)
    await runs(place, first)
    (narrow,) = await launch_elsewhere(place, [job("narrow", 1)], WAITS, 2)
    assert "0 of 2 free" in (await when(place, narrow, phases.QUEUED)).reason
    await end(place, first)
    await runs(place, narrow)
    await end(place, narrow)


async def test_a_small_run_passes_one_that_it_does_not_delay(place: LocalPlace) -> None:
    place.target = LocalTarget(slots=4)
    first = await place.launch(job("first", 2), WAITS)
    await runs(place, first)
    large = await place.launch(job("large", 3), WAITS)
    await when(place, large, phases.QUEUED, position=1)
    wide = await place.launch(job("wide", 2), WAITS)
    state = await when(place, wide, phases.QUEUED, position=2)
    assert state.reason == "waits for 2 slots: 2 of 4 free, kept for the run that is next, 1 run ahead"
    small = await place.launch(job("small", 1), WAITS)
    await runs(place, small)
    await end(place, first)
    await runs(place, large)
    for folder in (small, large, wide):
        assert (await end(place, folder)).phase == phases.SUCCEEDED


async def test_parameter_servers_take_no_slot(place: LocalPlace) -> None:
    place.target = LocalTarget(slots=1)
    plan = plan_of(ParameterServer(workers=1, parameter_servers=2))
    state = await place.run(plan, "import signal\nif os.environ['TFJOBS_REPLICA_TYPE'] == 'ps': signal.pause()\n")
    assert state.phase == phases.SUCCEEDED
