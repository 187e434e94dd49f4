"""A supervisor that is killed: what it leaves is ended and recorded at once, with nobody asking."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.local import statefile
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import plan_of, read, until, write
from tests.conformance.suite import contents

# A child in a session of its own, as a data loader's helper might be: the kernel does not end it with the replica.
WITH_ORPHAN = """
import signal, subprocess
child = subprocess.Popen([sys.executable, "-c", "import signal\\nwhile True: signal.pause()"], start_new_session=True)
open('outputs/child.tmp', 'w').write(str(child.pid))
os.rename('outputs/child.tmp', 'outputs/child')
while True: signal.pause()
"""


@pytest.fixture
async def place(local_place: LocalPlace) -> LocalPlace:
    return local_place


def supervisor_of(place: LocalPlace, run_id: str) -> psutil.Process:
    state = statefile.read_state(place.folder(run_id).attempt(1).state)
    assert state is not None
    return psutil.Process(state.supervisor_pid)


async def test_a_killed_supervisor_leaves_nothing_and_its_end_is_recorded(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(), WITH_ORPHAN)
    orphan = psutil.Process(int(await until(lambda: place.output(folder, "child"), "the script runs")))
    at = folder.attempt(1)
    supervisor_of(place, folder.run_id).kill()
    # Nobody asks the target: only files are looked at.
    await until(lambda: json.loads(read(at.state))["phase"] == phases.INTERRUPTED, "the end is recorded")
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    await until(lambda: not statefile.is_locked(at.lock), "the attempt is given free")
    assert place.alive(folder) == []
    state = await place.target.state(folder, 1)
    assert state is not None
    assert "it was killed" in state.reason


async def test_a_killed_guardian_is_missed_by_nobody(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(), "import signal; open('outputs/here', 'w').close(); signal.pause()")
    await until(lambda: place.output(folder, "here") is not None, "the script runs")
    supervisor = supervisor_of(place, folder.run_id)
    guardian = supervisor.parent()
    assert guardian is not None
    assert "supervisor.py" in " ".join(guardian.cmdline())
    guardian.kill()
    guardian.wait(10)
    state = await place.target.state(folder, 1)
    assert state is not None
    assert state.phase == phases.RUNNING
    state = await place.target.stop(folder, 1)
    assert state is not None
    assert state.phase == phases.CANCELLED
    assert place.alive(folder) == []


async def test_both_killed_at_once(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(), WITH_ORPHAN)
    await until(lambda: place.output(folder, "child"), "the script runs")
    supervisor = supervisor_of(place, folder.run_id)
    guardian = supervisor.parent()
    assert guardian is not None
    guardian.kill()
    supervisor.kill()
    state = await place.end(folder)
    assert state.phase == phases.INTERRUPTED
    assert place.alive(folder) == []


async def test_look_tells_of_an_interruption_and_leaves_it_to_others_to_record_it(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(), WITH_ORPHAN)
    orphan = psutil.Process(int(await until(lambda: place.output(folder, "child"), "the script runs")))
    supervisor = supervisor_of(place, folder.run_id)
    guardian = supervisor.parent()
    assert guardian is not None
    living = await place.target.look(folder, 1)
    assert living is not None
    assert living.phase == phases.RUNNING
    guardian.kill()
    supervisor.kill()
    psutil.wait_procs([supervisor, guardian], 10)
    await until(lambda: not statefile.is_locked(folder.attempt(1).lock), "nobody holds the attempt")
    before = contents(place.root)
    seen = await place.target.look(folder, 1)
    assert seen is not None
    assert (seen.phase, seen.replicas[0].phase) == (phases.INTERRUPTED, "ended")
    assert contents(place.root) == before
    assert orphan.is_running(), "what is left is not ended by looking"
    assert await place.target.state(folder, 1) == seen, "what is then recorded is what was told"
    assert contents(place.root) != before


async def test_look_at_a_damaged_state(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(), "pass")
    await place.end(folder)
    await until(lambda: not statefile.is_locked(folder.attempt(1).lock), "nobody holds the attempt")
    write(folder.attempt(1).state, "{")
    before = contents(place.root)
    seen = await place.target.look(folder, 1)
    assert seen is not None
    assert seen.phase == phases.INTERRUPTED
    assert "was damaged" in seen.reason
    assert contents(place.root) == before


async def test_a_restart_of_the_machine_is_told_as_such(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(), "import signal; open('outputs/here', 'w').close(); signal.pause()")
    await until(lambda: place.output(folder, "here") is not None, "the script runs")
    at = folder.attempt(1)
    supervisor = supervisor_of(place, folder.run_id)
    guardian = supervisor.parent()
    assert guardian is not None
    before = statefile.read_state(at.state)
    assert before is not None
    guardian.kill()
    supervisor.kill()
    psutil.wait_procs([supervisor, guardian], 10)
    await until(lambda: not statefile.is_locked(at.lock), "nobody holds the attempt")
    # Another boot: the same pid and start time may be those of another process, here this very one.
    own = psutil.Process()
    ticks = int(read(f"/proc/{own.pid}/stat").rpartition(")")[2].split()[19])
    statefile.write_state(
        at.state, before._replace(boot="another", supervisor_pid=own.pid, supervisor_start_ticks=ticks)
    )
    state = await place.target.stop(folder, 1)
    assert own.is_running()
    assert state is not None
    assert state.phase == phases.INTERRUPTED
    assert "the machine was restarted" in state.reason


async def test_the_signals_of_a_terminal_do_not_reach_it(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(), "import signal; open('outputs/here', 'w').close(); signal.pause()")
    await until(lambda: place.output(folder, "here") is not None, "the script runs")
    supervisor = supervisor_of(place, folder.run_id)
    guardian = supervisor.parent()
    assert guardian is not None
    for process in (guardian, supervisor):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            process.send_signal(number)
        assert os.getsid(process.pid) != os.getsid(0)
        handles = {os.path.realpath(f"/proc/{process.pid}/fd/{n}") for n in (0, 1)}
        assert handles == {os.devnull}
    state = await place.target.stop(folder, 1)
    assert state is not None
    assert state.phase == phases.CANCELLED
