"""Replicas that are started again: the group, after failures that count, and parameter servers by themselves."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import MultiWorker, ParameterServer
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import plan_of, read, replica

# Counts its starts in a file; the first so many end as told.
COUNTING = """
name = os.environ["TFJOBS_REPLICA_TYPE"] + os.environ["TFJOBS_REPLICA_INDEX"]
with open(f"outputs/{name}", "a") as stream:
    stream.write("x")
starts = os.path.getsize(f"outputs/{name}")
print("start", starts, flush=True)
"""


@pytest.fixture
async def place(local_place: LocalPlace) -> LocalPlace:
    return local_place


def plan(distribution: Any = None, **fields: Any) -> Any:
    return plan_of(distribution, **{"retry_backoff_seconds": 0.0, **fields})


async def test_a_signal_is_worth_another_try(place: LocalPlace) -> None:
    script = COUNTING + "if starts < 3: os.kill(os.getpid(), 9)\n"
    state = await place.run(plan(retries=5), script)
    assert (state.phase, state.exit_code, state.attempt) == (phases.SUCCEEDED, 0, 1)
    assert [(r.number, r.exit_code, r.replica) for r in state.restarts] == [(1, 137, ""), (2, 137, "")]
    assert all("SIGKILL" in restart.reason for restart in state.restarts)
    assert read(replica(state, "worker-0").log) == "start 3\n"
    logs = [read(os.path.join(restart.logs, "worker-0.log")) for restart in state.restarts]
    assert logs == ["start 1\n", "start 2\n"], "the logs of each try are kept"


async def test_an_error_of_the_script_is_not(place: LocalPlace) -> None:
    state = await place.run(plan(retries=5), COUNTING + "sys.exit(3)\n")
    assert (state.phase, state.exit_code, state.restarts) == (phases.FAILED, 3, ())
    assert place.output(place.folder(state.run_id), "worker0") == "x"


@pytest.mark.parametrize(("conditions", "code", "starts"), [
    (("any",), 3, 3),
    (("3",), 3, 3),
    (("4",), 3, 1),
    (("SIGTERM",), 143, 3),
    (("infrastructure",), 143, 3),
])  # fmt: skip
async def test_what_counts(place: LocalPlace, conditions: tuple[str, ...], code: int, starts: int) -> None:
    state = await place.run(plan(retries=2, retry_on=conditions), COUNTING + f"sys.exit({code})\n")
    assert (state.phase, state.exit_code) == (phases.FAILED, code)
    assert place.output(place.folder(state.run_id), "worker0") == "x" * starts


async def test_the_whole_group_is_started_again_and_goes_on_from_its_checkpoints(place: LocalPlace) -> None:
    script = (
        COUNTING
        + """
import time
step = os.path.join(os.environ["TFJOBS_CHECKPOINT_DIR"], "step")
if name == "worker1" and starts == 1:
    while not os.path.exists(step): time.sleep(0.005)
    os.kill(os.getpid(), 9)
if name == "worker0" and starts == 1:
    open(step, "w").write("7")
    while True: time.sleep(1)
if name == "worker0": print("from step", open(step).read())
"""
    )
    state = await place.run(plan(MultiWorker(workers=2), retries=1), script)
    assert state.phase == phases.SUCCEEDED, state
    folder = place.folder(state.run_id)
    assert (place.output(folder, "worker0"), place.output(folder, "worker1")) == ("xx", "xx")
    assert "from step 7" in place.log(state, "worker-0")
    assert "worker-1" in state.restarts[0].reason


async def test_a_pause_between_tries_can_be_stopped_and_is_shown(place: LocalPlace) -> None:
    folder = await place.launch(plan(retries=1, retry_backoff_seconds=3600.0), "os.kill(os.getpid(), 9)")

    async def restarting() -> Any:
        state = await place.target.state(folder, 1)
        return state if state is not None and state.phase == phases.RESTARTING else None

    states = [state async for state in _until_restarting(place, folder)]
    assert states[-1].reason.endswith("retry 1 of 1 after 3600 s")
    state = await place.target.stop(folder, 1)
    assert state is not None
    assert state.phase == phases.CANCELLED


async def _until_restarting(place: LocalPlace, folder: Any) -> Any:
    async for state in place.target.watch(folder, 1):
        yield state
        if state.phase == phases.RESTARTING or state.finished:
            return


async def test_the_time_limit_ends_the_pause_too(place: LocalPlace) -> None:
    limits = {"retries": 1, "retry_backoff_seconds": 3600.0, "max_run_duration_seconds": 0.5}
    state = await place.run(plan(**limits), "os.kill(os.getpid(), 9)")
    assert state.phase == phases.TIMED_OUT


async def test_a_parameter_server_comes_back_by_itself(place: LocalPlace) -> None:
    script = (
        COUNTING
        + """
import socket, time
config = json.loads(os.environ["TF_CONFIG"])
if name == "ps0":
    host, port = config["cluster"]["ps"][0].split(":")
    with socket.create_server((host, int(port))) as server:
        while True:
            with server.accept()[0]:
                if starts == 1: sys.exit(1)
else:
    host, port = config["cluster"]["ps"][0].split(":")
    def reach():
        while True:
            try:
                socket.create_connection((host, int(port))).close()
                return
            except OSError:
                time.sleep(0.01)
    reach()
    while os.path.getsize("outputs/ps0") < 2: time.sleep(0.01)
    reach()
"""
    )
    state = await place.run(plan(ParameterServer(workers=1, parameter_servers=1), parameter_server_restarts=1), script)
    assert state.phase == phases.SUCCEEDED, state
    folder = place.folder(state.run_id)
    assert (place.output(folder, "ps0"), place.output(folder, "worker0")) == ("xx", "x")
    assert [(r.replica, r.exit_code) for r in state.restarts] == [("ps-0", 1)]
    assert read(os.path.join(state.restarts[0].logs, "ps-0.log")) == "start 1\n"
    assert not os.path.exists(os.path.join(state.restarts[0].logs, "worker-0.log")), "the others' logs go on"


async def test_a_parameter_server_that_fails_too_often_fails_the_run(place: LocalPlace) -> None:
    script = COUNTING + "import signal\nif name == 'ps0': sys.exit(1)\nsignal.pause()\n"
    state = await place.run(plan(ParameterServer(workers=1, parameter_servers=1), parameter_server_restarts=2), script)
    assert (state.phase, state.first_failure) == (phases.FAILED, "ps-0")
    assert place.output(place.folder(state.run_id), "ps0") == "xxx"
