"""The local target when things go wrong: what is reported, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import LaunchFailed
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import Horovod, MultiWorker, ParameterServer
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import statefile, target
from pulumi_tfjobs.targets.local.ports import Ports
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import DEADLINE, closing, plan_of, read, replica, until, write
from tests.conformance.suite import FOR_EVER, SERVER

# A run is to fail within 10 s of its first failure; that is a promise to users and not a measurement.
FAIL_SECONDS = 10.0


def unlocked(path: str) -> bool:
    return not statefile.is_locked(path)


async def running(place: LocalPlace, folder: RunFolder) -> RunState:
    """The state once every replica runs."""
    async with closing(place.target.watch(folder, 1)) as states:
        async for state in states:
            if state.replicas and all(each.phase == phases.RUNNING for each in state.replicas):
                return state
    raise AssertionError("the run ended before all of its replicas ran")


def seconds_to_end(state: RunState) -> float:
    """From the first failure to the end of the run."""
    first: float | None = replica(state, state.first_failure).finished_at
    assert state.finished_at is not None
    assert first is not None
    return state.finished_at - first


async def test_a_rank_dies_while_another_waits_for_it(local_place: LocalPlace) -> None:
    folder = await local_place.launch(
        plan_of(MultiWorker(workers=2)),
        SERVER
        + """
    if task['index'] == 0:
        peer, _ = server.accept()
        open('outputs/waiting', 'w').close()
        while True: peer.recv(1)   # as in an allreduce that the other never joins; sees the end of the connection only
    peer = reach('worker', 0)
    import time
    while not os.path.exists('outputs/waiting'): time.sleep(0.01)
    os.kill(os.getpid(), 9)
        """,
    )
    state = await local_place.end(folder)
    assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "worker-1", 137)
    assert replica(state, "worker-0").phase == "ended"
    assert seconds_to_end(state) < FAIL_SECONDS


async def test_a_rank_that_only_missed_another_is_not_blamed(local_place: LocalPlace) -> None:
    # As Horovod's ranks end: the one that lost its peer is gone before the one that had the fault has tidied up.
    state = await local_place.run(
        plan_of(MultiWorker(workers=2)),
        """
        import time
        if os.environ['TFJOBS_REPLICA_INDEX'] == '0':
            print('UnknownError: Horovod has been shut down. This was caused by ...', flush=True)
            open('outputs/gone', 'w').close()
            os._exit(1)
        while not os.path.exists('outputs/gone'): time.sleep(0.01)
        print('ValueError: the real fault')
        sys.exit(3)
        """,
    )
    assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "worker-1", 3), state
    assert [each.phase for each in state.replicas] == ["failed", "failed"]


async def test_a_parameter_server_is_killed(local_place: LocalPlace) -> None:
    folder = await local_place.launch(plan_of(ParameterServer(workers=2, parameter_servers=1)), FOR_EVER)
    before = await running(local_place, folder)
    os.kill(replica(before, "ps-0").pid, signal.SIGKILL)
    state = await local_place.end(folder)
    assert (state.phase, state.first_failure) == (phases.FAILED, "ps-0")
    assert seconds_to_end(state) < FAIL_SECONDS


async def test_a_port_that_is_taken_after_all(local_place: LocalPlace) -> None:
    folder = await local_place.launch(
        plan_of(MultiWorker(workers=2)),
        "import time\nwhile not os.path.exists('outputs/go'): time.sleep(0.01)\n"
        + textwrap.dedent(SERVER)
        + "print('bound', port)\n",
    )
    before = await running(local_place, folder)
    host, _, port = replica(before, "worker-1").address.rpartition(":")
    with socket.create_server((host, int(port))):
        write(os.path.join(folder.outputs, "go"))
        state = await local_place.end(folder)
    assert (state.phase, state.launches) == (phases.SUCCEEDED, 2), state
    assert replica(state, "worker-1").address != f"{host}:{port}"
    assert port in state.warnings[0]
    log = local_place.log(state, "worker-1")
    assert log.index("Address already in use") < log.index("launch 2") < log.index("bound"), "both launches are kept"


async def test_a_failure_that_is_not_about_ports_is_not_tried_again(local_place: LocalPlace) -> None:
    state = await local_place.run(
        plan_of(MultiWorker(workers=2)), "open('outputs/starts', 'a').write('x'); sys.exit(1)"
    )
    assert (state.phase, state.launches, state.warnings) == (phases.FAILED, 1, ())


def test_two_runs_never_have_a_port_in_common() -> None:
    one, other = Ports(), Ports()
    try:
        first, second = one.take(20), other.take(20)
        assert set(first).isdisjoint(second)
        with socket.create_server(("127.0.0.1", first[0])):
            assert one.lost() == [first[0]]
        assert one.lost() == []
    finally:
        one.release()
        other.release()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield str(where)
    subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
async def small_place(small_disk: str) -> Any:
    place = LocalPlace(small_disk)
    yield place
    await place.close()
    for folder, attempt in place.launched:  # the last state is there a moment before its writer has gone
        await until(partial(unlocked, folder.attempt(attempt).lock), "the supervisor has gone")


async def test_disk_full_while_logging(small_place: LocalPlace) -> None:
    folder = await small_place.launch(plan_of(), "while True: print('x' * 1000)")
    state = await small_place.end(folder)
    assert state.phase == phases.FAILED
    assert "disk is full" in state.reason
    assert folder.attempt(1).root in state.reason
    assert "pulumi up" in state.reason
    assert small_place.alive(folder) == []


async def test_disk_full_by_others_while_the_state_is_written(small_place: LocalPlace) -> None:
    folder = await small_place.launch(
        plan_of(MultiWorker(workers=2)),
        """
        import time
        if os.environ['TFJOBS_REPLICA_INDEX'] == '1':
            time.sleep(1000)
        try:
            with open('outputs/big', 'wb', buffering=0) as stream:
                while True: stream.write(bytes(4096))
        except OSError as error:
            sys.exit(9)   # says nothing: only the supervisor's own writes meet the full disk
        """,
    )
    state = await small_place.end(folder)
    assert state.phase == phases.FAILED
    assert state.first_failure in {"", "worker-0"}
    assert small_place.alive(folder) == []
    assert "reserve" not in names(folder.attempt(1).root)


def fill(path: str) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def names(folder: str) -> list[str]:
    return os.listdir(folder)


async def test_a_disk_without_room_for_a_run(small_place: LocalPlace, small_disk: str) -> None:
    await asyncio.to_thread(fill, os.path.join(small_disk, "big"))
    with pytest.raises((LaunchFailed, OSError), match="No space"):
        await small_place.launch(plan_of(), "pass")


async def test_a_million_lines(local_place: LocalPlace) -> None:
    folder = await local_place.launch(
        plan_of(environment_variables={"PYTHONUNBUFFERED": ""}),
        "for i in range(1_000_000): print('line', i)\nsys.stdout.flush()\nopen('outputs/done', 'w').close()\n"
        "import time\nwhile not os.path.exists('outputs/go'): time.sleep(0.01)\n",
    )
    state = await running(local_place, folder)
    await until(lambda: local_place.output(folder, "done") is not None, "all is printed")
    peak = memory_peak(state.supervisor_pid)
    write(os.path.join(folder.outputs, "go"))
    state = await local_place.end(folder)
    lines = local_place.log(state, "worker-0").split("\n")
    assert (len(lines), lines[-2]) == (1_000_001, "line 999999")
    assert peak < 32 * 1024, f"the supervisor took {peak} KiB"


def memory_peak(pid: int | None) -> int:
    """The most memory that the process ever had, in KiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        return int(next(line for line in stream if line.startswith("VmHWM")).split()[1])


async def test_a_killed_supervisor(local_place: LocalPlace) -> None:
    folder = await local_place.launch(
        plan_of(MultiWorker(workers=2)),
        """
        import signal
        if os.environ['TFJOBS_REPLICA_INDEX'] == '0' and os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open('outputs/daemon', 'w').close()
        while True: signal.pause()
        """,
    )
    before = await running(local_place, folder)
    await until(lambda: local_place.output(folder, "daemon") is not None, "the script has left its process group")
    assert before.supervisor_pid is not None
    os.kill(before.supervisor_pid, signal.SIGKILL)
    state = await local_place.end(folder)
    assert state.phase == phases.INTERRUPTED
    assert "supervised" in state.reason
    assert state.alive_replicas == 0
    assert local_place.alive(folder) == []
    assert await local_place.target.state(folder, 1) == state, "what was found is recorded"
    assert await local_place.target.stop(folder, 1) == state


async def test_a_watch_hears_of_a_killed_supervisor(local_place: LocalPlace) -> None:
    folder = await local_place.launch(plan_of(), FOR_EVER)
    ending = asyncio.ensure_future(local_place.end(folder))
    before = await running(local_place, folder)
    assert before.supervisor_pid is not None
    os.kill(before.supervisor_pid, signal.SIGKILL)
    assert (await ending).phase == phases.INTERRUPTED


async def test_a_supervisor_that_does_not_react_is_ended(
    local_place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await local_place.launch(plan_of(MultiWorker(workers=2)), FOR_EVER)
    before = await running(local_place, folder)
    assert before.supervisor_pid is not None
    os.kill(before.supervisor_pid, signal.SIGSTOP)
    monkeypatch.setattr(target, "_STOP_MARGIN_SECONDS", 0.0)  # no time at all
    state = await local_place.target.stop(folder, 1, grace_seconds=0)
    assert state is not None
    assert state.phase in {phases.INTERRUPTED, phases.CANCELLED}, "it may have been quick"
    assert local_place.alive(folder) == []


async def test_a_stopped_supervisor_is_told_to_go_on_and_to_end(local_place: LocalPlace) -> None:
    folder = await local_place.launch(plan_of(MultiWorker(workers=2)), FOR_EVER)
    before = await running(local_place, folder)
    assert before.supervisor_pid is not None
    os.kill(before.supervisor_pid, signal.SIGSTOP)
    state = await local_place.target.stop(folder, 1, grace_seconds=0)
    assert state is not None
    assert state.phase == phases.CANCELLED
    assert local_place.alive(folder) == []


async def test_the_run_outlives_the_one_that_launched_it(local_place: LocalPlace) -> None:
    plan = plan_of()
    folder = local_place.folder(plan.run_id)
    source = folder.attempt(1).source
    os.makedirs(source)
    write(
        os.path.join(source, "train.py"),
        "import os, time\nwhile not os.path.exists('outputs/go'): time.sleep(0.01)\nprint('went on')\n",
    )
    launcher = textwrap.dedent(
        """
        import asyncio, json, os, signal, sys
        from pulumi_tfjobs.spec.launch import launch_plan_from_json
        from pulumi_tfjobs.targets.folder import RunFolder
        from pulumi_tfjobs.targets.local import LocalTarget
        plan = launch_plan_from_json(json.loads(sys.argv[1]))
        asyncio.run(LocalTarget().launch(plan, RunFolder(sys.argv[2]), 1, sys.executable, {}))
        os.killpg(0, signal.SIGKILL)
        """
    )
    local_place.launched.append((folder, 1))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", launcher, json.dumps(plan.to_json()), folder.root],
        start_new_session=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == -signal.SIGKILL
    state = await local_place.target.state(folder, 1)
    assert state is not None
    assert not state.finished
    write(os.path.join(folder.outputs, "go"))
    state = await local_place.end(folder)
    assert state.phase == phases.SUCCEEDED
    assert "went on" in local_place.log(state, "worker-0")


async def test_a_pid_of_another_process_is_left_alone(local_place: LocalPlace) -> None:
    folder = await local_place.launch(plan_of(), "pass")
    state = await local_place.end(folder)
    bystander = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    await until(partial(unlocked, folder.attempt(1).lock), "the supervisor has gone")  # a moment after its last state
    # A state from before a restart of the machine: its supervisor's pid is now somebody else's.
    old = state._replace(phase=phases.RUNNING, supervisor_pid=bystander.pid, supervisor_start_ticks=1)
    statefile.write_state(folder.attempt(1).state, old)
    stopped = await local_place.target.stop(folder, 1)
    assert stopped is not None
    assert stopped.phase == phases.INTERRUPTED
    # Its input ends now, which it answers with an error and no signal.
    await asyncio.wait_for(bystander.communicate(b""), DEADLINE)
    assert bystander.returncode == 1


@pytest.mark.parametrize("damage", ["", '{"run_id": ', "null", "[]", "{}", '{"replicas": 5}'])
async def test_a_damaged_state_is_not_taken_for_gone(local_place: LocalPlace, damage: str) -> None:
    folder = await local_place.launch(plan_of(), "pass")
    await local_place.end(folder)
    at = folder.attempt(1)
    await until(lambda: not statefile.is_locked(at.lock), "its guardian has ended")
    write(at.state, damage)
    # Nobody supervises it any more: the next attempt can be made.
    state = await local_place.target.state(folder, 1)
    assert state is not None
    assert (state.run_id, state.attempt, state.phase) == (folder.run_id, 1, phases.INTERRUPTED)
    assert "damaged" in state.reason
    assert await local_place.target.state(folder, 1) == state


async def test_a_second_stop_may_be_less_patient(local_place: LocalPlace) -> None:
    script = "import signal\nsignal.signal(15, signal.SIG_IGN)\nopen('outputs/here', 'w').close()\nsignal.pause()\n"
    folder = await local_place.launch(plan_of(stop_grace_seconds=3600.0), script + "while True: signal.pause()\n")
    await until(lambda: local_place.output(folder, "here") is not None, "the script runs")
    patient = asyncio.ensure_future(local_place.target.stop(folder, 1))
    await until(lambda: json.loads(read(folder.attempt(1).state))["phase"] == phases.STOPPING, "it is being stopped")
    state = await local_place.target.stop(folder, 1, grace_seconds=0)
    assert state is not None
    assert state.phase == phases.CANCELLED
    assert await patient == state


async def test_a_stopped_guardian_does_not_keep_a_killed_run_alive(local_place: LocalPlace) -> None:
    folder = await local_place.launch(plan_of(), FOR_EVER)
    before = await running(local_place, folder)
    assert before.guardian_pid is not None
    assert before.supervisor_pid is not None
    os.kill(before.guardian_pid, signal.SIGSTOP)
    os.kill(before.supervisor_pid, signal.SIGKILL)
    state = await local_place.target.stop(folder, 1)
    assert state is not None
    assert state.phase == phases.INTERRUPTED
    assert not statefile.is_locked(folder.attempt(1).lock)


async def test_children_that_print_on_do_not_hold_up_the_end(local_place: LocalPlace) -> None:
    script = """
    import subprocess
    talk = "import os\\nwhile True: os.write(1, b'x' * 65536)"
    for _ in range(4): subprocess.Popen([sys.executable, "-c", talk], start_new_session=True)
    sys.exit(3)
    """
    state = await local_place.run(plan_of(max_log_bytes=1 << 20), script)
    assert (state.phase, state.exit_code) == (phases.FAILED, 3)


async def test_a_rendezvous_that_does_not_start_fails_the_run(local_place: LocalPlace) -> None:
    # This interpreter has no Horovod, so its rendezvous server cannot run; the ranks would wait for it for ever.
    state = await local_place.run(plan_of(Horovod(nodes=2, processes_per_node=1)), FOR_EVER)
    assert state.phase == phases.FAILED
    assert "rendezvous server exited with code 1" in state.reason
    assert "horovod" in state.reason
    assert [each.phase for each in state.replicas] == ["ended", "ended"]


async def test_mpi_without_mpirun_says_what_to_do(local_place: LocalPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchFailed, match="gloo"):
        await local_place.launch(plan_of(Horovod(nodes=2, controller="mpi")), "pass")


async def test_a_folder_that_cannot_be_written(local_place: LocalPlace) -> None:
    plan = plan_of()
    folder = local_place.folder(plan.run_id)
    os.makedirs(os.path.join(folder.attempt(1).root, "replicas", "worker-0.log"))
    with pytest.raises(LaunchFailed, match=r"worker-0\.log"):
        await local_place.launch(plan, "pass")
    assert local_place.alive(folder) == []
